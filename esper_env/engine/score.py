"""The end of a host in many networks at once: from its last value to losses, and to gradients.

Logits of a text are the largest tensor by far, (row, sample, token, vocabulary). Those of several rows are
never there at once: a piece of one row's is computed, turned into losses and into the gradients of the head's
input and weight, and forgotten, as in P.-L. Hsu et al., "Liger Kernel" (2024), and E. Wijmans et al., "Cut
Your Losses in Large-Vocabulary Language Models" (2024). How a row is cut depends on that row alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper_env.engine.any_head import AnyHead
from esper_env.engine.stacked import Forward, Run, Tensors, forward_of, stacked
from esper_env.hosts.gpt import TiedHead

LOGITS = {"cpu": 2**20, "cuda": 2**24}
"""Most logits of a text at once, by device: 4 MiB in float32, as suits a cache, or 64 MiB, a product that is
large enough to fill a GPU (not measured on one)."""
PIECES_AT_ONCE = 2
"""Most tensors of a piece's size that there are at a time: logits and their logarithms where a network is
measured, or, in bfloat16, what is cast for a product."""


class Score(Protocol):
    """What is made of the value before a host's last segment."""

    def train(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(row,) each: mean loss in nats, which is differentiable, and number of right answers (text: NaN).

        Args:
            run: how.
            tensors: of the host.
            x: the value, (row, sample, ...).
            y: int64 (row, sample), or for text (row, sample, token).
        """

    def measure(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """float64 (row, 2): sums over samples of losses and of right answers."""


@dataclass(frozen=True)
class Classes:
    """One class a sample."""

    segment: Forward

    def train(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Score`."""
        losses, right = self._samples(run, tensors, x, y)
        return losses.mean(dim=1), right.sum(dim=1)

    def measure(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """See `Score`."""
        losses, right = self._samples(run, tensors, x, y)
        return torch.stack([losses.double().sum(dim=1), right.double().sum(dim=1)], dim=1)

    def _samples(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = _wide(self.segment(run, tensors, x))
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y)
        return losses, logits.detach().argmax(dim=2) == y


@dataclass(frozen=True)
class NextTokens:
    """The next token after each; the loss of a sample is the mean over its tokens."""

    before: Forward
    """What comes before the head."""
    weight: str
    """Name of the head's weight, (row, vocabulary, feature)."""

    def train(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Score`."""
        h, weight = self._flat(run, tensors, x)
        losses: Tensor = _MeanLoss.apply(h, weight, y.flatten(1))
        return losses, losses.detach().new_full(losses.shape, torch.nan)

    def measure(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """See `Score`."""
        h, weight = self._flat(run, tensors, x)
        losses = torch.empty_like(y, dtype=weight.dtype).flatten(1)
        for at in _pieces(h, weight):
            losses[at] = _losses(h[at], weight[at[0]], y.flatten(1)[at])
        sums = losses.view_as(y).mean(dim=2).double().sum(dim=1)
        return torch.stack([sums, torch.full_like(sums, torch.nan)], dim=1)

    def _flat(self, run: Run, tensors: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.before(run, tensors, x).flatten(1, 2), tensors[self.weight]


@dataclass(frozen=True)
class ByLabels:
    """Whatever a host ends with: labels say whether that is a class a sample or the next token after each."""

    classes: Classes
    tokens: AnyHead

    def train(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Score`."""
        return self._of(y).train(run, tensors, x, y)

    def measure(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """See `Score`."""
        return self._of(y).measure(run, tensors, x, y)

    def _of(self, y: Tensor) -> Score:
        return self.classes if y.dim() == 2 else self.tokens


class _MeanLoss(torch.autograd.Function):
    """Mean cross-entropy of each row's tokens, (row,), whose gradients are computed on the way.

    From the head's input (row, token, feature), its weight (row, vocabulary, feature) and int64 (row, token).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
        losses = torch.empty_like(y, dtype=weight.dtype)
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        for at in _pieces(x, weight):
            to = to_x[at] if ctx.needs_input_grad[0] else None
            losses[at] = _with_gradients(x[at], weight[at[0]], y[at], to, to_weight[at[0]])
        ctx.save_for_backward(to_x, to_weight)
        return losses.mean(dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        to_x, to_weight = ctx.saved_tensors
        each = (gradients[0] / to_x.shape[1])[:, None, None]
        return to_x.mul_(each), to_weight.mul_(each), None


def piece(device: str, tokens: int, vocabulary: int) -> int:
    """Tokens of a row whose logits are there at once.

    Args:
        device: its type.
        tokens: of the row.
        vocabulary: logits of a token.
    """
    return min(tokens, max(1, LOGITS[device] // vocabulary))


def most_at_once(device: str, tokens: int, vocabulary: int) -> int:
    """Numbers of all tensors of a piece's size that there are at a time; arguments as of `piece`."""
    return PIECES_AT_ONCE * piece(device, tokens, vocabulary) * vocabulary


def _pieces(x: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    """A row and some of its tokens, piece by piece."""
    count = piece(x.device.type, x.shape[1], weight.shape[1])
    for row in range(x.shape[0]):
        for token in range(0, x.shape[1], count):
            yield slice(row, row + 1), slice(token, token + count)


def _with_gradients(x: Tensor, weight: Tensor, y: Tensor, to_x: Tensor | None, to_weight: Tensor) -> Tensor:
    """Losses of a piece, (row, token). Nothing else of it outlives this call but the gradients.

    Args:
        x: the head's input, (row, token, feature).
        weight: its weight, (row, vocabulary, feature).
        y: int64 (row, token).
        to_x: where the gradient of the sum is put, as `x`; None if it is not wanted.
        to_weight: what it is added to, as `weight`.
    """
    losses, gradient, total = _exponentials(_logits(x, weight), y)
    if to_x is not None:
        to_x.copy_(torch.bmm(gradient, weight) / total)
    _add_product(to_weight, gradient.transpose(1, 2), x / total)
    return losses


def _losses(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """The same without gradients."""
    losses = F.cross_entropy(_logits(x, weight).flatten(0, 1), y.flatten(), reduction="none")
    return losses.view_as(y)


def _logits(x: Tensor, weight: Tensor) -> Tensor:
    return _wide(torch.bmm(x, weight.transpose(1, 2)))


def _wide(logits: Tensor) -> Tensor:
    """In the type of number that weights have."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _exponentials(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies (row, token) of logits, which become their own gradients but for a factor.

    Returns:
        Losses, gradients times the sum of exponentials, and these sums, (row, token, 1).
    """
    index = y[..., None]
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    right = logits.gather(-1, index)
    total = logits.exp_().sum(dim=-1, keepdim=True)
    return (total.log() - right)[..., 0], logits.scatter_add_(-1, index, -total), total


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to a total in place, in the precision that is switched on."""
    if torch.is_autocast_enabled(total.device.type):
        total += torch.bmm(a, b)
    else:
        total.baddbmm_(a, b)


def score_of(segment: nn.Module, prefix: str, family: str) -> Score:
    """The score of a host, from its last segment. That of a tied head is only a faster one.

    Args:
        segment: its last one.
        prefix: of the names of its parameters, with the dot.
        family: of the host's places.
    """
    if isinstance(segment, nn.Sequential) and isinstance(segment[-1], TiedHead):
        before = stacked(segment[:-1], prefix, family)
        if before is not None and stacked(segment, prefix, family) is not None:
            return NextTokens(before, f"{prefix}{len(segment) - 1}.weight")
    forward = forward_of(segment, prefix, family)
    return ByLabels(Classes(forward), AnyHead.of(segment, prefix, forward))
