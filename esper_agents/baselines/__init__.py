"""Agents that do not learn, by name."""

from esper_agents.agent import Agent
from esper_agents.baselines.heuristic import HeuristicAgent, HeuristicConfig
from esper_agents.baselines.random import RandomAgent
from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.baselines.wait import WaitAgent
from esper_env import EsperVectorEnv

BASELINES = ("wait", "random", "schedule", "heuristic")
"""The names that `baseline` knows."""


def baseline(
    name: str,
    env: EsperVectorEnv,
    schedule: ScheduleConfig | None = None,
    seed: int = 0,
    heuristic: HeuristicConfig | None = None,
) -> Agent:
    """The agent of a name, for an environment.

    Args:
        name: One of `BASELINES`.
        env: What it will play, for the sizes of the heads.
        schedule: The plan of `schedule`; None for the default one.
        seed: Of the draws of `random`.
        heuristic: The thresholds of `heuristic`; None for the default ones.

    Raises:
        ValueError: an unknown name, or a plan or preference that does not fit the environment.
    """
    if name == "wait":
        return WaitAgent()
    if name == "random":
        return RandomAgent(env.layout, seed)
    if name == "schedule":
        return ScheduleAgent.of(schedule or ScheduleConfig(), env)
    if name == "heuristic":
        return HeuristicAgent(heuristic or HeuristicConfig(), env)
    raise ValueError(f"agent {name!r} is not known, the baselines are {list(BASELINES)}")
