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
from esper_env.engine.kinds import Kind
from esper_env.engine.stacked import Forward, Run, Tensors
from esper_env.engine.topology import Group, Joint, Modules


@dataclass(frozen=True)
class Branches:
    """Modules of one group in a slot."""

    forward: Forward
    tensors: Tensors
    """Of the module and its gate, (row, *shape) by name."""
    run: Run
    count: int
    """Rows of the group."""
    gate: Forward | None = None
    """Where the group is gated."""
    multiplies: Tensor | None = None
    """bool (row, 1, 1, 1, 1): style LINEAR_MULTIPLY; None where no row has it."""

    def __call__(self, source: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The branch's output, and what alpha scales of it, of h's shape both.

        Args:
            source: what branch and gate see: h, or h without its gradient.
            h: value of the host in these rows.
        """
        d = self.forward(self.run, self.tensors, source)
        if self.gate is not None:
            return d, self.gate(self.run, self.tensors, source) * d
        if self.multiplies is not None:
            return d, torch.where(self.multiplies, h * torch.tanh(d), d)
        return d, d


@dataclass(frozen=True)
class Section:
    """Groups of one slot that are treated alike, one after another."""

    slot: int
    rows: Tensor | slice
    """Where they are in the value: int64 (row,), or a slice where they are there one after another."""
    branches: Sequence[Branches]
    alpha: Tensor
    """(row, 1, 1, 1, 1)."""

    def load(self, alphas: Tensor) -> None:
        """Make alpha that of a new epoch, from that of all rows of the value."""
        self.alpha.copy_(alphas[self.rows].view_as(self.alpha))

    @property
    def counts(self) -> list[int]:
        """Rows of each group."""
        return [each.count for each in self.branches]

    def take(self, run: Run, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The value in these rows, and the parts of it before and after, if that is what there is."""
        if isinstance(self.rows, Tensor):
            return run.kernels.select(x, self.rows), []
        start, stop = self.rows.start, self.rows.stop
        before, own, after = x.split([start, stop - start, len(x) - stop])
        return own, [before, after]

    def put(self, run: Run, x: Tensor, rest: list[Tensor], values: list[Tensor]) -> Tensor:
        """The value with these rows replaced by the groups' values."""
        if isinstance(self.rows, Tensor):
            return run.kernels.put(x, self.rows, torch.cat(values))
        joined = [each for each in (rest[0], *values, rest[1]) if len(each)]
        return joined[0] if len(joined) == 1 else torch.cat(joined)

    def __call__(self, source: Tensor, h: Tensor) -> list[tuple[Tensor, Tensor]]:
        """By group, the output of its branches, and what alpha scales."""
        parts = zip(self.branches, source.split(self.counts), h.split(self.counts), strict=True)
        return [each(*values) for each, *values in parts]


class _StraightThrough(torch.autograd.Function):
    """The value itself; backward, the gradient of some rows goes to their d too, as if it had been added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor | slice, *ds: Tensor) -> Tensor:
        ctx.rows, ctx.counts = rows, [len(d) for d in ds]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return gradient, None, *gradient[ctx.rows].split(ctx.counts)


Ratios = list[tuple[Section, Tensor]]
"""RMS(branch output) / RMS(host value) by section, (row,)."""


@dataclass(frozen=True)
class Junction:
    """A slot; a section that is None has no rows. In evaluation neither isolated nor idle ones are given."""

    run: Run
    isolated: Section | None
    blended: Section | None
    idle: Section | None
    detach: bool
    """Whether the gradient stops at the input of blended modules as well."""

    def __call__(self, x: Tensor, ratios: Ratios | None = None) -> Tensor:
        """The slot's value.

        Args:
            x: (row, sample, height, width, channel), value of the host.
            ratios: where the delta ratio of each section, (row,), is put; None if it is not wanted.
        """
        if self.isolated is not None:
            ds = self._look_at(self.isolated, x, ratios)
            x = _StraightThrough.apply(x, self.isolated.rows, *ds)
        if self.idle is not None and ratios is not None:
            self._look_at(self.idle, x, ratios)
        return x if self.blended is None else self._blend(self.blended, x, ratios)

    @property
    def bare(self) -> bool:
        """There is no module in any row."""
        return self.isolated is self.blended is self.idle is None

    def load(self, alphas: Tensor) -> None:
        """Make alpha, (row,), that of a new epoch."""
        for section in (self.isolated, self.blended, self.idle):
            if section is not None:
                section.load(alphas)

    def _look_at(self, section: Section, x: Tensor, ratios: Ratios | None) -> list[Tensor]:
        h, _ = section.take(self.run, x.detach())
        ds = [d for d, _ in section(h, h)]
        _record(ratios, section, ds, h)
        return ds

    def _blend(self, section: Section, x: Tensor, ratios: Ratios | None) -> Tensor:
        h, rest = section.take(self.run, x)
        results = section(h.detach() if self.detach else h, h)
        _record(ratios, section, [d for d, _ in results], h)
        parts = zip(h.split(section.counts), section.alpha.split(section.counts), results, strict=True)
        return section.put(self.run, x, rest, [own + alpha * scaled for own, alpha, (_, scaled) in parts])


def _record(ratios: Ratios | None, section: Section, ds: list[Tensor], h: Tensor) -> None:
    """RMS(branch output) / RMS(host value) of each row; NaN where the host's value is 0 everywhere."""
    if ratios is not None:
        sizes = _rms(h)
        ratio = torch.cat([_rms(d) for d in ds]) / sizes
        ratios.append((section, torch.where(sizes > 0, ratio, torch.nan)))


def _rms(x: Tensor) -> Tensor:
    """(row,)."""
    return x.detach().square().mean(dim=tuple(range(1, x.ndim))).sqrt()


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
            self._section(run, slot, [each for each in members if each[0].joint is joint]) for joint in Joint
        )
        return Junction(run, isolated, blended, idle, self.detach)

    def _section(self, run: Run, slot: int, members: Sequence[tuple[Group, Kind, Tensors]]) -> Section | None:
        if not members:
            return None
        rows = [at for group, _, _ in members for at in group.at]
        branches = [self._branches(run, *member) for member in members]
        alpha = self._column(self.modules.alpha[self.envs[rows], slot]).to(self.like.dtype)
        consecutive = rows == list(range(rows[0], rows[0] + len(rows)))
        at = (
            slice(rows[0], rows[0] + len(rows))
            if consecutive
            else torch.tensor(rows, device=self.like.device)
        )
        return Section(slot, at, branches, alpha)

    def _branches(self, run: Run, group: Group, kind: Kind, tensors: Tensors) -> Branches:
        forward, gate = kind.forwards
        envs = self.envs[list(group.at)]
        style = self.modules.style[envs, group.slot]
        multiplies = (style == Style.LINEAR_MULTIPLY) & (group.joint is Joint.BLENDED)
        column = self._column(multiplies) if multiplies.any() else None
        own = replace(run, drawing=lambda row: run.drawing(group.at[row]))
        return Branches(forward, tensors, own, len(group.at), gate if group.gated else None, column)

    def _column(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values)[:, None, None, None, None].to(self.like.device)
