"""The learning algorithms by name."""

from collections.abc import Callable
from pathlib import Path

from esper_agents.config import TrainConfig
from esper_agents.environment import World
from esper_agents.learning import Trainee
from esper_agents.ppo.trainee import PpoTrainee
from esper_agents.sb3 import Sb3Trainee


def make_trainee(config: TrainConfig, world: World, path: Path | None) -> Trainee:
    """The agent of a run: a new one, or as a checkpoint left it.

    Args:
        config: The run.
        world: What it plays.
        path: The checkpoint, or None.

    Raises:
        ValueError: a setting that it refuses.
    """
    make: Callable[[TrainConfig, World, Path | None], Trainee]
    make = PpoTrainee if config.algo == "esper_ppo" else Sb3Trainee
    return make(config, world, path)
