"""The learning algorithms by name."""

from collections.abc import Callable
from pathlib import Path

from esper_agents import checkpoint
from esper_agents.config import TrainConfig
from esper_agents.environment import World
from esper_agents.learning import Trainee
from esper_agents.ppo.trainee import PpoTrainee
from esper_agents.sb3 import Sb3Trainee
from esper_agents.search.trainee import SearchTrainee

Maker = Callable[[TrainConfig, World, Path | None], Trainee]
OWN: dict[str, Maker] = {"esper_ppo": PpoTrainee, "search": SearchTrainee}
"""By name, what is not Stable-Baselines3's."""


def make_trainee(config: TrainConfig, world: World, path: Path | None) -> Trainee:
    """The agent of a run: a new one, perhaps with the weights of another, or as a checkpoint left it.

    Args:
        config: The run.
        world: What it plays.
        path: The checkpoint, or None.

    Raises:
        ValueError: a setting that it refuses, or weights to start from that do not fit.
    """
    make: Maker = OWN.get(config.algo, Sb3Trainee)
    trainee = make(config, world, path)
    if path is None and config.start_from is not None:
        try:
            trainee.start_from(checkpoint.find_checkpoint(Path(config.start_from)))
        except RuntimeError as error:
            raise ValueError(f"start_from={config.start_from!r} does not fit: {error}") from None
    return trainee
