"""Which blueprints exist, in the order of the action's blueprint index. An index once given is for ever."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from torch import nn

from esper_env.blueprints import transformer
from esper_env.blueprints.attention import attention
from esper_env.blueprints.conv import bottleneck, conv_heavy, conv_light, conv_small, depthwise
from esper_env.blueprints.norm import norm
from esper_env.contracts.facts import Place

Builder = Callable[[Place], nn.Module]

FAMILIES = ("cnn", "transformer")
"""Kinds of host that a builder can serve."""
ENTRY_POINT_GROUP = "esper.blueprints"
"""Python entry points of this group name objects of type `Blueprint`."""
_RESERVED = ("none",)
"""`none` stands for an empty slot in the observation."""


@dataclass(frozen=True)
class Blueprint:
    """A kind of module: one builder for each family of hosts it can serve.

    A builder takes the place and returns a branch: a module that maps a tensor of shape (batch, *place.shape)
    to one of the same shape. Its weights come from torch's CPU generator, which is seeded at that moment.

    Raises:
        ValueError: a bad name or an unknown family.
    """

    name: str
    """Lower-case letters, digits and underscores, unique in the catalogue."""
    builders: Mapping[str, Builder] = field(default_factory=dict, hash=False)
    """Family (`cnn`, `transformer`) -> builder."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in _RESERVED:
            raise ValueError(f"blueprint name {self.name!r}: use a-z, 0-9 and _, but not {_RESERVED}")
        unknown = sorted(set(self.builders) - set(FAMILIES))
        if unknown:
            raise ValueError(f"blueprint {self.name!r}: unknown families {unknown}, known are {FAMILIES}")
        object.__setattr__(self, "builders", MappingProxyType(dict(self.builders)))

    def fits(self, place: Place) -> bool:
        """Whether there is a builder for this place's family."""
        return place.family in self.builders


CATALOGUE: tuple[Blueprint, ...] = (
    Blueprint("noop"),
    Blueprint("conv_light", {"cnn": conv_light}),
    Blueprint("attention", {"cnn": attention, "transformer": transformer.attention}),
    Blueprint("norm", {"cnn": norm, "transformer": transformer.norm}),
    Blueprint("depthwise", {"cnn": depthwise}),
    Blueprint("bottleneck", {"cnn": bottleneck}),
    Blueprint("conv_small", {"cnn": conv_small}),
    Blueprint("conv_heavy", {"cnn": conv_heavy}),
    Blueprint("lora", {"transformer": transformer.lora}),
    Blueprint("lora_large", {"transformer": transformer.lora_large}),
    Blueprint("mlp_small", {"transformer": transformer.mlp_small}),
    Blueprint("mlp", {"transformer": transformer.mlp}),
    Blueprint("flex_attention", {"transformer": transformer.flex_attention}),
)
"""The built-in blueprints. Append only."""

_REGISTERED: list[Blueprint] = []


def catalogue() -> tuple[Blueprint, ...]:
    """Every blueprint by index: built in, then from entry points sorted by name, then registered by a call.

    Raises:
        ValueError: an entry point doesn't load, is no `Blueprint`, or repeats a name; the message names it.
    """
    blueprints = (*CATALOGUE, *_from_entry_points(), *_REGISTERED)
    names = [blueprint.name for blueprint in blueprints]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"blueprint names must be unique, these are not: {repeated}")
    return blueprints


def register_blueprint(name: str, builders: Mapping[str, Builder]) -> int:
    """Add a blueprint for environments made from now on, and return its index.

    Args:
        name: lower-case letters, digits and underscores; must be new.
        builders: family (`cnn`, `transformer`) -> function from a place to a branch; at least one.

    Raises:
        ValueError: a bad or taken name, an unknown family, or no builder.
    """
    taken = [blueprint.name for blueprint in catalogue()]
    if name in taken:
        raise ValueError(f"blueprint {name!r} exists already: {taken}")
    if not builders:
        raise ValueError(f"blueprint {name!r}: at least one builder is needed, for one of {FAMILIES}")
    _REGISTERED.append(Blueprint(name, builders))
    return len(taken)


@cache
def _from_entry_points() -> tuple[Blueprint, ...]:
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    return tuple(_load(entry) for entry in found)


def _load(entry: EntryPoint) -> Blueprint:
    where = f"entry point {entry.name!r} = {entry.value!r} of group {ENTRY_POINT_GROUP!r}"
    try:
        loaded = entry.load()
    except Exception as error:
        raise ValueError(f"{where} can't be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(loaded, Blueprint):
        raise ValueError(f"{where} is a {type(loaded).__name__}, not a Blueprint")
    return loaded
