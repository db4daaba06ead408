"""What a feature of the observation is, and how many of them are computed together."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import HAS_MODULE, Stage
from esper_env.contracts.state import GameState
from esper_env.mdp.episode import Limits

Array = NDArray[Any]
At = int | slice
"""A place along the last axis."""


@dataclass(frozen=True)
class View:
    """What an observation is made of."""

    state: GameState
    facts: HostFacts
    limits: Limits
    freshness: float
    """Factor by which a contribution's freshness falls an epoch."""

    @cached_property
    def interaction(self) -> Array:
        """(env, slot): sum of the interactions with other live modules, in points; NaN without any."""
        return self.state.slots.interaction_sum

    @cached_property
    def in_stage(self) -> Array:
        """(stage, env): share of the slots in each stage."""
        stage, num_stages = self.state.slots.stage, len(Stage)
        by_env = stage + num_stages * np.arange(len(stage))[:, None]
        counts = np.bincount(by_env.ravel(), minlength=num_stages * len(stage))
        return counts.reshape(-1, num_stages).T / self.facts.num_slots

    @cached_property
    def has_module(self) -> Array:
        """(env, slot, 1): whether there is a module."""
        return HAS_MODULE[self.state.slots.stage][..., None]


@dataclass(frozen=True, eq=False)
class Feature:
    """One feature, or a block of `width` alike: value = clip(formula / scale, low, high), or `missing`."""

    name: str
    low: float
    high: float
    scale: float
    formula: Callable[[View], Array]
    """(env,), (env, slot) or (slot,), with a last axis of `width` if that is not 1; NaN: not measured."""
    text: str
    """What it is, for the docs."""
    width: int | None = 1
    """None: one for each blueprint."""
    static: bool = False
    """Slot features only: kept when the slot is empty."""
    flag: bool = False
    """The formula gives truth values."""
    log: bool = False
    """value = clip(symlog(formula) / scale, low, high)."""
    missing: float = np.nan
    """Value where the formula gives NaN."""

    def size(self, num_blueprints: int) -> int:
        """How many numbers it takes."""
        return num_blueprints if self.width is None else self.width


def symlog(x: Array) -> Array:
    """sign(x) ln(1 + |x|)."""
    return np.sign(x) * np.log1p(np.abs(x))


@dataclass(frozen=True)
class Block:
    """How the numbers of the base, or of a slot, are made."""

    flags: Mapping[Feature, At]
    """Where they lie in the block."""
    numbers: Mapping[Feature, At]
    """Where the others lie among themselves, logarithms first."""
    logs: int
    """How many are logarithms."""
    at: Array
    """(number,): where each lies in the block."""
    scale: Array
    low: Array
    high: Array
    missing: Array
    static: Array
    """(width of the block,)."""


def _places(features: Iterable[Feature], num_blueprints: int) -> dict[Feature, At]:
    """Where each lies if they follow each other; one of width 1 has no axis of its own."""
    places: dict[Feature, At] = {}
    start = 0
    for feature in features:
        stop = start + feature.size(num_blueprints)
        places[feature] = start if feature.width == 1 else slice(start, stop)
        start = stop
    return places


@cache
def block_of(features: tuple[Feature, ...], num_blueprints: int) -> Block:
    """How these features are made where there are so many blueprints."""

    def each(name: str, those: Iterable[Feature]) -> Array:
        return np.concatenate([np.full(f.size(num_blueprints), getattr(f, name)) for f in those])

    places = _places(features, num_blueprints)
    numbers = sorted((f for f in features if not f.flag), key=lambda f: not f.log)
    return Block(
        flags={f: at for f, at in places.items() if f.flag},
        numbers=_places(numbers, num_blueprints),
        logs=int(each("log", numbers).sum()),
        at=np.r_[tuple(places[f] for f in numbers)],
        static=each("static", features),
        **{name: each(name, numbers) for name in ("scale", "low", "high", "missing")},
    )


def values(view: View, block: Block, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(*shape, width): the features of a block; the arithmetic of its numbers is done once for all."""
    numbers = np.empty((*shape, len(block.at)))
    for feature, at in block.numbers.items():
        numbers[..., at] = feature.formula(view)
    numbers[..., : block.logs] = symlog(numbers[..., : block.logs])
    numbers = np.minimum(np.maximum(numbers / block.scale, block.low), block.high)
    np.copyto(numbers, block.missing, where=np.isnan(numbers))
    shown = np.empty((*shape, len(block.static)), dtype=np.float32)
    shown[..., block.at] = numbers
    for feature, at in block.flags.items():
        shown[..., at] = feature.formula(view)
    return shown
