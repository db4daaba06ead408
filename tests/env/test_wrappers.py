"""The mask in the observation is the mask in the info, in every mode and for every vectorizer."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import PassiveEnvChecker

import esper_env
from esper_env.checking import check_vector_env
from esper_env.wrappers import MaskInObservation, MaskInVectorObservation

NAMES = [("observations", "action_mask"), ("observation", "action_mask"), ("obs", "mask")]


def single(**arguments):
    return gym.make("EsperMicro-v0", engine="null", horizon=3, **arguments)


def batch(mode=AutoresetMode.NEXT_STEP, num_envs=2, **arguments):
    return gym.make_vec(
        "EsperMicro-v0", num_envs=num_envs, engine="null", horizon=3, autoreset_mode=mode, **arguments
    )


def wait(num_envs):
    return np.zeros((num_envs, 8), dtype=np.int64)


@pytest.mark.parametrize(("obs_key", "mask_key"), NAMES)
def test_a_single_environment_shows_its_mask_under_the_callers_names(obs_key, mask_key):
    plain, wrapped = single(), MaskInObservation(single(), obs_key, mask_key)
    obs, info = plain.reset(seed=4)
    seen, _ = wrapped.reset(seed=4)
    for _ in range(3):
        assert seen in wrapped.observation_space
        assert list(seen) == [obs_key, mask_key]
        np.testing.assert_array_equal(seen[obs_key], obs)
        np.testing.assert_array_equal(seen[mask_key], info["action_mask"])
        obs, *_, info = plain.step(wait(1)[0])
        seen, *_ = wrapped.step(wait(1)[0])


def test_a_wrapped_environment_gives_gymnasiums_checker_no_warning():
    env = PassiveEnvChecker(MaskInObservation(single()))
    env.reset(seed=0)
    for _ in range(3):
        env.step(wait(1)[0])


def test_a_wrapped_environment_is_rebuilt_from_its_spec():
    wrapped = MaskInObservation(single(), "obs", "mask")
    again = gym.make(wrapped.spec)
    assert again.observation_space == wrapped.observation_space


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_batch_shows_the_masks_of_the_bare_environment(mode):
    plain, wrapped = batch(mode), MaskInVectorObservation(batch(mode), "obs", "mask")
    assert wrapped.autoreset_mode is mode, "TorchRL looks for it there"
    obs, info = plain.reset(seed=4)
    seen, _ = wrapped.reset(seed=4)
    for _ in range(3):
        assert seen in wrapped.observation_space
        np.testing.assert_array_equal(seen["obs"], obs)
        np.testing.assert_array_equal(seen["mask"], info["action_mask"])
        obs, *_, info = plain.step(wait(2))
        seen, *_ = wrapped.step(wait(2))


def test_the_final_observation_of_a_same_step_reset_has_the_final_mask():
    wrapped = MaskInVectorObservation(batch(AutoresetMode.SAME_STEP), "obs", "mask")
    plain = batch(AutoresetMode.SAME_STEP)
    for envs in (plain, wrapped):
        envs.reset(seed=4)
    for _ in range(3):
        *_, bare = plain.step(wait(2))
        *_, info = wrapped.step(wait(2))
    assert info["_final_obs"].all()
    for env in range(2):
        final = info["final_obs"][env]
        assert final in wrapped.single_observation_space
        np.testing.assert_array_equal(final["obs"], bare["final_obs"][env])
        assert final["mask"].sum() == 8, "a finished episode allows WAIT alone: one entry a head"


@pytest.mark.parametrize("mode", AutoresetMode)
def test_gymnasiums_own_vectorizer_can_be_wrapped(mode):
    sync = SyncVectorEnv([single, single], autoreset_mode=mode)
    wrapped, twin = MaskInVectorObservation(sync), MaskInObservation(single())
    seen, _ = wrapped.reset(seed=4)
    alone, _ = twin.reset(seed=5)
    for step in range(3):
        for key in seen:
            np.testing.assert_array_equal(seen[key][1], alone[key])
        seen, *_, info = wrapped.step(wait(2))
        alone, *_ = twin.step(wait(2)[0])
        if step == 2 and mode == AutoresetMode.SAME_STEP:
            seen = {key: np.stack([final[key] for final in info["final_obs"]]) for key in seen}
    for key in seen:
        np.testing.assert_array_equal(seen[key][1], alone[key])


def test_a_partial_reset_keeps_the_masks_of_the_others():
    wrapped = MaskInVectorObservation(SyncVectorEnv([single, single], autoreset_mode=AutoresetMode.DISABLED))
    wrapped.reset(seed=4)
    plant = np.stack([wait(1)[0], esper_env.encode(esper_env.Op.GERMINATE, blueprint=1)])
    before, *_ = wrapped.step(plant)
    after, _ = wrapped.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(after["action_mask"][1], before["action_mask"][1])
    assert (after["action_mask"][0] != after["action_mask"][1]).any()


def test_a_wrapped_batch_keeps_the_contract():
    check_vector_env(
        lambda num_envs, mode: MaskInVectorObservation(batch(mode, num_envs)), num_envs=2, steps=6
    )


@pytest.mark.parametrize("wrapper", [MaskInObservation, MaskInVectorObservation])
@pytest.mark.parametrize(("obs_key", "mask_key"), [("mask", "mask"), ("", "mask"), ("obs", 3)])
def test_names_that_clash_or_are_none_are_refused(wrapper, obs_key, mask_key):
    env = single() if wrapper is MaskInObservation else batch()
    with pytest.raises(ValueError, match=r"mask_key|obs_key"):
        wrapper(env, obs_key, mask_key)


def test_an_environment_without_masks_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Box.* has no flat mask"):
        MaskInObservation(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="no 'action_mask'"):
        MaskInObservation(gym.make("CartPole-v1")).reset(seed=0)
