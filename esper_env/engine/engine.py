"""What every engine does: keep the networks of N environments in line with the rules, train and measure them.

Nothing above this layer knows which engine runs or what kind of network grows.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator
from torch import nn

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.engine.optimizer import OptimizerConfig

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SECONDS = ("train_seconds", "validation_seconds", "counterfactual_seconds")
"""What wall-clock time is spent on, as `Engine.seconds` calls it."""


class EngineConfig(BaseModel):
    """How the networks are trained and measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["auto", "fused", "reference", "null"] = "auto"
    """`fused` trains all environments as one program; `reference` one plain module after another; `null`
    plays the rules without training anything; `auto` is `fused`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is `cuda` where there is one, else `cpu`."""
    epoch_size: Annotated[int, Strict(), Field(ge=1)] | Literal["full"] = 8192
    """Training samples an epoch, a multiple of the batch size; `full` is the train split, rounded down."""
    batch_size: int = Field(128, ge=2)
    """Training samples a step."""
    counterfactual_size: int = Field(1024, ge=1)
    """First samples of the validation split on which contributions are measured."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Type of number of weights and values; `bfloat16` narrows convolutions and matrix products alone."""
    tf32: bool = False
    """CUDA rounds the factors of float32 products to 10 bits (TensorFloat-32), which is faster."""
    deterministic: bool = True
    """CUDA gives the same bits every time; False lets cuDNN choose among all its algorithms."""
    kernels: Literal["auto", "native", "torch"] = "auto"
    """What the fused engine computes with: `torch` is torch's own operations; `native` this package's, for a
    CPU, once they are built; `auto` is `native` where that is possible."""
    rows_at_once: int | None = Field(None, ge=1)
    """Environments that the fused engine trains side by side; None takes what suits the device."""
    cuda_graphs: int = Field(16, ge=0)
    """Most training steps that are kept recorded on CUDA, one for each mixture of modules; 0 for none."""
    optimizer: OptimizerConfig = OptimizerConfig()
    isolation: Literal["training", "always"] = "training"
    """Where the gradient stops at a module's input: in TRAINING only, or, for comparison, always."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.epoch_size != "full" and self.epoch_size % self.batch_size:
            raise ValueError(
                f"epoch_size={self.epoch_size} is not a multiple of batch_size={self.batch_size}"
            )
        return self


class Engine(Protocol):
    """The networks of `num_envs` environments. Arguments named `playing` are bool arrays of shape (env,)."""

    facts: HostFacts
    """Sizes and costs, the same for every environment."""
    epoch_size: int
    """Training samples an epoch."""
    provenance: str
    """One line on where the data come from."""
    description: str
    """Which engine it is, and what it computes with."""

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        """Give each of these environments a new host, no modules, and the data stream of its episode seed."""

    def sync(self, slots: SlotState, playing: Bools) -> None:
        """Plant, remove, blend and freeze modules until they are as the slots say."""

    def epoch(self, playing: Bools) -> None:
        """Train one epoch."""

    def evaluate(self, playing: Bools, subsets: Ints) -> EpochStats:
        """Measure what the epoch came to; the one copy from the device to the host of a step.

        Args:
            playing: (env,).
            subsets: (env, subset): variants of the network to measure besides the whole, as bit masks: bit s
                says that the live module of slot s is on; fossils always are. -1 asks for nothing.
        """

    def keep(self, envs: Bools, fossils_only: Bools | None = None) -> None:
        """Remember host and fossils of these environments: weights, optimizers, norm statistics.

        Args:
            envs: (env,).
            fossils_only: (env,): where what was kept before stays, and only fossils that it lacks are added;
                None for nowhere.
        """

    def restore(self, envs: Bools) -> EpochStats:
        """Put back what was kept, and remove every other module. Data streams go on.

        Returns:
            Validation of what came back, and what that cost; the rest was not measured.
        """

    def harvest(self, ending: Bools) -> HarvestStats:
        """Remove every module that is not fossilized from these environments, and measure what is left."""

    def get_state(self, env: int) -> dict[str, Any]:
        """All of one environment's network, as tensors on the CPU and plain values; nothing is shared."""

    def set_state(self, env: int, state: Mapping[str, Any]) -> None:
        """Make one environment's network what `get_state` gave, of this environment or of another.

        Raises:
            KeyError, TypeError, ValueError: it is damaged; nothing has changed then.
        """

    def export(self, env: int) -> nn.Module:
        """The network of one environment as the harvest would leave it, by itself.

        Raises:
            ValueError: A blueprint (named) that can't be taken out, or an engine that trains nothing.
        """

    def seconds(self) -> dict[str, Floats]:
        """Wall-clock time of the episodes so far, (env,) for each of `SECONDS`. No part of any state."""

    def close(self) -> None:
        """Free what the engine holds."""
