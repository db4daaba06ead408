"""How many bytes a network takes in the fused engine, counted from host, slots and blueprints alone.

What an environment holds for good follows from the shapes of parameters and buffers. What a training step
holds is counted: a pass of two networks of each part is done on the CPU, with torch's own kernels and the
kind of attention that the engine's device computes by, and what autograd keeps is added up. `docs/engine.md`
has the formula.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
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
from esper_env.engine.optimizer import PER_TENSOR
from esper_env.engine.pool import Tensors as PoolTensors
from esper_env.engine.precision import TYPES, attention, precision
from esper_env.engine.score import most_at_once, score_of
from esper_env.engine.setup import Setup, resolve_device
from esper_env.engine.stacked import Run, forward_of
from esper_env.engine.variants import SAMPLES
from esper_env.hosts.host import Host
from esper_env.layers.transformer import Attention
from esper_env.slots.grown import Graft, build_branch, build_gate, seeded

ROWS = 2
"""Networks of a counting pass: a single one saves the kernels some copies."""
VALUES_MEASURED = {"image": 7, "text": 10}
"""Values of a slot's shape that are there at once where a network is measured with and without a module.
Images: 5 in the row that has it, 2 in the other. Texts: 8 of hidden features, and 2."""
VALUES_BESIDE_SCORES, SCORES_MEASURED = 8, 2
"""The same in plain attention: values, and scores of all heads, before and after the softmax."""
MOST_DOUBLINGS = 3
"""Slots at which variants part, by default (`attribution.lattice_up_to`)."""
PLANNED = 4 * 8
"""Bytes that say how one sample of an epoch is read: index, offsets and mirror of the crop as int64."""


@dataclass(frozen=True)
class Counting:
    """How a pass is done whose memory is counted."""

    precision: str
    """By name."""
    plain: bool
    """Attention keeps the scores of all pairs of tokens, as it does where it has to be deterministic."""

    @contextmanager
    def as_there(self) -> Iterator[None]:
        """Inside, a pass on the CPU keeps what it would keep on the engine's device."""
        with precision(self.precision, torch.device("cpu")), attention(self.plain):
            yield

    @property
    def dtype(self) -> torch.dtype:
        """Of weights."""
        return TYPES[self.precision]


@dataclass(frozen=True)
class Part:
    """A host, or a module with its gate: bytes of one network."""

    weights: int
    """Parameters, frozen ones too."""
    memory: int
    """What their optimizers remember."""
    buffers: int
    kept: int
    """What autograd keeps of one sample until the gradient comes back."""
    heads: int
    """Of its largest attention layer."""

    @property
    def held(self) -> int:
        """For good: weights, momenta and buffers, as they are and as the governor remembers them."""
        return 2 * (self.weights + self.memory + self.buffers)

    @property
    def copied(self) -> int:
        """In a program: the row's copy of those, weights as the kernels take them, gradients, the step."""
        return 4 * self.weights + self.memory + self.buffers


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
    shared: int
    """Once, however many there are: the piece of logits that is computed on."""

    @property
    def row(self) -> int:
        """While it is trained or measured."""
        return max(self.trained, self.measured)


def footprint(setup: Setup, device: torch.device | None = None) -> Footprint:
    """What an environment takes. Nothing of the engine has to be there, nor the data.

    Args:
        setup: what environments share.
        device: where they would be; None for the engine's.
    """
    config, family, device = setup.config, setup.family, device or resolve_device(setup.config.device)
    way = Counting(config.precision, device.type == "cuda" and config.deterministic)
    remembered = [config.optimizer.remembered(host=each) for each in (True, False)]
    with seeded(0):
        host = setup.build_host()
        alone = _host(host, way, remembered[0])
    places = [host.places[index] for index in setup.slot_places]
    kinds = [
        [_module(b, place, way, remembered[1]) for b in setup.blueprints if b.fits(place)] for place in places
    ]
    worst = [alone, *(max(parts, key=lambda part: part.kept) for parts in kinds if parts)]
    batch, itemsize, image = config.batch_size, way.dtype.itemsize, prod(host.input_shape)
    passing, more = (itemsize * (image + _passing(host, values)) for values in (2, 4))
    copied, planned = sum(part.copied for part in worst), PLANNED * setup.epoch_size
    heads = max(part.heads for part in (alone, *chain.from_iterable(kinds))) if way.plain else 0
    return Footprint(
        host=alone.held,
        modules=sum(part.held for parts in kinds for part in parts),
        host_row=batch * (alone.kept + passing) + alone.copied + planned,
        trained=batch * (sum(part.kept for part in worst) + more) + copied + planned,
        measured=SAMPLES[family] * itemsize * (image + _measured(places, family, heads)) + copied,
        recording=copied,
        shared=_logits(host, batch, device) * itemsize,
    )


def _logits(host: Host, batch: int, device: torch.device) -> int:
    """Numbers of the logits that are there at once, however many environments there are; 0 for images."""
    if host.places[0].family != "transformer":
        return 0
    with torch.no_grad():
        vocabulary = host(torch.zeros(1, *host.input_shape, dtype=torch.int64)).shape[-1]
    samples = max(batch, SAMPLES["text"])
    return most_at_once(device.type, samples * host.input_shape[0], vocabulary)


