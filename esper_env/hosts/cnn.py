"""Convolutional hosts: blocks of convolution, batch norm, ReLU and perhaps a max pool, then a linear head."""

from dataclasses import dataclass

import torch
from torch import nn

from esper_env.contracts.facts import Place
from esper_env.hosts.host import Host


@dataclass(frozen=True)
class Recipe:
    """What distinguishes one convolutional host from another."""

    widths: tuple[int, ...]
    """Channels of each block."""
    kernel: int
    """Side of the square convolution kernels, in pixels; odd, so that padding keeps the size."""
    pooled: bool
    """Whether every block ends in a 2x2 max pool."""
    default_blocks: tuple[int, ...]
    """Blocks (from 1) after whose ReLU a slot stands by default."""


HOSTS: dict[str, Recipe] = {
    "baseline": Recipe((8, 16, 32), 3, True, (1, 2, 3)),
    "deep": Recipe((8, 16, 32, 64, 128), 3, True, (1, 3, 5)),
    "blind": Recipe((32, 64), 1, False, (1, 2)),
    "impaired": Recipe((1, 2, 4), 1, True, (1, 2, 3)),
    "minimal": Recipe((2, 4, 8), 1, False, (1, 2, 3)),
    "micro": Recipe((4, 8, 8), 3, True, (1, 2, 3)),
}
"""Every convolutional host by name."""


class MeanHead(nn.Module):
    """Mean over space, then a linear map: (batch, channels, height, width) -> (batch, classes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes)."""
        logits: torch.Tensor = self.linear(h.mean(dim=(2, 3)))
        return logits


class ConvHost(Host):
    """Blocks of convolution (no bias), batch norm, ReLU, with a place after each ReLU and each pool.

    Args:
        name: how users ask for it.
        recipe: widths, kernel, pooling and default slots.
        input_shape: (channels, height, width) of one image.
        num_classes: number of logits.

    Raises:
        ValueError: the pools would leave less than one pixel.
    """

    def __init__(
        self, name: str, recipe: Recipe, input_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        channels, height, width = input_shape
        _check_pools(name, recipe, height, width)
        segments: list[nn.Module] = []
        places: list[Place] = []
        for block, features in enumerate(recipe.widths, start=1):
            depth = block / len(recipe.widths)
            segments.append(nn.Sequential(*_block(channels, features, recipe.kernel)))
            places.append(Place(f"block{block}.relu", "cnn", (features, height, width), depth))
            channels = features
            if recipe.pooled:
                height, width = height // 2, width // 2
                segments.append(nn.MaxPool2d(2))
                places.append(Place(f"block{block}.pool", "cnn", (features, height, width), depth))
        default = [f"block{block}.relu" for block in recipe.default_blocks]
        segments.append(MeanHead(channels, num_classes))
        super().__init__(name, input_shape, segments, places, default)


def build_host(name: str, input_shape: tuple[int, ...], num_classes: int) -> ConvHost:
    """A host with fresh weights from torch's generator (inside `slots.grown.seeded`: from that key).

    Args:
        name: a key of `HOSTS`.
        input_shape: (channels, height, width) of one image.
        num_classes: number of logits, at least 2.

    Raises:
        ValueError: an unknown name, a shape that isn't an image's, or one too small for the host's pools.
    """
    if name not in HOSTS:
        raise ValueError(f"host={name!r} is not known: choose one of {sorted(HOSTS)}")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"host {name!r}: input shape {input_shape} is not (channels, height, width)")
    if num_classes < 2:
        raise ValueError(f"host {name!r}: num_classes={num_classes}, at least 2 are needed")
    channels, height, width = input_shape
    return ConvHost(name, HOSTS[name], (channels, height, width), num_classes)


def _block(channels: int, features: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, features, kernel, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(features), nn.ReLU()]


def _check_pools(name: str, recipe: Recipe, height: int, width: int) -> None:
    pools = len(recipe.widths) if recipe.pooled else 0
    if min(height, width) < 2**pools:
        raise ValueError(
            f"host {name!r} halves the image {pools} times, below 1x1 for {height}x{width} images: "
            f"at least {2**pools}x{2**pools} is needed"
        )
