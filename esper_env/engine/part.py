"""Rows of one kind in a program: copied from their pool, trained, and given back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from esper_env.engine.kernels.kernels import AdamW, Descent, Gradient, Kernels
from esper_env.engine.kinds import GATE, Kind

Trained = tuple[float, Descent | AdamW]
"""Learning rate before schedule and warm-up, and how weights descend."""


class Part:
    """Rows of one kind that are trained together, by themselves until the epoch is over.

    Args:
        kind: what they are.
        at: int64 (row,), their positions in the program.
        descent: how they are trained, at what learning rate before the schedule; None: they are not.
        gated: whether their gates are.
    """

    def __init__(self, kind: Kind, at: Tensor, descent: Trained | None, gated: bool) -> None:
        self.kind, self.at, self._descent = kind, at, descent
        self._envs = torch.zeros_like(at)
        self.rows, tensors = kind.pool.take(self._envs), kind.pool.tensors
        self.counted = [i for i, name in enumerate(tensors.names) if gated or not name.startswith(GATE)]
        """Tensors whose gradients are looked at."""
        self.squares = self.rows.values.new_zeros(len(at), len(tensors.names))
        self._lr = self.rows.values.new_zeros(len(at))
        self.views = tensors.views(self.rows.values)
        self.leaves: list[tuple[int, Tensor]] = []
        """What gets a gradient, with its number."""
        for i in () if descent is None else self.counted:
            if tensors.learns[i]:
                name = tensors.names[i]
                self.views[name] = self.views[name].detach().requires_grad_()
                self.leaves.append((i, self.views[name]))

    def load(self, envs: Tensor, factors: Tensor) -> None:
        """Take the rows of these environments from the pool, (position,), and how far their schedules are."""
        self._envs = envs[self.at]
        for own, new in zip(self.rows.parts(), self.kind.pool.take(self._envs).parts(), strict=True):
            own.copy_(new)
        self.squares.zero_()
        if self._descent is not None:
            self._lr.copy_(factors[self.at] * self._descent[0])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return self.kind.pool.tensors.everywhere(self.views | self.rows.buffers)

    @property
    def num_params(self) -> int:
        """Numbers in the tensors that are looked at, of one row."""
        shapes = self.kind.pool.tensors.shapes
        return sum(shapes[i].numel() for i in self.counted)

    def update(self, kernels: Kernels, gradients: Sequence[Tensor | None], warmth: Tensor | None) -> None:
        """A step of descent.

        Args:
            kernels: what to compute with.
            gradients: those of `leaves`.
            warmth: (position,), what learning rates are multiplied with in this step; None for nothing.
        """
        starts = self.kind.pool.tensors.starts
        own = [
            Gradient(i, starts[i], gradient)
            for (i, _), gradient in zip(self.leaves, gradients, strict=True)
            if gradient is not None
        ]
        if own and self._descent is not None:
            rows, descent = self.rows, self._descent[1]
            lr = self._lr if warmth is None else self._lr * warmth[self.at]
            if isinstance(descent, AdamW):
                kernels.update_adamw(rows.values, rows.memory, self.squares, own, lr, descent)
            else:
                momenta = rows.memory["momentum_buffer"]
                kernels.update(rows.values, momenta, self.squares, own, lr, descent)

    def finite(self) -> Tensor:
        """Bool (row,): parameters, buffers and the gradients of the epoch are."""
        floats = [self.rows.values, self.squares, *self.rows.buffers.values()]
        return torch.stack([each.reshape(len(each), -1).isfinite().all(1) for each in floats]).all(0)

    def give_back(self) -> None:
        """Into the pool."""
        self.kind.pool.give(self._envs, self.rows)

    def rms(self, batches: int) -> Tensor:
        """(row, tensor): root of the mean squared gradient norm of each tensor that is looked at."""
        return (self.squares[:, self.counted] / batches).sqrt()
