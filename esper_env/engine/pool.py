"""Where networks of one kind are kept: parameters, what optimizers remember and buffers, a row each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor, nn

from esper_env.engine.optimizer import PER_TENSOR


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
        return {name: values[:, a:b].view(len(values), *shape) for name, shape, a, b in parts}

    def everywhere(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by all of their names, from those by the names they go by here."""
        return named | {alias: named[name] for alias, name in self.aliases.items()}

    def room(self, remembered: str) -> int:
        """Numbers that optimizers of one row remember under this name."""
        return len(self.names) if remembered == PER_TENSOR else self.num_params


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
    memory: dict[str, Tensor]
    """What optimizers remember, as torch calls it: (row, parameter) each, `PER_TENSOR` (row, tensor)."""
    buffers: dict[str, Tensor]
    """(row, *shape) by name."""

    def parts(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        return [self.values, *self.memory.values(), *self.buffers.values()]

    def like(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """The same of changed tensors."""
        memory, buffers = (
            {name: change(each) for name, each in named.items()} for named in (self.memory, self.buffers)
        )
        return Rows(change(self.values), memory, buffers)


class Pool:
    """Room for one network of a kind in every environment. A row's memory never moves.

    Args:
        module: what the kind is like; with the type of number that is wanted, on the device.
        num_envs: number of rows.
        remembered: what its optimizers remember, see `Rows.memory`.
    """

    def __init__(self, module: nn.Module, num_envs: int, remembered: Sequence[str]) -> None:
        self.tensors = Tensors.of(module)
        first = next(module.parameters(), None)
        options = {} if first is None else {"dtype": first.dtype, "device": first.device}
        self._now = self._empty(num_envs, remembered, options)
        self._kept: Rows | None = None

    def _empty(self, num_envs: int, remembered: Sequence[str], options: dict[str, Any]) -> Rows:
        values = torch.zeros(num_envs, self.tensors.num_params, **options)
        counted = options | {"dtype": torch.float32}  # steps, as torch counts them
        memory = {
            name: torch.zeros(
                num_envs, self.tensors.room(name), **(counted if name == PER_TENSOR else options)
            )
            for name in remembered
        }
        buffers = {
            name: each.expand(num_envs, *each.shape).clone() for name, each in self.tensors.buffers.items()
        }
        return Rows(values, memory, buffers)

    def plant(self, env: int, module: nn.Module) -> None:
        """Give an environment the weights of this module, and fresh optimizers; of what it lacks, zeros."""
        row = self.row(env)
        for each in (row.values, *row.memory.values()):
            each.zero_()
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
        """Views of what an environment has, or of what was kept, without the dimension of rows."""
        rows = self._memory if kept else self._now
        return rows.like(lambda each: each[env])

    def take(self, envs: Tensor) -> Rows:
        """Copies of these rows, int64 (row,)."""
        return self._now.like(lambda each: each.index_select(0, envs))

    def give(self, envs: Tensor, rows: Rows) -> None:
        """Put copies back."""
        for own, new in zip(self._now.parts(), rows.parts(), strict=True):
            own.index_copy_(0, envs, new)

    @property
    def _memory(self) -> Rows:
        if self._kept is None:
            self._kept = self._now.like(torch.zeros_like)
        return self._kept

    def keep(self, envs: Tensor) -> None:
        """Remember these rows, int64 (row,)."""
        for kept, now in zip(self._memory.parts(), self._now.parts(), strict=True):
            kept.index_copy_(0, envs, now.index_select(0, envs))

    def restore(self, envs: Tensor) -> None:
        """Make these rows what was remembered."""
        for kept, now in zip(self._memory.parts(), self._now.parts(), strict=True):
            now.index_copy_(0, envs, kept.index_select(0, envs))
