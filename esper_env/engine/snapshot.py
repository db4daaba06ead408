"""Copies of what is trained: the governor's snapshots, and whole lives as plain values.

A copy shares no memory with what it was taken from, nor with what it is put into.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper_env.engine.life import HOST, Life, Part
from esper_env.engine.setup import Setup

Copy = dict[str, Any]
"""Of a part: `weights`, parameters and buffers by name, and `optimizers`, the state of each."""
Snapshot = dict[int, Copy]
"""Parts by slot, and the host under `HOST`."""


def keep(life: Life) -> Snapshot:
    """Host and fossils as they are now, on their device."""
    parts = life.parts()
    return {at: _of(parts[at], torch.clone) for at in (HOST, *life.fossils)}


def restore(life: Life, snapshot: Snapshot) -> None:
    """Put back what was kept, in place, and remove every other module; the data stream goes on."""
    for slot in life.planted.keys() - snapshot.keys():
        life.remove(slot)
    for at, part in life.parts().items():
        _into(part, snapshot[at])


def get_state(life: Life) -> dict[str, Any]:
    """A whole life, its tensors on the CPU."""
    return {
        "seed": life.seed,
        "epochs": life.epochs,
        "modules": {slot: planted.describe() for slot, planted in life.planted.items()},
        "parts": {at: _of(part, _to_cpu) for at, part in life.parts().items()},
    }


def from_state(setup: Setup, state: Mapping[str, Any]) -> Life:
    """The life that `get_state` gave.

    Args:
        setup: As that of the engine which the life comes from.
        state: From `get_state`.
    """
    life = Life(setup, state["seed"])
    life.epochs = state["epochs"]
    for slot, described in state["modules"].items():
        life.adopt(slot, described)
    for at, part in life.parts().items():
        _into(part, state["parts"][at])
    return life


def on_cpu(snapshot: Snapshot) -> Snapshot:
    """A copy of a snapshot."""
    return _mapped(snapshot, _to_cpu)


def pack(record: Any, env: int) -> dict[str, torch.Tensor]:
    """Copies of row `env` of every array of a record such as `GameState`, each in its declared type."""
    return packed({name: array[env] for name, array in _arrays(record).items()})


def packed(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Copies as tensors: `torch.load` reads those with `weights_only=True`, but no numpy arrays."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def unpack(record: Any, env: int, row: Mapping[str, torch.Tensor]) -> None:
    """Make row `env` what `pack` gave, in place."""
    values = unpacked(row)
    for name in _arrays(record):
        getattr(record, name)[env] = values[name]


def unpacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    """What `packed` was given."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def fits(record: Any, row: Mapping[str, torch.Tensor]) -> bool:
    """Whether a row has the fields and shapes of this record."""
    shapes = {name: array.shape[1:] for name, array in _arrays(record).items()}
    return shapes == {name: getattr(value, "shape", None) for name, value in row.items()}


def _arrays(record: Any) -> dict[str, NDArray[Any]]:
    declared = {each.name: each.metadata["dtype"] for each in fields(record) if "dtype" in each.metadata}
    return {name: getattr(record, name).astype(dtype, copy=False) for name, dtype in declared.items()}


def _of(part: Part, copy: Callable[[torch.Tensor], torch.Tensor]) -> Copy:
    module, optimizers = part
    values = {"weights": dict(module.state_dict()), "optimizers": [each.state_dict() for each in optimizers]}
    return _mapped(values, copy)


def _into(part: Part, copy: Copy) -> None:
    """In place. What an optimizer has learned since is forgotten: one that had not stepped is fresh again."""
    module, optimizers = part
    module.load_state_dict(copy["weights"])
    module.zero_grad(set_to_none=True)
    for optimizer, state in zip(optimizers, copy["optimizers"], strict=True):
        # torch takes tensors over as they are where device and dtype agree.
        optimizer.load_state_dict(_mapped(state, torch.clone))


def _mapped(value: Any, copy: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nested containers with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return copy(value)
    if isinstance(value, dict):
        return {key: _mapped(part, copy) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, copy) for part in value)
    return value


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
