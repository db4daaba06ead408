"""The operations in C++ for CPUs: norm and activation within the convolution, memory touched once.

See `build.py` for how to build the library; without it there are the `torch_kernels`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from esper_env.engine.kernels.kernels import BatchNorm, Descent, Gradient, GroupNorm, Norm, Rows, Share
from esper_env.engine.kernels.torch_kernels import TorchKernels, shape_of

_ops = torch.ops.esper


@contextmanager
def kept_memory() -> Iterator[None]:
    """Large tensors that this thread makes meanwhile, by any operation, use the memory of former ones again.

    Otherwise the system clears more than 32 MiB anew every time, which may take longer than to compute them.
    In all a quarter more memory is held than was in use at once, until `release_memory`.
    """
    before = _ops.keep(True)
    try:
        yield
    finally:
        _ops.keep(before)


def release_memory() -> int:
    """Give memory that is kept and not in use back to the system; how many bytes."""
    kept = _ops.kept()
    _ops.release()
    return int(kept)


class NativeKernels(TorchKernels):
    """See `Kernels`. float32 and float64, on the CPU; what is not here is torch's.

    Args:
        table: Shapes of convolutions that are torch's, and in which form; see `TorchKernels`.
    """

    name = "native"

    def __init__(self, table: Mapping[str, str] | None = None) -> None:
        super().__init__(table or {}, "channels_last")

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
        if self._table and shape_of(x, weight) in self._table:
            return super().conv(x, weight, bias, norm, relu, pool)
        last = relu, pool
        if isinstance(norm, BatchNorm):
            return _ops.conv(
                x, weight, bias, 1, norm.weight, norm.bias, norm.running_mean, norm.running_var, 1,
                norm.training, norm.momentum, norm.eps, *last,
            )  # fmt: skip
        if isinstance(norm, GroupNorm):
            return _ops.conv(
                x,
                weight,
                bias,
                2,
                norm.weight,
                norm.bias,
                None,
                None,
                norm.groups,
                False,
                0.0,
                norm.eps,
                *last,
            )
        return _ops.conv(x, weight, bias, 0, None, None, None, None, 1, False, 0.0, 0.0, *last)

    def memory(self) -> AbstractContextManager[None]:
        """See `Kernels`, and `kept_memory`."""
        return kept_memory()

    def release(self) -> None:
        """See `Kernels`."""
        release_memory()

    def max_pool(self, x: Tensor) -> Tensor:
        """See `Kernels`."""
        return _ops.max_pool(x)

    def depthwise(self, x: Tensor, weight: Tensor) -> Tensor:
        """See `Kernels`."""
        return _ops.depthwise(x, weight)

    def blend(self, x: Tensor, shares: Sequence[Share]) -> Tensor:
        """See `Kernels`."""
        rows, hs, ds, alphas, gates, multiplies = zip(*shares, strict=True)
        return _ops.mix(x, [each.index for each in rows], hs, ds, alphas, gates, multiplies)

    def added(self, x: Tensor, rows: Sequence[Rows], values: Sequence[Tensor]) -> Tensor:
        """See `TorchKernels`."""
        return _ops.add_rows(x, [each.index for each in rows], values)

    def group_norm(self, x: Tensor, norm: GroupNorm, less: bool = False) -> Tensor:
        """See `Kernels`."""
        return _ops.group_norm(x, norm.weight, norm.bias, norm.groups, norm.eps, less)

    def mean(self, x: Tensor) -> Tensor:
        """See `Kernels`."""
        return _ops.mean(x)

    def scale(self, x: Tensor, factor: Tensor) -> Tensor:
        """See `Kernels`."""
        return _ops.scale(x, factor)

    def sigmoid(self, x: Tensor) -> Tensor:
        """See `Kernels`. Torch's own rounds a value as its place among others has it."""
        return _ops.sigmoid(x)

    def silu(self, x: Tensor) -> Tensor:
        """See `Kernels`, and `sigmoid`."""
        return _ops.silu(x)

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
        return _ops.images(images, index, list(crop or ()), padding, shift, scale)

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
        tensors, starts, grads = zip(*gradients, strict=True) if gradients else ((), (), ())
        _ops.update(
            values, momenta, squares, grads, tensors, starts, lr,
            descent.momentum, descent.weight_decay, descent.clip_norm,
        )  # fmt: skip
