"""The end of a host in many networks at once: from its last value to losses, and to gradients.

Logits of a text are the largest tensor by far, (row, sample, token, vocabulary). They are never there as a
whole: a piece of them is computed, turned into losses and into the gradients of the head's input and weight,
and forgotten, as in P.-L. Hsu et al., "Liger Kernel" (2024), and E. Wijmans et al., "Cut Your Losses in
Large-Vocabulary Language Models" (2024).
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

LOGITS = {"cpu": 2**20, "cuda": 2**27}
"""Most logits of texts at once, by device: as suits a cache, or the launch of large products."""


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
            logits, right = _logits(h[at], weight[at[0]]), y.flatten(1)[at]
            each = F.cross_entropy(logits.flatten(0, 1), right.flatten(), reduction="none")
            losses[at] = each.view_as(right)
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
            own, rows = x[at], at[0]
            losses[at], gradient, total = _exponentials(_logits(own, weight[rows]), y[at])
            if ctx.needs_input_grad[0]:
                to_x[at] = torch.bmm(gradient, weight[rows]) / total
            _add_product(to_weight[rows], gradient.transpose(1, 2), own / total)
        ctx.save_for_backward(to_x, to_weight)
        return losses.mean(dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        to_x, to_weight = ctx.saved_tensors
        each = (gradients[0] / to_x.shape[1])[:, None, None]
        return to_x.mul_(each), to_weight.mul_(each), None


def _pieces(x: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and tokens whose logits are there at once. On a CPU a piece is of one row alone."""
    rows, tokens = x.shape[:2]
    together = 1 if x.device.type == "cpu" else rows
    count = max(1, LOGITS[x.device.type] // (together * weight.shape[1]))
    for row in range(0, rows, together):
        for token in range(0, tokens, count):
            yield slice(row, row + together), slice(token, token + count)


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
