"""Where networks of one kind are kept: a row of parameters, momenta and buffers for every environment."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Tensors:
    """The parameters and buffers of a kind of module, in its own order."""

    names: tuple[str, ...]
    """Of the parameters."""
    shapes: tuple[torch.Size, ...]
    """Of one row's."""
    learns: tuple[bool, ...]
    """Which are trained; the others are held fixed by the blueprint."""
    starts: tuple[int, ...]
    """Where each begins in a row, and where the last one ends."""
    buffers: dict[str, Tensor]
    """By name; the values are those of a fresh module."""
    aliases: dict[str, str]
    """Further names of parameters and buffers that have several, and the one they go by here."""

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Those of this module."""
        named = dict(module.named_parameters())
        shapes = tuple(each.shape for each in named.values())
        starts = (0, *accumulate(shape.numel() for shape in shapes))
        learns = tuple(each.requires_grad for each in named.values())
        return cls(tuple(named), shapes, learns, starts, dict(module.named_buffers()), _aliases(module))

    @property
    def num_params(self) -> int:
        """Of one row."""
        return self.starts[-1]

    def views(self, values: Tensor) -> dict[str, Tensor]:
        """The parameters by name, (row, *shape), as views of `values`, (row, parameter)."""
        parts = zip(self.names, self.shapes, self.starts[:-1], self.starts[1:], strict=True)
        return {name: values[:, a:b].unflatten(1, shape) for name, shape, a, b in parts}


def _aliases(module: nn.Module) -> dict[str, str]:
    every = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    first = {id(each): name for name, each in reversed(every.items())}
    return {name: first[id(each)] for name, each in every.items() if first[id(each)] != name}


@dataclass(frozen=True)
class Rows:
    """Rows by themselves, copied from a pool."""

    values: Tensor
    """(row, parameter)."""
    momenta: Tensor
    """(row, parameter)."""
    buffers: dict[str, Tensor]
    """(row, *shape) by name."""

    def parts(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        return [self.values, self.momenta, *self.buffers.values()]


class Pool:
    """Room for one network of a kind in every environment. A row's memory never moves.

    Args:
        module: what the kind is like; with the type of number that is wanted, on the device.
        num_envs: number of rows.
    """

    def __init__(self, module: nn.Module, num_envs: int) -> None:
        self.tensors = Tensors.of(module)
        first = next(module.parameters(), None)
        options = {} if first is None else {"dtype": first.dtype, "device": first.device}
        self._now = self._empty(num_envs, options)
        self._kept: Rows | None = None

    def _empty(self, num_envs: int, options: dict[str, object]) -> Rows:
        values = torch.zeros(num_envs, self.tensors.num_params, **options)  # type: ignore[call-overload]
        buffers = {
            name: each.expand(num_envs, *each.shape).clone() for name, each in self.tensors.buffers.items()
        }
        return Rows(values, values.clone(), buffers)

    def plant(self, env: int, module: nn.Module) -> None:
        """Give an environment the weights of this module, and no momentum; of what it lacks, zeros."""
        row = self.row(env)
        row.values.zero_()
        row.momenta.zero_()
        self.add(env, module)

    def add(self, env: int, module: nn.Module) -> None:
        """Give an environment these weights, of a module that has a part of all names."""
        row = self.row(env)
        own = self.views(row) | row.buffers
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            own[name].copy_(value.detach())

    def views(self, row: Rows) -> dict[str, Tensor]:
        """The parameters of one row by name, as views of it."""
        return {name: value[0] for name, value in self.tensors.views(row.values[None]).items()}

    def row(self, env: int, kept: bool = False) -> Rows:
        """Views of what an environment has, or of what was remembered: values and momenta (parameter,)."""
        rows = self._memory if kept else self._now
        return Rows(rows.values[env], rows.momenta[env], {name: b[env] for name, b in rows.buffers.items()})

    def take(self, envs: Tensor) -> Rows:
        """Copies of these rows, int64 (row,)."""
        now = self._now
        buffers = {name: each.index_select(0, envs) for name, each in now.buffers.items()}
        return Rows(now.values.index_select(0, envs), now.momenta.index_select(0, envs), buffers)

    def give(self, envs: Tensor, rows: Rows) -> None:
        """Put copies back."""
        for own, new in zip(self._now.parts(), rows.parts(), strict=True):
            own.index_copy_(0, envs, new)

    @property
    def _memory(self) -> Rows:
        if self._kept is None:
            now = self._now
            empty = {name: torch.zeros_like(each) for name, each in now.buffers.items()}
            self._kept = Rows(torch.zeros_like(now.values), torch.zeros_like(now.momenta), empty)
        return self._kept

    def keep(self, envs: Tensor) -> None:
        """Remember these rows, int64 (row,)."""
        for kept, now in zip(self._memory.parts(), self._now.parts(), strict=True):
            kept.index_copy_(0, envs, now.index_select(0, envs))

    def restore(self, envs: Tensor) -> None:
        """Make these rows what was remembered."""
        for kept, now in zip(self._memory.parts(), self._now.parts(), strict=True):
            now.index_copy_(0, envs, kept.index_select(0, envs))
