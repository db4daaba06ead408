"""Attention to the last few tokens alone."""

import warnings
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from esper_env.layers.transformer import HEAD_SIZE, INIT_STD, Attention

FLEX, SDPA = "FlexAttention", "SDPA"
"""What windows can be computed by."""
BLOCK = 128
"""Tokens of one of FlexAttention's blocks; there is nothing to leave out of shorter texts."""
SAMPLES = 32
"""Texts in one call of FlexAttention; what is missing of them is filled up with zeros."""


class WindowAttention(Attention):
    """Causal self-attention in which a token sees the last `window` ones, itself among them.

    By FlexAttention (J. Dong et al., 2024), which leaves out blocks that nobody sees, where torch can compile
    it for the device and the length is a multiple of `BLOCK`; else by scaled dot product attention with the
    same mask. `window_form` says which. It is called for `SAMPLES` texts at a time, so that it is compiled
    once however many there are, and the same kernel computes a network alone and among others.

    Args:
        width: features of a token, a multiple of `heads`.
        heads: their number.
        window: tokens that each one sees.
        std: of the initial weights of `out`.
    """

    def __init__(self, width: int, heads: int, window: int, std: float = INIT_STD) -> None:
        super().__init__(width, heads, std)
        self.window = window

    def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        # What torch.fx traces has to run anywhere.
        if isinstance(q, fx.Proxy) or window_form(q.device, q.dtype, q.shape[2]) == SDPA:
            return by_mask(q, k, v, self.window)
        return by_blocks(q, k, v, self.window)


def by_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Attention in a window by scaled dot product attention; all (batch, head, token, feature)."""
    tokens = q.shape[2]
    seen = q.new_ones((tokens, tokens), dtype=torch.bool).tril().triu(1 - window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def by_blocks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int, compiled: bool = True
) -> torch.Tensor:
    """The same by FlexAttention; not compiled, it computes all blocks and serves as a check."""
    blocks = _blocks(q.shape[2], window, q.device)
    flex = _flex((SAMPLES, *q.shape[1:]) if compiled else None)
    parts = zip(*(each.split(SAMPLES) for each in (q, k, v)), strict=True)
    mixed = [flex(*map(_full, part), block_mask=blocks)[: len(part[0])] for part in parts]
    return torch.cat(mixed)


def _full(part: torch.Tensor) -> torch.Tensor:
    """So many texts as are in every call, and always laid out alike, as torch compiles for a layout."""
    missing = SAMPLES - len(part)
    return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part.contiguous()


def window_form(device: torch.device, dtype: torch.dtype, tokens: int = BLOCK) -> str:
    """What windows are computed by: `FLEX` or `SDPA`.

    Args:
        device: where.
        dtype: type of number.
        tokens: length of the text.
    """
    fits = device.type == "cuda" and dtype != torch.float64 and tokens % BLOCK == 0
    return FLEX if fits and _compiles(device) else SDPA


@cache
def _compiles(device: torch.device) -> bool:
    """Whether torch can compile FlexAttention there, forward and backward: tried once, on a few zeros.

    What else goes wrong, such as too little memory, is raised: else the same run would compute by another
    kernel another time.
    """
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import GPUTooOldForTriton, TritonMissing

    q = torch.zeros(1, 1, BLOCK, HEAD_SIZE, device=device, requires_grad=True)
    try:
        by_blocks(q, q, q, window=32).sum().backward()
    except (TritonMissing, GPUTooOldForTriton, BackendCompilerFailed) as error:
        if isinstance(getattr(error, "inner_exception", None), torch.OutOfMemoryError):
            raise
        warnings.warn(f"attention in windows is computed by {SDPA} on {device}: {error}", stacklevel=2)
        return False
    return True


@cache
def _flex(shape: tuple[int, ...] | None) -> Any:
    """FlexAttention compiled for one shape, (batch, head, token, feature); None for not compiled."""
    from torch.nn.attention.flex_attention import flex_attention  # 0.7 s, and rarely needed

    if shape is None:
        return flex_attention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: Any) -> Any:
        return flex_attention(q, k, v, block_mask=block_mask)

    # torch keeps what it compiled with the code object, for at most 8 shapes, and for any from the second on.
    attend.__code__ = attend.__code__.replace()
    return torch.compile(attend, dynamic=False, fullgraph=True)


@lru_cache(maxsize=64)
def _blocks(tokens: int, window: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query - key < window)

    return create_block_mask(seen, None, None, tokens, tokens, device=str(device))
