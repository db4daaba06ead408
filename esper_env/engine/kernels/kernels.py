"""The operations that a kernel tier offers. Each works on many networks at once, a row for each.

Values between layers have the shape (row, sample, height, width, channel); parameters (row, *shape of one).
No row influences another one: not by a value that is not finite either.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchNorm:
    """Normalization over the samples and pixels of a row (S. Ioffe, C. Szegedy, 2015)."""

    weight: Tensor
    """(row, channel)."""
    bias: Tensor
    """(row, channel)."""
    running_mean: Tensor
    """(row, channel); in training moved towards the batch's in place."""
    running_var: Tensor
    """(row, channel), unbiased; likewise."""
    momentum: float
    """How far the running statistics move a batch."""
    eps: float
    training: bool
    """Normalize with the batch's statistics; else with the running ones."""


@dataclass(frozen=True)
class GroupNorm:
    """Normalization over the pixels and a group of channels of one sample (Y. Wu, K. He, 2018)."""

    weight: Tensor
    """(row, channel)."""
    bias: Tensor
    """(row, channel)."""
    groups: int
    eps: float


Norm = BatchNorm | GroupNorm


@dataclass(frozen=True)
class Rows:
    """Some rows of a value, each named once."""

    index: Tensor
    """int64 (row,)."""
    piece: slice | None
    """The same, where they lie one after another."""

    @classmethod
    def of(cls, numbers: Sequence[int], device: torch.device) -> "Rows":
        """These, in this order."""
        first, count = numbers[0], len(numbers)
        together = list(numbers) == list(range(first, first + count))
        if together:  # made on the device, not sent there
            return cls(torch.arange(first, first + count, device=device), slice(first, first + count))
        return cls(torch.tensor(numbers, device=device), None)

    def take(self, x: Tensor) -> Tensor:
        """(row, ...) of x; a view where they lie one after another."""
        return x.index_select(0, self.index) if self.piece is None else x[self.piece]

    def add(self, x: Tensor, value: Tensor) -> None:
        """Add (row, ...) to them in x, in place."""
        value = value.to(x.dtype)
        if self.piece is None:
            x.index_add_(0, self.index, value)
        else:
            x[self.piece].add_(value)


class Share(NamedTuple):
    """What the modules of some rows add to a value h there: alpha times d, gate * d or h * tanh(d)."""

    rows: Rows
    h: Tensor
    """The value in these rows, as `fork` gave it."""
    d: Tensor
    """Output of the branches, of h's shape."""
    alpha: Tensor
    """(row, 1, 1, 1, 1)."""
    gate: Tensor | None
    """(row, sample, 1, 1, 1), or None."""
    multiplies: Tensor | None
    """bool (row, 1, 1, 1, 1): it is h * tanh(d); None where no row has that. Never both with a gate."""


@dataclass(frozen=True)
class Descent:
    """How a part of a network is updated: see `engine.optimizer`."""

    momentum: float
    weight_decay: float
    clip_norm: float


@dataclass(frozen=True)
class AdamW:
    """The same with Adam and decoupled decay of matrices."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float


class Gradient(NamedTuple):
    """Of one tensor of every row."""

    tensor: int
    """Which one, counted from 0: its column in the squared norms."""
    start: int
    """Where it begins in a row of parameters."""
    value: Tensor
    """(row, *shape)."""


class Kernels(Protocol):
    """One way of computing. Everything but `images`, `update` and `update_adamw` is differentiable."""

    name: str

    def conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm: Norm | None,
        relu: bool,
        pool: bool = False,
    ) -> Tensor:
        """Convolution with stride 1 that keeps the size, then perhaps bias, norm, ReLU and `max_pool`.

        Args:
            x: (row, sample, height, width, channel); the rows may be one memory, expanded.
            weight: (row, feature, channel, side, side), side odd; a row may lie far from the next one.
            bias: (row, feature), or None.
            norm: over the features, or None.
            relu: whether negative values become 0.
            pool: whether the largest value of every 2x2 pixels is taken in the end.
        """

    def memory(self) -> AbstractContextManager[None]:
        """Inside, memory is handled as suits these kernels."""

    def release(self) -> None:
        """Give back memory that is held and not in use."""

    def depthwise(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolution of each channel by itself, size kept; weight (row, channel, 1, side, side)."""

    def max_pool(self, x: Tensor) -> Tensor:
        """Largest value of every 2x2 pixels; an odd last line or column is dropped."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(row, sample, in) -> (row, sample, out), with weight (row, out, in) and perhaps bias (row, out)."""

    def select(self, x: Tensor, rows: Tensor) -> Tensor:
        """These rows, int64 (selected,), as a value of its own."""

    def fork(self, x: Tensor, rows: Sequence[Rows]) -> tuple[Tensor, list[Tensor]]:
        """X for `blend`, and the values of these rows: their gradients reach x in one go."""

    def blend(self, x: Tensor, shares: Sequence[Share]) -> Tensor:
        """X, as `fork` gave it, with the shares of modules added in their rows."""

    def group_norm(self, x: Tensor, norm: GroupNorm, less: bool = False) -> Tensor:
        """Group normalization; `less` subtracts x from the result."""

    def mean(self, x: Tensor) -> Tensor:
        """Over pixels: (row, sample, channel)."""

    def scale(self, x: Tensor, factor: Tensor) -> Tensor:
        """X times a factor (row, sample, channel)."""

    def sigmoid(self, x: Tensor) -> Tensor:
        """1 / (1 + exp(-x)), of any shape (row, ...)."""

    def silu(self, x: Tensor) -> Tensor:
        """X times its sigmoid, of any shape (row, ...)."""

    def images(
        self,
        images: Tensor,
        index: Tensor,
        crop: tuple[Tensor, Tensor, Tensor] | None,
        padding: int,
        shift: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """Pick, crop, mirror and normalize: (row, sample, height, width, channel) of the type of `shift`.

        Args:
            images: uint8 (image, height, width, channel).
            index: int64 (row, sample).
            crop: row offset, column offset and mirror, int64 (row, sample) each; None for the whole image.
            padding: pixels of black border to crop in.
            shift: (channel,), subtracted from gray levels.
            scale: (channel,), multiplied with after that.
        """

    def update(
        self,
        values: Tensor,
        momenta: Tensor,
        squares: Tensor,
        gradients: Sequence[Gradient],
        lr: Tensor,
        descent: Descent,
    ) -> None:
        """One step of descent in place, each row clipped by itself, the squared gradient norms counted.

        Args:
            values: (row, parameter), tensor after tensor.
            momenta: (row, parameter).
            squares: (row, tensor): the square of each tensor's norm is added, before clipping.
            gradients: of the tensors that have one; a missing tensor stays as it is, its momentum too.
            lr: (row,), learning rates.
            descent: the rest.
        """

    def update_adamw(
        self,
        values: Tensor,
        memory: Mapping[str, Tensor],
        squares: Tensor,
        gradients: Sequence[Gradient],
        lr: Tensor,
        descent: AdamW,
    ) -> None:
        """The same step with Adam.

        Args:
            values: (row, parameter), as in `update`.
            memory: means `exp_avg` and `exp_avg_sq`, (row, parameter), and `step`, (row, tensor): how many
                each tensor has had.
            squares: (row, tensor), as in `update`.
            gradients: of the tensors that have one; a missing tensor stays as it is, and so does its memory.
            lr: (row,), learning rates.
            descent: the rest.
        """
