"""Shapley values, exact and sampled, against their definition on sets and orders."""

from itertools import permutations

import numpy as np
import pytest
from games import Game, asked, by_orders, drawn, planned, scripted, with_live, worth
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import GROW, rules_only

from esper_env import Head


def test_random_orders_belong_to_seed_and_epoch_and_not_to_who_else_plays() -> None:
    live, config = (0, 1, 2, 4), {"shapley_permutations": 6}
    chosen = planned(with_live(live, seed=5, epoch=7), **config)
    state = with_live((0, 1, 2, 3, 4), live, (2,), seed=5, epoch=7)
    state.seed[0] = 8
    among = planned(state, **config)
    np.testing.assert_array_equal(among.orders[1], chosen.orders[0])
    assert asked(among, 1) == asked(chosen)
    assert sorted(among.orders) == [0, 1], "of the last, there are few enough for every subset"
    for seed, epoch in ((6, 7), (5, 8)):
        other = planned(with_live(live, seed=seed, epoch=epoch), **config)
        assert not np.array_equal(other.orders[0], chosen.orders[0])
    assert all(sorted(order) == list(live) for order in chosen.orders[0].tolist())


def test_random_orders_ask_for_what_they_begin_with_besides_and_for_nothing_twice() -> None:
    chosen = planned(with_live((0, 1, 2, 4)), shapley_permutations=3)
    variants, whole = asked(chosen), frozenset((0, 1, 2, 4))
    begun = {frozenset(order[:n]) for order in chosen.orders[0].tolist() for n in range(5)}
    assert len(variants) == len(set(variants))
    assert set(variants) == begun | {whole - {slot} for slot in whole} | {whole}


def test_one_random_order_has_no_error_and_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"attribution\.shapley_permutations=1 .* 0 or at least 2"):
        rules_only(overrides={"attribution.shapley_permutations": 1})


def test_in_an_additive_game_everybody_is_worth_what_he_brings() -> None:
    brings = {0: 3.0, 2: -2.0, 4: 0.5}
    told = worth((0, 2, 4), lambda on: 50.0 + sum(brings[slot] for slot in on))
    for values in (told.contribution, told.shapley):
        assert values[0, [0, 2, 4]] == pytest.approx([3, -2, 0.5])
    pairs = told.interaction[0][np.ix_([0, 2, 4], [0, 2, 4])]
    assert pairs[~np.eye(3, dtype=bool)] == pytest.approx(np.zeros(6), abs=1e-12)


def test_a_three_player_game_by_hand() -> None:
    """Glove game: 0 holds the only left glove, 1 and 2 one right glove each; a pair is worth 6 points."""
    told = worth((0, 1, 2), lambda on: 20.0 + 6.0 * (0 in on and len(on) > 1))
    assert told.shapley[0, :3] == pytest.approx([4, 1, 1])
    assert told.contribution[0, :3] == pytest.approx([6, 0, 0], abs=1e-12)
    assert told.interaction[0, 0, [1, 2]] == pytest.approx([6, 6])
    assert told.interaction[0, 1, 2] == pytest.approx(0, abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), live=st.sets(st.integers(0, 4), min_size=1, max_size=5))
