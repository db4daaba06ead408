"""What each live module is worth: which variants of a network to measure, and what their qualities say.

f(S) is the validation quality, in points, with the live modules of S on, the others off, and every fossil on.
All values are relative to the other modules that are there; none says what would have been without them from
the start. References: L. Shapley, "A value for n-person games" (1953); J. Castro, D. Gómez, J. Tejada,
"Polynomial calculation of the Shapley value based on sampling" (2009).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.state import GameState
from esper_env.contracts.stats import EpochStats
from esper_env.contracts.streams import Stream, generator
from esper_env.mdp.quality import quality

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Values = Mapping[int, float]
"""f by subset, a bit mask of slots."""

NOTHING = -1
"""In place of a subset: none is asked for."""


class AttributionConfig(BaseModel):
    """How many variants are measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lattice_up_to: int = Field(3, ge=1, le=6)
    """Most live modules of which every subset is measured; with more, each is switched off once, and all."""
    shapley_permutations: int = Field(0, ge=0)
    """Random orders from which the Shapley value of more live modules is estimated each epoch; 0 for none,
    else at least 2."""

    @model_validator(mode="after")
    def _enough_for_an_error(self) -> Self:
        if self.shapley_permutations == 1:
            raise ValueError("attribution.shapley_permutations=1 is not allowed: 0 or at least 2 are")
        return self


@dataclass(frozen=True)
class Plan:
    """The variants to measure in one epoch."""

    subsets: Ints
    """(env, subset): distinct bit masks, the whole first; `NOTHING` fills the row."""
    live: tuple[tuple[int, ...], ...]
    """Slots of each environment's live modules."""
    orders: tuple[Ints, ...]
    """(order, live) of each environment: slots in the random orders of the sampled Shapley value."""


@dataclass(frozen=True)
class Attribution:
    """What the variants say. NaN where it was not measured."""

    contribution: Floats
    """(env, slot): f(all) - f(all but this one), in points."""
    interaction: Floats
    """(env, slot, slot): f(ij) - f(i) - f(j) + f(none), in points, symmetric."""
    shapley: Floats
    """(env, slot): in points; sums to `joint` over the live modules."""
    shapley_error: Floats
    """(env, slot): its standard error in points, 0 where it is exact."""
    committed: Floats
    """(env,): quality with no live module on, in [0, 1]."""
    joint: Floats
    """(env,): f(all) - f(none), in points."""


def plan(state: GameState, played: Bools, config: AttributionConfig) -> Plan:
    """Choose the variants of the networks that have just been trained."""
    live = tuple(
        tuple(np.flatnonzero(row).tolist()) if plays else ()
        for row, plays in zip(state.slots.live, played, strict=True)
    )
    orders = tuple(
        _orders(int(state.seed[env]), int(state.epoch[env]), slots, config) for env, slots in enumerate(live)
    )
    wanted = [_subsets(slots, order, config) for slots, order in zip(live, orders, strict=True)]
    subsets = np.full((len(live), max(map(len, wanted))), NOTHING, dtype=np.int64)
    for env, row in enumerate(wanted):
        subsets[env, : len(row)] = row
    return Plan(subsets, live, orders)


def _mask(slots: tuple[int, ...]) -> int:
    return sum(1 << slot for slot in slots)


def _orders(seed: int, epoch: int, live: tuple[int, ...], config: AttributionConfig) -> Ints:
    count = config.shapley_permutations if len(live) > config.lattice_up_to else 0
    drawn = [generator(seed, Stream.SHAPLEY, epoch, index).permutation(live) for index in range(count)]
    return np.array(drawn, dtype=np.int64).reshape(count, len(live))


def _subsets(live: tuple[int, ...], orders: Ints, config: AttributionConfig) -> list[int]:
    """Distinct bit masks, the whole first."""
    if not live:
        return []
    if len(live) <= config.lattice_up_to:
        sizes = range(len(live), -1, -1)
        return [_mask(part) for size in sizes for part in combinations(live, size)]
    chosen = [_mask(live), *(_mask(live) ^ (1 << slot) for slot in live), 0]
    chosen += [_mask(tuple(order[:size])) for order in orders.tolist() for size in range(len(live))]
    return list(dict.fromkeys(chosen))


def attribute(plan: Plan, stats: EpochStats, facts: HostFacts) -> Attribution:
    """Read the measured variants.

    Args:
        plan: What was asked for.
        stats: What the engine measured of it.
        facts: Slots, and the quality of guessing.
    """
    num_envs, num_slots = len(plan.live), facts.num_slots
    points = 100 * quality(stats.subset_loss, stats.subset_accuracy, facts)
    points = np.nan_to_num(points, nan=100 * facts.chance_quality)  # measured, but not a number: it guesses
    per_slot, per_env = (num_envs, num_slots), (num_envs,)
    shapes = (per_slot, (*per_slot, num_slots), per_slot, per_slot, per_env, per_env)
    result = Attribution(*(np.full(shape, np.nan) for shape in shapes))
    for env, live in enumerate(plan.live):
        if live:
            f = dict(zip(plan.subsets[env].tolist(), points[env].tolist(), strict=True))
            _fill(result, env, live, f, plan.orders[env])
    return result


def _fill(result: Attribution, env: int, live: tuple[int, ...], f: Values, orders: Ints) -> None:
    whole = _mask(live)
    result.committed[env], result.joint[env] = f[0] / 100, f[whole] - f[0]
    for slot in live:
        result.contribution[env, slot] = f[whole] - f[whole ^ (1 << slot)]
    complete = len(f.keys() - {NOTHING}) == 1 << len(live)
    for i, j in combinations(live, 2) if complete else ():  # what random orders happen to show is no sum
        value = f[_mask((i, j))] - f[1 << i] - f[1 << j] + f[0]
        result.interaction[env, i, j] = result.interaction[env, j, i] = value
    if len(orders):
        result.shapley[env, live], result.shapley_error[env, live] = sampled_shapley(live, f, orders)
    elif complete:
        result.shapley[env, live], result.shapley_error[env, live] = shapley(live, f), 0.0


def shapley(live: tuple[int, ...], f: Values) -> Floats:
    """(live,): the exact Shapley value, from f of every subset of the live slots."""
    count, values = len(live), np.zeros(len(live))
    for index, slot in enumerate(live):
        others = [other for other in live if other != slot]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for part in combinations(others, size):
                without = _mask(part)
                values[index] += weight * (f[without | (1 << slot)] - f[without])
    return values


def sampled_shapley(live: tuple[int, ...], f: Values, orders: Ints) -> tuple[Floats, Floats]:
    """(live,) each: mean and standard error of what a slot adds to those before it in random orders.

    Args:
        live: Slots.
        f: By subset, at least those that the orders begin with.
        orders: (order, live), at least 2.
    """
    added = np.zeros(orders.shape)
    for row, order in enumerate(orders.tolist()):
        before = 0
        for slot in order:
            added[row, live.index(slot)] = f[before | (1 << slot)] - f[before]
            before |= 1 << slot
    return added.mean(axis=0), added.std(axis=0, ddof=1) / np.sqrt(len(orders))
