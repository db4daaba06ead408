"""The life of a module in a slot: one table of transitions, read by masks, rules, docs and tests."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stage(IntEnum):
    """Condition of a slot."""

    text: str
    """What it means."""

    def __new__(cls, value: int, text: str = "") -> "Stage":
        """A member with its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    DORMANT = 0, "Empty."
    GERMINATED = 1, "A module is planted; it is not in the graph and does not train."
    TRAINING = 2, "The module learns in isolation: the host's values and gradients are untouched."
    BLENDING = 3, "The module is faded in or out by alpha."
    HOLDING = 4, "Alpha rests at 1; the module waits for a decision."
    FOSSILIZED = 5, "Committed: part of the network, still trained, never removed."
    PRUNED = 6, "The module was removed in this step."
    EMBARGOED = 7, "Cooling down: the slot is closed."
    RESETTING = 8, "Last step of the cool-down."


class Op(IntEnum):
    """What the agent does in a step."""

    WAIT = 0
    GERMINATE = 1
    SET_ALPHA_TARGET = 2
    PRUNE = 3
    FOSSILIZE = 4
    ADVANCE = 5


class Gate(IntEnum):
    """What must be shown before a transition. There is no G4."""

    G0 = 0
    G1 = 1
    G2 = 2
    G3 = 3
    G5 = 5


@dataclass(frozen=True)
class Transition:
    """One row of the table: in `source`, `op` leads to `target`."""

    source: Stage
    op: Op
    target: Stage
    gate: Gate | None = None
    """Gate that must have passed in the last observation."""
    needs_rest: bool = False
    """Alpha must not be on its way."""
    needs_age: bool = False
    """The module must be at least `min_prune_age` epochs old."""
    on_arrival: bool = False
    """`target` is reached when the ramp to 0 arrives (at once with speed INSTANT)."""


TRANSITIONS: tuple[Transition, ...] = (
    Transition(Stage.DORMANT, Op.GERMINATE, Stage.GERMINATED, gate=Gate.G0),
    Transition(Stage.GERMINATED, Op.ADVANCE, Stage.TRAINING, gate=Gate.G1),
    Transition(Stage.TRAINING, Op.ADVANCE, Stage.BLENDING, gate=Gate.G2),
    Transition(Stage.BLENDING, Op.ADVANCE, Stage.HOLDING, gate=Gate.G3),
    Transition(Stage.HOLDING, Op.FOSSILIZE, Stage.FOSSILIZED, gate=Gate.G5),
    Transition(Stage.BLENDING, Op.SET_ALPHA_TARGET, Stage.BLENDING, needs_rest=True),
    Transition(Stage.HOLDING, Op.SET_ALPHA_TARGET, Stage.BLENDING, needs_rest=True),
    Transition(Stage.GERMINATED, Op.PRUNE, Stage.PRUNED, needs_age=True),
    Transition(Stage.TRAINING, Op.PRUNE, Stage.PRUNED, needs_age=True),
    Transition(Stage.BLENDING, Op.PRUNE, Stage.PRUNED, needs_rest=True, needs_age=True, on_arrival=True),
    Transition(Stage.HOLDING, Op.PRUNE, Stage.PRUNED, needs_rest=True, needs_age=True, on_arrival=True),
)
"""Every transition an agent can cause. WAIT is always legal and changes nothing."""

COOL_DOWN: tuple[tuple[Stage, Stage], ...] = (
    (Stage.PRUNED, Stage.EMBARGOED),
    (Stage.EMBARGOED, Stage.RESETTING),
    (Stage.RESETTING, Stage.DORMANT),
)
"""Every transition a clock causes; the clocks are `LifecycleConfig`'s."""

ILLEGAL = -1


def _next_stage() -> NDArray[np.int8]:
    table = np.full((len(Stage), len(Op)), ILLEGAL, dtype=np.int8)
    table[:, Op.WAIT] = list(Stage)
    for row in TRANSITIONS:
        table[row.source, row.op] = row.target
    table.setflags(write=False)
    return table


NEXT: NDArray[np.int8] = _next_stage()
"""(stage, op): the stage an op leads to, or `ILLEGAL`."""

HAS_MODULE = np.isin(
    np.arange(len(Stage)), [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED]
)
"""(stage,): whether a module is present."""

IS_BLENDED = np.isin(np.arange(len(Stage)), [Stage.BLENDING, Stage.HOLDING])
"""(stage,): whether a module influences the host and can still be removed."""
