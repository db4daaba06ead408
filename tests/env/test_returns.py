"""Sums of the reward over whole lives: terms, shaping, what is paid at the end, and what a return is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import GROW, play, rules_only, wandering

from esper_env import EsperVectorEnv, Op, Stage, encode
from esper_env.contracts.state import REWARD_TERMS

MODES = ("dense", "sparse", "economy")


def lives(
    env: EsperVectorEnv, seed: int, waiting: float
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Random legal lives to their end: rewards and terms, (step, env), and prunes, (env,)."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    rewards, paid, pruned = [], {name: [] for name in REWARD_TERMS}, np.zeros(env.num_envs)
    ended = np.zeros(env.num_envs, dtype=bool)
    while not ended.any():
        _, now, terminated, truncated, info = env.step(wandering(env, rng, waiting))
        rewards.append(now)
        pruned += (env._state.slots.stage == Stage.PRUNED).any(axis=1)
        for name in REWARD_TERMS:
            paid[name].append(info["reward_terms"][name])
            assert info["reward_terms"][f"_{name}"].all()
        ended = terminated | truncated
    return np.array(rewards), {name: np.array(values) for name, values in paid.items()}, pruned


ENVS = {
    (gamma, mode, late): rules_only(
        16, gamma=gamma, reward=mode, horizon=30, overrides={"reward.pay_at_end": late}
    )
    for gamma in (1.0, 0.9)
    for mode in ("dense", "economy")
    for late in (False, True)
}


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("mode", ["dense", "economy"])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), waiting=st.floats(0, 0.8))
def test_terms_sum_to_the_reward_and_shaping_adds_the_same_to_any_two_lives(
    gamma: float, mode: str, seed: int, waiting: float
) -> None:
    rewards, paid, pruned = lives(ENVS[gamma, mode, False], seed, waiting)
    np.testing.assert_allclose(sum(paid.values()), rewards, atol=1e-12)
    discount = gamma ** np.arange(len(rewards))[:, None]
    summed = (discount * paid["shaping"]).sum(axis=0)
    assert np.abs(summed).max() < 1e-6, "0 for all, as every life begins with empty slots"
    assert np.abs(paid["shaping"]).max() > 0.1
    if waiting < 0.5:
        assert pruned.any(), "these lives prune"


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("mode", ["dense", "economy"])
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_what_is_paid_at_the_end_is_the_discounted_sum(gamma: float, mode: str, seed: int) -> None:
    dense, dense_terms, _ = lives(ENVS[gamma, mode, False], seed, 0.4)
    sparse, sparse_terms, _ = lives(ENVS[gamma, mode, True], seed, 0.4)
    assert (sparse[:-1] == 0).all()
    discount = gamma ** np.arange(len(dense))[:, None]
    np.testing.assert_allclose(
        gamma ** (len(dense) - 1) * sparse[-1], (discount * dense).sum(axis=0), atol=1e-9
    )
    for name in REWARD_TERMS:
        owed = (discount * dense_terms[name]).sum(axis=0) / gamma ** (len(dense) - 1)
        np.testing.assert_allclose(sparse_terms[name][-1], owed, atol=1e-9, err_msg=name)
    assert np.abs(dense_terms["credit"]).max() > 0 or mode == "dense"


def test_sparse_is_dense_paid_at_the_end() -> None:
    env = rules_only(16, reward="sparse", horizon=30)
    paid, expected = lives(env, 5, 0.6)[0], lives(ENVS[1.0, "dense", True], 5, 0.6)[0]
    assert np.array_equal(paid, expected)


def test_the_dense_return_is_the_harvested_quality_won_less_what_it_cost() -> None:
    rewards, paid, _ = lives(ENVS[1.0, "dense", False], 5, 0.6)
    costs = sum(paid[name].sum(axis=0) for name in ("rent", "churn", "op_cost"))
    env = ENVS[1.0, "dense", False]
    harvested = env._engine.harvest(np.ones(16, dtype=bool)).val_accuracy
    np.testing.assert_allclose(rewards.sum(axis=0), 100 * (harvested - 0.1) + costs, atol=1e-9)


def test_a_truncated_episode_is_not_harvested_keeps_its_potential_and_owes_nothing() -> None:
    fossil = [*GROW, encode(Op.FOSSILIZE, slot=0)]
    ends = {}
    for mode in MODES:
        env = rules_only(reward=mode, max_episode_steps=len(fossil))
        env.reset(seed=0)
        play(env, fossil[:-1])
        _, paid, terminated, truncated, info = env.step(fossil[-1][None])
        assert (terminated[0], truncated[0]) == (False, True)
        assert info["reward_terms"]["harvest"][0] == 0
        assert not info["_harvest_accuracy"][0]
        assert not info["_test_accuracy"][0]
        ends[mode] = (paid[0], info["reward_terms"]["shaping"][0])
    assert ends["sparse"] == (0, 0)
    assert ends["dense"][1] == ends["economy"][1] == pytest.approx(0.3 * (6 - 5.5))


def test_a_reset_drops_what_the_sparse_reward_owed() -> None:
    env = rules_only(reward="sparse", horizon=12)
    returns = []
    for interrupted in (False, True):
        env.reset(seed=3)
        if interrupted:
            play(env, GROW)
            env.reset(seed=3)
        for _ in range(12):
            last = env.step(encode(Op.WAIT)[None])[1][0]
        returns.append(last)
    assert returns[0] == returns[1] != 0
