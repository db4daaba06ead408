"""A slot in many networks at once: branches group by group, then one composition for all rows.

The formulas are those of `slots.blend`; here a row has its own alpha and style.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_env.contracts.action import Style
from esper_env.engine.kernels.kernels import Rows, Share
from esper_env.engine.kinds import Kind
from esper_env.engine.stacked import Forward, Run, Tensors
from esper_env.engine.topology import Group, Joint, Modules


@dataclass(frozen=True)
class Branches:
    """Modules of one group in a slot."""

    slot: int
    rows: Rows
    """Where they are in the value."""
    alpha: Tensor
    """(row, 1, 1, 1, 1)."""
    forward: Forward
    tensors: Tensors
    """Of the module and its gate, (row, *shape) by name."""
    run: Run
    gate: Forward | None = None
    """Where the group is gated."""
    multiplies: Tensor | None = None
    """bool (row, 1, 1, 1, 1): style LINEAR_MULTIPLY; None where no row has it."""

    def load(self, alphas: Tensor) -> None:
        """Make alpha that of a new epoch, from that of all rows of the value."""
        self.alpha.copy_(alphas[self.rows.index].view_as(self.alpha))

    def look_at(self, h: Tensor, ratios: "Ratios | None") -> Tensor:
        """The branch's output for the host's value h in these rows; notes the ratio of their sizes."""
        d = self.forward(self.run, self.tensors, h)
        if ratios is not None:
            size = self._rms(h)
            ratios.append((self, torch.where(size > 0, self._rms(d) / size, torch.nan)))
        return d

    def _rms(self, x: Tensor) -> Tensor:
        """(row,). In steps: torch would share out a long sum to threads, and round as many as there are."""
        squares: Tensor = self.run.kernels.mean(_pixels(x.detach().square()))
        return squares.mean(dim=1).mean(dim=1).sqrt()

    def share(self, source: Tensor, h: Tensor, ratios: "Ratios | None") -> Share:
        """What is added to the host's value h; branch and gate see `source`: h, perhaps without gradient."""
        d = self.look_at(source, ratios)
        gate = None if self.gate is None else self.gate(self.run, self.tensors, source)
        gate = None if gate is None else _pixels(gate)
        return Share(self.rows, _pixels(h), _pixels(d), self.alpha, gate, self.multiplies)


def _pixels(x: Tensor) -> Tensor:
    """Tokens as images of one pixel, which blend as such: a gate has a value for each. Images as they are."""
    return x.flatten(1, 2)[:, :, None, None] if x.dim() == 4 else x


def _like(x: Tensor, value: Tensor) -> Tensor:
    """The reverse of `_pixels`, for some rows or all of a value x."""
    return value.view(len(value), *x.shape[1:]) if x.dim() == 4 else value


Ratios = list[tuple[Branches, Tensor]]
"""RMS(branch output) / RMS(host value) by group, (row,); NaN where the host's value is 0 everywhere."""


class _StraightThrough(torch.autograd.Function):
    """The value itself; backward, the gradient of some rows goes to their d too, as if it had been added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Sequence[Rows], *ds: Tensor) -> Tensor:
        ctx.rows = rows
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return gradient, None, *[rows.take(gradient) for rows in ctx.rows]


@dataclass(frozen=True)
class Junction:
    """A slot, by how its modules take part. In evaluation neither isolated nor idle ones are given."""

    run: Run
    isolated: Sequence[Branches]
    blended: Sequence[Branches]
    idle: Sequence[Branches]
    detach: bool
    """Whether the gradient stops at the input of blended modules as well."""

    def __call__(self, x: Tensor, ratios: Ratios | None = None) -> Tensor:
        """The slot's value.

        Args:
            x: (row, sample, height, width, channel) or (row, sample, token, feature), value of the host.
            ratios: where the delta ratio of each group, (row,), is put; None if it is not wanted.
        """
        h = x.detach()
        if self.isolated:
            ds = [each.look_at(each.rows.take(h), ratios) for each in self.isolated]
            x = _StraightThrough.apply(x, [each.rows for each in self.isolated], *ds)
        if ratios is not None:
            for each in self.idle:
                each.look_at(each.rows.take(h), ratios)
        return self._blend(x, ratios) if self.blended else x

    def _blend(self, x: Tensor, ratios: Ratios | None) -> Tensor:
        kernels = self.run.kernels
        own, values = kernels.fork(_pixels(x), [each.rows for each in self.blended])
        shares = [
            each.share(h.detach() if self.detach else h, h, ratios)
            for each, h in zip(self.blended, (_like(x, h) for h in values), strict=True)
        ]
        return _like(x, kernels.blend(own, shares))

    @property
    def bare(self) -> bool:
        """There is no module in any row."""
        return not (self.isolated or self.blended or self.idle)

    def load(self, alphas: Tensor) -> None:
        """Make alpha, (row,), that of a new epoch."""
        for each in (*self.isolated, *self.blended, *self.idle):
            each.load(alphas)


@dataclass(frozen=True)
class Assembly:
    """What the slots of a list of networks are put together from.

    Args:
        modules: what the slots of every environment hold.
        envs: (row,): whose network each row is; an environment may have several.
        like: on its device and of its type are the tensors that are made.
        detach: see `Junction`.
    """

    modules: Modules
    envs: NDArray[np.int64]
    like: Tensor
    detach: bool

    def junction(self, run: Run, slot: int, members: Sequence[tuple[Group, Kind, Tensors]]) -> Junction:
        """One slot, from its groups, each with its kind and its parameters."""
        isolated, blended, idle = (
            [self._branches(run, slot, *each) for each in members if each[0].joint is joint]
            for joint in Joint
        )
        return Junction(run, isolated, blended, idle, self.detach)

    def _branches(self, run: Run, slot: int, group: Group, kind: Kind, tensors: Tensors) -> Branches:
        forward, gate = kind.forwards
        envs = self.envs[list(group.at)]
        alpha = self._column(self.modules.alpha[envs, slot]).to(self.like.dtype)
        style = self.modules.style[envs, slot]
        multiplies = (style == Style.LINEAR_MULTIPLY) & (group.joint is Joint.BLENDED)
        column = self._column(multiplies) if multiplies.any() else None
        own = replace(run, drawing=lambda row: run.drawing(group.at[row]))
        rows = Rows.of(group.at, self.like.device)
        return Branches(slot, rows, alpha, forward, tensors, own, gate if group.gated else None, column)

    def _column(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values)[:, None, None, None, None].to(self.like.device)
