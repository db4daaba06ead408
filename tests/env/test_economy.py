"""The economy while an episode goes on: what pairs are credited and keep, and what a return is."""

import numpy as np
import pytest
from economies import ADDITIVE, GAMES, JOINT, WAIT, credit_paid, economy, live_pair, to_the_end, worth
from lives import GROW, play, rules_only, wandering
from numpy.typing import NDArray
from world import tempered

from esper_env import EsperVectorEnv, Head, Op, Stage, encode
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.engine.null import plausible

BASES = ("contribution", "shapley")
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


@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize(("game", "basis"), FOSSILS)
def test_what_pairs_hold_once_they_are_fossilized_one_after_the_other(
    game: str, basis: str, settle: bool
) -> None:
    env = live_pair(game, basis, settle=settle)
    play(env, [*BOTH, WAIT])
    assert env._state.slots.credit[0].tolist() == pytest.approx([*FOSSILS[game, basis], 0])


@pytest.mark.parametrize(("game", "basis"), FOSSILS)
def test_without_a_settlement_the_episode_pays_what_the_fossils_held(game: str, basis: str) -> None:
    both = live_pair(game, basis, settle=False)
    assert to_the_end(both, *BOTH) == pytest.approx(sum(FOSSILS[game, basis]))
    one = live_pair(game, basis, settle=False)
    alone = LIVE[game, basis][1]
    assert to_the_end(one, BOTH[1]) == pytest.approx(alone), "slot 0 was never fossilized"
    pruned = live_pair(game, basis, settle=False)
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


@pytest.mark.parametrize("settle", [False, True])
def test_the_end_takes_what_was_not_fossilized(settle: bool) -> None:
    env = live_pair("additive", settle=settle)
    assert env._state.slots.credit.sum() == pytest.approx(JOINT)
    assert to_the_end(env) == pytest.approx(0)


def test_a_truncation_takes_nothing_and_settles_nothing() -> None:
    """A fossil holds what its module was worth when it was fossilized, a live module what it is worth now."""
    cut = rules_only(
        script=worth(ADDITIVE, memory=20.0),
        reward="economy",
        max_episode_steps=14,
        overrides={"reward.credit": 1.0},
    )
    for commit in (False, True):
        cut.reset(seed=0)
        paid = credit_paid(cut, *GROW, BOTH[0] if commit else WAIT, *[WAIT] * 4)
        assert cut._truncated[0]
        epochs = 9 if commit else 14
        assert sum(paid) == pytest.approx(0.6 * JOINT * (1 - np.exp(-epochs / 20)))


@pytest.mark.parametrize("settle", [False, True])
def test_a_rollback_takes_what_was_not_fossilized(settle: bool) -> None:
    env = live_pair("additive", settle=settle)
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
    assert to_the_end(env) == pytest.approx(0.4 * JOINT)


MANY = 16
OFFSET = 0.4
"""Quality of the host of the lives below, but for what comes and goes with the epochs."""


def tide(epochs: NDArray[np.int64]) -> NDArray[np.float64]:
    return 5 * np.sin(epochs) / 100


def fickle(slots: SlotState, epochs: NDArray[np.int64]) -> EpochStats:
    """Quality depends on time, modules, and pairs of them, with either sign; some networks break."""
    stats, on = plausible(slots, epochs), np.where(slots.alpha > 0, slots.alpha, 0.0)
    value = on @ np.array([3.0, -1.0, 2.0]) + 4 * on[:, 0] * on[:, 2] - 3 * on[:, 0] * on[:, 1]
    stats.val_accuracy = OFFSET + value / 100 + tide(epochs)
    stats.val_loss = -np.log(stats.val_accuracy)
    stats.finite = (epochs % 13 < 12) | (slots.planting.sum(axis=1) % 3 != 1)
    return stats


def committing(env: EsperVectorEnv, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random legal actions (env, 8) of lives that wait often, prune seldom and commit what they hold."""
    actions = wandering(env, rng, 0.4)
    seldom = (actions[:, Head.OP] == Op.PRUNE) & (rng.random(env.num_envs) < 0.8)
    actions[seldom] = WAIT
    actions[:, Head.ALPHA_TARGET] = 2
    for row, slot in np.argwhere(env._masks.op_slot[:, Op.FOSSILIZE] > 0):
        if rng.random() < 0.3:
            actions[row] = encode(Op.FOSSILIZE, slot=int(slot))
    return actions


ECONOMIES = {
    (basis, settle): rules_only(
        MANY,
        script=fickle,
        reward="economy",
        horizon=40,
        auto_advance=["G1", "G2", "G3"],
        overrides={"reward.credit_basis": basis, "reward.settle_credit": settle},
    )
    for basis in BASES
    for settle in (False, True)
}


def final_value(env: EsperVectorEnv, row: int, born: NDArray[np.float64], harvested: float) -> float:
    """What the rules pay for one environment's fossils, `born` (env, slot) being quality at germination."""
    slots = env._state.slots
    fossils = np.flatnonzero(slots.stage[row] == Stage.FOSSILIZED)
    if not env.config.reward.settle_credit:
        return float(slots.credit[row, fossils].sum())
    host = OFFSET + float(tide(env._state.epoch)[row])
    won = harvested - born[row, fossils].min(initial=np.inf)
    return tempered(100 * (harvested - host), 100 * won) if len(fossils) else 0.0


@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("seed", range(2))
def test_the_economys_return_is_the_fossils_value_and_the_outcome_less_what_it_cost(
    basis: str, settle: bool, seed: int
) -> None:
    env, rng = ECONOMIES[basis, settle], np.random.default_rng(seed)
    env.reset(seed=seed)
    balance, values, panics = np.zeros(MANY), np.zeros(MANY), np.zeros(MANY)
    born, ended = np.full((MANY, 3), np.nan), np.zeros(MANY, dtype=bool)
    while not ended.all():
        if env._over.any():
            env.reset(options={"reset_mask": env._over})
        actions = committing(env, rng)
        planted = np.flatnonzero((actions[:, Head.OP] == Op.GERMINATE) & ~ended)
        born[planted, actions[planted, Head.SLOT]] = env._state.quality[planted]
        _, reward, terminated, _, info = env.step(actions)
        terms = info["reward_terms"]
        costs = sum(terms[name] for name in ("rent", "churn", "op_cost", "rollback"))
        balance += np.where(ended, 0.0, reward - costs)
        panics += (terms["rollback"] < 0) & ~ended
        for row in np.flatnonzero(terminated & ~ended):
            harvested = float(info["harvest_accuracy"][row])
            values[row] = final_value(env, row, born, harvested)
            balance[row] -= 0.25 * values[row] + 40 * (harvested - 0.1)
        ended |= terminated
    np.testing.assert_allclose(balance, 0, atol=1e-9)
    assert len(set(values.round(6).tolist())) > 3, "lives differ in what they commit"
    assert values.min() < 0 < values.max(), "some of it helps and some does harm"
    assert set(panics.tolist()) >= {0.0, 1.0}, "some networks broke"
