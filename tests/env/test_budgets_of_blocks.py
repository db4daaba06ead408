"""Budgets that differ between blocks of environments: each plays as if all had its own."""

import gymnasium as gym
import numpy as np
import pytest

from esper_env import EsperVectorEnv

PARAMS, COMPUTE = (1.5, 3.0, 1.5, 3.0), (0.5, 0.5, 1.0, 1.0)


def make(num_envs: int, params: object, compute: object) -> EsperVectorEnv:
    return EsperVectorEnv(
        num_envs, "micro", engine="null", horizon=12, param_budget=params, compute_budget=compute
    )


def test_every_block_plays_as_if_all_had_its_budgets() -> None:
    """Observations, masks, rewards and ends are those of environments with one budget, to the last bit."""
    both = make(8, PARAMS, COMPUTE)
    alone = [make(2, params, compute) for params, compute in zip(PARAMS, COMPUTE, strict=True)]
    seeds, rng = list(range(8)), np.random.default_rng(0)
    obs, info = both.reset(seed=seeds)
    parts = [env.reset(seed=seeds[2 * block : 2 * block + 2]) for block, env in enumerate(alone)]
    ended = set()
    for _ in range(30):
        np.testing.assert_array_equal(obs, np.concatenate([part[0] for part in parts]))
        for name in ("action_mask", "blueprint_slot_mask"):
            np.testing.assert_array_equal(info[name], np.concatenate([part[1][name] for part in parts]))
        actions = both.sample_valid(rng)
        obs, reward, over, _, info = both.step(actions)
        stepped = [env.step(actions[2 * block : 2 * block + 2]) for block, env in enumerate(alone)]
        np.testing.assert_array_equal(reward, np.concatenate([each[1] for each in stepped]))
        np.testing.assert_array_equal(over, np.concatenate([each[2] for each in stepped]))
        parts = [(each[0], each[4]) for each in stepped]
        ended |= set(np.flatnonzero(over) // 2)
    assert ended == {0, 1, 2, 3}
    shares = obs[::2, both.features["host_params_share"]].ravel()
    np.testing.assert_allclose(shares, 1 / np.array(PARAMS), rtol=1e-6)


def test_what_is_seen_of_a_budget() -> None:
    """From the first step on, when nothing of it is spent: its size; 0 for none, at most 1."""
    env = make(3, None, [0.5, 1, 4])
    obs, _ = env.reset(seed=0)
    assert obs[:, env.features["host_params_share"]].tolist() == [[0], [0], [0]]
    assert obs[:, env.features["host_compute_share"]].tolist() == [[1], [1], [0.25]]
    assert obs[:, env.features["compute_left"]].tolist() == [[1], [1], [1]]


def test_blocks_are_of_equal_size() -> None:
    with pytest.raises(ValueError, match=r"budget\.params has 3 values \(1\.0, 2\.0, 3\.0\), .*num_envs=4"):
        make(4, [1, 2, 3], None)
    with pytest.raises(ValueError, match=r"budget\.compute has 0 values"):
        make(4, None, [])
    with pytest.raises(ValueError, match=r"budget\.params has 2 values .*num_envs=1 is no multiple of 2"):
        gym.make("EsperMicro-v0", engine="null", param_budget=[1, 2])
    with pytest.raises(ValueError, match="param_budget"):
        make(2, [0.5, 2], None)


def test_budgets_that_cannot_be_shared_out_are_refused_before_data_are_looked_for(tmp_path):
    with pytest.raises(ValueError, match="is no multiple of 2"):
        EsperVectorEnv(3, "cifar", data="folder:nowhere", data_dir=str(tmp_path), param_budget=[1.5, 3])
