"""Which kernels compute: decided by the configuration, the machine's kind and a table, never by a clock."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import torch

from esper_env.engine.kernels.kernels import Kernels
from esper_env.engine.kernels.torch_kernels import Form, TorchKernels

TABLE = "table.json"
"""Written by `python -m esper_env.engine.kernels.tune`: by device and shape, the fastest primitive."""
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
    return TorchKernels(table().get(device.type, {}), DEFAULT[device.type])
