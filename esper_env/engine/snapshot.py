"""Copies of what is trained: the governor's snapshots, and whole lives as plain values.

A network is its parameters and buffers and what its optimizers remember; the rest follows from the rules.

A copy shares no memory with what it was taken from, nor with what it is put into.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from esper_env.engine.life import HOST, Life, Part
from esper_env.engine.optimizer import memory_of
from esper_env.engine.planted import DESCRIBED
from esper_env.engine.setup import Setup
from esper_env.engine.state import mapping, refuse_other_form, whole

Copy = dict[str, Any]
"""Of a part: `weights`, parameters and buffers by name, and `optimizers`, what each remembers."""
Snapshot = dict[int, Copy]
"""Parts by slot, and the host under `HOST`."""


def keep(life: Life, before: Snapshot | None = None) -> Snapshot:
    """Host and fossils as they are now, on their device.

    Args:
        life: Stays as it is.
        before: What was kept earlier and is kept on: only what it lacks is added.
    """
    kept, parts = before or {}, life.parts()
    return kept | {at: _of(parts[at], torch.clone) for at in (HOST, *life.fossils) if at not in kept}


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


def from_state(setup: Setup, state: object) -> Life:
    """The life that `get_state` gave.

    Args:
        setup: As that of the engine which the life comes from.
        state: From `get_state`.

    Raises:
        ValueError: It is damaged.
    """
    values = mapping(state, "life", ("seed", "epochs", "modules", "parts"))
    life = Life(setup, whole(values["seed"], "life['seed']"))
    life.epochs = whole(values["epochs"], "life['epochs']", least=0)
    for slot, described in mapping(values["modules"], "life['modules']").items():
        if whole(slot, "life['modules']", least=0) >= setup.facts.num_slots:
            raise ValueError(f"life['modules'] has slot {slot} of {setup.facts.num_slots}")
        life.adopt(slot, mapping(described, f"life['modules'][{slot}]", DESCRIBED))
    _refuse_unfit(life.parts(), values["parts"], "life['parts']")
    for at, part in life.parts().items():
        _into(part, values["parts"][at])
    return life


def of_life(life: Life, kept: object) -> Snapshot:
    """A snapshot of this life from a state, on the CPU.

    Raises:
        ValueError: It does not hold exactly the host and the fossils, or they do not fit.
    """
    parts = life.parts()
    _refuse_unfit({at: parts[at] for at in (HOST, *life.fossils)}, kept, "kept")
    return on_cpu(dict(mapping(kept, "kept")))


def on_cpu(snapshot: Snapshot) -> Snapshot:
    """A copy of a snapshot."""
    return _mapped(snapshot, _to_cpu)


def _of(part: Part, copy: Callable[[torch.Tensor], torch.Tensor]) -> Copy:
    module, optimizers = part
    states = [each.state_dict()["state"] for each in optimizers]
    return _mapped({"weights": _values(module), "optimizers": states}, copy)


def _values(module: nn.Module) -> dict[str, Any]:
    """Parameters and buffers by name, those that a `state_dict` leaves out as well."""
    return {**module.state_dict(), **dict(module.named_buffers())}


def _into(part: Part, copy: Copy) -> None:
    """In place. What an optimizer has learned since is forgotten: one that had not stepped is fresh again."""
    module, optimizers = part
    module.load_state_dict({name: copy["weights"][name] for name in module.state_dict()})
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(copy["weights"][name])
    module.zero_grad(set_to_none=True)
    for optimizer, state in zip(optimizers, copy["optimizers"], strict=True):
        # torch takes tensors over as they are where device and dtype agree.
        own = {"state": _mapped(state, torch.clone), "param_groups": optimizer.state_dict()["param_groups"]}
        optimizer.load_state_dict(own)


def _refuse_unfit(parts: Mapping[int, Part], copies: object, where: str) -> None:
    """Whether there is a copy of each of these parts and of no other, and each could be put into it.

    Raises:
        ValueError: What is wrong is named.
    """
    for at, copy in mapping(copies, where, parts).items():
        module, optimizers = parts[at]
        name = f"{where}[{at}]"
        mapping(copy, name, ("weights", "optimizers"))
        refuse_other_form(copy["weights"], _values(module), f"{name}['weights']")
        if not isinstance(copy["optimizers"], list) or len(copy["optimizers"]) != len(optimizers):
            raise ValueError(f"{name}['optimizers'] should be {len(optimizers)}")
        for optimizer, state in zip(optimizers, copy["optimizers"], strict=True):
            _refuse_other_optimizer(optimizer, state, f"{name}['optimizers']")


def _refuse_other_optimizer(optimizer: torch.optim.Optimizer, state: object, where: str) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, remembered in mapping(state, where).items():
        if whole(index, where, least=0) >= len(parameters):
            raise ValueError(f"{where} has a parameter {index} of {len(parameters)}")
        refuse_other_form(remembered, memory_of(optimizer, parameters[index]), f"{where}[{index}]")


def _mapped(value: Any, copy: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nested containers with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return copy(value.detach())
    if isinstance(value, dict):
        return {key: _mapped(part, copy) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(part, copy) for part in value)
    return value


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
