"""A batch is attributed all at once: each row against a plain calculation, and against the row alone."""

from collections.abc import Sequence
from itertools import combinations
from math import nan, sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from games import FACTS, Game, asked, by_orders, drawn, powerset, with_live
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import game

from esper_env.contracts.stats import EpochStats
from esper_env.contracts.streams import Stream, generator
from esper_env.mdp.attribution import NOTHING, Attribution, AttributionConfig, Plan, attribute, plan

SLOTS, SEED, EPOCH = 5, 7, 3
Row = tuple[list[int], bool]
"""Slots with live modules, and whether the environment plays."""


def attributed(
    rows: Sequence[Row], games: Sequence[Game], config: AttributionConfig
) -> tuple[Plan, Attribution]:
    state = with_live(*(live for live, _ in rows), seed=SEED, epoch=EPOCH)
    chosen = plan(state, np.array([plays for _, plays in rows]), config)
    stats = EpochStats.empty(len(rows), SLOTS, chosen.subsets.shape[1])
    for env, points in enumerate(games):
        subsets = asked(chosen, env)
        stats.subset_loss[env, : len(subsets)] = 1.0
        stats.subset_accuracy[env, : len(subsets)] = [points(subset) / 100 for subset in subsets]
    return chosen, attribute(chosen, stats, FACTS)


def random_orders(live: list[int], config: AttributionConfig) -> list[list[int]]:
    count = config.shapley_permutations if len(live) > config.lattice_up_to else 0
    return [generator(SEED, Stream.SHAPLEY, EPOCH, n).permutation(live).tolist() for n in range(count)]


def wanted(live: list[int], config: AttributionConfig) -> set[frozenset[int]]:
    """The variants of one environment, in no order."""
    if not live:
        return set()
    if len(live) <= config.lattice_up_to:
        return powerset(live)
    begun = {frozenset(order[:n]) for order in random_orders(live, config) for n in range(len(live))}
    return begun | {frozenset(live), frozenset()} | {frozenset(live) - {slot} for slot in live}


def plain(live: list[int], points: Game, config: AttributionConfig) -> dict[str, Any]:
    """What is said of one environment, by the definitions."""
    told: dict[str, Any] = {name: [nan] * SLOTS for name in ("contribution", "shapley", "shapley_error")}
    told |= {"interaction": [[nan] * SLOTS for _ in range(SLOTS)], "committed": nan, "joint": nan}
    if not live:
        return told
    whole, none = frozenset(live), frozenset[int]()
    told |= {"committed": points(none) / 100, "joint": points(whole) - points(none)}
    complete, orders = wanted(live, config) == powerset(live), random_orders(live, config)
    for slot in live:
        told["contribution"][slot] = points(whole) - points(whole - {slot})
        added = [
            points(frozenset(o[: o.index(slot) + 1])) - points(frozenset(o[: o.index(slot)])) for o in orders
        ]
        if orders:
            told["shapley"][slot], told["shapley_error"][slot] = fmean(added), stdev(added) / sqrt(len(added))
        elif complete:
            told["shapley"][slot], told["shapley_error"][slot] = (
                by_orders(live, points)[live.index(slot)],
                0.0,
            )
    for i, j in combinations(live, 2) if complete else ():
        value = points(frozenset({i, j})) - points(frozenset({i})) - points(frozenset({j})) + points(none)
        told["interaction"][i][j] = told["interaction"][j][i] = value
    return told


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(st.sets(st.integers(0, SLOTS - 1)).map(sorted), st.booleans()), min_size=1, max_size=9
    ),
    up_to=st.integers(1, 5),
    orders=st.sampled_from([0, 2, 5]),
    seed=st.integers(0, 2**32),
)
def test_every_row_of_a_batch_is_what_a_plain_calculation_of_it_says(
    rows: list[Row], up_to: int, orders: int, seed: int
) -> None:
    config = AttributionConfig(lattice_up_to=up_to, shapley_permutations=orders)
    games = [drawn(seed + env, SLOTS) for env in range(len(rows))]
    chosen, told = attributed(rows, games, config)
    for env, ((live, plays), points) in enumerate(zip(rows, games, strict=True)):
        playing = live if plays else []
        variants = asked(chosen, env)
        assert set(variants) == wanted(playing, config)
        assert len(variants) == len(set(variants))
        assert variants[:1] == ([frozenset(playing)] if playing else [])
        for name, expected in plain(playing, points, config).items():
            np.testing.assert_allclose(
                getattr(told, name)[env], expected, rtol=1e-12, atol=1e-9, err_msg=name
            )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    lives=st.lists(st.sets(st.integers(0, SLOTS - 1)).map(sorted), min_size=2, max_size=9),
    up_to=st.integers(1, 5),
    orders=st.sampled_from([0, 3]),
)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(
    lives: list[list[int]], up_to: int, orders: int
) -> None:
    config = AttributionConfig(lattice_up_to=up_to, shapley_permutations=orders)
    games = [drawn(env, SLOTS) for env in range(len(lives))]
    chosen, told = attributed([(live, True) for live in lives], games, config)
    for env, (live, points) in enumerate(zip(lives, games, strict=True)):
        chosen_alone, alone = attributed([(live, True)], [points], config)
        width = chosen_alone.subsets.shape[1]
        assert chosen.subsets[env, :width].tolist() == chosen_alone.subsets[0].tolist()
        assert (chosen.subsets[env, width:] == NOTHING).all()
        for name, values in vars(told).items():
            assert values[env].tobytes() == getattr(alone, name)[0].tobytes(), name


@pytest.mark.parametrize("num_slots", [1, 2, 9])
def test_however_many_slots_there_are_the_variants_are_two_to_the_live_or_two_more_than_live(
    num_slots: int,
) -> None:
    state = game(num_slots + 1, num_slots)
    for env in range(num_slots + 1):
        state.slots.alpha[env, :env] = 1.0
    chosen = plan(state, np.ones(num_slots + 1, dtype=bool), AttributionConfig(lattice_up_to=3))
    counts = (chosen.subsets != NOTHING).sum(axis=1).tolist()
    assert counts == [0, 2, 4, 8, *range(6, 12)][: num_slots + 1]
