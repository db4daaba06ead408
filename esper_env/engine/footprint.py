"""How many bytes a network takes in the fused engine, counted from host, slots and blueprints alone.

What an environment holds for good follows from the shapes of parameters and buffers. What a training step
holds is counted: a pass of two networks of each part is done on the CPU, with torch's own kernels, and what
autograd keeps is added up. `docs/engine.md` has the formula.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import chain
from math import prod

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from esper_env.blueprints.catalogue import Blueprint
from esper_env.contracts.action import Style
from esper_env.contracts.facts import Place
from esper_env.engine.junction import Branches, Junction
from esper_env.engine.kernels.choice import choose
from esper_env.engine.kernels.kernels import Rows
from esper_env.engine.kinds import GATE
from esper_env.engine.precision import TYPES, precision
from esper_env.engine.setup import Setup
from esper_env.engine.stacked import Run, row_by_row, stacked
from esper_env.engine.variants import SAMPLES
from esper_env.hosts.host import Host
from esper_env.slots.grown import Graft, build_branch, build_gate, seeded

ROWS = 2
"""Networks of a counting pass: a single one saves the kernels some copies."""
VALUES_MEASURED = 7
"""Values of a slot's shape that are there at once where a network is measured with and without a module: 5 in
the row that has it, 2 in the other."""
MOST_DOUBLINGS = 3
"""Slots at which variants part, by default (`attribution.lattice_up_to`)."""
PLANNED = 4 * 8
"""Bytes that say how one sample of an epoch is read: index, offsets and mirror of the crop as int64."""


@dataclass(frozen=True)
class Part:
    """A host, or a module with its gate: bytes of one network."""

    weights: int
    """Parameters, frozen ones too."""
    buffers: int
    kept: int
    """What autograd keeps of one sample until the gradient comes back."""

    @property
    def held(self) -> int:
        """For good: weights, momenta and buffers, as they are and as the governor remembers them."""
        return 2 * (2 * self.weights + self.buffers)

    @property
    def copied(self) -> int:
        """In a program: the row's copy of those, weights as the kernels take them, gradients, the step."""
        return 5 * self.weights + self.buffers


@dataclass(frozen=True)
class Footprint:
    """Bytes that one environment takes."""

    host: int
    """For good, without any module."""
    modules: int
    """For good, once modules of every blueprint have been in every slot."""
    host_row: int
    """While it is trained, with others side by side, without any module."""
    trained: int
    """While it is trained with the module in each slot that takes most, blended and gated."""
    measured: int
    """While all variants of such a network are measured."""
    recording: int
    """For every recorded training step that is kept, with such modules."""

    @property
    def row(self) -> int:
        """While it is trained or measured."""
        return max(self.trained, self.measured)


def footprint(setup: Setup) -> Footprint:
    """What an environment takes. Nothing of the engine has to be there, nor the data."""
    config = setup.config
    with seeded(0):
        host = setup.build_host()
        alone = _host(host, config.precision)
    places = [host.places[index] for index in setup.slot_places]
    kinds = [
        [_module(b, place, config.precision) for b in setup.blueprints if b.fits(place)] for place in places
    ]
    worst = [alone, *(max(parts, key=lambda part: part.kept) for parts in kinds if parts)]
    batch, itemsize, image = config.batch_size, TYPES[config.precision].itemsize, prod(host.input_shape)
    passing, more = (itemsize * (image + _passing(host, values)) for values in (2, 4))
    copied, planned = sum(part.copied for part in worst), PLANNED * setup.epoch_size
    return Footprint(
        host=alone.held,
        modules=sum(part.held for parts in kinds for part in parts),
        host_row=batch * (alone.kept + passing) + alone.copied + planned,
        trained=batch * (sum(part.kept for part in worst) + more) + copied + planned,
        measured=SAMPLES * itemsize * (image + _measured(places)) + copied,
        recording=copied,
    )


def _passing(host: Host, values: int) -> int:
    """Numbers of a gradient on its way back, of one sample, beside what is kept.

    So many values of the last place, where everything else is still kept; later about as much has been given
    back as passes, but for one value of the largest place.
    """
    sizes = [prod(place.shape) for place in host.places]
    return max(values * sizes[-1], *sizes)


