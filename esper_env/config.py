"""The whole configuration of an environment: it only composes configs that live beside their owners."""

import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from esper_env.engine.engine import EngineConfig
from esper_env.hosts.build import host_kind
from esper_env.hosts.host import HostConfig
from esper_env.mdp.attribution import AttributionConfig
from esper_env.mdp.gates import GateConfig
from esper_env.mdp.governor import GovernorConfig
from esper_env.mdp.masks import BudgetConfig
from esper_env.mdp.prices import RewardConfig, choose
from esper_env.mdp.record import RecordConfig
from esper_env.mdp.transition import LifecycleConfig
from esper_env.tasks.task import TaskConfig


class EsperConfig(BaseModel):
    """Everything about an environment but how many of them there are and how they are stepped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    horizon: int = Field(150, ge=1)
    """Epochs of an episode."""
    max_episode_steps: int | None = Field(None, ge=1)
    """Steps after which an episode is truncated from outside; None for never."""
    host: HostConfig = HostConfig()
    task: TaskConfig = TaskConfig()
    engine: EngineConfig = EngineConfig()
    lifecycle: LifecycleConfig = LifecycleConfig()
    gates: GateConfig = GateConfig()
    budget: BudgetConfig = BudgetConfig()
    record: RecordConfig = RecordConfig()
    attribution: AttributionConfig = AttributionConfig()
    governor: GovernorConfig = GovernorConfig()
    reward: RewardConfig = RewardConfig()

    @model_validator(mode="after")
    def _known_host(self) -> Self:
        host_kind(self.host.name)
        return self


KEYWORDS: dict[str, str] = {
    "horizon": "horizon",
    "max_episode_steps": "max_episode_steps",
    "host": "host.name",
    "slots": "host.slots",
    "data": "task.data",
    "data_dir": "task.data_dir",
    "epoch_size": "engine.epoch_size",
    "batch_size": "engine.batch_size",
    "isolation": "engine.isolation",
    "engine": "engine.name",
    "device": "engine.device",
    "reward": "reward.mode",
    "gamma": "reward.gamma",
    "gates": "gates.mode",
    "auto_advance": "lifecycle.auto_advance",
    "max_modules": "lifecycle.max_modules",
    "param_budget": "budget.params",
    "compute_budget": "budget.compute",
}
"""Constructor arguments and the field that each of them sets."""

MAPPINGS = ("reward.own", "reward.potentials")
"""Fields that are dictionaries themselves."""


def override(
    config: EsperConfig, changes: Mapping[str, Any], named: Mapping[str, str] | None = None
) -> EsperConfig:
    """A copy with fields changed by dotted path.

    Args:
        config: where to start.
        changes: path such as `reward.rent` -> plain value. `reward.mode` sets every price anew, whatever its
            place among the changes; the others change them then.
        named: path -> what the user calls it, for messages.

    Raises:
        ValueError: a path that does not exist, or a value of the wrong type or out of range; all are named.
    """
    values = config.model_dump()
    if "reward.mode" in changes:
        values["reward"] |= choose(_plain(changes["reward.mode"]))
    for path, value in changes.items():
        if path == "reward.mode":
            continue
        _set(values, path, _plain(value))
    try:
        return EsperConfig.model_validate(values, strict=True)
    except ValidationError as error:
        raise ValueError(_explain(error, named or {})) from None


def _plain(value: Any) -> Any:
    """Paths, lists and numpy's numbers, also those in a dictionary, as what they stand for."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    return tuple(_plain(part) for part in value) if isinstance(value, list) else value


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    if not isinstance(path, str):
        raise ValueError(f"overrides[{path!r}] is not allowed: a dotted path (str) is")
    *parents, last = path.split(".")
    at: Any = values
    for depth, part in enumerate((*parents, last)):
        parent = ".".join(parents[:depth])
        if not isinstance(at, dict) or (part not in at and parent != "reward.own"):
            where = parent or "the configuration"
            known = sorted(at) if isinstance(at, dict) else []
            raise ValueError(f"overrides[{path!r}]: {where} has no field {part!r}, only {known}")
        if depth < len(parents):
            at = at[part]
    if isinstance(at.get(last), dict) and path not in MAPPINGS:
        raise ValueError(
            f"overrides[{path!r}] is not allowed: it would set all of {sorted(at[last])} anew; "
            f"a path to each is, such as {f'{path}.{min(at[last])}'!r}"
        )
    at[last] = value


def _explain(error: ValidationError, named: Mapping[str, str]) -> str:
    """One line a mistake: what it is called, what came, what is allowed."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"] if isinstance(part, str) and "[" not in part)
        message = problem["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
        own_words = problem["type"] == "value_error"
        name = next(
            (name for known, name in named.items() if path == known or path.startswith(f"{known}.")), path
        )
        lines.append(message if own_words else f"{name}={problem['input']!r} is not allowed: {message}")
    return "; ".join(dict.fromkeys(lines))
