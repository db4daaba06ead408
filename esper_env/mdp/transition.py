"""How ops, gates that fire by themselves and time change the slots."""

from functools import cache
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
NONE: Cells = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
FADES_OUT = np.isin(
    np.arange(len(Stage)), [row.source for row in TRANSITIONS if row.op == Op.PRUNE and row.on_arrival]
)
"""(stage,): whether a module is pruned by a ramp to 0."""
TABULATED = 32
"""Longest ramp, in epochs, whose curve is kept in a table."""
NEVER = int(np.iinfo(np.int64).max)
"""Length in epochs of a stage that no clock ends."""
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
    _send(slots, actions, state.quality, config)
    cells = actions.addressed(Op.FOSSILIZE, Op.ADVANCE)
    _advance(slots, cells, NEXT[slots.stage[cells], actions.op[cells[0]]], state.quality, facts)
    _advance_by_itself(slots, state, actions, gates, config, facts)
    return slots


def _cells(chosen: NDArray[np.bool_]) -> Cells:
    env, slot = np.nonzero(chosen)
    return env.astype(np.int64, copy=False), slot.astype(np.int64, copy=False)


def _those(cells: Cells, chosen: NDArray[np.bool_]) -> Cells:
    return cells[0][chosen], cells[1][chosen]


def _enter(slots: SlotState, cells: Cells, stage: NDArray[np.int8] | int, quality: Floats) -> None:
    """Enter a stage: its clock starts, and what the agent saw last is kept for the gates."""
    slots.stage[cells] = stage
    slots.epochs_in_stage[cells] = 0
    slots.quality_at_stage_start[cells] = quality[cells[0]]


def _advance(
    slots: SlotState, cells: Cells, stage: NDArray[np.int8] | int, quality: Floats, facts: HostFacts
) -> None:
    """Enter the next stage of a life; BLENDING creates the gate and starts the first ramp."""
    _enter(slots, cells, stage, quality)
    first = _those(cells, slots.stage[cells] == Stage.BLENDING.value)
    if not len(first[0]):
        return
    style = slots.style[first]
    slots.gate_params[first] = np.where(style == Style.GATED.value, facts.gate_params[first[1]], 0)
    curve = np.where(style == Style.SIGMOID_ADD.value, Curve.SIGMOID.value, Curve.LINEAR.value)
    _start_ramp(slots, first, slots.planned_target[first], slots.tempo[first], curve)


def _start_ramp(slots: SlotState, cells: Cells, target: Floats, epochs: Ints, curve: Ints) -> None:
    """Send alpha to `target` in `epochs` ticks; with 0 epochs it is there at once."""
    alpha = slots.alpha[cells]
    slots.alpha_start[cells], slots.alpha_target[cells] = alpha, target
    slots.ramp_total[cells], slots.ramp_done[cells] = epochs, 0
    slots.ramp_curve[cells] = curve
    way = np.where(target >= alpha, Ramp.UP.value, Ramp.DOWN.value)
    slots.ramp[cells] = np.where(epochs == 0, Ramp.REST.value, way)
    slots.alpha[cells] = np.where(epochs == 0, target, alpha)


def _germinate(
    slots: SlotState, actions: Actions, quality: Floats, config: LifecycleConfig, facts: HostFacts
) -> None:
    env, slot = cells = actions.addressed(Op.GERMINATE)
    if not len(env):
        return
    slots.blueprint[cells] = actions.blueprint[env]
    slots.style[cells] = actions.style[env]
    slots.tempo[cells] = np.asarray(config.tempo_epochs)[actions.tempo[env]]
    slots.planned_target[cells] = np.asarray(config.alpha_targets)[actions.alpha_target[env]]
    slots.module_params[cells] = facts.module_params[slot, actions.blueprint[env]]
    slots.planting[cells] += 1
    slots.quality_at_germination[cells] = quality[env]
    _enter(slots, cells, Stage.GERMINATED.value, quality)


def _send(slots: SlotState, actions: Actions, quality: Floats, config: LifecycleConfig) -> None:
    """SET_ALPHA_TARGET and PRUNE: alpha sets out for its target, or a module is pruned at once."""
    env, _ = cells = actions.addressed(Op.SET_ALPHA_TARGET, Op.PRUNE)
    if not len(env):
        return
    prunes = actions.op[env] == Op.PRUNE.value
    epochs = np.asarray(config.speed_epochs)[actions.alpha_speed[env]]
    target = np.where(prunes, 0.0, np.asarray(config.alpha_targets)[actions.alpha_target[env]])
    goes = ~prunes | (FADES_OUT[slots.stage[cells]] & (epochs > 0))
    _remove(slots, _those(cells, ~goes), quality)
    sent = _those(cells, goes)
    _start_ramp(slots, sent, target[goes], epochs[goes], actions.alpha_curve[sent[0]])
    slots.prune_on_arrival[sent] |= prunes[goes]
    # A held module whose alpha leaves 1 blends again; one that blends goes on blending.
    _enter(slots, _those(sent, slots.stage[sent] == Stage.HOLDING.value), Stage.BLENDING.value, quality)


