"""One environment's rows as the plain values of `engine.snapshot`, and back: states fit every engine."""

from typing import Any

from torch import Tensor

from esper_env.engine.kinds import GATE
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
    momenta = pool.tensors.views(row.momenta[None])
    learns = dict(zip(pool.tensors.names, pool.tensors.learns, strict=True))
    optimizers = [
        {
            index: {"momentum_buffer": _to_cpu(momenta[name][0])}
            for index, name in enumerate(group)
            if learns[name] and has_momenta
        }
        for group in _groups(names)
    ]
    return {"weights": weights, "optimizers": optimizers}


def write(pool: Pool, row: Rows, copy: Copy) -> None:
    """Make a row what `copy_of` gave; what a copy lacks, such as a momentum that never was, becomes 0.

    Args:
        pool: it is of.
        row: views of it.
        copy: one that is known to fit.
    """
    row.values.zero_()
    row.momenta.zero_()
    own = pool.views(row) | row.buffers
    for name in copy["weights"].keys() - pool.tensors.aliases.keys():
        own[name].copy_(copy["weights"][name])
    momenta = pool.tensors.views(row.momenta[None])
    names = [name for name in pool.tensors.names if name in copy["weights"]]
    for group, state in zip(_groups(names), copy["optimizers"], strict=False):
        for index, remembered in state.items():
            momenta[group[index]][0].copy_(remembered["momentum_buffer"])


def _groups(names: list[str]) -> list[list[str]]:
    """What each optimizer has: the branch's or the host's parameters, then the gate's."""
    gate = [name for name in names if name.startswith(GATE)]
    rest = [name for name in names if not name.startswith(GATE)]
    return [group for group in (rest, gate) if group]


def _to_cpu(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu", copy=True)
