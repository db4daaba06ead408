"""What changes during an episode, as arrays over (env, slot) and (env,). NaN means "not measured"."""

from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esper_env.contracts.lifecycle import Stage

HISTORY = 5
"""How many past losses and qualities are kept."""

REWARD_TERMS = ("quality", "harvest", "rent", "churn", "op_cost", "shaping", "credit", "rollback")
"""Names of the reward's own terms, in the order in which they are published."""

Index = Any
"""Anything numpy can index with."""


class Ramp(IntEnum):
    """Where alpha is going."""

    REST = 0
    UP = 1
    DOWN = 2


def _array(dtype: Any, empty: float, *more: int | str) -> Any:
    """A field of this dtype, of this value when empty, with `more` axes after the shared ones.

    An axis whose length is only known at construction is given by its name.
    """
    return field(metadata={"dtype": np.dtype(dtype), "empty": empty, "more": more})


def _flag() -> Any:
    return _array(np.bool_, False)


def _count() -> Any:
    return _array(np.int64, 0)


def _measure() -> Any:
    return _array(np.float64, np.nan)


class _Arrays:
    """A record of arrays that all share their leading axes."""

    @classmethod
    def _blank(cls, shape: tuple[int, ...], **sizes: int) -> dict[str, NDArray[Any]]:
        own = [f for f in fields(cls) if "dtype" in f.metadata]  # type: ignore[arg-type]
        more = {f.name: [sizes.get(axis, axis) for axis in f.metadata["more"]] for f in own}
        return {
            f.name: np.full((*shape, *more[f.name]), f.metadata["empty"], f.metadata["dtype"]) for f in own
        }

    def clear(self, index: Index) -> None:
        """Set the entries at `index` back to what they are when empty, in place."""
        for name, empty in _EMPTY[type(self)]:
            getattr(self, name)[index] = empty


