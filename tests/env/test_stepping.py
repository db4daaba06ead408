"""How episodes begin, go on and end: autoreset, limits, and what is refused on the way."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from esper_env import EsperEnv, EsperVectorEnv, Head, Op, encode

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
PLANT = encode(Op.GERMINATE, slot=0, blueprint=1)
ILLEGAL = encode(Op.FOSSILIZE, slot=0)
END_KEYS = [
    "harvest_accuracy", "harvest_loss", "test_accuracy", "test_loss", "param_ratio", "flops_ratio",
    "rollbacks",
]  # fmt: skip


def batch(mode=NEXT_STEP, num_envs=2, **arguments) -> EsperVectorEnv:
    return EsperVectorEnv(
        num_envs, "micro", autoreset_mode=mode, **{"engine": "null", "horizon": 3, **arguments}
    )


def repeated(action: np.ndarray, num_envs: int = 2) -> np.ndarray:
    return np.stack([action] * num_envs)


WAIT = repeated(encode(Op.WAIT))


def played(envs: EsperVectorEnv, *batches: np.ndarray):
    """Reset, play these batches of actions, return the last step."""
    envs.reset(seed=0)
    for actions in batches:
        step = envs.step(actions)
    return step


@pytest.mark.parametrize("given", [SAME_STEP, "SameStep", "SAME_STEP"])
def test_the_mode_is_published_as_a_member_twice(given):
    envs = batch(given)
    assert envs.metadata["autoreset_mode"] is SAME_STEP
    assert envs.autoreset_mode is SAME_STEP
    assert "autoreset_mode" not in EsperVectorEnv.metadata, "the class's own metadata stay as they are"


def test_next_step_begins_anew_one_step_later():
    envs = batch()
    first, _ = envs.reset(seed=0)
    for _ in range(3):
        last, _, terminated, truncated, _ = envs.step(WAIT)
    assert terminated.all()
    assert not truncated.any()
    obs, rewards, terminated, _, info = envs.step(WAIT)
    assert not terminated.any()
    np.testing.assert_array_equal(rewards, [0.0, 0.0])
    np.testing.assert_array_equal(obs, first)
    assert (obs != last).any()
    for key in ("train_loss", "val_loss", "val_accuracy", *END_KEYS):
        assert not info[f"_{key}"].any(), f"{key}: nothing was trained in a reset"
    assert all((terms == 0).all() for key, terms in info["reward_terms"].items() if key[0] != "_")


@pytest.mark.parametrize("strict", [False, True])
def test_next_step_ignores_the_action_of_the_step_that_resets(strict):
    envs = batch(strict_actions=strict)
    played(envs, WAIT, WAIT, WAIT)
    obs, *_, info = envs.step(repeated(ILLEGAL))
    assert info["action_valid"].all()
    np.testing.assert_array_equal(obs, batch().reset(seed=0)[0])
    assert not obs[:, envs.features["last_success"]].any(), "no action was played in this episode"


def test_environments_end_and_begin_each_by_itself():
    envs = batch(DISABLED)
    played(envs, WAIT)
    envs.reset(options={"reset_mask": np.array([True, False])})
    envs.step(WAIT)
    *_, terminated, _, info = envs.step(WAIT)
    np.testing.assert_array_equal(terminated, [False, True])
    np.testing.assert_array_equal(info["_test_accuracy"], [False, True])


def test_same_step_returns_the_new_episode_and_keeps_the_old_ones_end():
    same, plain = batch(SAME_STEP), batch(DISABLED)
    last, rewards, terminated, _, info = played(plain, WAIT, WAIT, WAIT)
    begun, _ = plain.reset(options={"reset_mask": terminated})
    obs, same_rewards, same_terminated, _, same_info = played(same, WAIT, WAIT, WAIT)
    np.testing.assert_array_equal(obs, begun)
    np.testing.assert_array_equal(same_rewards, rewards)
    np.testing.assert_array_equal(same_terminated, terminated)
    np.testing.assert_array_equal(np.stack(same_info["final_obs"]), last)
    np.testing.assert_array_equal(same_info["_final_obs"], [True, True])
    for key in END_KEYS:
        np.testing.assert_array_equal(same_info["final_info"][key], info[key])
    paid = sum(values for key, values in same_info["reward_terms"].items() if key[0] != "_")
    np.testing.assert_allclose(paid, rewards)


def test_same_step_leaves_environments_that_go_on_out_of_final():
    envs = batch(SAME_STEP)
    played(envs, WAIT)
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step(WAIT)
    *_, info = envs.step(WAIT)
    np.testing.assert_array_equal(info["_final_obs"], [True, False])
    np.testing.assert_array_equal(info["_final_info"], [True, False])
    assert info["final_obs"][1] is None
    assert not info["final_info"]["_test_accuracy"][1]


def test_disabled_refuses_to_step_an_ended_episode_until_it_is_reset():
    envs = batch(DISABLED)
    *_, terminated, _, _ = played(envs, WAIT, WAIT, WAIT)
    with pytest.raises(ResetNeeded, match=r"\[0, 1\] are over"):
        envs.step(WAIT)
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"\[1\] are over"):
        envs.step(WAIT)
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step(WAIT)
    assert terminated.all(), "what was returned did not change"


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_partial_reset_touches_nothing_else(mode):
    envs, mask = batch(mode), np.array([False, True])
    before, *_ = played(envs, repeated(PLANT))
    options = {"reset_mask": mask}
    obs, info = envs.reset(options=options)
    assert options["reset_mask"] is mask
    np.testing.assert_array_equal(mask, [False, True])
    np.testing.assert_array_equal(obs[0], before[0])
    assert (obs[1] != before[1]).any()
    np.testing.assert_array_equal(info["_val_loss"], [True, False])


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ([True, False], TypeError),
        (np.array([1, 0]), TypeError),
        (np.array([True]), ValueError),
        (np.array([False, False]), ValueError),
    ],
)
def test_a_malformed_reset_mask_is_refused(mask, kind):
    envs = batch()
    before, *_ = played(envs, WAIT)
    with pytest.raises(kind, match="reset_mask"):
        envs.reset(options={"reset_mask": mask})
    after, *_ = envs.step(WAIT)
    np.testing.assert_array_equal(after, played(batch(), WAIT, WAIT)[0])
    assert (before != after).any()


@pytest.mark.parametrize("env", [batch, lambda: EsperEnv("micro", engine="null")], ids=["batch", "single"])
def test_unknown_options_and_wrong_seeds_are_refused_by_name(env):
    env = env()
    with pytest.raises(ValueError, match="reset_masks"):
        env.reset(options={"reset_masks": None})
    for seed in (-1, 1.5, True, "7"):
        with pytest.raises(ValueError, match="seed="):
            env.reset(seed=seed)
    env.reset(seed=np.int64(3))


def test_a_list_of_seeds_of_another_length_is_refused():
    with pytest.raises(ValueError, match="seed has 3 entries"):
        batch().reset(seed=[1, 2, 3])


def test_the_mask_of_an_ended_episode_allows_wait_alone():
    envs = batch(DISABLED)
    *_, info = played(envs, repeated(PLANT), WAIT, WAIT)
    np.testing.assert_array_equal(info["op_slot_mask"][:, Op.WAIT], 1)
    assert not info["op_slot_mask"][:, Op.WAIT + 1 :].any()
    assert not info["blueprint_slot_mask"].any()
    np.testing.assert_array_equal(info["action_mask"].sum(axis=1), 8)
    assert info["action_mask"][:, envs.layout.part(Head.OP).start].all()


def test_a_time_limit_and_max_episode_steps_agree():
    limited = TimeLimit(EsperEnv("micro", engine="null", horizon=9), max_episode_steps=4)
    own = batch(DISABLED, num_envs=1, horizon=9, max_episode_steps=4)
    made = gym.make("EsperMicro-v0", engine="null", horizon=9, max_episode_steps=4)
    rng = np.random.default_rng(0)
    for env in (limited, own, made):
        env.reset(seed=0)
    for number in range(4):
        actions = own.sample_valid(rng)
        obs, rewards, terminated, truncated, info = own.step(actions)
        assert (bool(terminated[0]), bool(truncated[0])) == (False, number == 3)
        for env in (limited, made):
            seen, reward, *ends, plain = env.step(actions[0])
            np.testing.assert_array_equal(seen, obs[0])
            assert (reward, ends) == (rewards[0], [False, number == 3])
            np.testing.assert_array_equal(plain["action_mask"], info["action_mask"][0])
            assert not set(plain) & set(END_KEYS), "a truncated episode is not harvested"
    assert not any(info[f"_{key}"][0] for key in END_KEYS)


def test_stepping_before_a_reset_is_refused():
    for env, action in ((batch(), WAIT), (EsperEnv("micro", engine="null"), WAIT[0])):
        with pytest.raises(ResetNeeded, match="never reset"):
            env.step(action)
        with pytest.raises(ResetNeeded, match="never reset"):
            env.action_masks()
        with pytest.raises(ResetNeeded, match="never reset"):
            env.sample_valid(np.random.default_rng(0))


def test_a_closed_environment_refuses_everything_but_closing_again():
    for env, action in ((batch(), WAIT), (EsperEnv("micro", engine="null"), WAIT[0])):
        env.reset(seed=0)
        env.close()
        env.close()
        with pytest.raises(ClosedEnvironmentError):
            env.step(action)
        with pytest.raises(ClosedEnvironmentError):
            env.reset()


MALFORMED = {
    "shape": (np.zeros((2, 7), dtype=int), r"shape \(2, 7\)"),
    "one environment too many": (np.zeros((3, 8), dtype=int), r"shape \(3, 8\)"),
    "floats": (np.zeros((2, 8)), "dtype float64"),
    "bools": (np.zeros((2, 8), dtype=bool), "dtype bool"),
    "none": (None, "dtype object"),
    "negative": (repeated(encode(Op.WAIT)) - np.eye(8, dtype=int)[:2], "slot is -1"),
    "beyond its head": (repeated(encode(Op.WAIT)) + 13 * np.eye(8, dtype=int)[1], "blueprint is 13"),
}


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_actions_are_refused_and_change_nothing(mode, case):
    envs, twin = batch(mode), batch(mode)
    actions, message = MALFORMED[case]
    played(envs, repeated(PLANT))
    played(twin, repeated(PLANT))
    with pytest.raises(ValueError, match=message):
        envs.step(actions)
    for one, other in zip(envs.step(WAIT)[:4], twin.step(WAIT)[:4], strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_action_of_the_wrong_shape_is_refused_by_a_single_environment():
    env = EsperEnv("micro", engine="null")
    env.reset(seed=0)
    for action in (np.zeros(7, dtype=int), 0, np.zeros(8)):
        with pytest.raises(ValueError, match="actions have"):
            env.step(action)


def test_an_illegal_action_becomes_wait_and_is_counted():
    envs, twin = batch(), batch()
    played(envs, WAIT)
    played(twin, WAIT)
    mixed = np.stack([ILLEGAL, PLANT])
    _, rewards, *_, info = envs.step(mixed)
    _, expected, *_ = twin.step(np.stack([encode(Op.WAIT), PLANT]))
    np.testing.assert_array_equal(info["action_valid"], [False, True])
    np.testing.assert_array_equal(rewards, expected)


def test_a_strict_environment_raises_instead_and_nothing_has_happened():
    envs, twin = batch(strict_actions=True), batch()
    played(envs, WAIT)
    played(twin, WAIT)
    with pytest.raises(ValueError, match=r"environment 0, slot 0 is DORMANT: FOSSILIZE is not legal"):
        envs.step(np.stack([ILLEGAL, PLANT]))
    for one, other in zip(envs.step(repeated(PLANT))[:4], twin.step(repeated(PLANT))[:4], strict=True):
        np.testing.assert_array_equal(one, other)


def test_seeds_give_the_same_episodes_and_none_goes_on_with_the_series():
    arguments = {"horizon": 1, "epoch_size": 64, "engine": "reference", "device": "cpu"}
    sizes = {
        "task.train_size": 128,
        "task.val_size": 64,
        "task.test_size": 64,
        "engine.counterfactual_size": 64,
    }
    envs = batch(DISABLED, overrides=sizes, **arguments)

    def losses(**reset) -> list[np.ndarray]:
        envs.reset(**reset)
        return list(envs.step(WAIT)[4]["train_loss"])

    first, second = losses(seed=5), losses()
    assert len({*first, *second}) == 4, "every episode of every environment has a seed of its own"
    assert losses(seed=[5, 6]) == first
    assert losses() == second
    assert losses(seed=[6, None])[0] == first[1]
