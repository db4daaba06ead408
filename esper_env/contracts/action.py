"""The factored action: eight heads, which of them an op reads, and what their values mean."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esper_env.contracts.lifecycle import Op

Ints = NDArray[np.int64]


class Head(IntEnum):
    """Position of each head in an action."""

    SLOT = 0
    BLUEPRINT = 1
    STYLE = 2
    TEMPO = 3
    ALPHA_TARGET = 4
    ALPHA_SPEED = 5
    ALPHA_CURVE = 6
    OP = 7


class Style(IntEnum):
    """How a module's output joins the host's, and the curve of its first ramp."""

    LINEAR_ADD = 0
    LINEAR_MULTIPLY = 1
    SIGMOID_ADD = 2
    GATED = 3


class Curve(IntEnum):
    """Shape of an alpha ramp."""

    LINEAR = 0
    COSINE = 1
    SIGMOID_GENTLE = 2
    SIGMOID = 3
    SIGMOID_SHARP = 4


TEMPOS = ("FAST", "STANDARD", "SLOW")
ALPHA_TARGETS = ("HALF", "MOST", "FULL")
SPEEDS = ("INSTANT", "FAST", "MEDIUM", "SLOW")
FIXED_SIZES = {
    Head.STYLE: len(Style),
    Head.TEMPO: len(TEMPOS),
    Head.ALPHA_TARGET: len(ALPHA_TARGETS),
    Head.ALPHA_SPEED: len(SPEEDS),
    Head.ALPHA_CURVE: len(Curve),
    Head.OP: len(Op),
}

HEADS_READ: dict[Op, tuple[Head, ...]] = {
    Op.WAIT: (),
    Op.GERMINATE: (Head.SLOT, Head.BLUEPRINT, Head.STYLE, Head.TEMPO, Head.ALPHA_TARGET),
    Op.SET_ALPHA_TARGET: (Head.SLOT, Head.ALPHA_TARGET, Head.ALPHA_SPEED, Head.ALPHA_CURVE),
    Op.PRUNE: (Head.SLOT, Head.ALPHA_SPEED, Head.ALPHA_CURVE),
    Op.FOSSILIZE: (Head.SLOT,),
    Op.ADVANCE: (Head.SLOT,),
}
"""Which heads each op reads, besides the op itself. The others change nothing; their canonical value is 0."""

READS: NDArray[np.bool_] = np.array([[head in (*HEADS_READ[op], Head.OP) for head in Head] for op in Op])
"""(op, head): the same table as an array."""
READS.setflags(write=False)


@dataclass(frozen=True)
class Actions:
    """A batch of decoded actions, one array of shape (env,) a head."""

    slot: Ints
    blueprint: Ints
    style: Ints
    tempo: Ints
    alpha_target: Ints
    alpha_speed: Ints
    alpha_curve: Ints
    op: Ints

    def only(self, envs: NDArray[np.bool_]) -> "Actions":
        """The same actions where `envs` is True, WAIT elsewhere."""
        return Actions(**{**vars(self), "op": np.where(envs, self.op, Op.WAIT.value)})

    def addressed(self, *ops: Op) -> tuple[Ints, Ints]:
        """Indices (env, slot) at which one of these ops is played."""
        env = np.flatnonzero(reduce(np.logical_or, [self.op == op.value for op in ops]))
        return env, self.slot[env]


@dataclass(frozen=True)
class ActionLayout:
    """Sizes of the heads for a given number of slots and blueprints, and the checks on what comes in."""

    num_slots: int
    num_blueprints: int

    @cached_property
    def nvec(self) -> Ints:
        """(head,): number of values of each head; read-only."""
        sizes = {Head.SLOT: self.num_slots, Head.BLUEPRINT: self.num_blueprints} | FIXED_SIZES
        nvec = np.array([sizes[head] for head in Head], dtype=np.int64)
        nvec.setflags(write=False)
        return nvec

    @cached_property
    def starts(self) -> Ints:
        """(head,): where each head begins in the flat mask of length `sum(nvec)`."""
        return np.cumsum(self.nvec) - self.nvec

    @cached_property
    def _parts(self) -> tuple[slice, ...]:
        return tuple(map(slice, self.starts.tolist(), (self.starts + self.nvec).tolist()))

    def part(self, head: Head) -> slice:
        """Where a head lies in the flat mask of length `sum(nvec)`."""
        return self._parts[head]

    def check(self, actions: ArrayLike, num_envs: int) -> Ints:
        """A batch of well-formed actions as int64, or an error; whether they are legal is the masks' matter.

        Raises:
            ValueError: wrong shape, a dtype that is not an integer, or a value outside its head.
        """
        array = np.asarray(actions)
        if array.dtype.kind not in "iu":
            raise ValueError(f"actions have dtype {array.dtype}: an integer dtype is required")
        if array.shape != (num_envs, len(Head)):
            raise ValueError(f"actions have shape {array.shape}: {(num_envs, len(Head))} is required")
        outside = (array < 0) | (array >= self.nvec)
        if outside.any():
            env, head = np.argwhere(outside)[0]
            name, size = Head(head).name.lower(), self.nvec[head]
            raise ValueError(
                f"action of environment {env}: {name} is {array[env, head]}, allowed are 0 to {size - 1}"
            )
        return array.astype(np.int64)

    def decode(self, array: Ints) -> Actions:
        """Name the columns of a checked batch of shape (env, 8)."""
        return Actions(*array.T)


def encode(op: Op, **heads: int) -> Ints:
    """One action of shape (8,): the op, the heads it reads by name, canonical 0 elsewhere.

    Raises:
        ValueError: a head that the op does not read, or that does not exist.
    """
    action = np.zeros(len(Head), dtype=np.int64)
    action[Head.OP] = op
    for name, value in heads.items():
        allowed = [head.name.lower() for head in HEADS_READ[Op(op)]]
        if name not in allowed:
            raise ValueError(f"{Op(op).name} does not read the head {name!r}, only {allowed}")
        action[Head[name.upper()]] = value
    return action