def _measured(places: list[Place]) -> int:
    """Most numbers at once while all variants of a network are measured, of one sample."""
    doubled = (2 ** min(slot, MOST_DOUBLINGS - 1) * prod(place.shape) for slot, place in enumerate(places))
    return VALUES_MEASURED * max(doubled, default=0)


def _host(host: Host, precise: str) -> Part:
    tensors, run = _tensors(host, precise), _run(precise)
    forwards = [
        stacked(each, f"segments.{index}.") or row_by_row(each, f"segments.{index}.")
        for index, each in enumerate(host.segments)
    ]
    channels, height, width = host.input_shape

    def forward(x: Tensor) -> Tensor:
        return reduce(lambda value, each: each(run, tensors, value), forwards, x)

    return _part(host, _kept(forward, (height, width, channels), precise, gradient=False), precise)


@lru_cache(maxsize=1024)
def _module(blueprint: Blueprint, place: Place, precise: str) -> Part:
    """Branch, gate, and how their output joins the host's value in some of the rows of a mixture."""
    graft = Graft(build_branch(blueprint, place, 0), Style.GATED)
    graft.gate = build_gate(place, 0)
    channels, height, width = place.shape
    with seeded(0):
        kept = _kept(_junction(graft, precise), (height, width, channels), precise, gradient=True)
    return _part(graft, kept, precise)


def _junction(graft: Graft, precise: str) -> Junction:
    """A slot that blends such a module into every row, as if there were others that don't."""
    run, gate = _run(precise), stacked(graft.gate, GATE) if graft.gate is not None else None
    forward = stacked(graft.branch, "branch.") or row_by_row(graft.branch, "branch.")
    alpha = torch.full((ROWS, 1, 1, 1, 1), 0.5, dtype=TYPES[precise])
    rows = Rows.of(range(ROWS)[::-1], alpha.device)
    branches = Branches(0, rows, alpha, forward, _tensors(graft, precise), run, gate)
    return Junction(run, [], [branches], [], False)


def _part(module: nn.Module, kept: int, precise: str) -> Part:
    typed = module.to(TYPES[precise])
    weights, buffers = (sum(each.nbytes for each in every) for every in (typed.parameters(), typed.buffers()))
    return Part(weights, buffers, kept)


def _run(precise: str) -> Run:
    kernels = choose("torch", torch.device("cpu"), precise)
    return Run(kernels, training=True, drawing=lambda row: nullcontext())


def _tensors(module: nn.Module, precise: str) -> dict[str, Tensor]:
    """Parameters and buffers of two networks, by name."""
    return {name: value.requires_grad_(learns) for name, value, learns in _stacked(module, TYPES[precise])}


def _stacked(module: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, bool]]:
    for name, each in chain(module.named_parameters(), module.named_buffers()):
        typed = each.detach().to(dtype) if each.is_floating_point() else each.detach()
        yield name, torch.stack([typed] * ROWS), each.requires_grad


def _kept(forward: Callable[[Tensor], Tensor], shape: tuple[int, ...], precise: str, gradient: bool) -> int:
    """Bytes that autograd keeps of one sample, the same for every sample and network.

    Args:
        forward: of values (row, sample, *shape).
        shape: of one sample.
        precise: precision by name.
        gradient: whether it flows on below the value.
    """
    few, many = (_kept_of(forward, (ROWS, samples, *shape), precise, gradient) for samples in (2, 4))
    return (many - few) // (2 * ROWS)


def _kept_of(
    forward: Callable[[Tensor], Tensor], shape: tuple[int, ...], precise: str, gradient: bool
) -> int:
    held = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage
        return tensor

    x = torch.randn(shape, dtype=TYPES[precise], requires_grad=gradient)
    with torch.enable_grad(), saved_tensors_hooks(note, lambda t: t), precision(precise, x.device):
        forward(x)
    return sum(storage.nbytes() for storage in held.values())
