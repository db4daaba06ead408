"""How ops, gates that fire by themselves and time change the slots."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_env.contracts.action import Actions, Curve, Style
from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import COOL_DOWN, HAS_MODULE, NEXT, TRANSITIONS, Op, Stage, Transition
from esper_env.contracts.state import GameState, Ramp, SlotState
from esper_env.mdp.gates import GateResults
from esper_env.slots.schedule import progress

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Cells = tuple[Ints, Ints]
"""Indices (env, slot) of single slots."""
Tempo = Annotated[int, Field(ge=1)]
Speed = Annotated[int, Field(ge=0)]
Alpha = Annotated[float, Field(gt=0, le=1)]
Steepness = Annotated[float, Field(gt=0)]


class LifecycleConfig(BaseModel):
    """Clocks and limits of a module's life."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pruned_epochs: int = Field(1, ge=1)
    """Steps a slot shows PRUNED."""
    embargoed_epochs: int = Field(5, ge=1)
    """Steps a slot shows EMBARGOED."""
    resetting_epochs: int = Field(1, ge=1)
    """Steps a slot shows RESETTING."""
    min_prune_age: int = Field(1, ge=0)
    """Age in epochs from which a module can be pruned."""
    max_modules: int | None = Field(None, ge=1)
    """Most modules present at a time in one environment, fossils included; None for no limit."""
    tempo_epochs: tuple[Tempo, Tempo, Tempo] = (3, 5, 8)
    """Epochs of the blending ramp for tempo FAST, STANDARD, SLOW."""
    speed_epochs: tuple[Speed, Speed, Speed, Speed] = (0, 3, 5, 8)
    """Epochs of a later ramp for speed INSTANT, FAST, MEDIUM, SLOW."""
    alpha_targets: tuple[Alpha, Alpha, Alpha] = (0.5, 0.7, 1.0)
    """Alpha that the values of the alpha_target head lead to."""
    sigmoid_steepness: tuple[Steepness, Steepness, Steepness] = (6.0, 12.0, 24.0)
    """Slope k of the curves SIGMOID_GENTLE, SIGMOID and SIGMOID_SHARP, over a ramp of length 1."""
    auto_advance: tuple[Literal["G1", "G2", "G3"], ...] = ()
    """Gates that fire by themselves; ADVANCE is masked for them."""

    @property
    def cool_down(self) -> dict[Stage, int]:
        """Length in epochs of each stage that a clock ends."""
        lengths = (self.pruned_epochs, self.embargoed_epochs, self.resetting_epochs)
        return {source: length for (source, _), length in zip(COOL_DOWN, lengths, strict=True)}

    def fires_by_itself(self, row: Transition) -> bool:
        """Whether this transition needs no op."""
        return row.op == Op.ADVANCE and row.gate is not None and row.gate.name in self.auto_advance


def apply(
    state: GameState, actions: Actions, gates: GateResults, config: LifecycleConfig, facts: HostFacts
) -> SlotState:
    """The slots after the ops and the gates that fire by themselves; time has not passed yet.

    Args:
        state: As last observed.
        actions: Legal ones only, (env,); an illegal one must have been turned into WAIT before.
        gates: As published with the last observation.
        config: Clocks and limits.
        facts: Sizes of modules and gates.
    """
    slots = state.slots.copy()
    _germinate(slots, actions, state.quality, config, facts)
    _set_alpha_target(slots, actions, state.quality, config)
    _prune(slots, actions, state.quality, config)
    for op in (Op.FOSSILIZE, Op.ADVANCE):
        cells = actions.addressed(op)
        _advance(slots, cells, NEXT[slots.stage[cells], op], state.quality, facts)
    _advance_by_itself(slots, state, actions, gates, config, facts)
    return slots


def _cells(chosen: NDArray[np.bool_]) -> Cells:
    env, slot = np.nonzero(chosen)
    return env.astype(np.int64), slot.astype(np.int64)


def _enter(slots: SlotState, cells: Cells, stage: NDArray[np.int8] | Stage, quality: Floats) -> None:
    """Enter a stage: its clock starts, and what the agent saw last is kept for the gates."""
    slots.stage[cells] = stage
    slots.epochs_in_stage[cells] = 0
    slots.quality_at_stage_start[cells] = quality[cells[0]]


def _advance(
    slots: SlotState, cells: Cells, stage: NDArray[np.int8] | Stage, quality: Floats, facts: HostFacts
) -> None:
    """Enter the next stage of a life; BLENDING creates the gate and starts the first ramp."""
    _enter(slots, cells, stage, quality)
    starts = slots.stage[cells] == Stage.BLENDING
    first = (cells[0][starts], cells[1][starts])
    gate = facts.gate_params[first[1]]
    slots.gate_params[first] = np.where(slots.style[first] == Style.GATED, gate, 0)
    curve = np.where(slots.style[first] == Style.SIGMOID_ADD, Curve.SIGMOID, Curve.LINEAR)
    _start_ramp(slots, first, slots.planned_target[first], slots.tempo[first], curve)


