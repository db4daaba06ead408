"""What an engine reports: one record an epoch, one at the end of an episode. NaN means "not measured"."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass
class EpochStats:
    """One epoch of every environment. Rows of environments that did not train hold NaN and False."""

    train_loss: Floats
    """(env,): mean cross-entropy over the epoch's samples, in nats."""
    train_accuracy: Floats
    """(env,): share of the epoch's samples classified right, in [0, 1]; NaN for language."""
    val_loss: Floats
    """(env,): mean cross-entropy on the validation split, in nats."""
    val_accuracy: Floats
    """(env,): share in [0, 1]; NaN for language."""
    subset_loss: Floats
    """(env, subset): mean cross-entropy in nats of the variants that were asked for, on the first
    `counterfactual_size` validation samples; NaN where none was asked for."""
    subset_accuracy: Floats
    """(env, subset): share in [0, 1] on the same samples; NaN for language."""
    gradient_norm: Floats
    """(env, slot): root of the summed squares of the module's per-tensor RMS gradient norms."""
    gradient_ratio: Floats
    """(env, slot): (|g_module| / |g_host|) x sqrt(P_host / P_module), not yet clipped or averaged."""
    vanishing_share: Floats
    """(env, slot): share of the module's tensors whose RMS gradient norm is below 1e-7."""
    exploding_share: Floats
    """(env, slot): share of tensors with RMS norm above 10 or non-finite in any batch."""
    delta_ratio: Floats
    """(env, slot): RMS(branch output) / RMS(host value) at the slot."""
    probe_passed: Bools
    """(env, slot): the module's probe forward pass was finite and kept the shape."""
    finite: Bools
    """(env,): every weight of the network, and every gradient of the epoch, was finite at the end of it."""
    train_flops: Floats
    """(env,): FLOPs spent on training in this epoch, modules included."""
    measure_flops: Floats
    """(env,): FLOPs spent on validation and counterfactuals in this epoch."""
    counterfactual_flops: Floats
    """(env,): the counterfactuals' part of it."""

    @classmethod
    def empty(cls, num_envs: int, num_slots: int, num_subsets: int = 0) -> "EpochStats":
        """A record in which nothing was measured."""
        per_env, per_slot, per_subset = (num_envs,), (num_envs, num_slots), (num_envs, num_subsets)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("subset_loss", "subset_accuracy"), per_subset)
        shapes |= {"probe_passed": per_slot, "delta_ratio": per_slot}
        shapes |= {name: per_slot for name in ("gradient_norm", "gradient_ratio")}
        shapes |= {name: per_slot for name in ("vanishing_share", "exploding_share")}
        values = {name: np.full(shapes.get(name, per_env), np.nan) for name in cls.__dataclass_fields__}
        values |= {"probe_passed": np.zeros(per_slot, dtype=bool), "finite": np.zeros(per_env, dtype=bool)}
        return cls(**values)


@dataclass
class HarvestStats:
    """The harvested models: every module that is not fossilized removed. NaN where nothing was harvested."""

    val_loss: Floats
    """(env,): nats."""
    val_accuracy: Floats
    """(env,): share in [0, 1]."""
    test_loss: Floats
    """(env,): nats. For `info` only: no reward and no observation may read it."""
    test_accuracy: Floats
    """(env,): share in [0, 1]. For `info` only."""

    @classmethod
    def empty(cls, num_envs: int) -> "HarvestStats":
        """A record in which nothing was measured."""
        return cls(*(np.full(num_envs, np.nan) for _ in cls.__dataclass_fields__))
