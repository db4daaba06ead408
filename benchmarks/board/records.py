"""What a job leaves behind (`episodes.json`) and the table of references: their fields, read and checked.

A file holds its own digest: the SHA-256 of everything else in it, as canonical JSON. That shows damage and
thoughtless edits; who also writes the digest anew is found by `verify`, which plays the episodes again.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from board.canonical import content_hash, sealed
from board.cells import Cell
from board.entrants import NAME, AgentSpec
from board.hardware import BITS, TOLD
from board.play import EPISODES, RECORD_VERSION
from esper_agents.baselines.schedule import ScheduleConfig

TABLES = sorted(Path(__file__).parent.glob("references_v1*.json"))
"""The references that are shipped, a file a tier."""
TABLE_VERSION = 1
"""Form of that file."""


class RefusedError(ValueError):
    """Something that the leaderboard does not take; the message says what, and where it stands."""


Word = Annotated[str, Field(pattern=NAME)]
"""Nothing that would change a table."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Hardware(_Model):
    """Where it was played."""

    model_config = ConfigDict(frozen=True, extra="allow")

    cpu: Word
    threads: int
    torch: Word
    kernels: Word

    def same_bits(self, other: "Hardware") -> bool:
        """Whether the same bits can be asked for: all that decides them is the same (see `hardware`)."""
        mine, theirs = (each.model_dump() for each in (self, other))
        told = [name for name in TOLD if name in mine and name in theirs]
        return all(mine.get(name) == theirs.get(name) for name in (*BITS, *told))

    def __str__(self) -> str:
        """For people."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{self.cpu}, {threads}, torch {self.torch}, {self.kernels} kernels"


class Episode(_Model):
    """One episode, and the trace by which it can be played again."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    seed: int
    """Of the host."""
    length: int = Field(ge=1)
    total_reward: float
    quality: float = Field(ge=0, le=1)
    """Of the harvested network on the test split: accuracy, or 1 - loss / ln(vocabulary)."""
    val_quality: list[Annotated[float, Field(le=1)] | None]
    """After every epoch, before any harvest; None where it was not a number."""
    epoch_flops: list[Share]
    """Training FLOPs so far after every epoch, as a share of the static host's whole run."""
    param_ratio: Share
    params: Count
    """Of the harvested network."""
    most_params: Count
    """At any time: modules on trial, and gates, count."""
    flops_ratio: Share
    flops: Share
    rollbacks: Count
    invalid: Count
    pruned: Count
    fossilized: Count
    actions: list[list[int]]
    stages: list[list[int]]
    chain: str
    """Last link of the chain of hashes over action, masks, stages, reward and observation of every step."""
    rules: str
    """The same without rewards and observations, in which the last bits of a machine show."""
    state: str
    """SHA-256 of the whole state after the last step."""

    @property
    def most_ratio(self) -> float:
        """Most parameters at any time, as a multiple of the static host's."""
        return self.most_params * self.param_ratio / self.params if self.params else math.inf

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in ("val_quality", "epoch_flops", "actions", "stages"):
            count = len(getattr(self, name))
            if count != self.length:
                raise ValueError(f"{name} has {count} steps, the episode of seed {self.seed} {self.length}")
        return self


class Record(_Model):
    """What one job came to."""

    FORM: ClassVar[int] = RECORD_VERSION

    version: int
    environment_version: Word
    entry: Word
    agent: AgentSpec
    training_seed: int | None
    instance: Word
    instance_hash: str
    cell: Cell
    commitment: str
    """SHA-256 of the secret from which the host seeds follow."""
    hardware: Hardware
    seconds: Share
    sha256: str
    episodes: list[Episode] = Field(min_length=1)

    @field_validator("episodes")
    @classmethod
    def _seeds_once(cls, episodes: list[Episode]) -> list[Episode]:
        seeds = [episode.seed for episode in episodes]
        if len({*seeds}) < len(seeds):
            raise ValueError(f"a host seed stands twice among {seeds}")
        return episodes

    def __str__(self) -> str:
        """Which job."""
        run = "" if self.training_seed is None else f", training seed {self.training_seed}"
        return f"{self.entry}{run} on {self.instance} ({self.cell.id})"


