"""The end of a language host of which nothing is known, in many networks: one after another.

So logits of one network alone are there at once: what its loss leads to is computed on the way forward.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from esper_env.engine.objective import mean_loss, sample_scores
from esper_env.engine.stacked import Forward, Run, Tensors


@dataclass(frozen=True)
class AnyHead:
    """The next token after each, by any last segment; see `Score`."""

    segment: Forward
    names: tuple[str, ...]
    """Of its parameters and buffers."""

    @classmethod
    def of(cls, module: nn.Module, prefix: str, forward: Forward) -> "AnyHead":
        """That of a segment.

        Args:
            module: the segment.
            prefix: of the names of its parameters, with the dot.
            forward: its forward pass.
        """
        named = (*module.named_parameters(), *module.named_buffers())
        return cls(forward, tuple(f"{prefix}{name}" for name, _ in named))

    def train(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Score`."""

        def loss(row: int, own: Tensor, *weights: Tensor) -> Tensor:
            return mean_loss(self._logits(run, row, own, weights), y[row])

        losses: Tensor = _RowLosses.apply(loss, x, *self._own(tensors))
        return losses, losses.detach().new_full(losses.shape, torch.nan)

    def measure(self, run: Run, tensors: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """See `Score`."""
        scores = []
        for row, right in enumerate(y):
            own, *weights = (each[row : row + 1] for each in (x, *self._own(tensors)))
            scores.append(sample_scores(self._logits(run, row, own, weights), right))
        return torch.stack(scores).double().sum(dim=2)

    def _own(self, tensors: Tensors) -> list[Tensor]:
        return [tensors[name] for name in self.names]

    def _logits(self, run: Run, row: int, x: Tensor, weights: Any) -> Tensor:
        """(sample, token, vocabulary) of one row, from a value and weights of it alone, (1, ...)."""
        of_row = replace(run, drawing=lambda _: run.drawing(row))
        return self.segment(of_row, dict(zip(self.names, weights, strict=True)), x)[0]


class _RowLosses(torch.autograd.Function):
    """Losses of rows, (row,), whose gradients are computed on the way; other rows' are 0.

    From a function of a row's number and tensors (1, ...) to its loss, and these tensors of all rows.
    """

    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        losses, gradients = [], []
        for row in range(len(tensors[0])):
            leaves = [
                each[row : row + 1].detach().requires_grad_(learns)
                for each, learns in zip(tensors, ctx.needs_input_grad[1:], strict=True)
            ]
            with torch.enable_grad():
                value = loss(row, *leaves)
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            gradients.append(torch.autograd.grad(value, asked, materialize_grads=True))
            losses.append(value.detach())
        ctx.save_for_backward(*(torch.cat(each) for each in zip(*gradients, strict=True)))
        return torch.stack(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        return None, *(
            (next(saved).movedim(0, -1) * gradients[0]).movedim(-1, 0) if learns else None
            for learns in ctx.needs_input_grad[1:]
        )
