"""From a name to an engine."""

from esper_env.engine.engine import Engine
from esper_env.engine.null import NullEngine
from esper_env.engine.reference import ReferenceEngine
from esper_env.engine.setup import Setup


def build_engine(num_envs: int, setup: Setup) -> Engine:
    """The engine that the configuration names; which one never depends on `num_envs`."""
    if setup.config.name == "null":
        return NullEngine(num_envs, setup)
    return ReferenceEngine(num_envs, setup)
