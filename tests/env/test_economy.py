"""The economy while an episode goes on: what pairs are credited and keep, and what a return is."""

import numpy as np
import pytest
from economies import (
    ADDITIVE,
    GAMES,
    JOINT,
    WAIT,
    committing,
    credit_paid,
    economy,
    fickle,
    live_pair,
    to_the_end,
    worth,
)
from lives import GROW, play, rules_only
from numpy.typing import NDArray

from esper_env import Op, Stage, encode
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats

BASES = ("contribution", "shapley")
AT_END = ("lost", "kept")
AT_ONCE = encode(Op.PRUNE, slot=0, alpha_speed=0)
BOTH = [encode(Op.FOSSILIZE, slot=0), encode(Op.FOSSILIZE, slot=1)]

LIVE = {
    ("xor", "contribution"): [JOINT, JOINT],
    ("xor", "shapley"): [JOINT / 2, JOINT / 2],
    ("duplicates", "contribution"): [0, 0],
    ("duplicates", "shapley"): [JOINT / 2, JOINT / 2],
    ("additive", "contribution"): [0.6 * JOINT, 0.4 * JOINT],
    ("additive", "shapley"): [0.6 * JOINT, 0.4 * JOINT],
    ("harmful", "contribution"): [-0.6 * JOINT, -0.4 * JOINT],
}


@pytest.mark.parametrize(("game", "basis"), LIVE)
def test_what_live_pairs_are_credited(game: str, basis: str) -> None:
    env = live_pair(game, basis)
    assert env._state.slots.credit[0].tolist() == pytest.approx([*LIVE[game, basis], 0])
    assert env.attribution()["joint"][0] == pytest.approx(GAMES[game][1, 1])


@pytest.mark.parametrize(("game", "sign"), [("xor", 1), ("duplicates", -1), ("additive", 0)])
def test_synergy_earns_the_bonus_and_redundancy_pays_it(game: str, sign: int) -> None:
    with_bonus, without = live_pair(game, "shapley", 0.1), live_pair(game, "shapley")
    difference = with_bonus._state.slots.credit - without._state.slots.credit
    assert difference[0] == pytest.approx(sign * 0.1 * np.tanh(JOINT / 2) * np.array([1, 1, 0]), abs=1e-12)


FOSSILS = {
    ("xor", "contribution"): [JOINT, JOINT],
    ("xor", "shapley"): [JOINT / 2, JOINT],
    ("duplicates", "contribution"): [0, 0],
    ("duplicates", "shapley"): [JOINT / 2, 0],
    ("additive", "contribution"): [0.6 * JOINT, 0.4 * JOINT],
    ("additive", "shapley"): [0.6 * JOINT, 0.4 * JOINT],
}


@pytest.mark.parametrize("at_end", AT_END)
@pytest.mark.parametrize(("game", "basis"), FOSSILS)
def test_what_pairs_hold_once_they_are_fossilized_one_after_the_other(
    game: str, basis: str, at_end: str
) -> None:
    env = live_pair(game, basis, at_end=at_end)
    play(env, [*BOTH, WAIT])
    assert env._state.slots.credit[0].tolist() == pytest.approx([*FOSSILS[game, basis], 0])


@pytest.mark.parametrize(("game", "basis"), FOSSILS)
def test_where_credit_is_kept_the_episode_pays_what_the_fossils_held(game: str, basis: str) -> None:
    both = live_pair(game, basis, at_end="kept")
    assert to_the_end(both, *BOTH) == pytest.approx(sum(FOSSILS[game, basis]))
    one = live_pair(game, basis, at_end="kept")
    alone = LIVE[game, basis][1]
    assert to_the_end(one, BOTH[1]) == pytest.approx(alone), "slot 0 was never fossilized"
    pruned = live_pair(game, basis, at_end="kept")
    assert to_the_end(pruned, BOTH[1], AT_ONCE) == pytest.approx(alone), "not even if it was of use to slot 1"


def test_credit_is_paid_when_a_module_begins_to_help_and_a_prune_gives_it_back() -> None:
    env = economy(worth(ADDITIVE))
    paid = credit_paid(env, *GROW)
    assert paid == pytest.approx([0] * 5 + [0.6 * JOINT] + [0] * 3), "with the first epoch of BLENDING"
    assert credit_paid(env, AT_ONCE, WAIT) == pytest.approx([-0.6 * JOINT, 0])


