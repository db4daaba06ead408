"""The agent that follows a plan: a blueprint in each slot, planted at given epochs and committed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_agents.agent import Info
from esper_agents.baselines.moves import (
    WAIT,
    Action,
    CurveName,
    SpeedName,
    StyleName,
    TargetName,
    TempoName,
    germinate,
    raise_alpha,
)
from esper_agents.baselines.preference import preferred
from esper_env import ActionLayout, EsperVectorEnv, Head, HostFacts, Op, encode

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class ScheduleConfig(BaseModel):
    """What is planted where and when."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    blueprint: str | None = None
    """Name of the blueprint planted in every chosen slot; None for conv_heavy where it fits, or mlp."""
    blueprints: tuple[str, ...] | None = None
    """One for each chosen slot; None for `blueprint` in all."""
    slots: tuple[int, ...] | None = None
    """Indices of the slots, in the order of planting; None for all."""
    epochs: tuple[int, ...] | None = None
    """Epoch from which each chosen slot may be planted; None for `start` and `spacing`."""
    start: int = Field(0, ge=0)
    """Epoch from which the first slot may be planted."""
    spacing: int = Field(0, ge=0)
    """Epochs between one slot and the next."""
    style: StyleName = "LINEAR_ADD"
    """How a module joins the host."""
    tempo: TempoName = "FAST"
    """How long its blending takes."""
    alpha_target: TargetName = "FULL"
    """Where alpha goes first: 0.5, 0.7 or 1. From below 1 it goes on to 1 later."""
    rest: int = Field(0, ge=0)
    """Epochs for which it stays below 1 on the way."""
    speed: SpeedName = "FAST"
    """How long it takes from there to 1: 0, 3, 5 or 8 epochs."""
    curve: CurveName = "LINEAR"
    """The shape of that second ramp."""
    fossilize: bool = True
    """Whether modules are committed; what is not committed is lost at the end of the episode."""

    @model_validator(mode="after")
    def _one_entry_a_slot(self) -> Self:
        if self.slots is not None and len(set(self.slots)) < len(self.slots):
            raise ValueError(f"schedule.slots={list(self.slots)} names a slot twice")
        for name in ("epochs", "blueprints"):
            entries = getattr(self, name)
            if entries is not None and self.slots is not None and len(entries) != len(self.slots):
                raise ValueError(f"schedule.{name} has {len(entries)} entries for {len(self.slots)} slots")
        return self


@dataclass(frozen=True)
class Progress:
    """What a schedule remembers, each of shape (env, slot)."""

    planted: Bools
    """A module was planted, and not pruned since by whoever plays."""
    rested: Ints
    """Steps in which alpha rested below 1."""
    raised: Bools
    """Alpha was sent to 1, last."""


class ScheduleAgent:
    """Every step the first legal op of: plant what is due, advance, raise alpha, fossilize. See `Agent`.

    A slot is planted once: a module that the rules removed is not replaced. What another agent pruned is
    planted again, what it left at another alpha is raised: the plan can be asked for advice anywhere.

    Args:
        config: The plan.
        layout: Sizes of the heads.
        facts: Names of the blueprints, and where they fit.
        epoch: Where the observation shows the share of the horizon that is over.
        horizon: Epochs of an episode.

    Raises:
        ValueError: a blueprint or slot that does not exist, a blueprint that does not fit its slot, or
            another number of entries than of slots.
    """

    name = "schedule"

    def __init__(
        self,
        config: ScheduleConfig,
        layout: ActionLayout,
        facts: HostFacts,
        epoch: slice,
        horizon: int,
    ) -> None:
        self.config, self._layout, self._epoch, self._horizon = config, layout, epoch, horizon
        slots = _slots(config, layout.num_slots)
        self._due = _due(config, slots)
        self._blueprint = _planned(config, slots, facts)

    @classmethod
    def of(cls, config: ScheduleConfig, env: EsperVectorEnv) -> Self:
        """The agent for an environment."""
        return cls(config, env.layout, env.facts, env.features["epoch"], env.config.horizon)

    def begin(self, seeds: Sequence[int]) -> Progress:
        """See `Agent`."""
        shape = len(seeds), self._layout.num_slots
        none = np.zeros(shape, dtype=bool)
        return Progress(none, np.zeros(shape, dtype=np.int64), none)

    def act(self, obs: NDArray[np.float32], info: Info, memory: Progress) -> tuple[Ints, Progress]:
        """See `Agent`."""
        actions = self.advise(obs, info, memory)
        return actions, self.follow(info, memory, actions)

    def advise(self, obs: NDArray[np.float32], info: Info, memory: Progress) -> Ints:
        """What the plan has next, int64 (env, 8), whoever played before."""
        actions = np.zeros((len(obs), len(Head)), dtype=np.int64)
        epochs = np.rint(obs[:, self._epoch.start] * self._horizon).astype(int)
        tired = _rests(info, memory) & (memory.rested >= self.config.rest)
        for env, epoch in enumerate(epochs):
            ready = self._ready(info, env, epoch, memory.planted[env])
            actions[env] = self._choose(info["op_slot_mask"][env], ready, tired[env])
        return actions

    def follow(self, info: Info, memory: Progress, actions: Ints) -> Progress:
        """What is remembered after these actions, which may be another agent's."""
        rests = _rests(info, memory)
        germinated, sent, pruned = (
            _addressed(actions, op, rests.shape) for op in (Op.GERMINATE, Op.SET_ALPHA_TARGET, Op.PRUNE)
        )
        full = actions[:, Head.ALPHA_TARGET, None] == get_args(TargetName).index("FULL")
        return Progress(
            planted=memory.planted & ~pruned | germinated,
            rested=memory.rested + rests,
            raised=np.where(germinated | sent, full, memory.raised),
        )

    def _ready(self, info: Info, env: int, epoch: int, planted: Bools) -> list[int]:
        """Slots that are due and can take their blueprint, in the order of the plan."""
        legal = info["blueprint_slot_mask"][env] == 1
        due = [slot for slot, from_ in self._due.items() if from_ <= epoch and not planted[slot]]
        return [slot for slot in due if legal[slot, self._blueprint[slot]]]

    def _choose(self, op_slot: NDArray[np.int8], ready: Sequence[int], tired: Bools) -> Action:
        config = self.config
        if ready:
            kind = self._blueprint[ready[0]]
            return germinate(ready[0], kind, config.style, config.tempo, config.alpha_target)
        for slot in self._due:
            if op_slot[Op.ADVANCE, slot]:
                return encode(Op.ADVANCE, slot=slot)
        for slot in self._due:
            if tired[slot]:
                return raise_alpha(slot, config.speed, config.curve)
        for slot in self._due:
            if op_slot[Op.FOSSILIZE, slot] and config.fossilize:
                return encode(Op.FOSSILIZE, slot=slot)
        return WAIT