@dataclass
class SlotState(_Arrays):
    """Every slot of every environment; each array has shape (env, slot)."""

    stage: NDArray[np.int8] = _array(np.int8, 0)
    """`Stage`."""
    epochs_in_stage: NDArray[np.int64] = _count()
    """0 in the observation of the step that enters the stage, then one more a step."""
    age: NDArray[np.int64] = _count()
    """Epochs since the module was planted."""
    planting: NDArray[np.int64] = _count()
    """How many modules this slot has had in this episode; names the module to the engine. Never cleared."""
    blueprint: NDArray[np.int64] = _count()
    """Blueprint index, 0 when there is no module."""
    style: NDArray[np.int64] = _count()
    """`Style` chosen at GERMINATE."""
    tempo: NDArray[np.int64] = _count()
    """Epochs of the first ramp, chosen at GERMINATE."""
    planned_target: NDArray[np.float64] = _array(np.float64, 0.0)
    """Alpha that the first ramp leads to, chosen at GERMINATE."""
    module_params: NDArray[np.int64] = _count()
    """Parameters of the branch."""
    gate_params: NDArray[np.int64] = _count()
    """Parameters of the gate, 0 until it is created on entering BLENDING."""
    alpha: NDArray[np.float64] = _array(np.float64, 0.0)
    """Share in which the module influences the host, in [0, 1]."""
    alpha_velocity: NDArray[np.float64] = _array(np.float64, 0.0)
    """Change of alpha in the last step."""
    alpha_start: NDArray[np.float64] = _array(np.float64, 0.0)
    alpha_target: NDArray[np.float64] = _array(np.float64, 0.0)
    ramp: NDArray[np.int8] = _array(np.int8, 0)
    """`Ramp`."""
    ramp_curve: NDArray[np.int8] = _array(np.int8, 0)
    """`Curve` of the ramp under way."""
    ramp_total: NDArray[np.int64] = _count()
    """Length of the ramp in epochs."""
    ramp_done: NDArray[np.int64] = _count()
    """Epochs of the ramp that are over."""
    prune_on_arrival: NDArray[np.bool_] = _flag()
    """The ramp leads to 0 and to PRUNED, and can't be recalled."""
    quality_at_germination: NDArray[np.float64] = _measure()
    """Validation quality, in [0, 1], that the agent saw when it planted the module."""
    quality_at_stage_start: NDArray[np.float64] = _measure()
    """The same when the present stage was entered."""
    probe_passed: NDArray[np.bool_] = _flag()
    """The forward pass on planting was finite and kept the shape."""
    gradient_norm: NDArray[np.float64] = _measure()
    """Of the last epoch; NaN while frozen or not training."""
    gradient_health: NDArray[np.float64] = _measure()
    """In [0, 1]; NaN as above."""
    gradient_ratio: NDArray[np.float64] = _measure()
    """Moving average of the size-corrected ratio of module to host gradient; NaN until first measured."""
    vanishing: NDArray[np.bool_] = _flag()
    exploding: NDArray[np.bool_] = _flag()
    delta_ratio: NDArray[np.float64] = _measure()
    """RMS of the branch's output over RMS of the host's value."""
    contribution: NDArray[np.float64] = _measure()
    """Last measured validation quality with the module minus without, in points."""
    contribution_velocity: NDArray[np.float64] = _measure()
    """Moving average of its change, in points an epoch; NaN until measured twice."""
    contribution_age: NDArray[np.int64] = _count()
    """Epochs since the last measurement of the contribution."""
    interaction: NDArray[np.float64] = _array(np.float64, np.nan, "slot")
    """(env, slot, slot): f(ij) - f(i) - f(j) + f(none) of each pair of live modules, in points; NaN where it
    was not measured in the last epoch."""
    shapley: NDArray[np.float64] = _measure()
    """Shapley value among the live modules, in points; NaN where it was not measured in the last epoch."""
    shapley_error: NDArray[np.float64] = _measure()
    """Its standard error in points, 0 where it is exact."""
    credit: NDArray[np.float64] = _array(np.float64, 0.0)
    """What the economy holds the module to be worth, in points; a fossil's is that of when it was
    fossilized."""

    @classmethod
    def empty(cls, num_envs: int, num_slots: int) -> Self:
        """All slots dormant."""
        return cls(**cls._blank((num_envs, num_slots), slot=num_slots))

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(**{name: array.copy() for name, array in vars(self).items()})

    def remove_module(self, index: Index) -> None:
        """Forget the modules at `index`, but neither the stage nor how many modules there have been."""
        at = np.arange(self.stage.size).reshape(self.stage.shape)[index].ravel()
        for name, empty in _EMPTY[type(self)]:
            array = getattr(self, name)
            if array.ndim > 2:
                array[index] = empty
            elif name not in ("stage", "planting"):
                array.put(at, empty)  # a fifth of the time of an assignment by environment and slot

    @property
    def params(self) -> NDArray[np.int64]:
        """(env, slot): parameters of modules and gates that are present."""
        return self.module_params + self.gate_params

    def in_stage(self, stage: Stage) -> NDArray[np.bool_]:
        """(env, slot): which slots are in this stage."""
        return self.stage == stage.value  # numpy compares with a plain int five times as fast

    @property
    def resting(self) -> NDArray[np.bool_]:
        """(env, slot): alpha is not on its way."""
        return self.ramp == Ramp.REST.value

    @property
    def live(self) -> NDArray[np.bool_]:
        """(env, slot): the module influences the host and can still be removed."""
        return (self.alpha > 0) & ~self.in_stage(Stage.FOSSILIZED)

    @property
    def interaction_sum(self) -> NDArray[np.float64]:
        """(env, slot): sum of a module's interactions with other live ones, in points; NaN without any."""
        measured = np.isfinite(self.interaction)
        any_measured = reduce(np.logical_or, (measured[..., other] for other in range(measured.shape[-1])))
        return np.where(any_measured, np.where(measured, self.interaction, 0.0).sum(axis=-1), np.nan)


