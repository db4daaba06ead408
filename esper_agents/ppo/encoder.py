"""What the core sees of an observation of Esper: slots by shared weights, put together in one of two ways."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from esper_agents.ppo.network import SLOT_WIDTH, Encoded, each_slot, linear

EMBEDDING = 8
"""Numbers that stand for a blueprint."""
SHARES = ("training_share", "blending_share", "holding_share", "fossilized_share")
"""Features of the whole that change when a slot is added, though nothing else does."""


class SlotFeatures(nn.Module):
    """Where an observation has the features of the whole and of each slot; blueprints are embedded.

    Args:
        features: Where each feature lies, as `EsperVectorEnv.features` says.
        num_slots: How many there are.
        without: Features of the whole that are left out.
    """

    _base: Tensor
    _rest: Tensor
    _kinds: Tensor
    _present: Tensor

    def __init__(self, features: Mapping[str, slice], num_slots: int, without: tuple[str, ...] = ()) -> None:
        super().__init__()
        slots = range(num_slots)
        base = [at for name, at in features.items() if "." not in name and name not in without]
        kinds = [features[f"slot{slot}.blueprint"] for slot in slots]
        rest = [
            [at for name, at in features.items() if name.startswith(f"slot{slot}.") and at != kinds[slot]]
            for slot in slots
        ]
        self.register_buffer("_base", _places(base), persistent=False)
        self.register_buffer("_rest", torch.stack([_places(own) for own in rest]), persistent=False)
        self.register_buffer("_kinds", torch.stack([_places([own]) for own in kinds]), persistent=False)
        present = [features[f"slot{slot}.present"] for slot in slots]
        self.register_buffer("_present", _places(present), persistent=False)
        self.blueprint = nn.Linear(self._kinds.shape[1], EMBEDDING, bias=False)
        self.base_size: int = len(self._base)
        self.slot_size: int = self._rest.shape[1] + EMBEDDING

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The whole (..., base_size), the slots (..., slot, slot_size), and bool (..., slot): not empty."""
        slots = torch.cat([obs[..., self._rest], each_slot(self.blueprint, obs[..., self._kinds])], dim=-1)
        return obs[..., self._base], slots, obs[..., self._present] > 0


class FlatSlots(nn.Module):
    """The same two layers for every slot; the whole sees their mean and their largest values.

    Args:
        features: Where each feature lies, as `EsperVectorEnv.features` says.
        num_slots: How many there are.
        width: Of the result.
    """

    def __init__(self, features: Mapping[str, slice], num_slots: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.read = SlotFeatures(features, num_slots)
        self.slot = _two_layers(self.read.slot_size)
        self.whole = nn.Sequential(linear(self.read.base_size + 2 * SLOT_WIDTH, width), nn.SiLU())

    def forward(self, obs: Tensor) -> Encoded:
        """See `Encoder`."""
        base, own, _ = self.read(obs)
        slots = self.slot(own)
        return Encoded(self.whole(torch.cat([base, slots.mean(dim=-2), slots.amax(dim=-2)], dim=-1)), slots)


class SlotSet(nn.Module):
    """Slots look at each other by attention (J. Lee et al., "Set Transformer", 2019), at empty ones never.

    Their order means nothing: permuted slots have permuted results, and an empty one more changes no other.
    Slots differ by what they are, not by where they stand in the observation.

    Args:
        features: Where each feature lies, as `EsperVectorEnv.features` says.
        num_slots: How many there are.
        width: Of the result.
    """

    def __init__(self, features: Mapping[str, slice], num_slots: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.read = SlotFeatures(features, num_slots, SHARES)
        self.slot = _two_layers(self.read.slot_size)
        self.query, self.key, self.value = (linear(SLOT_WIDTH, SLOT_WIDTH, gain=1.0) for _ in range(3))
        self.after = nn.Sequential(nn.LayerNorm(SLOT_WIDTH), _two_layers(SLOT_WIDTH))
        self.whole = nn.Sequential(linear(self.read.base_size + 2 * SLOT_WIDTH, width), nn.SiLU())

    def forward(self, obs: Tensor) -> Encoded:
        """See `Encoder`."""
        base, own, present = self.read(obs)
        slots = each_slot(self.slot, own)
        slots = slots + self._attention(slots, present)
        slots = slots + each_slot(self.after, slots)
        there = present[..., None]
        total = _sum(torch.where(there, slots, 0), dim=-2)
        largest = torch.where(there, slots, -torch.inf).amax(dim=-2)
        largest = torch.where(present.any(dim=-1, keepdim=True), largest, 0)
        return Encoded(self.whole(torch.cat([base, total, largest], dim=-1)), slots)

    def _attention(self, slots: Tensor, present: Tensor) -> Tensor:
        """Each slot sees itself and those that are not empty."""
        query, key, value = (each_slot(layer, slots) for layer in (self.query, self.key, self.value))
        scores = (query[..., :, None, :] * key[..., None, :, :]).sum(dim=-1) / SLOT_WIDTH**0.5
        itself = torch.eye(slots.shape[-2], dtype=torch.bool, device=slots.device)
        weights = scores.masked_fill(~(present[..., None, :] | itself), -torch.inf)
        weights = (weights - weights.amax(dim=-1, keepdim=True)).exp()
        seen = _sum(weights[..., None] * value[..., None, :, :], dim=-2)
        return seen / _sum(weights, dim=-1)[..., None]


def _sum(values: Tensor, dim: int) -> Tensor:
    """The same to the last bit in any order."""
    return values.sort(dim=dim).values.sum(dim=dim)


def _two_layers(size: int) -> nn.Sequential:
    return nn.Sequential(linear(size, SLOT_WIDTH), nn.SiLU(), linear(SLOT_WIDTH, SLOT_WIDTH), nn.SiLU())


def _places(slices: list[slice]) -> Tensor:
    return torch.cat([torch.arange(at.start, at.stop) for at in slices])
