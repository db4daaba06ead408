"""The Stable-Baselines3 adapter holds what it says of `EsperVectorEnv`."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecMonitor

from esper_agents.sb3 import EsperSb3VecEnv
from esper_env import Op, encode

HORIZON, NUM_ENVS = 5, 3


def make(num_envs=NUM_ENVS, **settings):
    settings = {"engine": "null", "horizon": HORIZON, "autoreset_mode": "SameStep", **settings}
    return gym.make_vec("EsperMicro-v0", num_envs=num_envs, **settings)


def played(adapter, steps, rng):
    """What `steps` legal random steps gave, newest last."""
    log = []
    for _ in range(steps):
        actions = adapter.envs.sample_valid(rng)
        log.append((actions, *adapter.step(actions)))
    return log


def test_it_returns_what_the_environment_returns():
    native, adapter = make(), EsperSb3VecEnv(make())
    adapter.seed(7)
    assert np.array_equal(adapter.reset(), native.reset(seed=7)[0])
    for actions, obs, rewards, dones, infos in played(adapter, 2 * HORIZON + 1, np.random.default_rng(0)):
        expected, reward, terminated, truncated, info = native.step(actions)
        assert np.array_equal(obs, expected)
        assert rewards.dtype == np.float32
        assert np.array_equal(rewards, reward.astype(np.float32))
        assert np.array_equal(dones, terminated | truncated)
        for env in range(NUM_ENVS):
            if dones[env]:
                assert np.array_equal(infos[env]["terminal_observation"], info["final_obs"][env])
                assert infos[env]["test_accuracy"] == info["final_info"]["test_accuracy"][env]
                assert infos[env]["TimeLimit.truncated"] is False
            else:
                assert infos[env] == {}


def test_a_limit_from_outside_is_reported_as_truncation():
    adapter = EsperSb3VecEnv(make(max_episode_steps=2))
    adapter.reset()
    _, _, _, dones, infos = played(adapter, 2, np.random.default_rng(0))[-1]
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert "test_accuracy" not in infos[0]


def test_the_terminal_observation_is_not_the_next_episodes_first():
    adapter = EsperSb3VecEnv(make())
    adapter.reset()
    _, obs, _, _, infos = played(adapter, HORIZON, np.random.default_rng(0))[-1]
    epoch = adapter.envs.features["epoch"]
    assert (obs[:, epoch] == 0).all()
    assert infos[0]["terminal_observation"][epoch] == 1


def test_masks_are_those_of_the_observation_in_every_form():
    adapter = EsperSb3VecEnv(make())
    adapter.reset()
    adapter.step(np.stack([encode(Op.GERMINATE, slot=0, blueprint=1)] + [encode(Op.WAIT)] * (NUM_ENVS - 1)))
    masks = adapter.envs.action_masks()
    assert not np.array_equal(masks[0], masks[1])
    assert adapter.has_attr("action_masks")
    assert np.array_equal(np.stack(adapter.env_method("action_masks")), masks)
    assert np.array_equal(adapter.env_method("action_masks", indices=[1])[0], masks[1])
    assert np.array_equal(adapter.get_attr("action_masks", indices=0)[0](), masks[0])
    assert np.array_equal(np.stack(VecMonitor(adapter).env_method("action_masks")), masks)


def test_each_environment_can_be_given_its_own_seed():
    one, two = EsperSb3VecEnv(make()), EsperSb3VecEnv(make(engine="reference", horizon=2, epoch_size=64))
    two.seed_each([5, 6, 5])
    two.reset()
    wait = np.zeros((NUM_ENVS, 8), dtype=np.int64)
    two.step(wait)
    losses = two.last.measured("val_loss")
    assert losses[0] == losses[2] != losses[1]
    one.seed(3)
    one.reset()
    assert one._seeds == [None] * NUM_ENVS


def test_pictures_come_from_every_environment():
    adapter = EsperSb3VecEnv(make(num_envs=2, render_mode="rgb_array"))
    adapter.reset()
    images = adapter.get_images()
    assert len(images) == 2
    assert images[0].shape[-1] == 3
    assert EsperSb3VecEnv(make(num_envs=2)).render_mode is None


def test_another_autoreset_mode_is_refused():
    with pytest.raises(ValueError, match="NextStep"):
        EsperSb3VecEnv(make(autoreset_mode="NextStep"))


@pytest.mark.parametrize("call", ["reset", "step", "close"])
def test_methods_that_are_not_per_environment_are_refused(call):
    adapter = EsperSb3VecEnv(make())
    with pytest.raises(AttributeError, match=call):
        adapter.env_method(call)
    with pytest.raises(AttributeError, match="horizon"):
        adapter.set_attr("horizon", 3)
