"""What each live module is worth: which variants of a network to measure, and what their qualities say.

f(S) is the validation quality, in points, with the live modules of S on, the others off, and every fossil on.
All values are relative to the other modules that are there; none says what would have been without them from
the start. References: L. Shapley, "A value for n-person games" (1953); J. Castro, D. Gómez, J. Tejada,
"Polynomial calculation of the Shapley value based on sampling" (2009).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.state import GameState
from esper_env.contracts.stats import EpochStats
from esper_env.contracts.streams import Stream, generator
from esper_env.mdp.lattice import Lattice, lattice, mask, pairs
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
    live: Bools
    """(env, slot): where modules are live."""
    count: Ints
    """(env,): how many are."""
    player: Ints
    """(env, slot): which of them is in a slot, if one is."""
    of: Ints
    """(env, slot): row of the lattice's tables for that."""
    lattice: Lattice
    """Which subset is which."""
    orders: Mapping[int, Ints]
    """(order, live) of each environment whose Shapley value is sampled: slots in random orders."""


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
    live = state.slots.live & played[:, None]
    table = lattice(live.shape[1], config.lattice_up_to)
    nth = live.cumsum(axis=1)
    count, player = nth[:, -1], np.maximum(nth - 1, 0)
    of, asked, bits = table.of(count[:, None], player), table.asked[count], live << np.arange(live.shape[1])
    width = int(asked.max())
    wanted = (bits[:, None, :] @ table.member.take(of, axis=0)[..., :width])[:, 0]
    subsets = np.where(np.arange(width) < asked[:, None], wanted, NOTHING)
    sampled = np.flatnonzero(count > config.lattice_up_to) if config.shapley_permutations else ()
    orders = {int(env): _orders(state, int(env), live[env], config) for env in sampled}
    return Plan(
        _with_beginnings(subsets, orders) if orders else subsets, live, count, player, of, table, orders
    )


def _orders(state: GameState, env: int, live: Bools, config: AttributionConfig) -> Ints:
    seed, epoch, slots = int(state.seed[env]), int(state.epoch[env]), np.flatnonzero(live)
    indices = range(config.shapley_permutations)
    return np.array([generator(seed, Stream.SHAPLEY, epoch, index).permutation(slots) for index in indices])


def _with_beginnings(subsets: Ints, orders: Mapping[int, Ints]) -> Ints:
    """The same rows, and after them what the random orders begin with, nothing twice."""
    rows = [[subset for subset in row if subset != NOTHING] for row in subsets.tolist()]
    for env, drawn in orders.items():
        begun = [mask(order[:size]) for order in drawn.tolist() for size in range(len(order))]
        rows[env] = list(dict.fromkeys(rows[env] + begun))
    width = max(map(len, rows))
    return np.array([row + [NOTHING] * (width - len(row)) for row in rows], dtype=np.int64)


def attribute(plan: Plan, stats: EpochStats, facts: HostFacts) -> Attribution:
    """Read the measured variants.

    Args:
        plan: What was asked for.
        stats: What the engine measured of it.
        facts: Slots, and the quality of guessing.
    """
    live, count, table = plan.live, plan.count[:, None], plan.lattice
    if not live.any():
        return _nothing(*live.shape)
    points = 100 * quality(stats.subset_loss, stats.subset_accuracy, facts)
    points = np.where(np.isnan(points), 100 * facts.chance_quality, points)  # not a number: it guesses
    whole, none = points[:, :1], _of(points, table.asked[count] - 1)
    exact = live & table.complete[count]
    result = Attribution(
        contribution=np.where(live, whole - _of(points, table.without.take(plan.of)), np.nan),
        interaction=_interaction(points, none, exact, plan),
        shapley=np.where(exact, _shapley(points, plan), np.nan),
        shapley_error=np.where(exact, 0.0, np.nan),
        committed=np.where(count > 0, none / 100, np.nan)[:, 0],
        joint=np.where(count > 0, whole - none, np.nan)[:, 0],
    )
    for env, orders in plan.orders.items():
        f = dict(zip(plan.subsets[env].tolist(), points[env].tolist(), strict=True))
        _fill_sampled(result, env, np.flatnonzero(live[env]).tolist(), f, orders)
    return result


def _nothing(num_envs: int, num_slots: int) -> Attribution:
    per_slot, per_env = (num_envs, num_slots), (num_envs,)
    shapes = (per_slot, (*per_slot, num_slots), per_slot, per_slot, per_env, per_env)
    return Attribution(*(np.full(shape, np.nan) for shape in shapes))


def _of(points: Floats, subset: Ints) -> Floats:
    """Points (env, subset) at indices (env, ...) into their rows."""
    rows = np.arange(0, points.size, points.shape[1])
    return points.take((subset.T + rows).T)


def _interaction(points: Floats, none: Floats, exact: Bools, plan: Plan) -> Floats:
    """(env, slot, slot): f(ij) - f(i) - f(j) + f(none) of all pairs."""
    num_envs, num_slots = exact.shape
    i, j = pairs(num_slots)
    alone = np.where(exact, _of(points, plan.lattice.alone.take(plan.of)), np.nan)
    pair = _of(points, plan.lattice.pair[plan.of[:, i], plan.player[:, j]])
    interaction = np.full((num_envs, num_slots, num_slots), np.nan)
    interaction[:, i, j] = interaction[:, j, i] = pair - alone[:, i] - alone[:, j] + none
    return interaction


def _shapley(points: Floats, plan: Plan) -> Floats:
    """(env, slot): the exact value, where every subset was measured."""
    arrival = _of(points, plan.lattice.arrival.take(plan.of, axis=0))
    added = plan.lattice.weight.take(plan.of, axis=0) * (arrival[:, :, 1] - arrival[:, :, 0])
    # One after the other: np.sum would add in another order for one environment than for many.
    return reduce(np.add, added.transpose(2, 0, 1), np.zeros(plan.live.shape))


def _fill_sampled(result: Attribution, env: int, live: list[int], f: Values, orders: Ints) -> None:
    result.shapley[env, live], result.shapley_error[env, live] = sampled_shapley(live, f, orders)
    complete = len(f.keys() - {NOTHING}) == 1 << len(live)
    for i, j in combinations(live, 2) if complete else ():  # what random orders happen to show is no sum
        value = f[mask((i, j))] - f[1 << i] - f[1 << j] + f[0]
        result.interaction[env, i, j] = result.interaction[env, j, i] = value


def sampled_shapley(live: Sequence[int], f: Values, orders: Ints) -> tuple[Floats, Floats]:
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
