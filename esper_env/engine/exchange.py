"""One environment's rows as the plain values of `engine.snapshot`, and back: states fit every engine."""

from typing import Any

from torch import Tensor

from esper_env.engine.kinds import GATE
from esper_env.engine.optimizer import PER_TENSOR
from esper_env.engine.pool import Pool, Rows
from esper_env.engine.snapshot import Copy


def copy_of(pool: Pool, row: Rows, has_gate: bool, has_momenta: bool) -> Copy:
    """Copies of a row on the CPU.

    Args:
        pool: it is of.
        row: views or copies of it, without the dimension of environments.
        has_gate: whether the gate's part means anything; for a host, whatever.
        has_momenta: whether an optimizer of this part remembers anything.
    """
    names = [name for name in pool.tensors.names if has_gate or not name.startswith(GATE)]
    weights = {
        name: _to_cpu(each)
        for name, each in (pool.views(row) | row.buffers).items()
        if name in names or name in row.buffers
    }
    aliases = pool.tensors.aliases.items()
    weights |= {alias: weights[name].clone() for alias, name in aliases if name in weights}
    memories = _memories(pool, row) if has_momenta else {}
    optimizers = [
        {
            index: {kind: _to_cpu(each) for kind, each in memories[name].items()}
            for index, name in enumerate(group)
            if name in memories and _stepped(memories[name])
        }
        for group in _groups(pool, row, names)
    ]
    return {"weights": weights, "optimizers": optimizers}


def write(pool: Pool, row: Rows, copy: Copy) -> None:
    """Make a row what `copy_of` gave; what a copy lacks, such as a momentum that never was, becomes 0.

    Args:
        pool: it is of.
        row: views of it.
        copy: one that is known to fit.
    """
    for each in (row.values, *row.memory.values()):
        each.zero_()
    own = pool.views(row) | row.buffers
    for name in copy["weights"].keys() - pool.tensors.aliases.keys():
        own[name].copy_(copy["weights"][name])
    memories = _memories(pool, row)
    names = [name for name in pool.tensors.names if name in copy["weights"]]
    for group, state in zip(_groups(pool, row, names), copy["optimizers"], strict=False):
        for index, remembered in state.items():
            for kind, each in memories[group[index]].items():
                each.copy_(remembered[kind])


def _memories(pool: Pool, row: Rows) -> dict[str, dict[str, Tensor]]:
    """By tensor that learns, views of what is remembered of it."""
    views = {
        kind: dict(zip(pool.tensors.names, each, strict=True))
        if kind == PER_TENSOR
        else {name: view[0] for name, view in pool.tensors.views(each[None]).items()}
        for kind, each in row.memory.items()
    }
    learns = zip(pool.tensors.names, pool.tensors.learns, strict=True)
    return {name: {kind: every[name] for kind, every in views.items()} for name, each in learns if each}


def _stepped(memory: dict[str, Tensor]) -> bool:
    """Whether there is anything to remember; AdamW counts from its first step on."""
    return PER_TENSOR not in memory or bool(memory[PER_TENSOR] > 0)


def _groups(pool: Pool, row: Rows, names: list[str]) -> list[list[str]]:
    """What each optimizer has, in its order: the branch's or the host's parameters, then the gate's."""
    if PER_TENSOR in row.memory:  # AdamW has matrices first, see `engine.optimizer`
        shapes = dict(zip(pool.tensors.names, pool.tensors.shapes, strict=True))
        names = sorted(names, key=lambda name: len(shapes[name]) < 2)
    gate = [name for name in names if name.startswith(GATE)]
    rest = [name for name in names if not name.startswith(GATE)]
    return [group for group in (rest, gate) if group]


def _to_cpu(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu", copy=True)
