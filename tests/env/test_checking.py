"""`check_vector_env` passes what keeps the contract and names what does not."""

import gymnasium as gym
import numpy as np
import pytest
from engines import APART, settings
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from esper_env.checking import check_vector_env

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


class Toy(VectorEnv):
    """Counts steps and actions in episodes of 2 to 4 steps; `fault` breaks one rule of the contract."""

    def __init__(self, num_envs: int, mode: AutoresetMode, fault: str = "") -> None:
        self.num_envs, self.mode, self.fault, self.render_mode = num_envs, mode, fault, None
        self.metadata = {
            "autoreset_mode": "NextStep" if fault == "mode is text" else mode,
            "render_modes": [],
        }
        self.single_observation_space = Box(0, 100, (2,), np.float32)
        self.single_action_space = Discrete(5)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs + (fault == "space not batched"))
        self.state = np.zeros((num_envs, 2), dtype=np.float32)
        self.rngs = [np.random.default_rng(0) for _ in range(num_envs)]
        self.lengths = np.zeros(num_envs, dtype=int)
        self.over = np.zeros(num_envs, dtype=bool)
        self.buffer = np.zeros((num_envs, 2), dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        self._seed(seed)
        mask = np.ones(self.num_envs, dtype=bool)
        if options and "reset_mask" in options:
            taken = options.pop if self.fault == "reset_mask is popped" else options.get
            mask = taken("reset_mask")
            self._refuse_mask(mask)
        if self.fault == "partial reset resets all":
            mask = np.ones(self.num_envs, dtype=bool)
        self._begin(mask)
        return self._obs(), self._info()

    def _seed(self, seed):
        if seed is None or self.fault == "seed is ignored":
            return
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        if self.fault == "seed list is reversed" and not isinstance(seed, int):
            seeds.reverse()
        extra = self.num_envs if self.fault == "batch size changes the seed" else 0
        self.rngs = [np.random.default_rng(one + extra) for one in seeds]

    def _refuse_mask(self, mask):
        right = isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (self.num_envs,)
        if self.fault != "any reset_mask is taken" and not (right and mask.any()):
            raise ValueError("reset_mask")

    def _begin(self, mask):
        longer = 3 * (self.fault == "episodes differ between modes" and self.mode == SAME_STEP)
        for env in np.flatnonzero(mask):
            self.lengths[env] = 2 + self.rngs[env].integers(3) + longer
            self.state[env] = 0, self.rngs[env].integers(50)
            self.over[env] = False

    def step(self, actions):
        if self.closed and self.fault != "works after close":
            raise RuntimeError("closed")
        if self.mode == DISABLED and self.over.any() and self.fault != "works after the end":
            raise RuntimeError("ended")
        resetting = self.over.copy() if self.mode == NEXT_STEP else np.zeros(self.num_envs, dtype=bool)
        self._begin(resetting)
        counted = self.fault == "resetting step counts its action"
        self.state[~resetting, 0] += 1
        self.state[:, 1] += np.where(resetting & (not counted), 0, actions)
        if self.fault == "actions are changed":
            actions[:] = 0
        rewards = np.where(resetting & (self.fault != "resetting step pays"), 0.0, 1.0 + actions)
        self.over = ~resetting & (self.state[:, 0] >= self.lengths)
        terminated = self.over.copy()
        obs, info = self._obs(), self._info()
        if self.mode == SAME_STEP and self.over.any():
            info |= self._final(obs, terminated)
            self._begin(terminated)
            obs = self._obs()
        return self._spoiled(obs, rewards, terminated, info)

    def _final(self, obs, ended):
        if self.fault == "no final_obs":
            return {}
        obs = np.zeros_like(obs) if self.fault == "final_obs is not the last" else obs
        final = np.full(self.num_envs, None, dtype=object)
        for env in np.flatnonzero(ended):
            final[env] = obs[env].copy()
        return {"final_obs": final, "_final_obs": ended, "final_info": self._info(), "_final_info": ended}

    def _obs(self):
        if self.fault == "observations share a buffer":
            self.buffer[:] = self.state
            return self.buffer
        spoil = {"float64 observations": np.float64}
        obs = self.state.astype(spoil.get(self.fault, np.float32))
        return obs + 1000 if self.fault == "observation out of bounds" else obs

    def _info(self):
        everywhere = np.ones(self.num_envs, dtype=bool)
        info = {"count": self.state[:, 0].copy(), "_count": everywhere}
        if self.fault == "infos share a buffer":
            info["count"] = self.state[:, 0]
        if self.fault == "no partner":
            del info["_count"]
        if self.fault == "partner of integers":
            info["_count"] = everywhere.astype(int)
        if self.fault == "scalar info":
            info["count"] = 3
        if self.fault == "keys come and go" and self.state[:, 0].any():
            info |= {"more": self.state[:, 0].copy(), "_more": self.state[:, 0] > 0}
        return info

    def _spoiled(self, obs, rewards, terminated, info):
        truncated = np.zeros(self.num_envs, dtype=bool)
        if self.fault == "rewards in a list":
            rewards = list(rewards)
        if self.fault == "flags of integers":
            terminated = terminated.astype(int)
        if self.fault == "four values":
            return obs, rewards, terminated, info
        return obs, rewards, terminated, truncated, info

    def close_extras(self, **_):
        pass


FAULTS = {
    "space not batched": "action_space must be the batched single_action_space",
    "mode is text": "metadata\\['autoreset_mode'\\] must be",
    "float64 observations": "obs must be a float32 array",
    "observation out of bounds": "obs is outside of",
    "rewards in a list": "rewards must be a float array",
    "flags of integers": "terminated must be a bool array",
    "four values": "a tuple of 5 must be returned",
    "no partner": "has no partner '_count'",
    "partner of integers": "\\['_count'\\] must be a bool array",
    "scalar info": "\\['count'\\] must be a dict or an array",
    "keys come and go": "keys \\['_more', 'more'\\] are not there at every call",
    "observations share a buffer": "what an earlier call returned has changed",
    "infos share a buffer": "what an earlier call returned has changed",
    "actions are changed": "changed the actions it was given",
    "seed is ignored": "a second reset with the same seed leads elsewhere",
    "seed list is reversed": "in a list lead elsewhere",
    "batch size changes the seed": "in a batch differs from it alone",
    "resetting step pays": "reward 0 and no end are due",
    "resetting step counts its action": "the action of a step that resets must be ignored",
    "no final_obs": "ended, info\\['_final_obs'\\] is",
    "final_obs is not the last": "the first episodes of NEXT_STEP and SAME_STEP differ",
    "episodes differ between modes": "the first episodes of NEXT_STEP and SAME_STEP differ",
    "reset_mask is popped": "must be read, neither popped nor changed",
    "any reset_mask is taken": "reset must refuse",
    "partial reset resets all": "was not reset, but changed",
    "works after the end": "which ended, must raise",
    "works after close": "step after close\\(\\) must raise",
}


def test_a_faultless_environment_passes():
    check_vector_env(Toy, steps=12)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_named(fault):
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check_vector_env(lambda num_envs, mode: Toy(num_envs, mode, fault), steps=12)


SKIPPED = {
    "keys come and go": "info_keys",
    "seed list is reversed": "seed_list",
    "batch size changes the seed": "seed_split",
    "episodes differ between modes": "modes_agree",
    "reset_mask is popped": "reset_mask",
    "works after the end": "ended_raises",
    "works after close": "closed_raises",
}


@pytest.mark.parametrize("fault", SKIPPED)
def test_a_check_can_be_left_out(fault):
    check_vector_env(lambda num_envs, mode: Toy(num_envs, mode, fault), steps=12, skip=[SKIPPED[fault]])


def test_gymnasiums_vectorizer_passes_but_for_its_known_gaps():
    def make(num_envs: int, mode: AutoresetMode) -> VectorEnv:
        fns = [lambda: gym.make("CartPole-v1")] * num_envs
        return gym.vector.SyncVectorEnv(fns, autoreset_mode=mode)

    skip = ("reset_mask", "ended_raises", "closed_raises")
    check_vector_env(make, num_envs=2, steps=40, skip=skip)
    with pytest.raises(AssertionError, match="neither popped nor changed"):
        check_vector_env(make, num_envs=2, steps=40, skip=skip[1:], modes=[DISABLED])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"skip": ["seeds"]}, "skip has \\['seeds'\\]"),
        ({"num_envs": 1}, "num_envs=1"),
        ({"steps": 1}, "steps=1"),
        ({"modes": ()}, "modes=\\(\\)"),
        ({"steps": 2}, "no episode ended before step steps=2"),
    ],
)
def test_arguments_that_would_check_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_vector_env(Toy, **arguments)


