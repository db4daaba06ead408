"""The operations in torch's own primitives, on any device and in any precision: grouped convolutions.

N small convolutions are one with N groups (S. Wang et al., "Horizontally Fused Training Array", MLSys 2021),
here with the channels last in memory: on a CPU that is up to twice as fast as the planes of the paper.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from esper_env.engine.kernels.kernels import (
    AdamW,
    BatchNorm,
    Descent,
    Gradient,
    GroupNorm,
    Norm,
    Rows,
    Share,
)
from esper_env.engine.kernels.torch_forms import as_planes, as_values, batch_norm, by_rows, grouped
from esper_env.engine.optimizer import PER_TENSOR
from esper_env.tasks.loader import crop_flip

Form = Literal["channels_last", "planes", "rows"]
"""How the convolutions of all rows are done: as one grouped one, the channels last in memory or as planes; or
one after another."""


def shape_of(x: Tensor, weight: Tensor) -> str:
    """What the choice of a primitive depends on, such as `3>8 3x3 @32x32`: never the number of rows."""
    features, channels, side = weight.shape[1], weight.shape[2], weight.shape[3]
    return f"{channels}>{features} {side}x{side} @{x.shape[2]}x{x.shape[3]}"


class TorchKernels:
    """See `Kernels`.

    Args:
        table: which form of convolution is used for which shape; the rest has the form `default`.
        default: a form.
    """

    name = "torch"

    def __init__(self, table: Mapping[str, str], default: Form) -> None:
        self._table, self._default = table, default

    def conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm: Norm | None,
        relu: bool,
        pool: bool = False,
    ) -> Tensor:
        """See `Kernels`."""
        form = self._table.get(shape_of(x, weight), self._default)
        z = by_rows(x, weight, bias) if form == "rows" else grouped(x, weight, bias, form == "planes")
        if isinstance(norm, BatchNorm):
            z = as_values(batch_norm(as_planes(z), norm), len(weight))
        if isinstance(norm, GroupNorm):
            z = self.group_norm(z, norm)
        y = z.relu() if relu else z
        return self.max_pool(y) if pool else y

    def memory(self) -> AbstractContextManager[None]:
        """See `Kernels`."""
        return nullcontext()

    def release(self) -> None:
        """See `Kernels`; torch holds on to its own."""

    def depthwise(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Kernels`."""
        rows, channels, side = len(weight), weight.shape[1], weight.shape[-1]
        groups = rows * channels
        return as_values(F.conv2d(as_planes(x), weight.flatten(0, 1), padding=side // 2, groups=groups), rows)

    def max_pool(self, x: Tensor) -> Tensor:
        """See `Kernels`."""
        return as_values(F.max_pool2d(as_planes(x), 2), len(x))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `Kernels`."""
        if len(x) == 1 and 1 in weight.shape[1:]:
            # A row by itself with one feature goes another way on a CPU than among others, to other bits.
            twice = (None if each is None else torch.cat([each, each]) for each in (x, weight, bias))
            return _products(*twice)[:1]  # type: ignore[arg-type]
        return _products(x, weight, bias)

    def select(self, x: Tensor, rows: Tensor) -> Tensor:
        """See `Kernels`."""
        return x.index_select(0, rows)

    def fork(self, x: Tensor, rows: Sequence[Rows]) -> tuple[Tensor, list[Tensor]]:
        """See `Kernels`."""
        if not x.requires_grad:
            return x, [each.take(x) for each in rows]
        own, *values = _Fork.apply(x, rows, self)
        return own, values

    def blend(self, x: Tensor, shares: Sequence[Share]) -> Tensor:
        """See `Kernels`."""
        values = [share.alpha * _scaled(share) for share in shares]
        return _Add.apply(x, [share.rows for share in shares], *values)

    def added(self, x: Tensor, rows: Sequence[Rows], values: Sequence[Tensor]) -> Tensor:
        """X with values added in these rows. Not differentiable."""
        y = x.clone()
        for each, value in zip(rows, values, strict=True):
            each.add(y, value)
        return y

    def group_norm(self, x: Tensor, norm: GroupNorm, less: bool = False) -> Tensor:
        """See `Kernels`."""
        rows, samples, height, width, channels = x.shape
        planes = x.permute(0, 1, 4, 2, 3).reshape(rows * samples, channels, height, width)
        normalized = F.group_norm(planes, norm.groups, eps=norm.eps)
        back = normalized.view(rows, samples, channels, height, width).permute(0, 1, 3, 4, 2)
        y = torch.addcmul(norm.bias[:, None, None, None], back, norm.weight[:, None, None, None])
        return y - x if less else y

    def mean(self, x: Tensor) -> Tensor:
        """See `Kernels`."""
        return x.mean(dim=(2, 3))

    def scale(self, x: Tensor, factor: Tensor) -> Tensor:
        """See `Kernels`."""
        return x * factor[:, :, None, None]

    def sigmoid(self, x: Tensor) -> Tensor:
        """See `Kernels`."""
        return torch.sigmoid(x)

    def silu(self, x: Tensor) -> Tensor:
        """See `Kernels`."""
        return F.silu(x)

    def images(
        self,
        images: Tensor,
        index: Tensor,
        crop: tuple[Tensor, Tensor, Tensor] | None,
        padding: int,
        shift: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """See `Kernels`."""
        picked = images.index_select(0, index.flatten())
        if crop is not None:
            down, right, mirror = (each.flatten() for each in crop)
            picked = crop_flip(picked, padding, down, right, mirror)
        normalized = picked.to(shift.dtype).sub_(shift).mul_(scale)
        return normalized.unflatten(0, index.shape)

    def update(
        self,
        values: Tensor,
        momenta: Tensor,
        squares: Tensor,
        gradients: Sequence[Gradient],
        lr: Tensor,
        descent: Descent,
    ) -> None:
        """See `Kernels`."""
        flat = [_flat(gradient.value).to(values.dtype) for gradient in gradients]
        norms = torch.stack([torch.linalg.vector_norm(each, dim=1) for each in flat], dim=1)
        scale = (descent.clip_norm / (torch.linalg.vector_norm(norms, dim=1) + 1e-6)).clamp(max=1.0)
        step = torch.cat(flat, dim=1).mul_(scale[:, None])
        taken = 0
        for tensors, part in _runs(gradients):
            count, size = tensors.stop - tensors.start, part.stop - part.start
            squares[:, tensors] += norms[:, :count].square()
            norms = norms[:, count:]
            value, momentum = values[:, part], momenta[:, part]
            momentum.mul_(descent.momentum).add_(step[:, taken : taken + size])
            momentum.add_(value, alpha=descent.weight_decay)
            value.sub_(momentum * lr[:, None])
            taken += size

    def update_adamw(
        self,
        values: Tensor,
        memory: Mapping[str, Tensor],
        squares: Tensor,
        gradients: Sequence[Gradient],
        lr: Tensor,
        descent: AdamW,
    ) -> None:
        """See `Kernels`. Squares are added up in steps, so that torch does not share them out to threads."""
        flat = [
            gradient.value.flatten(1, -2) if gradient.value.dim() > 2 else _flat(gradient.value)[:, None]
            for gradient in gradients
        ]
        sums = torch.stack([each.to(values.dtype).square().sum(dim=2).sum(dim=1) for each in flat], dim=1)
        scale = (descent.clip_norm / (sums.sum(dim=1).sqrt() + 1e-6)).clamp(max=1.0)[:, None]
        for gradient, square in zip(gradients, sums.unbind(1), strict=True):
            at = slice(gradient.start, gradient.start + gradient.value[0].numel())
            squares[:, gradient.tensor] += square
            step = memory[PER_TENSOR][:, gradient.tensor].add_(1).double()
            decay = descent.weight_decay if gradient.value.dim() > 2 else 0.0
            means = memory["exp_avg"][:, at], memory["exp_avg_sq"][:, at]
            _adamw(values[:, at], means, _flat(gradient.value) * scale, step, lr, decay, descent)


def _flat(gradient: Tensor) -> Tensor:
    """(row, number); of a parameter that is a single number it is (row,)."""
    return gradient.reshape(len(gradient), -1)


def _products(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    transposed = weight.transpose(1, 2)
    return torch.bmm(x, transposed) if bias is None else torch.baddbmm(bias[:, None], x, transposed)


def _adamw(
    value: Tensor,
    means: tuple[Tensor, Tensor],
    gradient: Tensor,
    step: Tensor,
    lr: Tensor,
    decay: float,
    descent: AdamW,
) -> None:
    """One tensor of every row, (row, number); how many steps each has had with this one is float64 (row,)."""
    mean, square = means
    rate = (lr / (1 - descent.beta1**step)).to(value.dtype)[:, None]
    root = (1 - descent.beta2**step).sqrt().to(value.dtype)[:, None]
    mean.lerp_(gradient, 1 - descent.beta1)
    square.mul_(descent.beta2).addcmul_(gradient, gradient, value=1 - descent.beta2)
    if decay:
        value.mul_(1 - lr[:, None] * decay)
    value.sub_(rate * mean / (square.sqrt() / root).add_(descent.eps))


class _Fork(torch.autograd.Function):
    """A value, and rows of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Sequence[Rows], kernels: TorchKernels) -> tuple[Tensor, ...]:
        ctx.rows, ctx.kernels = rows, kernels
        ctx.set_materialize_grads(False)
        return x.view_as(x), *[each.take(x) for each in rows]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        gradient, *values = gradients
        parts = [part for part in zip(ctx.rows, values, strict=True) if part[1] is not None]
        return ctx.kernels.added(gradient, *zip(*parts, strict=True)) if parts else gradient, None, None


class _Add(torch.autograd.Function):
    """A value with others added in some rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Sequence[Rows], *values: Tensor) -> Tensor:
        ctx.rows, ctx.types = rows, [value.dtype for value in values]
        y = x.clone()
        for each, value in zip(rows, values, strict=True):
            each.add(y, value)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        values = [each.take(gradient).to(own) for each, own in zip(ctx.rows, ctx.types, strict=True)]
        return gradient, None, *values


def _scaled(share: Share) -> Tensor:
    if share.gate is not None:
        return share.gate * share.d
    if share.multiplies is not None:
        return torch.where(share.multiplies, share.h * torch.tanh(share.d), share.d)
    return share.d


def _runs(gradients: Sequence[Gradient]) -> list[tuple[slice, slice]]:
    """Tensors that lie one behind the other: which, and where they are in a row. Mostly there is one run."""
    runs: list[tuple[slice, slice]] = []
    for gradient in gradients:
        end = gradient.start + gradient.value[0].numel()
        tensors, part = runs[-1] if runs else (slice(0, -1), slice(0, -1))
        if tensors.stop == gradient.tensor and part.stop == gradient.start:
            runs[-1] = slice(tensors.start, gradient.tensor + 1), slice(part.start, end)
        else:
            runs.append((slice(gradient.tensor, gradient.tensor + 1), slice(gradient.start, end)))
    return runs