def _rests(info: Info, memory: Progress) -> Bools:
    """(env, slot): alpha is below 1, and was not sent there yet."""
    return (info["op_slot_mask"][:, Op.SET_ALPHA_TARGET] == 1) & ~memory.raised


def _addressed(actions: Ints, op: Op, shape: tuple[int, ...]) -> Bools:
    """(env, slot): where an op is played."""
    where = np.zeros(shape, dtype=bool)
    envs = np.flatnonzero(actions[:, Head.OP] == op)
    where[envs, actions[envs, Head.SLOT]] = True
    return where


def _slots(config: ScheduleConfig, num_slots: int) -> tuple[int, ...]:
    """In the order of planting."""
    slots = tuple(range(num_slots)) if config.slots is None else config.slots
    unknown = [slot for slot in slots if not 0 <= slot < num_slots]
    if unknown:
        raise ValueError(f"schedule.slots={list(slots)}: {unknown} do not exist, 0 to {num_slots - 1} do")
    return slots


def _due(config: ScheduleConfig, slots: Sequence[int]) -> Mapping[int, int]:
    """Slot -> epoch from which it may be planted, in the order of the plan."""
    epochs = config.epochs or tuple(config.start + config.spacing * i for i in range(len(slots)))
    if len(epochs) != len(slots):
        raise ValueError(f"schedule.epochs={list(epochs)} has {len(epochs)} entries for {len(slots)} slots")
    return dict(zip(slots, epochs, strict=True))


def _planned(config: ScheduleConfig, slots: Sequence[int], facts: HostFacts) -> Mapping[int, int]:
    """Slot -> index of the blueprint that is planted there."""
    name, names = _named(config, slots, facts)
    known = facts.blueprints
    unknown = sorted(set(names) - set(known[1:]))
    if unknown:
        raise ValueError(f"schedule.{name}: {unknown} are not known, only {list(known[1:])} are")
    if len(names) != len(slots):
        raise ValueError(f"schedule.{name}={list(names)} has {len(names)} entries for {len(slots)} slots")
    planned = {slot: known.index(blueprint) for slot, blueprint in zip(slots, names, strict=True)}
    for slot, blueprint in planned.items():
        if not facts.fits[slot, blueprint]:
            fitting = [known[index] for index in np.flatnonzero(facts.fits[slot])]
            where = f"slot {slot} ({facts.places[slot].name})"
            raise ValueError(f"schedule.{name}: {known[blueprint]!r} does not fit {where}, only {fitting} do")
    return planned


def _named(config: ScheduleConfig, slots: Sequence[int], facts: HostFacts) -> tuple[str, tuple[str, ...]]:
    """The field that decides, and a name for each slot."""
    if config.blueprints is not None:
        return "blueprints", config.blueprints
    if config.blueprint is not None:
        return "blueprint", (config.blueprint,) * len(slots)
    return "blueprint", tuple(preferred(facts, slot) for slot in slots)
