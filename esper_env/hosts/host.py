"""A host: a network cut into segments, with a named place for a slot at every cut."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, Strict
from torch import nn

from esper_env.contracts.facts import Place


class Host(nn.Module):
    """A network that runs as segments[0], place 0, segments[1], place 1, ..., segments[-1].

    A subclass hands over its parts and adds nothing to the forward pass: a slot can stand at any place.

    Args:
        name: how users ask for it.
        input_shape: shape of one sample.
        segments: the layers between two places; the last one ends in logits of shape (batch, classes), or
            (batch, token, vocabulary) for text.
        places: one fewer than segments, in depth order, with unique names.
        default_slots: names of the places that hold a slot unless the user says otherwise.

    Raises:
        ValueError: the parts don't fit together.
    """

    def __init__(
        self,
        name: str,
        input_shape: Sequence[int],
        segments: Sequence[nn.Module],
        places: Sequence[Place],
        default_slots: Sequence[str],
    ) -> None:
        super().__init__()
        names = [place.name for place in places]
        if len(segments) != len(places) + 1:
            raise ValueError(f"host {name!r}: {len(segments)} segments don't go with {len(places)} places")
        if len(set(names)) != len(names) or not set(default_slots) <= set(names):
            raise ValueError(f"host {name!r}: places {names} must be unique and hold {list(default_slots)}")
        self.name = name
        self.input_shape = tuple(input_shape)
        self.segments = nn.ModuleList(segments)
        self.places = tuple(places)
        self.default_slots = tuple(default_slots)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of the host alone; for text (batch, token, vocabulary)."""
        for segment in self.segments:
            x = segment(x)
        return x

    def sample(self, size: int) -> torch.Tensor:
        """A batch of this size as the host reads it, on the meta device: shape and type without numbers."""
        return torch.empty(size, *self.input_shape, device="meta")


class HostConfig(BaseModel):
    """Which network is trained, and where modules may grow in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "baseline"
    """Name of the host; the known ones are the keys of `esper_env.hosts.build.HOSTS`."""
    slots: Annotated[int, Strict(), Field(ge=1)] | tuple[str, ...] | None = None
    """Slots: None for the host's default places, a number of them, or a list of place names."""


def resolve_slots(
    places: Sequence[Place], default: Sequence[str], slots: int | Sequence[str] | None
) -> tuple[int, ...]:
    """Places that hold a slot, as indices in depth order.

    A number of slots up to that of the default places is spread over the defaults, a larger one over all.

    Args:
        places: all places of the host.
        default: names of its default places.
        slots: None (the default), a number of slots, or names of places in any order.

    Raises:
        ValueError: a number out of range, or an unknown, repeated or missing name.
    """
    names = [place.name for place in places]
    defaults = sorted(names.index(name) for name in default)
    if slots is None:
        return tuple(defaults)
    if isinstance(slots, int):
        if not 1 <= slots <= len(names):
            raise ValueError(f"slots={slots}: this host has places for 1 to {len(names)} slots")
        return _spread(defaults if slots <= len(defaults) else range(len(names)), slots)
    unknown = [name for name in slots if name not in names]
    if unknown or not slots:
        raise ValueError(f"slots={list(slots)}: {unknown or 'an empty list'} is not among {names}")
    if len(set(slots)) != len(slots):
        raise ValueError(f"slots={list(slots)}: a place can hold one slot, the places are {names}")
    return tuple(sorted(names.index(name) for name in slots))


def _spread(indices: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` of these, the middles of equal parts."""
    return tuple(indices[(2 * i + 1) * len(indices) // (2 * count)] for i in range(count))
