"""The instances that a run is trained on, in turn: round r plays instance r mod n."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from gymnasium.vector import AutoresetMode

from esper_agents.config import TrainConfig
from esper_agents.environment import World, make_world

ALIKE = ("single_observation_space", "single_action_space", "features", "blueprints", "horizon", "gamma")
"""In what instances must agree."""


class Curriculum:
    """The worlds of a run. A context manager: in the end they are closed.

    Args:
        config: The run.
        num_envs: Of each world.
        changes: Overrides that come after all others.

    Raises:
        ValueError: a setting that an environment refuses, or instances that one agent can't play.
        FileNotFoundError: data that are neither cached nor downloadable.
    """

    def __init__(self, config: TrainConfig, num_envs: int, changes: Mapping[str, Any] | None = None) -> None:
        self.configs, self.worlds = config.instance_configs, list[World]()
        with ExitStack() as stack:
            for number, each in enumerate(self.configs):
                where = f"instances.{number}: " if config.instances else ""
                self.worlds.append(_world(each, where, num_envs, changes))
                stack.enter_context(closing(self.worlds[-1].envs))
            refuse_unlike(self.worlds)
            self._open = stack.pop_all()

    def __enter__(self) -> "Curriculum":
        """Nothing is left to do."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the worlds."""
        self._open.close()

    @property
    def first(self) -> World:
        """The world that stands for all, which are alike."""
        return self.worlds[0]

    @property
    def provenance(self) -> str:
        """Which data, from where."""
        return "; ".join(dict.fromkeys(world.provenance for world in self.worlds))

    def of_round(self, number: int) -> World:
        """The world that a round, counted from 0, is played in."""
        return self.worlds[number % len(self.worlds)]


def _world(config: TrainConfig, where: str, num_envs: int, changes: Mapping[str, Any] | None) -> World:
    """A world, or an error that says of which instance."""
    try:
        return make_world(config, num_envs, AutoresetMode.SAME_STEP, changes=changes)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def refuse_unlike(worlds: Sequence[World]) -> None:
    """One agent plays all instances, in rounds of the same length.

    Raises:
        ValueError: naming the first instance that differs from the first one, and in what.
    """
    for number, world in enumerate(worlds):
        for name, first, other in zip(ALIKE, _agreed(worlds[0]), _agreed(world), strict=True):
            if first != other:
                raise ValueError(
                    f"instances.{number} has {name} {other}, instances.0 has {first}: no agent plays both"
                )


def _agreed(world: World) -> tuple[Any, ...]:
    """What `ALIKE` names, in its order."""
    envs = world.envs
    spaces = envs.single_observation_space, envs.single_action_space, envs.features
    return (*spaces, envs.facts.blueprints, envs.config.horizon, envs.metadata["gamma"])
