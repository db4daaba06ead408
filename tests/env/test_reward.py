"""Every term of the reward by hand, and the laws that hold for every life."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import GROW, facts, game, play, put, rules_only, wandering

from esper_env import EsperVectorEnv, Op, Stage, encode
from esper_env.contracts.state import REWARD_TERMS
from esper_env.mdp import reward
from esper_env.mdp.reward import Change, RewardConfig

NAN = float("nan")
HORIZON = 20


def terms(
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    op: Op = Op.WAIT,
    accuracy: tuple[float, float] = (0.3, 0.3),
    harvested: float | None = None,
    **config: Any,
) -> dict[str, float]:
    """The terms of one step of which slot 1 was so before and so afterwards."""
    first, second = game().slots, game().slots
    put(first, 0, 1, **(before or {}))
    put(second, 0, 1, **(after or {}))
    ended = np.array([harvested is not None])
    values = (np.array([accuracy[0]]), np.array([accuracy[1]]), np.array([int(op)]))
    change = Change(first, second, *values, ended)
    left = np.array([NAN if harvested is None else harvested])
    paid = reward.terms(change, left, facts(), RewardConfig(**config), HORIZON)
    assert tuple(paid) == REWARD_TERMS
    assert all(value.shape == (1,) for value in paid.values())
    return {name: float(value[0]) for name, value in paid.items()}


def test_a_step_in_which_nothing_happens_is_worth_nothing() -> None:
    assert terms() == dict.fromkeys(REWARD_TERMS, 0)


def test_quality_pays_a_point_a_point_and_the_harvest_what_it_has_above_the_grown_model() -> None:
    assert terms(accuracy=(0.3, 0.34))["quality"] == pytest.approx(4)
    ended = terms(accuracy=(0.3, 0.34), harvested=0.29)
    assert ended["harvest"] == pytest.approx(-5)
    assert ended["quality"] + ended["harvest"] == pytest.approx(100 * (0.29 - 0.3))


def test_rent_is_logarithmic_in_all_parameters_present_at_any_alpha_and_capped() -> None:
    module = {"stage": Stage.GERMINATED, "module_params": 450, "gate_params": 50}
    assert terms(after=module)["rent"] == pytest.approx(-2 / HORIZON * np.log(1.5))
    assert terms(before=module)["rent"] == 0, "what is gone pays no more"
    huge = module | {"module_params": 50_000}
    assert terms(after=huge)["rent"] == pytest.approx(-2 / HORIZON * np.log(11))


def test_churn_prices_the_squared_change_of_alpha_of_modules_that_were_removed_too() -> None:
    module = {"stage": Stage.BLENDING, "module_params": 500}
    moved = terms(module | {"alpha": 0.2}, module | {"alpha": 0.6})
    assert moved["churn"] == pytest.approx(-0.2 * 0.4**2 * 0.5)
    removed = terms(module | {"alpha": 0.8}, {"stage": Stage.PRUNED})
    assert removed["churn"] == pytest.approx(-0.2 * 0.8**2 * 0.5)
    huge = module | {"module_params": 8000}
    assert terms(huge | {"alpha": 1.0}, {"stage": Stage.PRUNED})["churn"] == -1
    assert terms(module | {"alpha": 0.2}, module | {"alpha": 0.2})["churn"] == 0


def test_churn_of_all_slots_is_summed_before_it_is_capped() -> None:
    before, after = game().slots, game().slots
    for slot, size in enumerate((2000, 2500)):
        put(before, 0, slot, module_params=size, alpha=0.0)
        put(after, 0, slot, module_params=size, alpha=1.0)
    nothing = (np.zeros(1), np.zeros(1), np.zeros(1, dtype=int), np.zeros(1, dtype=bool))
    paid = reward.terms(Change(before, after, *nothing), np.array([NAN]), facts(), RewardConfig(), HORIZON)
    assert paid["churn"][0] == pytest.approx(-0.9)


@pytest.mark.parametrize("op", Op)
def test_ops_cost_what_the_rules_say(op: Op) -> None:
    prices = {"GERMINATE": 0.15, "PRUNE": 0.05, "SET_ALPHA_TARGET": 0.005, "FOSSILIZE": 0.01}
    assert terms(op=op)["op_cost"] == -prices.get(op.name, 0)


POTENTIALS = {"GERMINATED": 1, "TRAINING": 2, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6}


@pytest.mark.parametrize("stage", Stage)
def test_shaping_pays_the_discounted_gain_of_potential_and_takes_it_all_back_at_the_end(stage: Stage) -> None:
    held = {"stage": stage}
    phi = POTENTIALS.get(stage.name, 0)
    assert terms(after=held, gamma=0.9)["shaping"] == pytest.approx(0.3 * 0.9 * phi)
    assert terms(before=held, gamma=0.9)["shaping"] == pytest.approx(-0.3 * phi)
    assert terms(held, held, gamma=0.9)["shaping"] == pytest.approx(-0.3 * 0.1 * phi)
    assert terms(held, held, harvested=0.3, gamma=0.9)["shaping"] == pytest.approx(-0.3 * phi)


def test_the_potential_sums_over_all_slots_and_environments_stay_apart() -> None:
    slots = game(num_envs=2).slots
    put(slots, 0, 0, stage=Stage.TRAINING)
    put(slots, 0, 1, stage=Stage.HOLDING)
    put(slots, 1, 1, stage=Stage.EMBARGOED)
    assert reward.potential(slots, RewardConfig()).tolist() == [7.5, 0]


def test_every_price_is_a_field_of_the_configuration() -> None:
    module = {"stage": Stage.HOLDING, "module_params": 500, "alpha": 1.0}
    costs = {f"{op.name.lower()}_cost": 1.0 for op in list(Op)[1:]}
    for op in list(Op)[1:]:
        assert terms(op=op, **costs)["op_cost"] == -1
    free = dict.fromkeys(("quality", "harvest", "rent", "churn", "shaping"), 0.0)
    paid = terms(module, {}, Op.WAIT, (0.1, 0.5), 0.4, **free)
    assert paid == dict.fromkeys(REWARD_TERMS, 0)
    assert terms(after=module, rent=4.0)["rent"] == pytest.approx(-4 / HORIZON * np.log(1.5))
    assert terms(after=module | {"module_params": 3000}, rent_cap=1.0)["rent"] == pytest.approx(
        -0.1 * np.log(2)
    )
    assert terms(module, churn=8.0, churn_cap=3.0)["churn"] == -3
    assert terms(after=module, potentials={"HOLDING": 10.0})["shaping"] == pytest.approx(3)


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
    (gamma, mode): rules_only(16, gamma=gamma, reward=mode, horizon=30)
    for gamma in (1.0, 0.9)
    for mode in ("dense", "sparse")
}


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), waiting=st.floats(0, 0.8))
def test_terms_sum_to_the_reward_and_shaping_adds_the_same_to_any_two_lives(
    gamma: float, seed: int, waiting: float
) -> None:
    rewards, paid, pruned = lives(ENVS[gamma, "dense"], seed, waiting)
    np.testing.assert_allclose(sum(paid.values()), rewards, atol=1e-12)
    discount = gamma ** np.arange(len(rewards))[:, None]
    summed = (discount * paid["shaping"]).sum(axis=0)
    assert np.abs(summed).max() < 1e-6, "0 for all, as every life begins with empty slots"
    assert np.abs(paid["shaping"]).max() > 0.1
    if waiting < 0.5:
        assert pruned.any(), "these lives prune"


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_sparse_pays_the_discounted_sum_of_dense_once_at_the_end(gamma: float, seed: int) -> None:
    dense, dense_terms, _ = lives(ENVS[gamma, "dense"], seed, 0.4)
    sparse, sparse_terms, _ = lives(ENVS[gamma, "sparse"], seed, 0.4)
    assert (sparse[:-1] == 0).all()
    discount = gamma ** np.arange(len(dense))[:, None]
    np.testing.assert_allclose(
        gamma ** (len(dense) - 1) * sparse[-1], (discount * dense).sum(axis=0), atol=1e-9
    )
    for name in REWARD_TERMS:
        owed = (discount * dense_terms[name]).sum(axis=0) / gamma ** (len(dense) - 1)
        np.testing.assert_allclose(sparse_terms[name][-1], owed, atol=1e-9, err_msg=name)


def test_the_dense_return_is_the_harvested_quality_won_less_what_it_cost() -> None:
    rewards, paid, _ = lives(ENVS[1.0, "dense"], 5, 0.6)
    costs = sum(paid[name].sum(axis=0) for name in ("rent", "churn", "op_cost"))
    env = ENVS[1.0, "dense"]
    harvested = env._engine.harvest(np.ones(16, dtype=bool)).val_accuracy
    np.testing.assert_allclose(rewards.sum(axis=0), 100 * (harvested - 0.1) + costs, atol=1e-9)


def test_a_truncated_episode_is_not_harvested_keeps_its_potential_and_owes_nothing() -> None:
    fossil = [*GROW, encode(Op.FOSSILIZE, slot=0)]
    ends = {}
    for mode in ("dense", "sparse"):
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
    assert ends["dense"][1] == pytest.approx(0.3 * (6 - 5.5))


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