@dataclass
class GameState(_Arrays):
    """Everything the rules know about every environment; each array has shape (env,) unless it says so."""

    slots: SlotState
    seed: NDArray[np.int64] = _count()
    """Episode seed, from which every random number of the episode is made."""
    epoch: NDArray[np.int64] = _count()
    """Epochs trained in this episode."""
    train_flops: NDArray[np.float64] = _array(np.float64, 0.0)
    """Spent on training in this episode, trial and pruned modules included."""
    measure_flops: NDArray[np.float64] = _array(np.float64, 0.0)
    """Spent on validation and counterfactuals in this episode; never charged."""
    counterfactual_flops: NDArray[np.float64] = _array(np.float64, 0.0)
    """The counterfactuals' part of it."""
    last_op: NDArray[np.int8] = _array(np.int8, -1)
    """`Op` that was applied last, -1 after a reset."""
    last_success: NDArray[np.bool_] = _flag()
    """Whether the last action was legal."""
    train_loss: NDArray[np.float64] = _measure()
    """Nats."""
    val_loss: NDArray[np.float64] = _measure()
    """Nats."""
    val_accuracy: NDArray[np.float64] = _measure()
    """Share in [0, 1]."""
    quality: NDArray[np.float64] = _measure()
    """Validation quality in [0, 1]; chance before the first epoch."""
    loss_history: NDArray[np.float64] = _array(np.float64, np.nan, HISTORY)
    """(env, 5): last validation losses, newest first."""
    quality_history: NDArray[np.float64] = _array(np.float64, np.nan, HISTORY)
    """(env, 5): last validation qualities, newest first."""

    committed_quality: NDArray[np.float64] = _measure()
    """With the fossils alone, on the samples of the counterfactuals; NaN while no module is live."""
    joint_value: NDArray[np.float64] = _measure()
    """Quality with all live modules less `committed_quality`, in points; NaN while no module is live."""

    good_losses: NDArray[np.float64] = _array(np.float64, np.nan, "window")
    """(env, window): validation losses of the governor's last good epochs, newest first."""
    has_learned: NDArray[np.bool_] = _flag()
    """The validation loss was once clearly below chance."""
    has_learned_context: NDArray[np.bool_] = _flag()
    """It was once clearly below the uninformed loss: of texts that of token frequencies, of images chance."""
    divergent: NDArray[np.int64] = _count()
    """Epochs running whose loss was out of bounds."""
    since_snapshot: NDArray[np.int64] = _count()
    """Good epochs since the governor's snapshot was taken."""
    rollbacks: NDArray[np.int64] = _count()
    """Panics of this episode."""
    snapshot_has_learned: NDArray[np.bool_] = _flag()
    """Whether the network of the governor's snapshot had: one that had not can't collapse to chance."""
    snapshot_has_learned_context: NDArray[np.bool_] = _flag()
    """Likewise, and it can't collapse to the uninformed loss."""

    owed: NDArray[np.float64] = _array(np.float64, 0.0, "term")
    """(env, term): what a reward paid at the end of the episode owes so far."""

    @classmethod
    def empty(
        cls, num_envs: int, num_slots: int, *, num_terms: int = len(REWARD_TERMS), window: int = 20
    ) -> Self:
        """Before any episode."""
        slots = SlotState.empty(num_envs, num_slots)
        return cls(slots=slots, **cls._blank((num_envs,), term=num_terms, window=window))

    def begin(self, env: Index, chance_quality: float, seed: ArrayLike = 0) -> None:
        """Start a new episode in the environments `env`, in place; `seed` (env,) is theirs."""
        if not np.size(env):
            return
        self.slots.clear(env)
        self.clear(env)
        self.quality[env] = chance_quality
        self.seed[env] = seed


_EMPTY: dict[type, list[tuple[str, float]]] = {
    kind: [(f.name, f.metadata["empty"]) for f in fields(kind) if "dtype" in f.metadata]
    for kind in (SlotState, GameState)
}
"""Name and empty value of each array of a record, listed once: it is asked for every step."""
