"""Which kernels compute: decided from the configuration and the machine, never by a clock."""

import torch

from esper_env.engine.kernels.kernels import Kernels
from esper_env.engine.kernels.torch_kernels import TorchKernels


def choose(name: str, device: torch.device, precision: str) -> Kernels:
    """The kernels that `auto`, `native` or `torch` stands for.

    Raises:
        ValueError: `native` where it can't be used, with the reason.
    """
    return TorchKernels()
