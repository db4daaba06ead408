"""Plans that a policy learns to follow while it plays itself: no state that it gets into is foreign to them.

Reference: S. Ross, G. Gordon and J. Bagnell, "A Reduction of Imitation Learning and Structured Prediction to
No-Regret Online Learning" (2011), with the policy playing every step.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Info
from esper_agents.baselines.schedule import Progress, ScheduleAgent, ScheduleConfig
from esper_agents.baselines.side_by_side import part
from esper_env import EsperVectorEnv

Ints = NDArray[np.int64]


class Teacher:
    """Says what plans have next, whatever was played before.

    Args:
        plans: One for each of as many blocks of environments, all of one size.
        envs: What is played.

    Raises:
        ValueError: blocks that are not of one size, or a plan that does not fit the host.
    """

    def __init__(self, plans: Sequence[ScheduleConfig], envs: EsperVectorEnv) -> None:
        size, rest = divmod(envs.num_envs, len(plans))
        if rest:
            raise ValueError(f"{len(plans)} teachers: they do not divide num_envs={envs.num_envs}")
        self._blocks = [slice(number * size, (number + 1) * size) for number in range(len(plans))]
        self._agents = [ScheduleAgent.of(plan, envs) for plan in plans]
        self.begin()

    def begin(self) -> None:
        """All episodes begin anew."""
        seeds = [range(block.stop - block.start) for block in self._blocks]
        self._memories = [agent.begin(own) for agent, own in zip(self._agents, seeds, strict=True)]

    def advise(self, obs: NDArray[np.float32], info: Info) -> Ints:
        """What the plans have next, int64 (env, 8), for what was published before this step."""
        blocks = zip(self._agents, self._blocks, self._memories, strict=True)
        return np.concatenate(
            [agent.advise(obs[block], part(info, block), memory) for agent, block, memory in blocks]
        )

    def follow(self, info: Info, actions: Ints, ended: NDArray[np.bool_]) -> None:
        """Remember what was played.

        Args:
            info: Published before the step.
            actions: (env, 8), of whoever played.
            ended: (env,): whether the step ended an episode, so that a new one begins.
        """
        blocks = list(zip(self._agents, self._blocks, self._memories, strict=True))
        self._memories = [
            _anew(agent.follow(part(info, block), memory, actions[block]), agent, ended[block])
            for agent, block, memory in blocks
        ]


def _anew(memory: Progress, agent: ScheduleAgent, ended: NDArray[np.bool_]) -> Progress:
    """The memory, as it is when an episode begins where one ended."""
    first = vars(agent.begin(range(len(ended))))
    return Progress(
        **{name: np.where(ended[:, None], first[name], value) for name, value in vars(memory).items()}
    )
