"""What transformers are put together from, in hosts and branches alike: GPT-2's layers without biases.

A. Radford et al., "Language models are unsupervised multitask learners" (2019). Linear layers have no bias,
as in A. Karpathy's nanoGPT: that of a key cancels in the softmax and would never get a gradient, and every
norm has a shift.
"""

import torch
import torch.nn.functional as F
from torch import nn

INIT_STD = 0.02
"""Standard deviation of initial weights (GPT-2)."""
HEAD_SIZE = 32
"""Features of one head of a branch, unless the width is less or not a multiple of it."""


def linear(inputs: int, outputs: int, std: float = INIT_STD) -> nn.Linear:
    """A linear layer without bias, its weights normal with this standard deviation."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


def mlp(width: int, expansion: int, std: float = INIT_STD) -> list[nn.Module]:
    """Up, GELU (D. Hendrycks, K. Gimpel, 2016), down.

    Args:
        width: features of a token.
        expansion: hidden features, as a multiple of it.
        std: of the initial weights of `down`.
    """
    return [linear(width, expansion * width), nn.GELU(), linear(expansion * width, width, std)]


def heads_of(width: int) -> int:
    """Heads of a branch: as many of `HEAD_SIZE` features as fit, but so that they share the width evenly."""
    return next(heads for heads in range(max(1, width // HEAD_SIZE), 0, -1) if width % heads == 0)


class Attention(nn.Module):
    """Causal self-attention of several heads (A. Vaswani et al., 2017).

    Args:
        width: features of a token, a multiple of `heads`.
        heads: their number.
        std: of the initial weights of `out`.
    """

    def __init__(self, width: int, heads: int, std: float = INIT_STD) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width, std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, token, width) -> the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        mixed: torch.Tensor = self.out(self.mix(q, k, v).transpose(1, 2).flatten(2))
        return mixed

    def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Means of the values of the tokens up to each one; all are (batch, head, token, feature)."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
