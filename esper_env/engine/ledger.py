"""What everything costs: FLOPs by formula, and the facts about a host that the rules read.

Conventions: 2 FLOPs a multiply-add. Convolutions, linear layers and products of activations count, those of
attention in full, whatever its mask hides; embeddings, norms, activations, pools, biases and optimizers count
0, as in torch's own `torch.utils.flop_counter`. A layer's gradient with respect to its weight and the one
with respect to its input cost as much as its forward pass each, and only what autograd computes is counted.
torch's counter agrees but for the weight gradient of grouped convolutions, which it takes for a dense one,
and for attention kernels that it does not know or that repeat a product in the backward pass.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.flop_counter import FlopCounterMode

from esper_env.blueprints.catalogue import Blueprint
from esper_env.contracts.facts import HostFacts, Place
from esper_env.hosts.host import Host
from esper_env.slots.grown import build_branch, build_gate, seeded

_COUNTED = (nn.Conv2d, nn.Linear)
_BATCH = 2
"""Samples of a counting pass: batch norm refuses a single one. Costs are per sample."""


@dataclass(frozen=True)
class Cost:
    """FLOPs of one sample through a branch or a gate, by what autograd has to compute."""

    forward: int
    """Evaluation."""
    isolated: int
    """Training with a detached input: TRAINING, and every stage with isolation "always"."""
    blended: int
    """Training with the gradient passing through to the host."""
    frozen: int
    """The module's parameters frozen (alpha ramps down), the gradient passing through to the host."""


def layer_flops(layer: nn.Module, output: torch.Tensor) -> int:
    """Forward FLOPs of one layer that gave this output, batch included; 0 for what isn't Conv2d or Linear."""
    if isinstance(layer, nn.Conv2d):
        return 2 * output.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)
    if isinstance(layer, nn.Linear):
        return 2 * output.numel() * layer.in_features
    return 0


def forward_flops(module: nn.Module, sample: torch.Tensor) -> int:
    """FLOPs of a forward pass of this batch; nothing is computed, shapes suffice.

    Args:
        module: any module; it is copied and stays as it is.
        sample: a batch on any device, meta included.
    """
    return _count(module, sample).forward


def training_flops(module: nn.Module, sample: torch.Tensor) -> int:
    """FLOPs of forward and backward of this batch, for the gradients that `requires_grad` asks for.

    What other layers do is taken from torch's counter in the forward pass, and charged twice more where a
    gradient flows, as for a product of two activations.

    Args:
        module: any module; it is copied and stays as it is.
        sample: a batch on any device, meta included; set `requires_grad` if the gradient flows on below it.
    """
    count = _count(module, sample)
    return count.forward + count.backward


@lru_cache(maxsize=1024)
def branch_cost(blueprint: Blueprint, place: Place) -> Cost:
    """FLOPs of a blueprint's branch at a place, per sample.

    Raises:
        ValueError: the blueprint doesn't fit, or its branch can't run at this place on torch's meta device,
            or has parameters of no known shape, or makes some in its forward pass.
    """
    branch = build_branch(blueprint, place, key=0)
    try:
        _refuse_lazy(branch)
        with seeded(0):
            return _cost(branch, place)
    except Exception as error:
        raise ValueError(f"blueprint {blueprint.name!r} doesn't run at {place}: {error}") from error


@lru_cache(maxsize=1024)
def gate_cost(place: Place) -> Cost:
    """FLOPs of the gate of a GATED module at a place, per sample."""
    return _cost(build_gate(place, key=0), place)


def host_flops(host: Host) -> int:
    """Training FLOPs of the host alone, per sample."""
    return training_flops(host, host.sample(_BATCH)) // _BATCH


