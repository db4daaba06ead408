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
"""Written by `python -m esper_env.engine.kernels.tune`: by device and shape, the fastest primitive."""
NATIVE = "native"
"""Name of the native kernels, in the table and elsewhere."""
DEFAULT: dict[str, Form] = {"cpu": "channels_last", "cuda": "planes"}
"""Form of torch's convolutions of shapes that are not in the table, by device."""


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """By device, shape of a convolution -> primitive."""
    return json.loads(files(__package__).joinpath(TABLE).read_text())


def choose(name: str, device: torch.device, precision: str) -> Kernels:
    """The kernels that `auto`, `native` or `torch` stands for.

    Raises:
        ValueError: `native` where it can't be used, with the reason.
    """
    own, default = table().get(device.type, {}), DEFAULT[device.type]
    torchs = {shape: form for shape, form in own.items() if form != NATIVE}
    refused = refusal(device, precision) if name != "torch" else "not asked for"
    if name == "native" and refused:
        raise ValueError(f"engine.kernels='native' can't be used: {refused}; 'auto' and 'torch' can")
    return TorchKernels(torchs, default) if refused else NativeKernels(torchs)


def refusal(device: torch.device, precision: str) -> str:
    """Why the native kernels can't be used here; empty where they can."""
    if device.type != "cpu":
        return f"they compute on a CPU, not on {device.type!r}"
    if precision == "bfloat16":
        return "they compute in float32 and float64, not in 'bfloat16'"
    return "" if load() else "they are not built: python -m esper_env.engine.kernels does it"
