"""Blueprints that only the tests of the laws know: modules without use, and modules that break networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from esper_env import Place
from esper_env.blueprints import catalogue
from esper_env.blueprints.catalogue import CATALOGUE, Blueprint, Builder
from esper_env.blueprints.conv import conv_light

TABLE = 65_537
STRIDE = 7_919
"""The noise is read from a table, from a place further on in every pass: no generator has to be kept."""


class Zero(nn.Module):
    """Exactly 0 forward, though its weight has a gradient like any other's: no gate can tell."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(place.channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d = self.weight * x.detach()
        return d - d.detach()


class Rescale(nn.Module):
    """h becomes 2 h to begin with: the next norm undoes it, but misses it once it is switched off."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(place.channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


class Counting(nn.Module):
    """Counts its forward passes in a buffer, so that what it does next is a function of its state."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(place.channels, 1, 1))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def count(self) -> torch.Tensor:
        """Number of this forward pass, from 1, as a tensor: FLOPs are counted without values."""
        self.passes += 1
        return self.passes


class Noise(Counting):
    """Other numbers in every forward pass, of mean 0 and variance 1, times a weight."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.register_buffer("table", torch.randn(TABLE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        at = torch.arange(x.numel(), device=x.device) + STRIDE * self.count()
        return self.weight * self.table[at % TABLE].view(x.shape)


class Explode(Counting):
    """Harmless at first; after `calm` forward passes it returns `factor` times its input."""

    def __init__(self, place: Place, calm: int, factor: float) -> None:
        super().__init__(place)
        self.calm, self.factor = calm, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.where(self.count() <= self.calm, 1.0, self.factor)


class Frozen(nn.Module):
    """A conv_light that keeps its random weights: they have gradients, which are exactly 0."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.branch = conv_light(place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fixed = {name: value.detach() for name, value in self.branch.named_parameters()}
        nothing = sum(0.0 * value.sum() for value in self.branch.parameters())
        d: torch.Tensor = functional_call(self.branch, fixed, (x,)) + nothing
        return d


class Unlearnable(nn.Module):
    """A random 3x3 convolution and ReLU whose weights are a buffer: no parameter at all."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        channels = place.channels
        self.register_buffer("kernel", torch.randn(channels, channels, 3, 3) / (3 * channels**0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.kernel, padding=1).relu()


def cheats(calm: int) -> tuple[Blueprint, ...]:
    """Every blueprint of this file; the late ones are harmless for `calm` forward passes, or 3 times that:
    only after 10 good epochs is a loss seen to run away.
    """
    builders: dict[str, Builder] = {
        "zero": Zero,
        "rescale": Rescale,
        "noise": Noise,
        "frozen": Frozen,
        "unlearnable": Unlearnable,
        "late_explosive": lambda place: Explode(place, 3 * calm, 1e6),
        "late_nan": lambda place: Explode(place, calm, float("nan")),
    }
    return tuple(Blueprint(name, {"cnn": builder}) for name, builder in builders.items())


INDEX = {blueprint.name: len(CATALOGUE) + place for place, blueprint in enumerate(cheats(0))}
"""Blueprint index of each, for environments made within `cheating`."""


@contextmanager
def cheating(calm: int = 150) -> Iterator[None]:
    """Environments made inside know the blueprints above."""
    with mock.patch.object(catalogue, "_REGISTERED", list(cheats(calm))):
        yield
