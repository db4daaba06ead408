"""A trained model as an `Agent`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from esper_agents.agent import Info
from esper_agents.sb3.masked import MASK, OBSERVATION, MaskableRecurrentPPO

Generators = list[np.random.Generator]
State = tuple[torch.Tensor, torch.Tensor]
Memory = tuple[Generators, State | None]
"""A generator for every environment, and the state of the LSTM, where there is one."""


class Sb3Agent:
    """Plays a model of one of `ALGORITHMS`. See `Agent`.

    It draws from the model's probabilities, as in training: the heads of a factored policy are often only
    legal together, and the most probable value of each alone can be an illegal action for ever.

    Args:
        model: The model.
        name: How tables call it.
        deterministic: Take the most probable value of every head instead.
        seed: Of its draws; together with an episode's seed it decides them.
    """

    def __init__(
        self, model: OnPolicyAlgorithm, name: str, deterministic: bool = False, seed: int = 0
    ) -> None:
        self.model, self.name, self.deterministic, self.seed = model, name, deterministic, seed

    def begin(self, seeds: Sequence[int]) -> Memory:
        """See `Agent`."""
        state = None
        if isinstance(self.model, RecurrentPPO):
            policy: Any = self.model.policy
            layers, _, width = policy.lstm_hidden_state_shape
            state = (torch.zeros(layers, len(seeds), width), torch.zeros(layers, len(seeds), width))
        return [np.random.default_rng([self.seed, seed]) for seed in seeds], state

    def act(self, obs: NDArray[np.float32], info: Info, memory: Memory) -> tuple[NDArray[np.int64], Memory]:
        """See `Agent`. The state of the LSTM goes on until `begin`, whatever episodes end."""
        generators, state = memory
        heads, state = self._probabilities(torch.from_numpy(obs), info, state)
        if self.deterministic:
            return np.stack([head.argmax(axis=1) for head in heads], axis=1), (generators, state)
        actions = [[_draw(head[env], rng) for head in heads] for env, rng in enumerate(generators)]
        return np.array(actions, dtype=np.int64), (generators, state)

    @torch.no_grad()
    def _probabilities(
        self, obs: torch.Tensor, info: Info, state: State | None
    ) -> tuple[list[NDArray[np.float64]], State | None]:
        """For each head (env, value); and the next state of the LSTM."""
        policy: Any = self.model.policy
        policy.set_training_mode(False)
        if isinstance(self.model, MaskableRecurrentPPO):
            seen = {OBSERVATION: obs, MASK: torch.from_numpy(info["action_mask"])}
            distribution, state = policy.get_distribution(seen, state, torch.zeros(len(obs)))
            heads = distribution.distributions
        elif isinstance(self.model, RecurrentPPO):
            distribution, state = policy.get_distribution(obs, state, torch.zeros(len(obs)))
            heads = distribution.distribution
        elif isinstance(self.model, MaskablePPO):
            heads = policy.get_distribution(obs, info["action_mask"].astype(bool)).distributions
        else:
            heads = policy.get_distribution(obs).distribution
        return [head.probs.double().numpy() for head in heads], state


def _draw(probabilities: NDArray[np.float64], rng: np.random.Generator) -> int:
    """By inversion: one uniform number a draw, whatever the probabilities."""
    edges = np.cumsum(probabilities)
    return int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
