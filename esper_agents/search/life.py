"""A life: what is planted where and when, how it is blended in, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_agents.baselines.moves import CurveName, SpeedName, StyleName, TargetName, TempoName
from esper_env import Curve, Head, HostFacts, Op, Style

TRAIN = 3
"""Least epochs in TRAINING that the gate asks for unless an environment says otherwise."""


class Planting(BaseModel):
    """One module's life. Times are the earliest ones: what the masks don't allow yet waits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    slot: int = Field(ge=0)
    """Where."""
    blueprint: str
    """What, by name."""
    epoch: int = Field(0, ge=0)
    """When."""
    style: StyleName = "LINEAR_ADD"
    """How it joins the host."""
    tempo: TempoName = "FAST"
    """How long its blending takes."""
    alpha_target: TargetName = "FULL"
    """Where alpha goes first. From below 1 it goes on to 1."""
    train: int = Field(TRAIN, ge=0)
    """Epochs in TRAINING."""
    rest: int = Field(0, ge=0)
    """Epochs for which alpha stays below 1 on the way."""
    speed: SpeedName = "FAST"
    """How long it takes from there to 1."""
    curve: CurveName = "LINEAR"
    """The shape of that second ramp."""
    commit: int | None = Field(0, ge=0)
    """Epochs in HOLDING before it is fossilized; None for never: it is lost at the harvest."""
    remove: int | None = Field(None, ge=1)
    """Epochs after planting at which it is pruned at once, if it is not committed by then; None for never."""

    def canonical(self) -> Self:
        """The same life; what it does not read is as by default."""
        if self.alpha_target != "FULL":
            return self
        return self.model_copy(update={"rest": 0, "speed": "FAST", "curve": "LINEAR"})


class Life(BaseModel):
    """The lives of all modules of an episode; none: WAIT."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    plantings: tuple[Planting, ...] = ()
    """Where two are due at once the earlier one comes first. A slot may be planted again once it is empty."""

    @model_validator(mode="after")
    def _room(self) -> Self:
        """A module that stays leaves no room for another."""
        taken: set[int] = set()
        for planting in self.plantings:
            if planting.slot in taken:
                raise ValueError(f"slot {planting.slot} is planted again, but what was there is not removed")
            if planting.remove is None:
                taken.add(planting.slot)
        return self

    @classmethod
    def of(cls, plantings: Sequence[Planting]) -> Self:
        """A life in its canonical form, in the order of the epochs, without what has no room."""
        kept: list[Planting] = []
        taken: set[int] = set()
        for planting in sorted(plantings, key=lambda each: (each.epoch, each.slot)):
            if planting.slot not in taken:
                kept.append(planting.canonical())
            if planting.remove is None:
                taken.add(planting.slot)
        return cls(plantings=tuple(kept))

    def check(self, facts: HostFacts) -> None:
        """Refuse what no environment of this host could ever do.

        Raises:
            ValueError: a slot or blueprint that does not exist, or a blueprint that does not fit its slot.
        """
        for number, planting in enumerate(self.plantings):
            where = f"plantings.{number}"
            if planting.slot >= facts.num_slots:
                raise ValueError(f"{where}.slot={planting.slot}: there are 0 to {facts.num_slots - 1}")
            fitting = [facts.blueprints[kind] for kind in np.flatnonzero(facts.fits[planting.slot])]
            if planting.blueprint not in fitting:
                raise ValueError(
                    f"{where}.blueprint={planting.blueprint!r} does not fit slot {planting.slot} "
                    f"({facts.places[planting.slot].name}), only {fitting} do"
                )

    def __str__(self) -> str:
        """For people."""
        words = [f"{each.blueprint} in {each.slot} at {each.epoch}" for each in self.plantings]
        return ", ".join(words) or "nothing"


@dataclass
class _Draft:
    """What was seen of a module's life so far."""

    planting: dict[str, Any]
    advances: list[int] = field(default_factory=list)
    """Steps in which it advanced."""
    ramp: int = 0
    """Epochs of its first ramp."""


def read_life(
    actions: NDArray[np.int64], valid: NDArray[np.bool_], facts: HostFacts, tempo_epochs: Sequence[int]
) -> Life:
    """The life that somebody's actions led.

    What a life has no words for is left out: alpha sent anywhere but to 1, or a second time; and a module
    that the governor removed counts as not replaced.

    Args:
        actions: (step, 8).
        valid: (step,): whether each was legal.
        facts: Of the host.
        tempo_epochs: Epochs of the first ramp, by the value of the head tempo.
    """
    drafts: list[_Draft] = []
    open_: dict[int, _Draft] = {}
    for step in np.flatnonzero(valid).tolist():
        action = actions[step]
        op, slot = Op(int(action[Head.OP])), int(action[Head.SLOT])
        if op == Op.GERMINATE:
            open_[slot] = _Draft(_planted(action, step, facts), ramp=tempo_epochs[int(action[Head.TEMPO])])
            drafts.append(open_[slot])
        elif op != Op.WAIT and slot in open_:
            _note(open_[slot], op, action, step)
    return Life.of([Planting(**draft.planting) for draft in drafts])


def _planted(action: NDArray[np.int64], step: int, facts: HostFacts) -> dict[str, Any]:
    return {
        "slot": int(action[Head.SLOT]),
        "blueprint": facts.blueprints[int(action[Head.BLUEPRINT])],
        "epoch": step,
        "style": Style(int(action[Head.STYLE])).name,
        "tempo": get_args(TempoName)[int(action[Head.TEMPO])],
        "alpha_target": get_args(TargetName)[int(action[Head.ALPHA_TARGET])],
        "commit": None,
    }


def _note(draft: _Draft, op: Op, action: NDArray[np.int64], step: int) -> None:
    """An observation shows 0 epochs in a stage after the step that enters it."""
    planting, advances = draft.planting, draft.advances
    if op == Op.ADVANCE:
        advances.append(step)
        if len(advances) == 2:
            planting["train"] = step - advances[0] - 1
    elif op == Op.FOSSILIZE:
        planting["commit"] = step - advances[2] - 1 if len(advances) == 3 else 0
    elif op == Op.PRUNE:
        planting["remove"] = step - planting["epoch"]
    elif op == Op.SET_ALPHA_TARGET and len(advances) == 2 and "rest" not in planting:
        planting["rest"] = max(0, step - advances[1] - draft.ramp)
        planting["speed"] = get_args(SpeedName)[int(action[Head.ALPHA_SPEED])]
        planting["curve"] = Curve(int(action[Head.ALPHA_CURVE])).name
