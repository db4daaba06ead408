"""Which networks can be computed together: environments in an order, and in it groups of equal modules."""

from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import HAS_MODULE, Stage
from esper_env.contracts.state import Ramp, SlotState
from esper_env.engine.planted import Planted

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Joint(IntEnum):
    """How a module that is in the graph takes part in a training step."""

    ISOLATED = 0
    """It learns from the gradient of a value that it doesn't change."""
    BLENDED = 1
    """It is part of the value."""
    IDLE = 2
    """Its share is 0: it is only looked at."""


@dataclass(frozen=True)
class Group:
    """Environments whose slot holds the same kind of module in the same state."""

    slot: int
    blueprint: int
    joint: Joint
    gated: bool
    """It has a gate that counts."""
    frozen: bool
    """It doesn't learn."""
    at: tuple[int, ...]
    """Positions in the list of environments that was asked about."""


@dataclass
class Modules:
    """What the slots of every environment hold, (env, slot) each."""

    blueprint: Ints
    """Index in the catalogue, -1 where there is none."""
    planting: Ints
    """Which of the slot's modules it is, counted from 1."""
    style: Ints
    stage: Ints
    alpha: NDArray[np.float64]
    frozen: Bools
    has_gate: Bools
    probe_passed: Bools

    @classmethod
    def none(cls, num_envs: int, num_slots: int) -> "Modules":
        """No module anywhere."""

        def ints() -> Ints:
            return np.zeros((num_envs, num_slots), dtype=np.int64)

        def bools() -> Bools:
            return np.zeros((num_envs, num_slots), dtype=bool)

        alpha = np.zeros((num_envs, num_slots))
        return cls(ints() - 1, ints(), ints(), ints(), alpha, bools(), bools(), bools())

    @classmethod
    def said_by(cls, slots: SlotState) -> "Modules":
        """What there would be, if every module could be built and had its gate from blending on."""
        here = HAS_MODULE[slots.stage]
        blueprint, alpha = np.where(here, slots.blueprint, -1), np.where(here, slots.alpha, 0.0)
        has_gate = here & (slots.style == Style.GATED) & (slots.stage > Stage.TRAINING)
        frozen = here & (slots.ramp == Ramp.DOWN)
        style, stage = (each.astype(np.int64) for each in (slots.style, slots.stage))
        return cls(blueprint, slots.planting, style, stage, alpha, frozen, has_gate, here)

    def remove(self, where: Bools) -> None:
        """Empty these slots, (env, slot)."""
        self.blueprint[where] = -1
        self.alpha[where] = 0
        for flags in (self.frozen, self.has_gate, self.probe_passed):
            flags[where] = False

    def adopt(self, env: int, slot: int, blueprint: int, planted: Planted) -> None:
        """Hold what the reference engine has in a slot."""
        graft, at = planted.graft, (env, slot)
        self.blueprint[at], self.planting[at], self.style[at] = blueprint, planted.planting, graft.style
        self.stage[at], self.alpha[at], self.frozen[at] = planted.stage, graft.alpha, planted.frozen
        self.has_gate[at], self.probe_passed[at] = graft.gate is not None, planted.probe_passed

    def gone(self, slots: SlotState, playing: Bools) -> Bools:
        """(env, slot): what is here and in the slots no more, or another one."""
        here = self.blueprint >= 0
        return here & playing[:, None] & (~HAS_MODULE[slots.stage] | (self.planting != slots.planting))

    def new(self, slots: SlotState, playing: Bools) -> Bools:
        """(env, slot): what is in the slots and not yet here."""
        return (self.blueprint < 0) & playing[:, None] & HAS_MODULE[slots.stage]

    def follow(self, slots: SlotState, playing: Bools) -> None:
        """Take over stage, alpha and freezing."""
        here = (self.blueprint >= 0) & playing[:, None]
        self.stage[here] = slots.stage[here]
        self.alpha[here] = slots.alpha[here]
        self.frozen[here] = (slots.ramp == Ramp.DOWN)[here]

    @property
    def here(self) -> Bools:
        """(env, slot): there is a module."""
        return self.blueprint >= 0

    @property
    def in_graph(self) -> Bools:
        """(env, slot): it runs."""
        return self.here & (self.stage >= Stage.TRAINING)

    @property
    def isolated(self) -> Bools:
        """(env, slot): the host doesn't feel it."""
        return self.here & (self.stage <= Stage.TRAINING)

    @property
    def active(self) -> Bools:
        """(env, slot): it is part of the value."""
        return self.in_graph & ~self.isolated & (self.alpha != 0)

    @property
    def fossil(self) -> Bools:
        """(env, slot): it is committed."""
        return self.here & (self.stage == Stage.FOSSILIZED)

    @property
    def live(self) -> Bools:
        """(env, slot): it influences the host and can still be removed."""
        return self.here & (self.alpha > 0) & (self.stage != Stage.FOSSILIZED)

    @property
    def gated(self) -> Bools:
        """(env, slot): it has a gate that counts."""
        return self.has_gate & (self.style == Style.GATED)

    @property
    def _codes(self) -> Ints:
        """(env, slot): equal where modules are computed together, in the order of groups; -1 for nothing."""
        joint = np.where(self.isolated, Joint.ISOLATED, np.where(self.alpha != 0, Joint.BLENDED, Joint.IDLE))
        code = (joint * 2 + (self.gated & ~self.isolated)) * 2 + self.frozen
        return np.where(self.in_graph, code * (1 + self.blueprint.max(initial=0)) + self.blueprint, -1)

    def in_order(self, envs: Ints) -> Ints:
        """These environments, those that have more in common next to each other."""
        codes = self._codes[envs]
        return envs[np.lexsort((envs, *codes.T[::-1]))]

    def groups(self, envs: Ints, slot: int, among: Bools | None = None) -> list[Group]:
        """The groups in a slot of these environments, isolated ones first, idle ones last.

        Args:
            envs: (row,); one may be there several times.
            slot: which.
            among: (row,): which rows to look at; None for all.
        """
        codes = self._codes[envs, slot]
        looked_at = codes >= 0 if among is None else among & (codes >= 0)
        positions = [at for at in np.argsort(codes, kind="stable").tolist() if looked_at[at]]
        runs = [tuple(same) for _, same in groupby(positions, key=codes.__getitem__)]
        return [self._group(int(envs[at[0]]), slot, at) for at in runs]

    def _group(self, env: int, slot: int, at: tuple[int, ...]) -> Group:
        isolated, gated = bool(self.isolated[env, slot]), bool(self.gated[env, slot])
        joint = Joint.ISOLATED if isolated else Joint.BLENDED if self.alpha[env, slot] else Joint.IDLE
        blueprint, frozen = int(self.blueprint[env, slot]), bool(self.frozen[env, slot])
        return Group(slot, blueprint, joint, gated and not isolated, frozen, at)
