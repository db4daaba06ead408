"""Several agents at once, each in an environment of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Agent, Info


class SideBySide:
    """Agent i plays environment i as if it were alone. See `Agent`.

    Args:
        agents: One an environment; the same one may stand in several places.
    """

    name = "side by side"

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents = list(agents)

    def begin(self, seeds: Sequence[int]) -> list[Any]:
        """See `Agent`: a memory for each.

        Raises:
            ValueError: another number of seeds than of agents.
        """
        return [agent.begin([seed]) for agent, seed in zip(self.agents, seeds, strict=True)]

    def act(
        self, obs: NDArray[np.float32], info: Info, memory: list[Any]
    ) -> tuple[NDArray[np.int64], list[Any]]:
        """See `Agent`."""
        played = [
            agent.act(obs[env : env + 1], part(info, slice(env, env + 1)), own)
            for env, (agent, own) in enumerate(zip(self.agents, memory, strict=True))
        ]
        return np.concatenate([actions for actions, _ in played]), [own for _, own in played]


def part(info: Info, envs: slice) -> dict[str, Any]:
    """What is published of some environments, in the vector form."""
    return {key: part(value, envs) if isinstance(value, dict) else value[envs] for key, value in info.items()}
