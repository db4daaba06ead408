"""Which kernels compute: decided by the configuration, the machine's kind and a table, never by a clock."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import torch

from esper_env.engine.kernels.build import load
from esper_env.engine.kernels.kernels import Kernels
from esper_env.engine.kernels.native import NativeKernels
from esper_env.engine.kernels.torch_kernels import Form, TorchKernels

TABLE = "table.json"
"""Written by `python -m esper_env.engine.kernels.tune`: by kind of kernels and shape, the fastest form."""
NATIVE = "native"
"""Name of the native kernels, in the table and elsewhere."""
APART: Form = "rows"
"""The form of torch's convolutions in which a row's bits don't depend on the other rows."""
DEFAULT: dict[str, Form] = {"cpu": "channels_last", "cuda": "planes"}
"""Form of torch's convolutions of shapes that are not in the table, by device."""


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """Of the native kernels and of torch's on each device: shape of a convolution -> form."""
    return json.loads(files(__package__).joinpath(TABLE).read_text())


def choose(name: str, device: torch.device, precision: str) -> Kernels:
    """The kernels that `auto`, `native` or `torch` stands for.

    Raises:
        ValueError: `native` where it can't be used, with the reason.
    """
    refused = refusal(device, precision) if name != "torch" else "not asked for"
    if name == NATIVE and refused:
        raise ValueError(f"engine.kernels='native' can't be used: {refused}; 'auto' and 'torch' can")
    if refused:
        return TorchKernels(table().get(device.type, {}), DEFAULT[device.type])
    return NativeKernels(table().get(NATIVE, {}))


def refusal(device: torch.device, precision: str) -> str:
    """Why the native kernels can't be used here; empty where they can."""
    if device.type != "cpu":
        return f"they compute on a CPU, not on {device.type!r}"
    if precision == "bfloat16":
        return "they compute in float32 and float64, not in 'bfloat16'"
    return "" if load() else "they are not built: python -m esper_env.engine.kernels does it"