class Reference(_Model):
    """What one of the reference agents reached: lists over host seeds."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    seeds: list[int]
    quality: list[float]
    val_quality: list[float | None]
    """After the last epoch, before the harvest; None where it was not a number."""
    param_ratio: list[float]
    flops_ratio: list[float]


class Difference(_Model):
    """A paired difference of test quality on fresh seeds."""

    mean: float
    error: float
    """Standard error of the mean."""
    sigma: float | None
    """mean / error; None where the error is 0."""


class Row(_Model):
    """An instance under one pair of budgets."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    instance: str
    instance_hash: str
    cell: Cell
    admitted: bool
    differences: dict[str, Difference]
    references: dict[str, Reference]
    plan: ScheduleConfig | None = None
    """Of the reference `schedule`: the table's for these budgets."""


class Table(_Model):
    """The references of all instances."""

    FORM: ClassVar[int] = TABLE_VERSION

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    version: int
    environment_version: str
    commitment: str
    hardware: Hardware
    seconds: float
    sha256: str
    plans: dict[str, ScheduleConfig] = {}
    """Cell -> the schedule that was tuned for it."""
    rows: list[Row]


Form = TypeVar("Form", Record, Table)


def read(path: Path, model: type[Form]) -> Form:
    """A file of results, checked field by field and against its own digest.

    Raises:
        RefusedError: it is missing, no JSON, not of this form, or not as it was written.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        digest = sealed(values)["sha256"] if isinstance(values, dict) else None
    except (OSError, ValueError, RecursionError) as error:
        raise RefusedError(f"{path} can't be read: {error}") from None
    if not isinstance(values, dict) or values.get("version") != model.FORM:
        found = values.get("version") if isinstance(values, dict) else None
        raise RefusedError(f"{path} is of the form {found!r}, only {model.FORM} is known")
    try:
        checked = model.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3]]
        raise RefusedError(f"{path} is not a {model.__name__.lower()}: {'; '.join(problems)}") from None
    if digest != checked.sha256:
        raise RefusedError(f"{path} was changed after it was written: its digest is that of something else")
    return checked


def table(paths: Sequence[Path]) -> Table:
    """The references of one file, or of several as one table, such as a file a tier.

    Raises:
        RefusedError: a file that can't be trusted, or files that do not belong together.
    """
    if not paths:
        raise RefusedError("there is no table of references: --references FILE is required")
    first, *others = (read(path, Table) for path in paths)
    for other, path in zip(others, paths[1:], strict=True):
        for name in ("environment_version", "commitment"):
            if getattr(other, name) != getattr(first, name):
                raise RefusedError(f"{path} has another {name} than {paths[0]}: they do not belong together")
    rows = [
        row.model_copy(update={"plan": each.plans.get(row.cell.id)})
        for each in (first, *others)
        for row in each.rows
    ]
    keys = [(row.instance, row.cell.id) for row in rows]
    if len(set(keys)) < len(keys):
        raise RefusedError(f"{[str(path) for path in paths]} have rows of the same instance and budgets")
    if not others:
        return first.model_copy(update={"rows": rows})
    seal = content_hash([each.sha256 for each in (first, *others)])
    seconds = sum(each.seconds for each in (first, *others))
    return first.model_copy(update={"rows": rows, "seconds": seconds, "sha256": seal})


def found(folders: Iterable[Path]) -> list[Path]:
    """The results in some folders, at any depth.

    Raises:
        RefusedError: a folder without any.
    """
    paths: list[Path] = []
    for folder in folders:
        own = sorted(folder.rglob(EPISODES))
        if not own:
            raise RefusedError(f"{folder} holds no {EPISODES}: `run` writes them")
        paths += own
    return paths


def readable(folders: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """The results in some folders, and why others there can't be read.

    Raises:
        RefusedError: a folder without any.
    """
    good, wrong = [], []
    for path in found(folders):
        try:
            good.append(read(path, Record))
        except RefusedError as error:
            wrong.append(str(error))
    return good, wrong


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no figure: what is missing is null")
