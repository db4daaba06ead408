"""What the tests of attribution share: games on sets of slots, and what they make of the modules."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, combinations, permutations

import numpy as np
from lives import facts, game, plausible, put
from numpy.typing import NDArray

from esper_env import Stage
from esper_env.contracts.state import GameState, SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.engine.null import Script
from esper_env.mdp.attribution import NOTHING, Attribution, AttributionConfig, Plan, attribute, plan

Game = Callable[[frozenset[int]], float]
"""Slots that are on -> quality in points."""

FACTS = facts(5)


def with_live(*rows: Iterable[int], seed: int = 0, epoch: int = 0) -> GameState:
    """One environment a row, modules live in these of its five slots."""
    state = game(len(rows), 5)
    state.seed[:], state.epoch[:] = seed, epoch
    for env, row in enumerate(rows):
        for slot in row:
            put(state.slots, env, slot, stage=Stage.HOLDING, alpha=1.0)
    return state


def planned(state: GameState, **config: int) -> Plan:
    return plan(state, np.ones(len(state.epoch), dtype=bool), AttributionConfig(**config))


def asked(chosen: Plan, env: int = 0) -> list[frozenset[int]]:
    """The variants of one environment as sets of slots."""
    row = [subset for subset in chosen.subsets[env].tolist() if subset != NOTHING]
    return [frozenset(slot for slot in range(5) if subset >> slot & 1) for subset in row]


def worth(live: Sequence[int], points: Game, seed: int = 0, **config: int) -> Attribution:
    """What one environment's modules are worth when variants have these accuracies."""
    chosen = planned(with_live(live, seed=seed), **config)
    stats = EpochStats.empty(1, 5, chosen.subsets.shape[1])
    stats.subset_loss[:] = 1.0
    stats.subset_accuracy[0] = [points(subset) / 100 for subset in asked(chosen)]
    return attribute(chosen, stats, FACTS)


def by_orders(live: Sequence[int], points: Game) -> list[float]:
    """The Shapley value from its definition: the mean of what a player adds over all orders of arrival."""
    added: dict[int, list[float]] = {slot: [] for slot in live}
    for order in permutations(live):
        for place, slot in enumerate(order):
            before = frozenset(order[:place])
            added[slot].append(points(before | {slot}) - points(before))
    return [float(np.mean(added[slot])) for slot in live]


def drawn(seed: int, players: int) -> Game:
    """A game whose values are random, from 0 to 100 points."""
    values = np.random.default_rng(seed).random(1 << players) * 100
    return lambda on: float(values[sum(1 << slot for slot in on)])


def powerset(live: Sequence[int]) -> set[frozenset[int]]:
    return {
        frozenset(part) for part in chain.from_iterable(combinations(live, n) for n in range(len(live) + 1))
    }


def scripted(points: Game) -> Script:
    """Healthy networks whose quality depends on the modules that are on, fossils included."""

    def script(slots: SlotState, epochs: NDArray[np.int64]) -> EpochStats:
        stats = plausible(slots, epochs)
        on = [frozenset(np.flatnonzero(row).tolist()) for row in slots.alpha > 0]
        stats.val_accuracy = np.array([points(part) for part in on]) / 100
        stats.val_loss = -np.log(stats.val_accuracy)
        return stats

    return script
