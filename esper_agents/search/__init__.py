"""The agent that is a plan: lives of modules, searched on some hosts, played on any."""

from esper_agents.search.life import Life, Planting, read_life
from esper_agents.search.plan import Plan, search_plan, start_lives
from esper_agents.search.play import Job, Objective, Players, harvested_quality, total_reward
from esper_agents.search.player import LifeAgent
from esper_agents.search_config import SearchConfig

__all__ = [
    "Job",
    "Life",
    "LifeAgent",
    "Objective",
    "Plan",
    "Planting",
    "Players",
    "SearchConfig",
    "harvested_quality",
    "read_life",
    "search_plan",
    "start_lives",
    "total_reward",
]
