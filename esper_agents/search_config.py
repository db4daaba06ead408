"""Settings of the search over lives."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SearchConfig(BaseModel):
    """How lives are searched, and for what."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    method: Literal["evolution", "beam"] = "evolution"
    """Variation of the best lives found so far; or a beam: the best states are kept and gone on from in
    several ways (`get_state`, `set_state`)."""
    objective: Literal["return", "quality"] = "return"
    """What is maximized: the reward's sum, or validation quality after harvest, in points, at any price."""
    steps: int = Field(10_000, ge=1)
    """Environment steps that `search_plan` may spend; a training run has a length of its own."""
    seed: int = Field(0, ge=0)
    """Of draws, mutations and crossings; a training run has a seed of its own."""
    pool: int = Field(32, ge=1)
    """Hosts that a training run searches on."""
    starts: tuple[Literal["wait", "schedule", "heuristic"], ...] = ("wait", "schedule", "heuristic")
    """Agents with whose lives the search begins, beside lives that are drawn."""
    generation: int = Field(24, ge=2)
    """Episodes of a generation (evolution); in a training run there are as many as environments."""
    again: float = Field(0.3, ge=0, lt=1)
    """Share of a generation in which the best lives play on hosts that are new to them (evolution)."""
    confirm: float = Field(0.33, ge=0, lt=1)
    """Share of the steps, the last ones, in which nothing new is tried; none of a training run's."""
    parents: int = Field(8, ge=2)
    """Best lives of which parents are drawn (evolution)."""
    tournament: int = Field(2, ge=1)
    """Lives drawn for a parent, the best of which it is (evolution)."""
    crossing: float = Field(0.6, ge=0, le=1)
    """Share of the children with two parents (evolution)."""
    fresh: float = Field(0.1, ge=0, le=1)
    """Share of the children that are drawn from nothing (evolution)."""
    shrinkage: float = Field(1.0, gt=0)
    """Episodes as which it counts that a life is like its parents (evolution)."""
    caution: float = Field(2.0, ge=0)
    """Standard errors that are taken off when the best life is chosen (evolution)."""
    hosts: int = Field(2, ge=1)
    """Hosts whose mean decides, the first of the seeds; with 1 the life is for that host alone (beam)."""
    width: int = Field(3, ge=1)
    """Lives that are kept, with the states that they have led to (beam)."""
    branches: int = Field(6, ge=1)
    """Modules that are tried in addition, in each of these states (beam)."""
    every: int = Field(2, ge=1)
    """Epochs from one branching to the next (beam)."""
