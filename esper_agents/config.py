"""What a training run is: environment, algorithm, settings, length, and where it is written."""

import hashlib
import json
import math
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from esper_agents.baselines import BASELINES
from esper_agents.baselines.heuristic import HeuristicConfig
from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.environment import EnvironmentConfig
from esper_agents.ppo_config import OwnPpoConfig
from esper_agents.search_config import SearchConfig
from esper_env import IDS

FREE = (
    "rounds",
    "total_steps",
    "start_from",
    "logdir",
    "device",
    "data_dir",
    "eval_every",
    "eval_episodes",
    "eval_seed",
    "eval_deterministic",
    "compare",
    "schedule",
    "heuristic",
)
"""Fields in which a resumed run may differ from its checkpoint: they change no gradient."""


Model = TypeVar("Model", bound=BaseModel)


class TrainConfig(EnvironmentConfig, OwnPpoConfig):
    """A training run."""

    algo: Literal[
        "esper_ppo",
        "recurrent_ppo",
        "maskable_ppo",
        "maskable_recurrent_ppo",
        "ppo",
        "search",
        "wait",
        "random",
        "schedule",
        "heuristic",
    ] = "recurrent_ppo"
    """Who plays. esper_ppo is ours, the others with ppo in their names are sb3-contrib's or on its classes;
    search learns a plan; wait, random, schedule and heuristic do not learn: they are evaluated."""
    instances: tuple[EnvironmentConfig, ...] = ()
    """Environments to train on, in turn, a round each; what is not given is as the run has it. All need the
    same observations, actions and horizon. Evaluation plays every one. On the command line: a JSON file."""
    num_envs: int = Field(8, ge=1)
    """Environments played side by side."""
    rounds: int | None = Field(None, ge=1)
    """Rollouts of num_envs x episode_length steps, each followed by an update; excludes total_steps."""
    total_steps: int | None = Field(None, ge=1)
    """Environment steps, rounded up to whole rounds; excludes rounds."""
    seed: int = Field(0, ge=0)
    """Of weights, exploration and episodes."""
    teachers: tuple[ScheduleConfig, ...] = ()
    """Plans to imitate, one for each of as many blocks of environments (esper_ppo). On the command
    line: a JSON file."""
    start_from: str | None = None
    """Checkpoint, run or folder of runs of the same algorithm, with whose weights a new run begins: one that
    was played on the null engine, say. Nothing else is taken over."""
    logdir: str = "runs"
    """Folder in which the run gets a folder of its own."""
    eval_every: int | None = Field(None, ge=1)
    """Rounds between evaluations; not given: only at the end."""
    eval_episodes: int = Field(8, ge=1)
    """Episodes of an evaluation."""
    eval_seed: int = Field(10_000, ge=0)
    """Seed of the first evaluation episode; the others follow."""
    eval_deterministic: bool = False
    """Whether a trained agent plays its most probable action there, instead of drawing as in training."""
    compare: tuple[Literal["wait", "random", "schedule", "heuristic"], ...] = ("wait", "random")
    """Agents that play the same episodes at the end."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The plan of the agent `schedule`."""
    heuristic: HeuristicConfig = HeuristicConfig()
    """The thresholds of the agent `heuristic`."""

    search: SearchConfig = SearchConfig()
    """How the agent `search` does."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.rounds is not None and self.total_steps is not None:
            given = f"rounds={self.rounds} and total_steps={self.total_steps}"
            raise ValueError(f"{given} exclude each other: give one")
        return self

    @model_validator(mode="after")
    def _starts_where_it_learns(self) -> Self:
        if self.start_from is not None and not self.learns:
            raise ValueError(f"start_from={self.start_from!r}: algo={self.algo!r} does not learn")
        return self

    @model_validator(mode="after")
    def _whole_replicas(self) -> Self:
        if self.num_envs % self.replicas:
            raise ValueError(f"replicas={self.replicas} does not divide num_envs={self.num_envs}")
        return self

    @model_validator(mode="after")
    def _taught(self) -> Self:
        if bool(self.teachers) != (self.imitation > 0):
            raise ValueError(f"imitation={self.imitation} with {len(self.teachers)} teachers: both or none")
        if not self.policy_weight and not self.imitation:
            raise ValueError("policy_weight=0 without imitation: nothing would be learned")
        if self.teachers and (self.algo != "esper_ppo" or self.num_envs % len(self.teachers)):
            raise ValueError(
                f"{len(self.teachers)} teachers: algo='esper_ppo' and a num_envs that they divide are"
                f" required, not {self.algo!r} and {self.num_envs}"
            )
        return self

    @model_validator(mode="after")
    def _searched_in_rounds(self) -> Self:
        if self.search.method == "beam":
            raise ValueError(
                "search.method='beam' does not go in rounds: `esper_agents.search.search_plan` runs it"
            )
        return self

    @property
    def instance_configs(self) -> tuple["TrainConfig", ...]:
        """The run as it plays each of its instances; itself where there are none."""
        return tuple(self.model_copy(update={"instances": (), **dict(each)}) for each in self.instances) or (
            self,
        )

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        return self.algo not in BASELINES

    @property
    def eval_seeds(self) -> list[int]:
        """Of the evaluation episodes."""
        return list(range(self.eval_seed, self.eval_seed + self.eval_episodes))

    def num_rounds(self, horizon: int) -> int:
        """Rounds to play, when an episode has `horizon` steps: whole updates, at least what is wanted."""
        rounds: float = DEFAULT_ROUNDS if self.rounds is None else self.rounds
        if self.total_steps is not None:
            rounds = self.total_steps / (self.num_envs * horizon)
        return math.ceil(rounds / self.rounds_per_update) * self.rounds_per_update


DEFAULT_ROUNDS = 20
"""Rounds where neither `rounds` nor `total_steps` is given."""

PRESETS: dict[str, dict[str, Any]] = {
    "EsperCifar-v0": {"rounds": 20, "eval_episodes": 4},
    "EsperTinyStories-v0": {"rounds": 20, "eval_episodes": 4},
    "EsperMicro-v0": {"rounds": 50, "num_envs": 16, "eval_episodes": 8},
}
"""Id -> what a run on it differs in from the defaults."""


def build(values: dict[str, Any]) -> TrainConfig:
    """The configuration of plain values, over the preset of their environment.

    Raises:
        ValueError: an unknown field, a wrong type, or a value out of range; each is named with its path.
    """
    env = values.get("env", TrainConfig.model_fields["env"].default)
    preset = dict(PRESETS[env]) if env in IDS else {}
    if values.get("total_steps") is not None:
        preset.pop("rounds", None)
    return validated(TrainConfig, {**preset, **values} | _completed(values))


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    """Instances with what the run has where they say nothing; overrides are joined, their own win."""
    instances = values.get("instances")
    if not isinstance(instances, list | tuple):
        return {}
    own = {name: values[name] for name in EnvironmentConfig.model_fields if name in values}

    def completed(given: Any) -> Any:
        plain = given.model_dump(mode="json") if isinstance(given, BaseModel) else given
        if not isinstance(plain, dict):
            return plain
        overrides = [part.get("overrides", {}) for part in (own, plain)]
        joined = (
            {"overrides": overrides[0] | overrides[1]} if all(isinstance(o, dict) for o in overrides) else {}
        )
        return own | plain | joined

    return {"instances": [completed(each) for each in instances]}


def validated(model: type[Model], values: dict[str, Any]) -> Model:
    """A model of plain values, as strictly as JSON allows, with messages for users.

    Raises:
        ValueError: as `build`.
    """
    try:
        return model.model_validate_json(json.dumps(values, default=_plain), strict=True)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(problem) for problem in error.errors())) from None


def _plain(value: Any) -> Any:
    """For JSON: a part that is a model already."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{value!r} is no plain value")


def _explain(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{path}={problem['input']!r}: there is no such setting"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    return f"{path}={problem['input']!r} is not allowed: {message}"


def differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    """Dotted paths at which two nested dicts differ, each with both values."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b, here = old.get(key), new.get(key), f"{path}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{here}.")
        elif a != b:
            found.append(f"{here} ({a!r} there, {b!r} here)")
    return found


def fingerprint(values: dict[str, Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