def segment_flops(host: Host) -> tuple[int, ...]:
    """Forward FLOPs of each of the host's segments, per sample."""
    x, flops = host.sample(_BATCH), []
    with torch.no_grad():
        for segment in copy.deepcopy(host).to("meta").segments:
            flops.append(forward_flops(segment, x) // _BATCH)
            x = segment(x)
    return tuple(flops)


def variant_flops(
    segments: Sequence[int],
    slots: Sequence[int],
    modules: Mapping[int, int],
    live: Collection[int],
    subsets: Iterable[int],
) -> int:
    """Forward FLOPs of one sample through `GrownModel.variants`, which share what lies before a slot.

    Args:
        segments: of each of the host's segments.
        slots: index of each slot's place, ascending.
        modules: slot -> FLOPs of its module, of those that run.
        live: slots that can be switched off.
        subsets: bit masks, bit s for a live slot s that is on.
    """
    wanted, known, slot_at = set(subsets), 0, {place: slot for slot, place in enumerate(slots)}
    paths, total = {subset & known for subset in wanted}, 0
    for index, flops in enumerate(segments):
        total += flops * len(paths)
        slot = slot_at.get(index)
        if slot is None or slot not in modules:
            continue
        if slot in live:
            known |= 1 << slot
            paths = {subset & known for subset in wanted}
            total += modules[slot] * sum(path >> slot & 1 for path in paths)
        else:
            total += modules[slot] * len(paths)
    return total


def count_params(module: nn.Module) -> int:
    """Number of parameters, frozen ones included and buffers not."""
    return sum(parameter.numel() for parameter in module.parameters())


def describe(
    host: Host,
    slots: Sequence[int],
    blueprints: Sequence[Blueprint],
    chance_quality: float,
    chance_loss: float,
) -> HostFacts:
    """Everything that stays the same while a host lives.

    Args:
        host: the network, without modules.
        slots: index of each slot's place.
        blueprints: the catalogue, in the order of the action's blueprint index.
        chance_quality: quality of guessing, in [0, 1].
        chance_loss: cross-entropy of guessing, in nats.

    Raises:
        ValueError: a blueprint that serves this family of hosts can't be built or run at one of the slots.
    """
    places = tuple(host.places[index] for index in slots)
    fits = np.array([[blueprint.fits(place) for blueprint in blueprints] for place in places])
    module_params = np.zeros(fits.shape, dtype=np.int64)
    for slot, index in np.argwhere(fits):
        branch_cost(blueprints[index], places[slot])
        module_params[slot, index] = count_params(build_branch(blueprints[index], places[slot], key=0))
    gate_params = np.array([count_params(build_gate(place, key=0)) for place in places], dtype=np.int64)
    for array in (fits, module_params, gate_params):
        array.setflags(write=False)
    return HostFacts(
        places=places,
        host_params=count_params(host),
        host_flops=host_flops(host),
        fits=fits,
        module_params=module_params,
        gate_params=gate_params,
        blueprints=tuple(blueprint.name for blueprint in blueprints),
        chance_quality=chance_quality,
        chance_loss=chance_loss,
    )


@dataclass
class _Count:
    forward: int = 0
    backward: int = 0

    def add(
        self, layer: nn.Conv2d | nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        """Forward hook of one Conv2d or Linear layer."""
        flops = layer_flops(layer, output)
        self.forward += flops
        self.backward += flops * (layer.weight.requires_grad + inputs[0].requires_grad)


def _count(module: nn.Module, sample: torch.Tensor) -> _Count:
    count, twin = _Count(), copy.deepcopy(module).to("meta")
    for layer in twin.modules():
        if isinstance(layer, _COUNTED):
            layer.register_forward_hook(count.add)
    batch = sample.detach().to("meta").requires_grad_(sample.requires_grad)
    before = count_params(twin)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        output = twin(batch)
    if count_params(twin) != before:
        raise ValueError(f"it has {before} parameters when built, {count_params(twin)} after a forward pass")
    rest = counter.get_total_flops() - count.forward
    return _Count(count.forward + rest, count.backward + 2 * rest * int(output.requires_grad))


def _cost(module: nn.Module, place: Place) -> Cost:
    sample = torch.empty(_BATCH, *place.shape, device="meta")
    isolated = _count(module, sample)
    blended = _count(module, sample.requires_grad_())
    frozen = _count(module.requires_grad_(False), sample)
    totals = (count.forward + count.backward for count in (isolated, blended, frozen))
    return Cost(isolated.forward // _BATCH, *(total // _BATCH for total in totals))


def _refuse_lazy(module: nn.Module) -> None:
    lazy = [name for name, value in module.named_parameters() if isinstance(value, UninitializedParameter)]
    if lazy:
        raise ValueError(f"parameters {lazy} have no shape until a forward pass (torch's lazy modules)")
