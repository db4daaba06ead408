"""The agent that follows a plan: one blueprint in each slot, planted at given epochs and committed."""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_agents.agent import Info
from esper_env import ActionLayout, EsperVectorEnv, Head, Op, Style, encode

Bools = NDArray[np.bool_]
FULL_ALPHA = 2
"""Index of alpha 1.0 in the alpha_target head."""


class ScheduleConfig(BaseModel):
    """What is planted where and when."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    blueprint: str = "conv_heavy"
    """Name of the blueprint planted in every chosen slot."""
    slots: tuple[int, ...] | None = None
    """Indices of the slots, in the order of planting; None for all."""
    epochs: tuple[int, ...] | None = None
    """Epoch from which each chosen slot may be planted; None for `start` and `spacing`."""
    start: int = Field(0, ge=0)
    """Epoch from which the first slot may be planted."""
    spacing: int = Field(0, ge=0)
    """Epochs between one slot and the next."""
    style: Literal["LINEAR_ADD", "LINEAR_MULTIPLY", "SIGMOID_ADD", "GATED"] = "LINEAR_ADD"
    """How a module joins the host."""
    tempo: Literal["FAST", "STANDARD", "SLOW"] = "FAST"
    """How long its blending takes."""
    fossilize: bool = True
    """Whether modules are committed; what is not committed is lost at the end of the episode."""

    @model_validator(mode="after")
    def _one_epoch_a_slot(self) -> Self:
        if self.epochs is not None and self.slots is not None and len(self.epochs) != len(self.slots):
            raise ValueError(f"schedule.epochs has {len(self.epochs)} entries for {len(self.slots)} slots")
        return self


class ScheduleAgent:
    """Every step the first legal op of: plant what is due, advance, fossilize; else WAIT. See `Agent`.

    A slot is planted once: a module that the rules removed is not replaced. The memory is a bool array
    (env, slot) of what was planted.

    Args:
        config: The plan.
        layout: Sizes of the heads.
        blueprints: Names, in the order of the action's blueprint index.
        epoch: Where the observation shows the share of the horizon that is over.
        horizon: Epochs of an episode.

    Raises:
        ValueError: a blueprint or slot that does not exist, or another number of epochs than of slots.
    """

    name = "schedule"

    def __init__(
        self,
        config: ScheduleConfig,
        layout: ActionLayout,
        blueprints: Sequence[str],
        epoch: slice,
        horizon: int,
    ) -> None:
        self.config, self._layout, self._epoch, self._horizon = config, layout, epoch, horizon
        self._due = _due(config, layout.num_slots)
        if config.blueprint not in blueprints[1:]:
            raise ValueError(
                f"schedule.blueprint={config.blueprint!r} is not known, only {list(blueprints[1:])}"
            )
        self._blueprint = blueprints.index(config.blueprint)

    @classmethod
    def of(cls, config: ScheduleConfig, env: EsperVectorEnv) -> Self:
        """The agent for an environment."""
        return cls(config, env.layout, env.facts.blueprints, env.features["epoch"], env.config.horizon)

    def begin(self, seeds: Sequence[int]) -> Bools:
        """See `Agent`."""
        return np.zeros((len(seeds), self._layout.num_slots), dtype=bool)

    def act(self, obs: NDArray[np.float32], info: Info, memory: Bools) -> tuple[NDArray[np.int64], Bools]:
        """See `Agent`."""
        actions, planted = np.zeros((len(obs), len(Head)), dtype=np.int64), memory.copy()
        epochs = np.rint(obs[:, self._epoch.start] * self._horizon).astype(int)
        for env, epoch in enumerate(epochs):
            ready = self._ready(info, env, epoch, planted[env])
            actions[env] = self._choose(info["op_slot_mask"][env], ready)
            if actions[env, Head.OP] == Op.GERMINATE:
                planted[env, actions[env, Head.SLOT]] = True
        return actions, planted

    def _ready(self, info: Info, env: int, epoch: int, planted: Bools) -> list[int]:
        """Slots that are due and can take the blueprint, in the order of the plan."""
        legal = info["blueprint_slot_mask"][env, :, self._blueprint] == 1
        return [slot for slot, due in self._due.items() if due <= epoch and legal[slot] and not planted[slot]]

    def _choose(self, op_slot: NDArray[np.int8], ready: Sequence[int]) -> NDArray[np.int64]:
        advance = [slot for slot in self._due if op_slot[Op.ADVANCE, slot]]
        commit = [slot for slot in self._due if op_slot[Op.FOSSILIZE, slot] and self.config.fossilize]
        if ready:
            return self._plant(ready[0])
        if advance:
            return encode(Op.ADVANCE, slot=advance[0])
        return encode(Op.FOSSILIZE, slot=commit[0]) if commit else encode(Op.WAIT)

    def _plant(self, slot: int) -> NDArray[np.int64]:
        tempo = ("FAST", "STANDARD", "SLOW").index(self.config.tempo)
        style = Style[self.config.style]
        return encode(
            Op.GERMINATE,
            slot=slot,
            blueprint=self._blueprint,
            style=style,
            tempo=tempo,
            alpha_target=FULL_ALPHA,
        )


def _due(config: ScheduleConfig, num_slots: int) -> Mapping[int, int]:
    """Slot -> epoch from which it may be planted, in the order of the plan."""
    slots = tuple(range(num_slots)) if config.slots is None else config.slots
    unknown = [slot for slot in slots if not 0 <= slot < num_slots]
    if unknown:
        raise ValueError(f"schedule.slots={list(slots)}: {unknown} do not exist, 0 to {num_slots - 1} do")
    epochs = config.epochs or tuple(config.start + config.spacing * i for i in range(len(slots)))
    if len(epochs) != len(slots):
        raise ValueError(f"schedule.epochs={list(epochs)} has {len(epochs)} entries for {len(slots)} slots")
    return dict(zip(slots, epochs, strict=True))
