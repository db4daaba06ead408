"""What every agent is: a function from what an environment publishes to actions."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Info = Mapping[str, Any]
Memory = Any
"""What an agent carries from one step to the next; nobody else looks inside."""


class Agent(Protocol):
    """Plays N environments at once. It reads the observation, the masks and the info, and nothing else."""

    name: str
    """How tables call it."""

    def begin(self, seeds: Sequence[int]) -> Memory:
        """The memory with which episodes of these seeds begin, one an environment.

        An agent that draws at random draws from these seeds, so that what it does in an episode never depends
        on which episodes are played beside it.
        """

    def act(self, obs: NDArray[np.float32], info: Info, memory: Memory) -> tuple[NDArray[np.int64], Memory]:
        """Actions for one step.

        Args:
            obs: (env, feature), the last observation.
            info: Published with it, in the vector form.
            memory: From `begin` or from the last call.

        Returns:
            Actions int64 (env, 8), and the memory for the next call.
        """
