"""The form of what `get_state` gives: all of it is looked at before anything is written.

A state that does not fit would otherwise show much later, as other numbers or in the middle of an epoch.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper_env.contracts.action import Curve, Op, Style
from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import GameState, Ramp

VERSION = 1
"""Form of a state; counts up when an older one can no longer be read."""
PARTS = ("version", "made_for", "series", "flags", "rules", "slots", "trace", "engine")
"""What it consists of."""
FLAGS = ("terminated", "truncated")
"""How an episode can have ended."""


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
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _arrays(record: Any) -> dict[str, NDArray[Any]]:
    declared = {each.name: each.metadata["dtype"] for each in fields(record) if "dtype" in each.metadata}
    return {name: getattr(record, name).astype(dtype, copy=False) for name, dtype in declared.items()}


def refuse_foreign(state: object, made_for: Mapping[str, Any]) -> None:
    """Whether this is a state at all, of this form and of this configuration.

    Args:
        state: Anything.
        made_for: By dotted path, the values in which environments that exchange a state must agree.

    Raises:
        ValueError: It is not; the first difference is named.
    """
    if not isinstance(state, Mapping) or set(state) != set(PARTS):
        raise ValueError(
            f"state={_shortened(state)} is no state: what get_state returns is, a dict of {PARTS}"
        )
    if type(state["version"]) is not int or state["version"] != VERSION:
        raise ValueError(f"state['version']={state['version']!r}: only {VERSION} can be read here")
    other = state["made_for"]
    if not isinstance(other, Mapping):
        raise ValueError(f"the state is damaged: 'made_for' is {_shortened(other)}, not a dict")
    for path in (*made_for, *other):
        if path not in made_for or path not in other or made_for[path] != other[path]:
            here, there = made_for.get(path, "nothing"), other.get(path, "nothing")
            raise ValueError(
                f"the state is of another configuration: {path} is {there!r} there and {here!r} here"
            )


def refuse_unfit(
    state: Mapping[str, Any],
    record: GameState,
    facts: HostFacts,
    horizon: int,
    trace: Mapping[str, NDArray[Any]] | None,
) -> None:
    """Whether everything in a state but its engine's part has the form that it must have here.

    Args:
        state: One that `refuse_foreign` lets pass.
        record: What the rules know here; fields, shapes and types are compared.
        facts: Blueprints.
        horizon: Epochs of an episode.
        trace: A row of the picture that is drawn here, of any number of epochs; None if none is.

    Raises:
        ValueError: It has not; what is wrong is named.
    """
    root, count = state["series"]
    if root is not None:
        whole(root, "series")
    whole(count, "series", least=0)
    flags = mapping(state["flags"], "flags", FLAGS)
    if not all(type(flag) is bool for flag in flags.values()):
        raise ValueError(f"state['flags']={dict(flags)} are not bool")
    for name, part in (("rules", record), ("slots", record.slots)):
        refuse_other_form(state[name], {key: array[0] for key, array in _arrays(part).items()}, name)
    epoch = int(state["rules"]["epoch"])
    _refuse_out_of_range(state, facts, horizon)
    if state["trace"] is not None and trace is not None:
        own = {name: np.empty((*array.shape[:-1], epoch), array.dtype) for name, array in trace.items()}
        refuse_other_form(state["trace"], own, "trace")


def _refuse_out_of_range(state: Mapping[str, Any], facts: HostFacts, horizon: int) -> None:
    """What other arrays are indexed with."""
    allowed = {
        ("rules", "epoch"): range(horizon + 1),
        ("rules", "last_op"): range(-1, len(Op)),
        ("slots", "stage"): [stage.value for stage in Stage],
        ("slots", "blueprint"): range(facts.num_blueprints),
        ("slots", "style"): range(len(Style)),
        ("slots", "ramp"): range(len(Ramp)),
        ("slots", "ramp_curve"): range(len(Curve)),
    }
    for (part, name), values in allowed.items():
        found = np.atleast_1d(state[part][name].detach().cpu().numpy()).tolist()
        if not set(found) <= set(values):
            raise ValueError(f"state[{part!r}][{name!r}]={found}: {list(values)} are allowed")


def refuse_other_form(tensors: object, own: Mapping[str, Any], where: str) -> None:
    """Whether tensors have the names, shapes and types of these arrays or tensors.

    Raises:
        ValueError: They have not.
    """
    found = mapping(tensors, where, own)
    for name, value in own.items():
        wanted, there = _form(value), _form(found[name])
        if wanted != there or not isinstance(found[name], torch.Tensor):
            raise ValueError(f"{name!r} in {where!r} is {there} there and {wanted} here")


def _form(value: object) -> str:
    if isinstance(value, np.ndarray | np.generic):
        value = torch.from_numpy(np.array(value))
    if isinstance(value, torch.Tensor):
        return f"a {value.dtype} of shape {tuple(value.shape)}"
    return repr(type(value))


def mapping(value: object, where: str, names: Any = None) -> Mapping[Any, Any]:
    """The value, if it is a dict, with exactly these keys if there are any given.

    Raises:
        ValueError: It is no dict, or has other keys.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{where!r} is {_shortened(value)}, not a dict")
    if names is not None and set(value) != set(names):
        raise ValueError(f"{where!r} has {_shortened(value)}, and should have {sorted(names, key=str)}")
    return value


def whole(value: object, where: str, least: int | None = None) -> int:
    """The value, if it is an int (no bool) that is not less than `least`.

    Raises:
        ValueError: It is none, or less.
    """
    if type(value) is not int:
        raise ValueError(f"{where!r} is {value!r}, not an int")
    if least is not None and value < least:
        raise ValueError(f"{where!r} is {value}, less than {least}")
    return value


def _shortened(value: object) -> str:
    text = repr(sorted(value, key=str)) if isinstance(value, Mapping) else repr(value)
    return text if len(text) < 80 else f"{text[:80]}..."