def test_a_slow_prune_gives_it_back_when_the_module_is_gone() -> None:
    env = economy(worth(ADDITIVE))
    play(env, GROW)
    paid = credit_paid(env, encode(Op.PRUNE, slot=0, alpha_speed=1), WAIT, WAIT)
    assert paid == pytest.approx([0, 0, -0.6 * JOINT])


@pytest.mark.parametrize("at_end", AT_END)
def test_the_end_takes_what_was_not_fossilized(at_end: str) -> None:
    env = live_pair("additive", at_end=at_end)
    assert env._state.slots.credit.sum() == pytest.approx(JOINT)
    assert to_the_end(env) == pytest.approx(0)


def test_a_truncation_takes_nothing() -> None:
    """A fossil holds what its module was worth when it was fossilized, a live module what it is worth now."""
    cut = rules_only(script=worth(ADDITIVE, memory=20.0), reward="economy", max_episode_steps=14)
    for commit in (False, True):
        cut.reset(seed=0)
        paid = credit_paid(cut, *GROW, BOTH[0] if commit else WAIT, *[WAIT] * 4)
        assert cut._truncated[0]
        epochs = 9 if commit else 14
        assert sum(paid) == pytest.approx(0.6 * JOINT * (1 - np.exp(-epochs / 20)))


@pytest.mark.parametrize("at_end", AT_END)
def test_a_rollback_takes_what_was_not_fossilized(at_end: str) -> None:
    env = live_pair("additive", at_end=at_end)
    play(env, [encode(Op.FOSSILIZE, slot=1)])
    healthy = env._engine.script

    def broken(slots: SlotState, epochs: NDArray[np.int64]) -> EpochStats:
        stats = healthy(slots, epochs)
        stats.finite[:] = False
        return stats

    env._engine.script = broken
    assert credit_paid(env, WAIT) == pytest.approx([-0.6 * JOINT])
    env._engine.script = healthy
    assert env._state.slots.credit[0].tolist() == pytest.approx([0, 0.4 * JOINT, 0])
    assert to_the_end(env) == pytest.approx(0.4 * JOINT if at_end == "kept" else 0)


MANY = 16
OLD_PRICES = {"reward.credit_at_end": "kept", "reward.outcome": 20.0}
ECONOMIES = {
    (basis, at_end): rules_only(
        MANY,
        script=fickle,
        reward="economy",
        horizon=40,
        auto_advance=["G1", "G2", "G3"],
        overrides={"reward.credit_basis": basis} | (OLD_PRICES if at_end == "kept" else {}),
    )
    for basis in BASES
    for at_end in AT_END
}


@pytest.mark.parametrize("at_end", AT_END)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("seed", range(2))
def test_the_economys_return_is_the_outcome_and_what_credit_is_kept_less_what_it_cost(
    basis: str, at_end: str, seed: int
) -> None:
    env, rng = ECONOMIES[basis, at_end], np.random.default_rng(seed)
    env.reset(seed=seed)
    balance, held, panics = np.zeros(MANY), np.zeros(MANY), np.zeros(MANY)
    ended = np.zeros(MANY, dtype=bool)
    while not ended.all():
        if env._over.any():
            env.reset(options={"reset_mask": env._over})
        _, reward, terminated, _, info = env.step(committing(env, rng))
        terms, now, slots = info["reward_terms"], terminated & ~ended, env._state.slots
        costs = sum(terms[name] for name in ("rent", "churn", "op_cost", "rollback"))
        balance += np.where(ended, 0.0, reward - costs)
        panics += (terms["rollback"] < 0) & ~ended
        fossils = np.where(slots.stage == Stage.FOSSILIZED, slots.credit, 0.0).sum(axis=1)
        held[now], won = fossils[now], info["harvest_accuracy"] - 0.1
        pays = 100 * won if at_end == "lost" else held + 20 * won
        balance[now] -= pays[now]
        ended |= terminated
    np.testing.assert_allclose(balance, 0, atol=1e-9)
    assert len(set(held.round(6).tolist())) > 3, "lives differ in what they commit"
    assert held.min() < 0 < held.max(), "some of it helps and some does harm"
    assert set(panics.tolist()) >= {0.0, 1.0}, "some networks broke"
