"""The masked recurrent PPO on sb3-contrib's classes draws legal values, learns, saves, loads and predicts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvMultiDiscrete
from stable_baselines3.common.vec_env import DummyVecEnv

from esper_agents.sb3 import MaskableRecurrentPPO, MaskedEsperSb3VecEnv
from esper_agents.sb3.masked import MASK, OBSERVATION
from esper_env import EsperVectorEnv


class WithMask(gym.ObservationWrapper):
    """The library's own test environment, its mask in the observation."""

    def __init__(self):
        super().__init__(InvalidActionEnvMultiDiscrete(dims=[3, 4], n_invalid_actions=4))
        size = spaces.flatdim(self.env.action_space)
        self.observation_space = spaces.Dict(
            {OBSERVATION: self.env.observation_space, MASK: spaces.Box(0, 1, (size,), np.int8)}
        )

    def observation(self, observation):
        """Both."""
        return {OBSERVATION: observation, MASK: np.array(self.env.action_masks(), dtype=np.int8)}


def model(**changes):
    settings = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"} | changes
    return MaskableRecurrentPPO(
        "MlpLstmPolicy", DummyVecEnv([WithMask] * 2), policy_kwargs={"lstm_hidden_size": 16}, **settings
    )


def test_what_is_masked_is_never_drawn_and_what_was_learned_is_saved(tmp_path):
    own = model()
    before = [parameter.clone() for parameter in own.policy.parameters()]
    own.learn(256)
    buffer = own.rollout_buffer
    masks, actions = buffer.observations[MASK].reshape(-1, 7), buffer.actions.reshape(-1, 2).astype(int)
    rows = np.arange(len(actions))
    assert masks[rows, actions[:, 0]].all()
    assert masks[rows, 3 + actions[:, 1]].all()
    assert any(not torch.equal(a, b) for a, b in zip(before, own.policy.parameters(), strict=True))
    own.save(tmp_path / "model")
    other = MaskableRecurrentPPO.load(tmp_path / "model")
    env = WithMask()
    obs, _ = env.reset(seed=1)
    state = loaded = None
    for _ in range(20):
        action, state = own.predict(obs, state, deterministic=True)
        again, loaded = other.predict(obs, loaded, deterministic=True)
        assert (action == again).all()
        assert obs[MASK][action[0]]
        assert obs[MASK][3 + action[1]]
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()


def test_probabilities_are_those_of_a_softmax_over_what_is_allowed():
    policy = model().policy
    latent = torch.randn(5, policy.mlp_extractor.latent_dim_pi)
    mask = torch.rand(5, 7) < 0.5
    mask[:, [0, 3]] = True
    mask[4] = False  # padding
    policy._mask = mask
    with torch.no_grad():
        found = policy._get_action_dist_from_latent(latent).distributions
        logits = policy.action_net(latent).split([3, 4], dim=1)
    allowed = torch.cat([mask[:4], torch.ones(1, 7, dtype=torch.bool)]).split([3, 4], dim=1)
    for own, values, legal in zip(found, logits, allowed, strict=True):
        expected = values.masked_fill(~legal, -torch.inf).softmax(dim=1)
        assert torch.allclose(own.probs, expected, atol=1e-6)


def test_an_observation_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="a Dict of 'observation' and 'action_mask' is required"):
        MaskableRecurrentPPO("MlpLstmPolicy", DummyVecEnv([InvalidActionEnvMultiDiscrete]))


def test_esper_shows_the_mask_that_goes_with_the_observation():
    envs = EsperVectorEnv(2, "micro", engine="null", horizon=3, autoreset_mode="SAME_STEP")
    adapter = MaskedEsperSb3VecEnv(envs)
    obs = adapter.reset()
    assert adapter.observation_space.contains({name: value[0] for name, value in obs.items()})
    for _ in range(4):
        assert (obs[MASK] == envs.action_masks()).all()
        adapter.step_async(np.zeros((2, 8), dtype=np.int64))
        obs, _, dones, infos = adapter.step_wait()
        if dones.any():
            end = infos[0]["terminal_observation"]
            assert adapter.observation_space.contains(end)
            # After the end, WAIT alone is legal.
            assert end[MASK].sum() == 8
