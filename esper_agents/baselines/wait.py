"""The agent that never grows anything: what it reaches is the static host."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Info
from esper_env import Head


class WaitAgent:
    """Plays WAIT, which is all zeros. See `Agent`."""

    name = "wait"

    def begin(self, seeds: Sequence[int]) -> None:
        """See `Agent`: there is nothing to remember."""

    def act(self, obs: NDArray[np.float32], info: Info, memory: None) -> tuple[NDArray[np.int64], None]:
        """See `Agent`."""
        return np.zeros((len(obs), len(Head)), dtype=np.int64), None