def _passing(host: Host, values: int) -> int:
    """Numbers of a gradient on its way back, of one sample, beside what is kept.

    So many values of the last place, where everything else is still kept; later about as much has been given
    back as passes, but for one value of the largest place.
    """
    sizes = [prod(place.shape) for place in host.places]
    return max(values * sizes[-1], *sizes)


def _measured(places: list[Place], family: str, heads: int) -> int:
    """Most numbers at once while all variants of a network are measured, of one sample.

    Args:
        places: of the slots.
        family: of the host.
        heads: of plain attention; 0 where its scores are not kept.
    """

    def of(place: Place) -> int:
        value = prod(place.shape)
        scores = SCORES_MEASURED * heads * place.shape[0] ** 2
        return max(VALUES_MEASURED[family] * value, VALUES_BESIDE_SCORES * value + scores if heads else 0)

    doubled = (2 ** min(slot, MOST_DOUBLINGS - 1) * of(place) for slot, place in enumerate(places))
    return max(doubled, default=0)


def _host(host: Host, way: Counting, remembered: tuple[str, ...]) -> Part:
    tensors, run, family = _tensors(host, way), _run(way), host.places[0].family
    segments = [(each, f"segments.{index}.") for index, each in enumerate(host.segments)]
    forwards = [forward_of(each, prefix, family) for each, prefix in segments[:-1]]
    score = score_of(*segments[-1], family)

    def forward(samples: int) -> object:
        x = _input(host, samples, way)
        y = x if x.dim() == 3 else x.new_zeros(x.shape[:2], dtype=torch.int64)
        for each in forwards:
            x = each(run, tensors, x)
        return score.train(run, tensors, x, y)

    return _part(host, _kept(forward, way), way, remembered)


def _input(host: Host, samples: int, way: Counting) -> Tensor:
    """Some samples for each row as a host reads them: tokens that are all 0, or images of noise."""
    like = host.sample(samples)
    if not like.is_floating_point():
        return torch.zeros(ROWS, *like.shape, dtype=like.dtype)
    return torch.randn(ROWS, *like.shape, dtype=way.dtype).permute(0, 1, 3, 4, 2).contiguous()


@lru_cache(maxsize=1024)
def _module(blueprint: Blueprint, place: Place, way: Counting, remembered: tuple[str, ...]) -> Part:
    """Branch, gate, and how their output joins the host's value in some of the rows of a mixture."""
    graft = Graft(build_branch(blueprint, place, 0), Style.GATED)
    graft.gate = build_gate(place, 0)
    shape = (*place.shape[1:], place.shape[0]) if place.family == "cnn" else place.shape
    with seeded(0):
        join = _junction(graft, way, place.family)

        def forward(samples: int) -> object:
            return join(torch.randn(ROWS, samples, *shape, dtype=way.dtype, requires_grad=True))

        return _part(graft, _kept(forward, way), way, remembered)


def _junction(graft: Graft, way: Counting, family: str) -> Junction:
    """A slot that blends such a module into every row, as if there were others that don't."""
    run, gate = _run(way), None if graft.gate is None else forward_of(graft.gate, GATE, family)
    forward = forward_of(graft.branch, "branch.", family)
    alpha = torch.full((ROWS, 1, 1, 1, 1), 0.5, dtype=way.dtype)
    rows = Rows.of(range(ROWS)[::-1], alpha.device)
    branches = Branches(0, rows, alpha, forward, _tensors(graft, way), run, gate)
    return Junction(run, [], [branches], [], False)


def _part(module: nn.Module, kept: int, way: Counting, remembered: tuple[str, ...]) -> Part:
    typed = module.to(way.dtype)
    weights, buffers = (sum(each.nbytes for each in every) for every in (typed.parameters(), typed.buffers()))
    steps = torch.float32.itemsize * len([*typed.parameters()])
    memory = sum(steps if each == PER_TENSOR else weights for each in remembered)
    heads = [each.heads for each in module.modules() if isinstance(each, Attention)]
    return Part(weights, memory, buffers, kept, max(heads, default=0))


def _run(way: Counting) -> Run:
    kernels = choose("torch", torch.device("cpu"), way.precision)
    return Run(kernels, training=True, drawing=lambda row: nullcontext())


def _tensors(module: nn.Module, way: Counting) -> dict[str, Tensor]:
    """Parameters and buffers of two networks, by all of their names."""
    own = {name: value.requires_grad_(learns) for name, value, learns in _stacked(module, way.dtype)}
    return PoolTensors.of(module).everywhere(own)


def _stacked(module: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, bool]]:
    for name, each in chain(module.named_parameters(), module.named_buffers()):
        typed = each.detach().to(dtype) if each.is_floating_point() else each.detach()
        yield name, torch.stack([typed] * ROWS), each.requires_grad


def _kept(forward: Callable[[int], object], way: Counting) -> int:
    """Bytes that autograd keeps of one sample, the same for every sample and network.

    Args:
        forward: a pass of so many samples of each row.
        way: how.
    """
    few, many = (_kept_of(forward, samples, way) for samples in (2, 4))
    return (many - few) // (2 * ROWS)


def _kept_of(forward: Callable[[int], object], samples: int, way: Counting) -> int:
    held = {}

    # Detached: a graph that was given its own results to keep would hold itself, and stay in memory for good.
    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage
        return tensor.detach()

    with torch.enable_grad(), saved_tensors_hooks(note, lambda kept: kept), way.as_there():
        forward(samples)
    return sum(storage.nbytes() for storage in held.values())
