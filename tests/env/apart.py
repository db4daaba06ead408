"""How far apart two engines' networks are: nested values, tolerances and distances."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper_env import EsperVectorEnv

SINGLE = 1e-6
"""Of observations of networks in double precision: they are float32."""
NORMS = ("running_mean", "running_var", "num_batches_tracked")


def trained(env: EsperVectorEnv, index: int) -> dict[str, Any]:
    """What an engine holds of one environment; no memory of an optimizer is the same as one of zeros."""
    state = env._engine.get_state(index)
    for parts in (state["life"]["parts"], state["kept"]):
        for part in parts.values():
            for optimizer in part["optimizers"]:
                fresh = [i for i, own in optimizer.items() if not any(each.any() for each in own.values())]
                for index in fresh:
                    del optimizer[index]
    return state


def agree(first: Any, second: Any, tolerance: float, where: str = "") -> None:
    """The same nested values: floats to this tolerance, absolute and relative, all else to the last bit.

    A tolerance of 0 means to the last bit; single precision is never compared more finely than `SINGLE` else.
    """
    if isinstance(first, Mapping):
        assert first.keys() == second.keys(), where
        for key in first:
            agree(first[key], second[key], tolerance, f"{where}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for at, (a, b) in enumerate(zip(first, second, strict=True)):
            agree(a, b, tolerance, f"{where}[{at}]")
    else:
        _agree(first, second, tolerance, where)


def _agree(first: Any, second: Any, tolerance: float, where: str) -> None:
    a, b = (each.numpy() if isinstance(each, torch.Tensor) else np.asarray(each) for each in (first, second))
    assert (a.dtype, a.shape) == (b.dtype, b.shape), where
    if a.dtype == object and a.ndim:
        agree(list(a), list(b), tolerance, where)
    elif a.dtype.kind == "f":
        tolerance = max(tolerance, SINGLE) if tolerance and a.dtype == np.float32 else tolerance
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=where)
    else:
        np.testing.assert_array_equal(b, a, err_msg=where)


def moved(env: EsperVectorEnv) -> None:
    """Move every weight of the hosts, and of what is kept of them, to the next larger number."""
    for index in range(env.num_envs):
        state = env._engine.get_state(index)
        for part in (state["life"]["parts"][-1], state["kept"][-1]):
            weights = {
                name: value for name, value in part["weights"].items() if name.rpartition(".")[2] not in NORMS
            }
            part["weights"] |= {
                name: torch.nextafter(value, torch.tensor(torch.inf)) for name, value in weights.items()
            }
        env._engine.set_state(index, state)


def distances(first: EsperVectorEnv, second: EsperVectorEnv) -> NDArray[np.float64]:
    """(env,): root of the mean squared difference of all weights and norm statistics."""
    return np.array([_distance(trained(first, e), trained(second, e)) for e in range(first.num_envs)])


def _distance(first: dict[str, Any], second: dict[str, Any]) -> float:
    mine, other = first["life"]["parts"], second["life"]["parts"]
    pairs = [
        (value, other[at]["weights"][name])
        for at, part in mine.items()
        for name, value in part["weights"].items()
    ]
    return float(torch.cat([(a.double() - b.double()).flatten() for a, b in pairs]).square().mean().sqrt())