ESPER = {"engine": "null", "horizon": 5}


@pytest.mark.parametrize("name", ["EsperMicro-v0", "EsperCifar-v0"])
def test_our_ids_keep_the_contract_under_any_action(name):
    check_vector_env(
        lambda num_envs, mode: gym.make_vec(name, num_envs=num_envs, autoreset_mode=mode, **ESPER),
        num_envs=2,
        steps=13,
    )


def test_our_ids_keep_the_contract_under_legal_actions_and_limits_from_outside():
    arguments = {**ESPER, "strict_actions": True, "max_episode_steps": 4, "compute_budget": 0.5}
    check_vector_env(
        lambda n, mode: gym.make_vec("EsperMicro-v0", num_envs=n, autoreset_mode=mode, **arguments),
        num_envs=2,
        steps=12,
        sample=lambda envs, rng: envs.sample_valid(rng),
    )


@pytest.mark.parametrize("engine", APART)
def test_an_environment_that_trains_keeps_the_contract(engine):
    arguments = {"horizon": 3, "epoch_size": 64, "device": "cpu"}
    sizes = {"task.train_size": 256, "task.val_size": 64, "task.test_size": 64}
    overrides = {**sizes, **settings(engine), "engine.counterfactual_size": 64}
    check_vector_env(
        lambda num_envs, mode: gym.make_vec(
            "EsperMicro-v0", num_envs=num_envs, autoreset_mode=mode, overrides=overrides, **arguments
        ),
        num_envs=2,
        steps=8,
        sample=lambda envs, rng: envs.sample_valid(rng),
    )
