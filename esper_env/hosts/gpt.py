"""Language hosts: GPT-2 in small (A. Radford et al., 2019), with a place after every block."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from esper_env.contracts.facts import Place
from esper_env.hosts.host import Host
from esper_env.layers.transformer import INIT_STD, Attention, mlp

EXPANSION = 4
"""Hidden features of a block's MLP, as a multiple of the width."""


@dataclass(frozen=True)
class Recipe:
    """What distinguishes one language host from another."""

    layers: int
    """Blocks."""
    width: int
    """Features of a token."""
    heads: int
    """Attention heads of a block."""
    context: int
    """Tokens of a window, unless the task says otherwise."""
    default_blocks: tuple[int, ...]
    """Blocks (from 1) after which a slot stands by default."""


HOSTS: dict[str, Recipe] = {
    "gpt": Recipe(6, 384, 6, 256, (2, 4, 6)),
    "gpt_small": Recipe(4, 128, 4, 256, (1, 3, 4)),
    "gpt_micro": Recipe(3, 32, 2, 64, (1, 2, 3)),
}
"""Every language host by name."""


class TokenEmbedding(nn.Module):
    """Sum of a learned vector for the token and one for its position.

    Args:
        vocabulary: number of tokens that there are.
        context: most tokens of a sequence.
        width: features of a token.
    """

    def __init__(self, vocabulary: int, context: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=INIT_STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """int64 (batch, token), at most a context of them -> (batch, token, width)."""
        embedded: torch.Tensor = self.tokens(x) + self.positions.weight[: x.shape[1]]
        return embedded


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and added to what it was given.

    Args:
        width: features of a token.
        heads: of the attention.
        std: of the initial weights of the layers whose output is added.
    """

    def __init__(self, width: int, heads: int, std: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads, std))
        self.mlp = nn.Sequential(nn.LayerNorm(width), *mlp(width, EXPANSION, std))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(batch, token, width) -> the same shape."""
        h = h + self.attention(h)
        added: torch.Tensor = h + self.mlp(h)
        return added


class TiedHead(nn.Module):
    """Logits as products with the vectors of the tokens (O. Press, L. Wolf, 2017).

    Args:
        tokens: the embedding, whose weight (vocabulary, width) is the head's as well.
    """

    def __init__(self, tokens: nn.Embedding) -> None:
        super().__init__()
        self.weight = tokens.weight

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(batch, token, width) -> logits (batch, token, vocabulary)."""
        return F.linear(h, self.weight)


class GptHost(Host):
    """Embeddings and blocks, a final norm and a tied head. No dropout.

    Args:
        name: how users ask for it.
        recipe: sizes and default slots.
        context: tokens of a window; shorter ones can be given too.
        vocabulary: number of tokens that there are, and of logits.
    """

    def __init__(self, name: str, recipe: Recipe, context: int, vocabulary: int) -> None:
        width, layers = recipe.width, recipe.layers
        embedding = TokenEmbedding(vocabulary, context, width)
        std = INIT_STD / (2 * layers) ** 0.5  # so that the sum over all layers stays as large
        blocks = [Block(width, recipe.heads, std) for _ in range(layers)]
        segments = [nn.Sequential(embedding, blocks[0]), *blocks[1:]]
        segments.append(nn.Sequential(nn.LayerNorm(width), TiedHead(embedding.tokens)))
        places = [
            Place(f"block{block}", "transformer", (context, width), block / layers)
            for block in range(1, layers + 1)
        ]
        default = [f"block{block}" for block in recipe.default_blocks]
        super().__init__(name, (context,), segments, places, default)

    def sample(self, size: int) -> torch.Tensor:
        """See `Host`."""
        return torch.empty(size, *self.input_shape, dtype=torch.int64, device="meta")


def build_host(name: str, input_shape: tuple[int, ...], vocabulary: int) -> GptHost:
    """A host with fresh weights from torch's generator (inside `slots.grown.seeded`: from that key).

    Args:
        name: a key of `HOSTS`.
        input_shape: (context,), tokens of a window.
        vocabulary: number of tokens that there are, at least 2.

    Raises:
        ValueError: an unknown name, a shape that isn't a window's, or too few tokens.
    """
    if name not in HOSTS:
        raise ValueError(f"host={name!r} is not known: choose one of {sorted(HOSTS)}")
    if len(input_shape) != 1 or input_shape[0] < 1:
        raise ValueError(f"host {name!r}: input shape {input_shape} is not (context,), tokens of a window")
    if vocabulary < 2:
        raise ValueError(f"host {name!r}: a vocabulary of {vocabulary}, at least 2 tokens are needed")
    return GptHost(name, HOSTS[name], input_shape[0], vocabulary)