def _remove(slots: SlotState, cells: Cells, quality: Floats, emptied: Cells = NONE) -> None:
    """Prune the modules of `cells`, and clear what the cool-down has left of others."""
    env, slot = (np.concatenate(pair) for pair in zip(cells, emptied, strict=True))
    if len(env):
        slots.remove_module((env, slot))
        _enter(slots, cells, Stage.PRUNED.value, quality)


def _advance_by_itself(
    slots: SlotState,
    state: GameState,
    actions: Actions,
    gates: GateResults,
    config: LifecycleConfig,
    facts: HostFacts,
) -> None:
    """Fire the chosen gates wherever they were published as passed and the op did not address the slot."""
    for row in TRANSITIONS if config.auto_advance else ():
        if row.gate is None or not config.fires_by_itself(row):
            continue
        ready = state.slots.in_stage(row.source) & gates[row.gate].passed
        env = np.flatnonzero(actions.op != Op.WAIT.value)
        ready[env, actions.slot[env]] = False
        _advance(slots, _cells(ready), row.target.value, state.quality, facts)


def tick(slots: SlotState, before: SlotState, quality: Floats, config: LifecycleConfig) -> SlotState:
    """One epoch of time: ramps tick in the step that starts them, clocks of a stage from the next step on.

    Args:
        slots: After `apply`; changed in place, and returned.
        before: The slots at the beginning of the step.
        quality: (env,) as last observed.
        config: Clocks.
    """
    waited = (slots.stage == before.stage) & ~slots.in_stage(Stage.DORMANT)
    slots.epochs_in_stage += waited
    slots.age += HAS_MODULE[slots.stage] & (slots.planting == before.planting)
    pruned, emptied = _tick_ramps(slots, config), _cool_down(slots, waited, config)
    _remove(slots, pruned, quality, emptied)
    slots.alpha_velocity = slots.alpha - before.alpha
    return slots


def _cool_down(slots: SlotState, waited: NDArray[np.bool_], config: LifecycleConfig) -> Cells:
    """Lead stages that are over into the next; which slots are DORMANT again."""
    lengths = _by_stage(tuple(config.cool_down.items()), empty=NEVER)
    over = _cells(waited & (slots.epochs_in_stage >= lengths[slots.stage]))
    slots.stage[over], slots.epochs_in_stage[over] = _by_stage(COOL_DOWN, empty=0)[slots.stage[over]], 0
    return _those(over, slots.stage[over] == Stage.DORMANT.value)


@cache
def _by_stage(values: tuple[tuple[Stage, int], ...], empty: int) -> Ints:
    """(stage,): these values, `empty` for the other stages."""
    table = np.full(len(Stage), empty, dtype=np.int64)
    for stage, value in values:
        table[stage] = value
    return table


def _tick_ramps(slots: SlotState, config: LifecycleConfig) -> Cells:
    """Move every alpha that is on its way; which modules are to be pruned now that it has arrived."""
    cells = _cells(~slots.resting)
    if not len(cells[0]):
        return cells
    slots.ramp_done[cells] += 1
    done, total = slots.ramp_done[cells], slots.ramp_total[cells]
    way = _way(slots.ramp_curve[cells], done, total, config.sigmoid_steepness)
    start, target = slots.alpha_start[cells], slots.alpha_target[cells]
    # The last tick sets the target itself: start + (target - start) need not round to it.
    there = done >= total
    slots.alpha[cells] = np.where(there, target, start + (target - start) * way)
    arrived = _those(cells, there)
    slots.ramp[arrived] = Ramp.REST.value
    return _those(arrived, slots.prune_on_arrival[arrived])


def _way(curve: NDArray[np.int8], done: Ints, total: Ints, steepness: tuple[float, float, float]) -> Floats:
    """(cell,): share of the way gone after so many epochs."""
    if total.max() <= TABULATED and (done <= total).all():
        return _ways(steepness)[curve, total, done]
    return progress(curve, done / np.maximum(total, 1), steepness)


@cache
def _ways(steepness: tuple[float, float, float]) -> Floats:
    """(curve, total, done): the same for short ramps; the curves would take half the time of a tick."""
    epochs = np.arange(TABULATED + 1)
    share = np.minimum(epochs / np.maximum(epochs[:, None], 1), 1.0)
    return np.stack([progress(np.full(share.shape, c, dtype=np.int8), share, steepness) for c in Curve])
