"""A policy as an `Agent`."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from esper_agents.agent import Info
from esper_agents.ppo.distribution import most_probable, sampled, walk
from esper_agents.ppo.network import Encoded, Policy
from esper_agents.ppo.network import Memory as State

Memory = tuple[list[np.random.Generator], State]
"""A generator for every environment, and what the core carries."""


class PpoAgent:
    """Plays a policy. See `Agent`.

    Args:
        policy: The policy.
        name: How tables call it.
        deterministic: Take the most probable value of every head instead of drawing; that is legal too.
        seed: Of its draws; together with an episode's seed it decides them.
    """

    def __init__(self, policy: Policy, name: str, deterministic: bool = False, seed: int = 0) -> None:
        self.policy, self.name, self.deterministic, self.seed = policy, name, deterministic, seed

    def begin(self, seeds: Sequence[int]) -> Memory:
        """See `Agent`."""
        return [np.random.default_rng([self.seed, seed]) for seed in seeds], self.policy.begin(len(seeds))

    @torch.no_grad()
    def act(self, obs: NDArray[np.float32], info: Info, memory: Memory) -> tuple[NDArray[np.int64], Memory]:
        """See `Agent`."""
        generators, state = memory
        model = self.policy.model
        encoded, state = self.policy.features(torch.from_numpy(obs)[None], state)
        now = Encoded(encoded.features[0], None if encoded.slots is None else encoded.slots[0])
        masks = {name: torch.from_numpy(mask) for name, mask in model.published(info).items()}
        uniforms = torch.from_numpy(np.stack([each.random(len(model.sizes)) for each in generators]))
        choose = most_probable if self.deterministic else sampled(uniforms)
        drawn = walk(model, self.policy.heads.begin(now), masks, len(obs), choose)
        actions: NDArray[np.int64] = drawn.actions.numpy()
        return actions, (generators, state)
