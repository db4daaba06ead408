"""Scripted agents for the tests of the laws: a function from what one environment shows to an action."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_env import HEADS_READ, Curve, EsperVectorEnv, Head, Op, Stage, Style, encode
from esper_env.contracts.lifecycle import HAS_MODULE
from esper_env.contracts.state import SlotState

Action = NDArray[np.int64]
Floats = NDArray[np.float64]
WAIT = encode(Op.WAIT)
SLOTS = (0, 1, 2)
FULL = 2
"""Index of alpha 1.0 in the alpha_target head."""


@dataclass(frozen=True)
class View:
    """What a scripted agent sees of one environment; arrays have shape (slot,) unless they say otherwise."""

    step: int
    """Steps played in this episode."""
    left: int
    """Steps to play, this one included."""
    stage: NDArray[np.int8]
    age: NDArray[np.int64]
    planting: NDArray[np.int64]
    contribution: Floats
    ops: NDArray[np.int8]
    """(op, slot)."""
    fits: NDArray[np.int8]
    """(slot, blueprint)."""

    def can(self, op: Op, slot: int) -> bool:
        """Whether the op is legal there."""
        return bool(self.ops[op, slot])


Agent = Callable[[View], Action]


def wait(view: View) -> Action:
    return WAIT


def first(moves: Iterator[Action]) -> Action:
    """The first move there is, else WAIT."""
    return next(moves, WAIT)


def grower(
    blueprint: int,
    slots: Sequence[int] = SLOTS,
    *,
    start: int = 0,
    style: Style = Style.LINEAR_ADD,
    tempo: int = 0,
    commit_at: int | None = 0,
) -> Agent:
    """Plants in each slot once, as early as it may from step `start` on, and advances as early as it may.

    Args:
        blueprint: What is planted.
        slots: Where.
        start: First step in which it plants.
        style: How modules are composed.
        tempo: Index of how long the first ramp takes.
        commit_at: First step in which it fossilizes; None for never.
    """

    def moves(view: View) -> Iterator[Action]:
        for slot in slots:
            if view.step >= start and not view.planting[slot] and view.fits[slot, blueprint]:
                heads = {"slot": slot, "blueprint": blueprint, "style": style}
                yield encode(Op.GERMINATE, tempo=tempo, alpha_target=FULL, **heads)
        for slot in slots:
            if view.can(Op.ADVANCE, slot):
                yield encode(Op.ADVANCE, slot=slot)
        for slot in slots:
            if commit_at is not None and view.step >= commit_at and view.can(Op.FOSSILIZE, slot):
                yield encode(Op.FOSSILIZE, slot=slot)

    return lambda view: first(moves(view))


def churner(
    blueprint: int,
    cadence: int,
    slots: Sequence[int] = SLOTS,
    *,
    reach: Stage = Stage.HOLDING,
    speed: int = 0,
    style: Style = Style.LINEAR_ADD,
) -> Agent:
    """Prunes every module `cadence` steps after it was planted, or as soon then as it may; plants anew.

    Until then modules advance as early as they may, as far as the stage `reach`. Where both are legal in the
    same step, in several slots, the lowest slot has its turn first, and pruning comes before all else.
    """

    def moves(view: View) -> Iterator[Action]:
        for slot in slots:
            # The age is 0 in the observation of the step that planted.
            if view.age[slot] + 1 >= cadence and view.can(Op.PRUNE, slot):
                yield encode(Op.PRUNE, slot=slot, alpha_speed=speed)
        for slot in slots:
            if view.fits[slot, blueprint]:
                heads = {"slot": slot, "blueprint": blueprint, "style": style}
                yield encode(Op.GERMINATE, tempo=0, alpha_target=FULL, **heads)
        for slot in slots:
            if view.stage[slot] < reach and view.can(Op.ADVANCE, slot):
                yield encode(Op.ADVANCE, slot=slot)

    return lambda view: first(moves(view))


def saboteur(blueprint: int, count: int = 3, slots: Sequence[int] = SLOTS) -> Agent:
    """Plants one module at a time, `count` in all, and advances it until something breaks."""

    def moves(view: View) -> Iterator[Action]:
        free = not HAS_MODULE[view.stage].any() and view.planting.sum() < count
        for slot in slots:
            if view.can(Op.ADVANCE, slot):
                yield encode(Op.ADVANCE, slot=slot)
            if free and view.fits[slot, blueprint]:
                yield encode(Op.GERMINATE, slot=slot, blueprint=blueprint, tempo=0, alpha_target=FULL)

    return lambda view: first(moves(view))


def hungry(blueprint: int, slots: Sequence[int] = SLOTS, *, commit_at: int | None = None) -> Agent:
    """Lives for the largest measured contribution.

    It plants everywhere and holds every module; from `commit_at` on it fossilizes those, the largest
    contribution first, and before that it prunes a held module without one and plants anew.
    """
    grow = grower(blueprint, slots, commit_at=None)

    def moves(view: View) -> Iterator[Action]:
        held = sorted(slots, key=lambda slot: -np.nan_to_num(view.contribution[slot], nan=-np.inf))
        for slot in held:
            if commit_at is not None and view.step >= commit_at and view.can(Op.FOSSILIZE, slot):
                yield encode(Op.FOSSILIZE, slot=slot)
        for slot in reversed(held):
            if (
                view.stage[slot] == Stage.HOLDING
                and view.contribution[slot] <= 0
                and view.can(Op.PRUNE, slot)
            ):
                yield encode(Op.PRUNE, slot=slot)
        for slot in slots:
            if view.planting[slot] and view.fits[slot, blueprint]:
                yield encode(Op.GERMINATE, slot=slot, blueprint=blueprint, tempo=0, alpha_target=FULL)
        yield grow(view)

    return lambda view: first(moves(view))


def wanderer(seed: int, waiting: float = 0.4) -> Agent:
    """Plays random legal ops, and waits with this probability at least."""
    rng = np.random.default_rng(seed)

    def act(view: View) -> Action:
        legal = np.argwhere(view.ops[Op.WAIT + 1 :])
        if rng.random() < waiting or not len(legal):
            return WAIT
        op, slot = rng.choice(legal) + np.array([Op.WAIT + 1, 0])
        sizes = {Head.ALPHA_TARGET: 3, Head.ALPHA_SPEED: 4, Head.STYLE: len(Style)}
        sizes |= {Head.TEMPO: 3, Head.ALPHA_CURVE: len(Curve)}
        reads = [head for head in sizes if head in HEADS_READ[Op(op)]]
        heads = {head.name.lower(): rng.integers(sizes[head]) for head in reads}
        if op == Op.GERMINATE:
            heads["blueprint"] = rng.choice(np.flatnonzero(view.fits[slot]))
        return encode(Op(op), slot=slot, **heads)

    return act


def views(env: EsperVectorEnv, info: Mapping[str, Any], step: int) -> Iterator[View]:
    """What every environment shows."""
    slots: SlotState = env._state.slots
    for row in range(env.num_envs):
        yield View(
            step=step,
            left=env.config.horizon - step,
            stage=slots.stage[row],
            age=slots.age[row],
            planting=slots.planting[row],
            contribution=slots.contribution[row],
            ops=info["op_slot_mask"][row],
            fits=info["blueprint_slot_mask"][row],
        )
