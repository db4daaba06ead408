"""The attention branch of convolutional hosts: channels reweighted by what the whole image shows."""

import torch
from torch import nn

from esper_env.contracts.facts import Place

SQUEEZE = 4
"""Factor by which the hidden layer narrows the channels."""
MIN_HIDDEN = 4
"""Fewest hidden units."""


class ChannelAttention(nn.Module):
    """x * (2 sigmoid(W2 silu(W1 mean(x))) - 1): squeeze and excitation (Hu et al., 2018) as a correction.

    Differs from the paper in the range of the factor, (-1, 1) in place of (0, 1), so that x plus the branch
    scales each channel by 0 to 2, and in silu for ReLU, so that no hidden unit is dead.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(MIN_HIDDEN, channels // SQUEEZE)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> the same shape."""
        hidden = nn.functional.silu(self.squeeze(x.mean(dim=(2, 3))))
        factor = 2 * torch.sigmoid(self.excite(hidden)) - 1
        return x * factor[:, :, None, None]


def attention(place: Place) -> nn.Module:
    """Channel attention: each scaled by 0 to 2, by what the whole image shows (Hu et al., 2018)."""
    return ChannelAttention(place.channels)