def test_random_games_agree_with_the_definitions_on_sets(seed: int, live: set[int]) -> None:
    players, points = sorted(live), drawn(seed, 5)
    told = worth(players, points, lattice_up_to=5)
    whole, none = frozenset(players), frozenset()
    assert told.shapley[0, players] == pytest.approx(by_orders(players, points), abs=1e-9)
    assert told.shapley[0, players].sum() == pytest.approx(points(whole) - points(none), abs=1e-6)
    assert told.joint[0] == pytest.approx(points(whole) - points(none), abs=1e-9)
    assert told.committed[0] == pytest.approx(points(none) / 100)
    for slot in players:
        assert told.contribution[0, slot] == pytest.approx(points(whole) - points(whole - {slot}), abs=1e-9)
    for i, j in permutations(players, 2):
        both, one, other = (points(frozenset(part)) for part in ((i, j), (i,), (j,)))
        assert told.interaction[0, i, j] == pytest.approx(both - one - other + points(none), abs=1e-9)
    absent = [slot for slot in range(5) if slot not in live]
    for values in (told.contribution, told.shapley, told.shapley_error, told.interaction):
        assert np.isnan(values[0, absent]).all()
    assert np.isnan(told.interaction[0].diagonal()).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_equal_players_get_the_same_and_one_who_changes_nothing_gets_nothing(seed: int) -> None:
    """0 and 1 are alike, 2 does nothing, 3 does something else."""
    values = np.random.default_rng(seed).random((3, 2)) * 100
    points: Game = lambda on: float(values[len(on & {0, 1}), int(3 in on)])  # noqa: E731
    told = worth((0, 1, 2, 3), points, lattice_up_to=4)
    assert told.shapley[0, 0] == pytest.approx(told.shapley[0, 1], abs=1e-9)
    assert told.shapley[0, 2] == pytest.approx(0, abs=1e-9)
    some = worth((0, 1, 2, 3), points, lattice_up_to=3, shapley_permutations=5)
    assert (some.shapley[0, 2], some.shapley_error[0, 2]) == pytest.approx((0, 0), abs=1e-9)


def test_the_sampled_value_and_its_error_are_mean_and_standard_error_over_the_orders() -> None:
    live, points = (0, 1, 3, 4), drawn(3, 5)
    told = worth(live, points, seed=11, shapley_permutations=5)
    added = np.zeros((5, 4))
    for row, order in enumerate(planned(with_live(live, seed=11), shapley_permutations=5).orders[0].tolist()):
        for place, slot in enumerate(order):
            before = frozenset(order[:place])
            added[row, live.index(slot)] = points(before | {slot}) - points(before)
    assert told.shapley[0, live] == pytest.approx(added.mean(axis=0))
    assert told.shapley_error[0, live] == pytest.approx(np.sqrt(added.var(axis=0, ddof=1) / 5))
    assert told.shapley[0, live].sum() == pytest.approx(told.joint[0], abs=1e-9), (
        "every order adds up by itself"
    )


def test_the_standard_error_says_how_far_the_sampled_value_is_from_the_exact_one() -> None:
    live, points = (0, 1, 2, 3), drawn(1, 5)
    exact = np.array(by_orders(live, points))
    told = [worth(live, points, seed=seed, shapley_permutations=30) for seed in range(200)]
    values, errors = (np.array([getattr(t, n)[0, live] for t in told]) for n in ("shapley", "shapley_error"))
    covered = np.abs(values - exact) <= 1.96 * errors
    assert 0.90 <= covered.mean() <= 0.99
    assert values.mean(axis=0) == pytest.approx(exact, abs=4 * float(errors.mean()) / np.sqrt(200))
    assert errors.mean(axis=0) == pytest.approx(values.std(axis=0), rel=0.15)


def test_the_sampled_value_comes_closer_with_more_orders() -> None:
    live, points = (0, 1, 2, 3, 4), drawn(2, 5)
    exact = np.array(by_orders(live, points))
    few, many = (worth(live, points, shapley_permutations=n) for n in (100, 2500))
    assert np.abs(many.shapley[0] - exact).max() < 0.5 * np.abs(few.shapley[0] - exact).max()
    assert many.shapley_error[0] == pytest.approx(few.shapley_error[0] / 5, rel=0.3)


def test_sampled_values_are_the_same_whoever_plays_beside() -> None:
    config = {"attribution.lattice_up_to": 2, "attribution.shapley_permutations": 4}
    told, points = [], drawn(4, 3)
    for num_envs in (1, 3):
        env = rules_only(num_envs, scripted(lambda on: 60 + 0.3 * points(on)), horizon=40, overrides=config)
        env.reset(seed=[9] if num_envs == 1 else [1, 9, 2])
        own, actions = min(1, num_envs - 1), np.zeros((num_envs, 8), dtype=np.int64)
        for slot in range(3):
            for action in GROW:
                actions[own] = np.where(np.arange(8) == Head.SLOT, slot, action)
                env.step(actions)
        told.append({name: values[own] for name, values in env.attribution().items()})
    assert np.isfinite(told[0]["shapley"]).all()
    assert (told[0]["shapley_error"] > 0).any()
    for name in told[0]:
        np.testing.assert_array_equal(told[0][name], told[1][name])
