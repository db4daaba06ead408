"""A host with modules in its slots, as one plain nn.Module."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import cast

import torch
from torch import nn

from esper_env.blueprints.catalogue import Blueprint
from esper_env.contracts.action import Style
from esper_env.contracts.facts import Place
from esper_env.hosts.host import Host
from esper_env.slots.blend import GATES, blend, isolate

PROBE_BATCH = 2
"""Samples of the probe forward pass; more than one, so that batch statistics exist."""
_PROBE_SEED = 0


class Graft(nn.Module):
    """One module in a slot: its branch, perhaps a gate, and how its output joins the host's.

    The flags are plain attributes that the engine sets with the stage. Freshly built it is as in GERMINATED.

    Args:
        branch: maps the host's value to a correction of the same shape.
        style: the composition from BLENDING on.
    """

    gate: nn.Module | None

    def __init__(self, branch: nn.Module, style: Style) -> None:
        super().__init__()
        self.branch = branch
        self.register_module("gate", None)
        self.style = style
        self.alpha = 0.0
        """Share in [0, 1] of the module in the slot's value; not read while isolated."""
        self.isolated = True
        """TRAINING: the module learns, the host's value and gradient stay as they are."""
        self.detach_input = True
        """Whether the gradient stops at the branch's and the gate's input (in TRAINING always)."""
        self.in_graph = False
        """False in GERMINATED: the module neither runs nor learns."""

    def active(self, record: bool) -> bool:
        """Whether the branch has to run: in eval mode an isolated module is only run to be recorded."""
        return self.in_graph and (record or (self.training if self.isolated else self.alpha != 0))

    def forward(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The slot's value and the branch's output, both of h's shape."""
        source = h.detach() if self.detach_input or self.isolated else h
        d = self.branch(source)
        if self.isolated:
            return isolate(h, d), d
        gate_value = self.gate(source) if self.gate is not None else None
        return blend(h, d, self.alpha, self.style, gate_value), d


class GrownModel(nn.Module):
    """A host and the modules in its slots.

    Parameters come in the order host, then slot by slot, whatever the order of planting.

    Args:
        host: the network.
        slots: index of each slot's place, ascending.
    """

    def __init__(self, host: Host, slots: Sequence[int]) -> None:
        super().__init__()
        self.host = host
        self.slots = tuple(slots)
        self._slot_at = {place: slot for slot, place in enumerate(self.slots)}
        self._grafts = nn.ModuleList([cast(nn.Module, None)] * len(self.slots))
        self.delta_ratio: torch.Tensor | None = None
        """(slot,): RMS(branch output) / RMS(host value) in the last forward pass if recorded, NaN = none."""

    @property
    def grafts(self) -> tuple[Graft | None, ...]:
        """The module of each slot, None where it is empty."""
        return tuple(cast(Graft | None, graft) for graft in self._grafts)

    def place(self, slot: int) -> Place:
        """Where a slot is."""
        return self.host.places[self.slots[slot]]

    def plant(self, slot: int, graft: Graft) -> None:
        """Put a module into an empty slot; its train or eval mode becomes the model's.

        Raises:
            ValueError: the slot holds a module.
        """
        if self._grafts[slot] is not None:
            raise ValueError(f"slot {slot} ({self.place(slot).name}) holds a module already")
        self._grafts[slot] = graft.train(self.training)

    def remove(self, slot: int) -> None:
        """Empty a slot."""
        self._grafts[slot] = cast(nn.Module, None)

    def forward(
        self, x: torch.Tensor, without: frozenset[int] = frozenset(), record: bool = False
    ) -> torch.Tensor:
        """Logits, as of `Host`.

        Args:
            x: batch, as the host reads it.
            without: slots whose modules are switched off; many such variants are cheaper by `variants`.
            record: also measure `delta_ratio`.
        """
        ratios = next(self.host.parameters()).new_full((len(self.slots),), torch.nan) if record else None
        for index, segment in enumerate(self.host.segments):
            x = segment(x)
            slot = self._slot_at.get(index)
            if slot is not None and slot not in without:
                x = self._through(slot, x, ratios)
        self.delta_ratio = ratios
        return x

    def variants(
        self, x: torch.Tensor, live: Collection[int], subsets: Iterable[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits of several variants of the network, each as soon as it is there.

        Depth first, with a module on before it is off: what variants share up to a slot is computed once, and
        only the values along one path are held. Each equals `forward` without the live slots that are not in
        the subset, bit for bit; the whole network comes first.

        Args:
            x: batch, as the host reads it.
            live: slots that can be switched off; every other one is as in `forward`.
            subsets: distinct bit masks, bit s for a live slot s that is on.
        """
        yield from self._walk(x, 0, frozenset(live), list(subsets))

    def _walk(
        self, x: torch.Tensor, start: int, live: frozenset[int], subsets: list[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The variants of these subsets, which are the same up to segment `start`, whose input x is."""
        for index in range(start, len(self.host.segments)):
            x = self.host.segments[index](x)
            slot = self._slot_at.get(index)
            if slot is None:
                continue
            on = [subset for subset in subsets if slot not in live or subset >> slot & 1]
            if on and len(on) < len(subsets):
                yield from self._walk(self._through(slot, x, None), index + 1, live, on)
                subsets = [subset for subset in subsets if subset not in on]
            elif on:
                x = self._through(slot, x, None)
        for subset in subsets:
            yield subset, x

    def _through(self, slot: int, h: torch.Tensor, ratios: torch.Tensor | None) -> torch.Tensor:
        graft = self.grafts[slot]
        if graft is None or not graft.active(ratios is not None):
            return h
        value: torch.Tensor
        value, d = graft(h)
        if ratios is not None:
            ratios[slot] = _rms_ratio(d.detach(), h.detach())
        return value


@contextmanager
def drawing_from(key: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's generators of CPU and device start from this key; after, they are as before.

    `torch.manual_seed` would also reseed every other accelerator, which nothing would restore.

    Args:
        key: 0 <= key < 2**64, such as from `contracts.streams.key`.
        device: the CPU, or a CUDA device with its index.
    """
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(key)
        if on_cuda:
            torch.cuda.default_generators[device.index].manual_seed(key)
        yield


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Inside, torch's CPU generator starts from this key and tensors are on the CPU; all is restored after.

    Args:
        key: 0 <= key < 2**64, such as from `contracts.streams.key`.
    """
    with drawing_from(key, torch.device("cpu")), torch.device("cpu"):
        yield


def build_branch(blueprint: Blueprint, place: Place, key: int) -> nn.Module:
    """A branch with weights from the key, on the CPU.

    Raises:
        ValueError: the blueprint has no builder for this family of hosts, or its builder fails.
    """
    if not blueprint.fits(place):
        allowed = sorted(blueprint.builders)
        raise ValueError(f"blueprint {blueprint.name!r} serves {allowed}, not {place.family} ({place.name})")
    try:
        with seeded(key):
            return blueprint.builders[place.family](place)
    except Exception as error:
        raise ValueError(f"blueprint {blueprint.name!r} can't be built at {place}: {error}") from error


def build_gate(place: Place, key: int) -> nn.Module:
    """The gate of a GATED module with weights from the key, on the CPU.

    Raises:
        ValueError: there is no gate for this family of hosts.
    """
    if place.family not in GATES:
        raise ValueError(f"there is a gate for {sorted(GATES)}, not for {place.family!r} ({place.name})")
    with seeded(key):
        return GATES[place.family](place.channels)


@torch.no_grad()
def probe(branch: nn.Module, place: Place) -> bool:
    """Gate G1: whether a forward pass in eval mode is finite and keeps the shape.

    The batch is fixed: standard normal numbers of shape (2, *place.shape), on the device of the branch and in
    the type of its floating-point numbers, of the parameters before those of the buffers.
    """
    tensors = [*chain(branch.parameters(), branch.buffers()), torch.empty(0, device="cpu")]
    device, dtype = tensors[0].device, next(t.dtype for t in tensors if t.is_floating_point())
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    batch = torch.randn((PROBE_BATCH, *place.shape), generator=generator, device="cpu")
    batch, was_training = batch.to(device, dtype), branch.training
    with drawing_from(_PROBE_SEED, device):
        d = branch.eval()(batch)
    branch.train(was_training)
    return d.shape == batch.shape and bool(torch.isfinite(d).all())


def _rms_ratio(d: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """RMS(d) / RMS(h) as a scalar; NaN where h is 0 everywhere."""
    size = h.square().mean().sqrt()
    return torch.where(size > 0, d.square().mean().sqrt() / size, torch.nan)
