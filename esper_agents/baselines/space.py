"""The schedules that a search draws from."""

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from esper_agents.baselines.moves import CurveName, SpeedName, StyleName, TargetName, TempoName
from esper_agents.baselines.schedule import ScheduleConfig
from esper_env import HostFacts

T = TypeVar("T")
DRAWS = 20
"""Draws for every schedule that is wanted, before a space counts as exhausted."""


class SpaceConfig(BaseModel):
    """What schedules are drawn from, each value as likely as another."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    blueprints: tuple[str, ...] | None = Field(None, min_length=1)
    """Names that are tried where they fit; None for all."""
    mixed: float = Field(0.5, ge=0, le=1)
    """Share of the draws in which every slot gets a blueprint of its own instead of the same."""
    latest_start: float = Field(0.5, ge=0, le=1)
    """Latest epoch from which the first slot is planted, as a share of the horizon."""
    spacing: int = Field(5, ge=0)
    """Most epochs between one slot and the next."""
    styles: tuple[StyleName, ...] = Field(get_args(StyleName), min_length=1)
    """Ways to join the host."""
    tempos: tuple[TempoName, ...] = Field(get_args(TempoName), min_length=1)
    """Lengths of the first ramp."""
    alpha_targets: tuple[TargetName, ...] = Field(get_args(TargetName), min_length=1)
    """Where it leads."""
    rest: int = Field(5, ge=0)
    """Most epochs that alpha stays below 1 in between."""
    speeds: tuple[SpeedName, ...] = Field(get_args(SpeedName), min_length=1)
    """Lengths of the second ramp, where there is one."""
    curves: tuple[CurveName, ...] = Field(get_args(CurveName), min_length=1)
    """Its shapes."""


def draw_schedules(
    space: SpaceConfig, facts: HostFacts, horizon: int, count: int, seed: int
) -> list[ScheduleConfig]:
    """So many different schedules, or as many as the space is found to have.

    Args:
        space: What they are drawn from.
        facts: Slots of the host, and the blueprints that fit there.
        horizon: Epochs of an episode.
        count: How many.
        seed: Of the draws.

    Raises:
        ValueError: blueprints of which some do not exist, or none fits the host.
    """
    rng, found = np.random.default_rng(seed), dict[ScheduleConfig, None]()
    choices = _choices(space, facts)
    for _ in range(DRAWS * count):
        if len(found) == count:
            break
        found[_draw(space, choices, horizon, rng)] = None
    return list(found)


def _choices(space: SpaceConfig, facts: HostFacts) -> list[list[str]]:
    """The blueprints that are tried in each slot."""
    unknown = sorted(set(space.blueprints or ()) - set(facts.blueprints[1:]))
    if unknown:
        known = list(facts.blueprints[1:])
        raise ValueError(f"space.blueprints: {unknown} are not known, only {known} are")
    wanted = space.blueprints or facts.blueprints[1:]
    fitting = [
        [name for name, fits in zip(facts.blueprints, row, strict=True) if fits and name in wanted]
        for row in facts.fits
    ]
    if not any(fitting):
        raise ValueError(f"space.blueprints={list(wanted)}: none of them fits the host in any slot")
    return fitting


def _draw(
    space: SpaceConfig, choices: Sequence[Sequence[str]], horizon: int, rng: np.random.Generator
) -> ScheduleConfig:
    free = [slot for slot, names in enumerate(choices) if names]
    slots = tuple(rng.permutation(free)[: rng.integers(len(free)) + 1].tolist())
    target = _one(space.alpha_targets, rng)
    plan: dict[str, Any] = {
        "slots": slots,
        **_draw_blueprints(space, [choices[slot] for slot in slots], rng),
        "start": int(rng.integers(int(space.latest_start * horizon) + 1)),
        "spacing": int(rng.integers(space.spacing + 1)) if len(slots) > 1 else 0,
        "style": _one(space.styles, rng),
        "tempo": _one(space.tempos, rng),
        "alpha_target": target,
    }
    if target != "FULL":
        plan["rest"] = int(rng.integers(space.rest + 1))
        plan |= {"speed": _one(space.speeds, rng), "curve": _one(space.curves, rng)}
    return ScheduleConfig(**plan)


def _draw_blueprints(
    space: SpaceConfig, choices: Sequence[Sequence[str]], rng: np.random.Generator
) -> dict[str, Any]:
    """The same in all slots, where one fits all of them and it so happens; else one for each."""
    shared = [name for name in choices[0] if all(name in names for names in choices)]
    if shared and rng.random() >= space.mixed:
        return {"blueprint": _one(shared, rng)}
    own = tuple(_one(names, rng) for names in choices)
    return {"blueprint": own[0]} if len(set(own)) == 1 else {"blueprints": own}


def _one(values: Sequence[T], rng: np.random.Generator) -> T:
    return values[int(rng.integers(len(values)))]
