"""Forms of convolutions of many rows in torch's primitives, and the values that they are given and give."""

import torch
import torch.nn.functional as F
from torch import Tensor

from esper_env.engine.kernels.kernels import BatchNorm


def grouped(x: Tensor, weight: Tensor, bias: Tensor | None, planes: bool) -> Tensor:
    """One convolution, with a group for each row."""
    rows, side = len(weight), weight.shape[-1]
    # The same samples for all rows: that is one ordinary convolution with the features of all.
    shared = rows > 1 and x.stride(0) == 0
    images = as_planes(x[:1] if shared else x)
    images = images.contiguous() if planes else images
    flat_bias = None if bias is None else bias.flatten()
    groups = 1 if shared else rows
    return as_values(
        F.conv2d(images, weight.flatten(0, 1), flat_bias, padding=side // 2, groups=groups), rows
    )


def by_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution for each row, one after another."""
    biases = [None] * len(weight) if bias is None else bias
    rows = [
        F.conv2d(own.permute(0, 3, 1, 2), kernel, offset, padding=weight.shape[-1] // 2)
        for own, kernel, offset in zip(x, weight, biases, strict=True)
    ]
    return torch.stack([row.permute(0, 2, 3, 1) for row in rows])


def batch_norm(z: Tensor, norm: BatchNorm) -> Tensor:
    """Of planes (sample, row x channel, height, width): its channels are those of all rows."""
    mean, var = norm.running_mean.flatten(), norm.running_var.flatten()
    # With one channel a row that is a strided view, whose gradients torch 2.14 computes wrongly (CPU).
    weight, bias = norm.weight.flatten().contiguous(), norm.bias.flatten().contiguous()
    out = F.batch_norm(z, mean, var, weight, bias, norm.training, norm.momentum, norm.eps)
    if norm.training and mean.data_ptr() != norm.running_mean.data_ptr():
        norm.running_mean.copy_(mean.view_as(norm.running_mean))
        norm.running_var.copy_(var.view_as(norm.running_var))
    return out


def as_planes(x: Tensor) -> Tensor:
    """(row, sample, height, width, channel) -> (sample, row x channel, height, width), channels last."""
    return x.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def as_values(planes: Tensor, rows: int) -> Tensor:
    """The reverse of `as_planes`."""
    return planes.unflatten(1, (rows, -1)).permute(1, 0, 3, 4, 2)
