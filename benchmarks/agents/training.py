"""Trains our PPO on an environment of others, and evaluates what it learned."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from classic import vector

from esper_agents.ppo.actions import ActionModel, IndependentActions
from esper_agents.ppo.build import CORES
from esper_agents.ppo.distribution import sampled, walk
from esper_agents.ppo.learner import Learner
from esper_agents.ppo.network import Encoded, FlatEncoder, Policy
from esper_agents.ppo_config import OwnPpoConfig


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    learner: Learner
    curve: list[tuple[int, float]]
    """Environment steps so far, mean return of the last 100 episodes."""
    seconds: float


def learner(
    make: Callable[[], gym.Env[Any, Any]],
    model: ActionModel,
    config: OwnPpoConfig,
    gamma: float,
    num_envs: int,
    steps: int,
    seed: int,
    single: bool = True,
) -> Learner:
    """A new learner on vectorized environments; episodes go on from rollout to rollout."""
    envs = vector(make, num_envs)
    torch.manual_seed(seed)
    encoder = FlatEncoder(int(np.prod(envs.single_observation_space.shape)), config.sizes[0])
    core = CORES[config.core](*config.sizes)
    policy = Policy(encoder, core, model, config.argument_baseline == "op_value")
    return Learner(envs, policy, config, gamma, steps, seed, anew=False, single=single)


def train(own: Learner, total: int, say: Callable[[str], None] = lambda line: None) -> Trained:
    """So many environment steps."""
    returns: list[float] = []
    running = np.zeros(own.envs.num_envs)

    def heard(obs: Any, actions: Any, rewards: Any, ended: Any, info: Any) -> None:
        running[:] += rewards
        returns.extend(running[ended].tolist())
        running[ended] = 0

    curve, done, began = [], 0, perf_counter()
    while done < total:
        figures = own.round(heard)
        done += own.envs.num_envs * own.steps
        curve.append((done, float(np.mean(returns[-100:])) if returns else float("nan")))
        if own.rounds % 10 == 0:
            say(f"{done} steps: {curve[-1][1]:.2f}, explained {figures['train/explained_variance']:.2f}")
    return Trained(own, curve, perf_counter() - began)


@torch.no_grad()
def evaluated(
    own: Learner, make: Callable[[], gym.Env[Any, Any]], episodes: int, seed: int, forget: bool = False
) -> list[float]:
    """Returns of so many episodes, drawn from the policy; `forget` empties its memory before every step."""
    envs = vector(make, episodes)
    policy, generator = own.policy, torch.Generator().manual_seed(seed)
    obs, info = envs.reset(seed=seed)
    memory, total, over = policy.begin(episodes), np.zeros(episodes), np.zeros(episodes, dtype=bool)
    while not over.all():
        memory = policy.begin(episodes) if forget else memory
        seen = torch.from_numpy(np.asarray(obs, dtype=np.float32))[None]
        encoded, memory = policy.features(seen, memory)
        uniforms = torch.rand(episodes, len(policy.model.sizes), generator=generator, dtype=torch.float64)
        masks = {name: torch.from_numpy(mask) for name, mask in policy.model.published(info).items()}
        heads = policy.heads.begin(Encoded(encoded.features[0], None))
        found = walk(policy.model, heads, masks, episodes, sampled(uniforms))
        actions = found.actions.numpy()
        obs, rewards, terminated, truncated, info = envs.step(actions[:, 0] if own.single else actions)
        total += np.where(over, 0, rewards)
        over |= terminated | truncated
    return total.tolist()


def discrete(values: int) -> IndependentActions:
    """One head."""
    return IndependentActions((values,))
