"""The norm branch: what a group norm would change."""

import torch
from torch import nn

from esper_env.blueprints.conv import group_norm
from esper_env.contracts.facts import Place


class NormDelta(nn.Module):
    """GroupNorm(x) - x, so that adding it at alpha 1 replaces x by its normalized form."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> the same shape."""
        normalized: torch.Tensor = self.norm(x)
        return normalized - x


def norm(place: Place) -> nn.Module:
    """GroupNorm(x) - x."""
    return NormDelta(place.channels)
