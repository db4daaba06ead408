"""Which environment an agent plays, in plain values, and how it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from esper_env import IDS, DataUnavailableError, EsperVectorEnv

ALWAYS_PROCEDURAL = "EsperMicro-v0"


class EnvironmentConfig(BaseModel):
    """Which environment is played."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    env: str = "EsperCifar-v0"
    """Id of the environment."""
    data: str | None = None
    """`auto` (the environment's own if they are cached or can be downloaded, else procedural ones),
    `cifar10`, `tinystories`, `procedural`, or `folder:NAME`. Not given: `procedural` for EsperMicro-v0,
    `auto` for others."""
    data_dir: str | None = None
    """Cache folder of data sets; not given: ESPER_DATA_DIR, else ~/.cache/esper."""
    episode_length: int | None = Field(None, ge=1)
    """Epochs of an episode (`horizon`); not given: the environment's own."""
    reward: Literal["dense", "sparse", "economy"] | None = None
    """Reward mode; not given: the environment's own. A dictionary of prices is given as an override,
    {"reward.mode": {"quality": 100, "rent": 2}}."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks grow. The agent's own small network stays on the CPU."""
    overrides: dict[str, JsonValue] = {}
    """Any field of the environment's configuration by dotted path, such as {"reward.rent": 1.0}."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.env not in IDS:
            raise ValueError(f"env={self.env!r} is not known, the environments are {sorted(IDS)}")
        if self.env == ALWAYS_PROCEDURAL and self.data not in (None, "auto", "procedural"):
            raise ValueError(f"data={self.data!r} is not allowed: {self.env} is always procedural")
        return self

    @property
    def wanted_data(self) -> str:
        """The data that were asked for, or the default of the environment."""
        if self.env == ALWAYS_PROCEDURAL:
            return "procedural"
        return self.data or "auto"


@dataclass(frozen=True)
class World:
    """An environment that was made, and what its data turned out to be."""

    envs: EsperVectorEnv
    provenance: str
    """One line: which data, from where, and, if `auto` did not find the real ones, why."""


def make_world(
    config: EnvironmentConfig,
    num_envs: int,
    autoreset_mode: AutoresetMode,
    render_mode: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> World:
    """The environments of a configuration.

    Args:
        config: Which environment.
        num_envs: How many.
        autoreset_mode: What a step after the end of an episode does.
        render_mode: None or `rgb_array`.
        changes: Overrides that come after those of `config`.

    Raises:
        ValueError: a setting that the environment refuses, or damaged data.
        FileNotFoundError: real data were asked for, but are neither cached nor downloadable.
    """
    overrides = {**config.overrides, **(changes or {})}

    def make(data: str | None) -> EsperVectorEnv:
        settings: dict[str, Any] = {
            "data": data,
            "data_dir": config.data_dir,
            "horizon": config.episode_length,
        }
        settings |= {"reward": config.reward, "device": config.device, "render_mode": render_mode}
        made = gym.make_vec(
            config.env, num_envs=num_envs, autoreset_mode=autoreset_mode, overrides=overrides, **settings
        )
        return cast("EsperVectorEnv", made)

    if config.wanted_data != "auto":
        return _world(make(config.wanted_data))
    try:
        return _world(make(None))  # the environment's own
    except DataUnavailableError as missing:
        reason = str(missing).partition(" Three ways out")[0].rstrip(".")
    return _world(make("procedural"), f" (not real, because {reason})")


def settled(config: EnvironmentConfig, world: World) -> EnvironmentConfig:
    """The configuration with `auto` replaced by what it came to, so that it is not looked for again."""
    return config.model_copy(update={"data": world.envs.config.task.data})


def _world(envs: EsperVectorEnv, why: str = "") -> World:
    return World(envs, envs.provenance + why)
