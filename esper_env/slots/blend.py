"""How a module's output joins the host's value: isolation while it learns, then the three compositions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from esper_env.contracts.action import Style

GATE_SQUEEZE = 4
"""Factor by which a gate's hidden layer narrows the channels."""
GATE_MIN_HIDDEN = 8
"""Fewest hidden units of a gate."""


class _Isolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return gradients[0], gradients[0]


def isolate(h: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """The bits of h forward; backward, the gradient to h unchanged and to d as if d had been added.

    A straight-through estimator (Bengio et al., 2013). It is a function of its own because the usual form
    `h + (d - d.detach())` is h only while d is finite: here no value of d, NaN included, reaches h.

    Args:
        h: value of the host.
        d: output of the branch, of the same shape.
    """
    value: torch.Tensor = _Isolate.apply(h, d)
    return value


def blend(
    h: torch.Tensor, d: torch.Tensor, alpha: float, style: Style, gate_value: torch.Tensor | None = None
) -> torch.Tensor:
    """The slot's value from BLENDING on: h + a d, h (1 + a tanh d) or h + a g d.

    Args:
        h: value of the host.
        d: output of the branch, of the same shape.
        alpha: share a in [0, 1]; at 0 the result is h itself, and d gets no gradient.
        style: the composition; LINEAR_ADD and SIGMOID_ADD differ in their ramp only.
        gate_value: g in (0, 1), broadcastable to h; read by GATED alone.

    Raises:
        ValueError: GATED without a gate's value.
    """
    if alpha == 0:
        return h
    if style == Style.LINEAR_MULTIPLY:
        return h * (1 + alpha * torch.tanh(d))
    if style == Style.GATED:
        if gate_value is None:
            raise ValueError("style GATED needs the value of a gate, and the module has none")
        return h + alpha * gate_value * d
    return h + alpha * d


class Gate(nn.Module):
    """One value in (0, 1) a sample from the mean over space, through one hidden layer.

    Args:
        channels: features of the host at the slot.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = _gate_layers(channels)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, 1, 1, 1)."""
        value: torch.Tensor = self.layers(h.mean(dim=(2, 3)))
        return value[:, :, None, None]


class TokenGate(nn.Module):
    """One value in (0, 1) a token from its own features, through one hidden layer.

    Args:
        width: features of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = _gate_layers(width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(batch, token, width) -> (batch, token, 1)."""
        value: torch.Tensor = self.layers(h)
        return value


GATES: dict[str, Callable[[int], nn.Module]] = {"cnn": Gate, "transformer": TokenGate}
"""Family of hosts -> its gate, from the number of features."""


def _gate_layers(features: int) -> nn.Sequential:
    hidden = max(GATE_MIN_HIDDEN, features // GATE_SQUEEZE)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
