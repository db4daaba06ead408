"""Branches of transformers. A branch maps x to a correction of the same shape; the slot adds the residual.

Weights begin as those of a host's blocks do, so that a module's first output is small beside what it is added
to, and no weight is 0: each has a gradient from the first step.
"""

import torch
from torch import nn

from esper_env.contracts.facts import Place
from esper_env.layers.transformer import Attention, heads_of, linear
from esper_env.layers.transformer import mlp as mlp_layers
from esper_env.layers.window import WindowAttention

RANK, LARGE_RANK = 8, 32
"""Hidden features of lora and lora_large."""
SMALL_EXPANSION, EXPANSION = 2, 4
"""Hidden features of mlp_small and mlp, as a multiple of the width."""
WINDOW_SHARE = 4
"""The context, as a multiple of flex_attention's window."""


class LayerNormDelta(nn.Module):
    """LayerNorm(x) - x, so that adding it at alpha 1 replaces x by its normalized form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, token, width) -> the same shape."""
        normalized: torch.Tensor = self.norm(x)
        return normalized - x


def norm(place: Place) -> nn.Module:
    """LayerNorm(x) - x."""
    return LayerNormDelta(place.channels)


def lora(place: Place) -> nn.Module:
    """A linear map of rank 8."""
    return _low_rank(place.channels, RANK)


def lora_large(place: Place) -> nn.Module:
    """A linear map of rank 32."""
    return _low_rank(place.channels, LARGE_RANK)


def attention(place: Place) -> nn.Module:
    """Causal self-attention on LayerNorm(x)."""
    width = place.channels
    return nn.Sequential(nn.LayerNorm(width), Attention(width, heads_of(width)))


def flex_attention(place: Place) -> nn.Module:
    """Causal self-attention to the last quarter of a context, on LayerNorm(x)."""
    width, window = place.channels, max(1, place.positions // WINDOW_SHARE)
    return nn.Sequential(nn.LayerNorm(width), WindowAttention(width, heads_of(width), window))


def mlp_small(place: Place) -> nn.Module:
    """An MLP on LayerNorm(x) with twice as many hidden features."""
    return _mlp(place.channels, SMALL_EXPANSION)


def mlp(place: Place) -> nn.Module:
    """An MLP on LayerNorm(x) with four times as many hidden features."""
    return _mlp(place.channels, EXPANSION)


def _low_rank(width: int, rank: int) -> nn.Module:
    """Down and up (E. Hu et al., "LoRA", 2021, where `up` begins at 0, and so `down` without a gradient)."""
    return nn.Sequential(nn.Linear(width, rank, bias=False), linear(rank, width))


def _mlp(width: int, expansion: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), *mlp_layers(width, expansion))