def _start_ramp(slots: SlotState, cells: Cells, target: Floats, epochs: Ints, curve: Ints) -> None:
    """Send alpha to `target` in `epochs` ticks; with 0 epochs it is there at once."""
    alpha = slots.alpha[cells]
    slots.alpha_start[cells], slots.alpha_target[cells] = alpha, target
    slots.ramp_total[cells], slots.ramp_done[cells] = epochs, 0
    slots.ramp_curve[cells] = curve
    slots.ramp[cells] = np.where(epochs == 0, Ramp.REST, np.where(target >= alpha, Ramp.UP, Ramp.DOWN))
    slots.alpha[cells] = np.where(epochs == 0, target, alpha)


def _germinate(
    slots: SlotState, actions: Actions, quality: Floats, config: LifecycleConfig, facts: HostFacts
) -> None:
    env, slot = cells = actions.addressed(Op.GERMINATE)
    slots.blueprint[cells] = actions.blueprint[env]
    slots.style[cells] = actions.style[env]
    slots.tempo[cells] = np.asarray(config.tempo_epochs)[actions.tempo[env]]
    slots.planned_target[cells] = np.asarray(config.alpha_targets)[actions.alpha_target[env]]
    slots.module_params[cells] = facts.module_params[slot, actions.blueprint[env]]
    slots.planting[cells] += 1
    slots.quality_at_germination[cells] = quality[env]
    _enter(slots, cells, Stage.GERMINATED, quality)


def _set_alpha_target(slots: SlotState, actions: Actions, quality: Floats, config: LifecycleConfig) -> None:
    env, _ = cells = actions.addressed(Op.SET_ALPHA_TARGET)
    epochs = np.asarray(config.speed_epochs)[actions.alpha_speed[env]]
    target = np.asarray(config.alpha_targets)[actions.alpha_target[env]]
    _start_ramp(slots, cells, target, epochs, actions.alpha_curve[env])
    _back_to_blending(slots, cells, quality)


def _back_to_blending(slots: SlotState, cells: Cells, quality: Floats) -> None:
    """A held module whose alpha leaves 1 blends again; one that blends goes on blending."""
    held = slots.stage[cells] == Stage.HOLDING
    _enter(slots, (cells[0][held], cells[1][held]), Stage.BLENDING, quality)


def _prune(slots: SlotState, actions: Actions, quality: Floats, config: LifecycleConfig) -> None:
    env, slot = actions.addressed(Op.PRUNE)
    epochs = np.asarray(config.speed_epochs)[actions.alpha_speed[env]]
    fading = [row.source for row in TRANSITIONS if row.op == Op.PRUNE and row.on_arrival]
    fades = np.isin(slots.stage[env, slot], fading) & (epochs > 0)
    _remove(slots, (env[~fades], slot[~fades]), quality)
    cells = (env[fades], slot[fades])
    _start_ramp(slots, cells, np.zeros(len(cells[0])), epochs[fades], actions.alpha_curve[cells[0]])
    slots.prune_on_arrival[cells] = True
    _back_to_blending(slots, cells, quality)


def _remove(slots: SlotState, cells: Cells, quality: Floats) -> None:
    slots.remove_module(cells)
    _enter(slots, cells, Stage.PRUNED, quality)


def _advance_by_itself(
    slots: SlotState,
    state: GameState,
    actions: Actions,
    gates: GateResults,
    config: LifecycleConfig,
    facts: HostFacts,
) -> None:
    """Fire the chosen gates wherever they were published as passed and the op did not address the slot."""
    for row in TRANSITIONS:
        if row.gate is None or not config.fires_by_itself(row):
            continue
        ready = (state.slots.stage == row.source) & gates[row.gate].passed
        env = np.flatnonzero(actions.op != Op.WAIT)
        ready[env, actions.slot[env]] = False
        _advance(slots, _cells(ready), row.target, state.quality, facts)


def tick(slots: SlotState, before: SlotState, quality: Floats, config: LifecycleConfig) -> SlotState:
    """One epoch of time: ramps tick in the step that starts them, clocks of a stage from the next step on.

    Args:
        slots: After `apply`.
        before: The slots at the beginning of the step.
        quality: (env,) as last observed.
        config: Clocks.
    """
    slots = slots.copy()
    waited = (slots.stage == before.stage) & (slots.stage != Stage.DORMANT)
    slots.epochs_in_stage += waited
    slots.age += HAS_MODULE[slots.stage] & (slots.planting == before.planting)
    _tick_ramps(slots, quality, config)
    for source, target in COOL_DOWN:
        over = (slots.stage == source) & waited & (slots.epochs_in_stage >= config.cool_down[source])
        slots.stage[over], slots.epochs_in_stage[over] = target, 0
    slots.remove_module(slots.stage == Stage.DORMANT)
    slots.alpha_velocity = slots.alpha - before.alpha
    return slots


def _tick_ramps(slots: SlotState, quality: Floats, config: LifecycleConfig) -> None:
    moving = slots.ramp != Ramp.REST
    slots.ramp_done += moving
    share = slots.ramp_done / np.maximum(slots.ramp_total, 1)
    way = progress(slots.ramp_curve, share, config.sigmoid_steepness)
    # The last tick sets the target itself: start + (target - start) need not round to it.
    there = moving & (slots.ramp_done >= slots.ramp_total)
    alpha = slots.alpha_start + (slots.alpha_target - slots.alpha_start) * way
    slots.alpha = np.where(there, slots.alpha_target, np.where(moving, alpha, slots.alpha))
    slots.ramp[there] = Ramp.REST
    _remove(slots, _cells(there & slots.prune_on_arrival), quality)
