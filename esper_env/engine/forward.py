"""What a forward pass of the same kind of module in many networks is, and how one is found.

A module of known layers becomes a function of stacked parameters, in which every layer is one call for all
rows. A module with anything else in it runs row by row, as it is: outside blueprints need no support.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from esper_env.engine.kernels.kernels import Kernels

Tensors = Mapping[str, Tensor]
"""Parameters and buffers of a kind of module by name, (row, *shape) each."""


@dataclass(frozen=True)
class Run:
    """How a forward pass is done."""

    kernels: Kernels
    training: bool
    drawing: Callable[[int], AbstractContextManager[None]]
    """By row: inside it, what is drawn from torch's own generators is that of its network alone."""


Forward = Callable[[Run, Tensors, Tensor], Tensor]
"""(row, sample, ...) -> (row, sample, ...)."""


Layers = Mapping[type[nn.Module], Callable[[Any, str], Forward | None]]
"""What is known of a family: each turns a module and the prefix of its parameters' names into a forward pass,
or into None where it is used in a way that is not known."""


def stacked(module: nn.Module, prefix: str, layers: Layers) -> Forward | None:
    """The module's forward pass for many rows at once; None where a layer of it is not known.

    Args:
        module: only its structure counts.
        prefix: of the names of its parameters, with the dot.
        layers: what is known.
    """
    if type(module) not in layers or altered(module) or _shares(module):
        return None
    return layers[type(module)](module, prefix)


def _shares(module: nn.Module) -> bool:
    """Whether a layer or a parameter is in it under several names, of which a walk would meet only one."""
    modules = [len([*module.named_modules(remove_duplicate=each)]) for each in (True, False)]
    parameters = [len([*module.named_parameters(remove_duplicate=each)]) for each in (True, False)]
    return modules[0] != modules[1] or parameters[0] != parameters[1]


def row_by_row(module: nn.Module, prefix: str = "") -> Forward:
    """The forward pass of any module of a branch or a host: one row after another, as it is.

    Images have their channels last here and elsewhere first; the values of texts are the same.

    Args:
        module: its own parameters and buffers are not used.
        prefix: of their names, with the dot.
    """
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]

    def forward(run: Run, tensors: Tensors, x: Tensor) -> Tensor:
        module.train(run.training)
        results = []
        images = x.dim() == 5
        for row, value in enumerate(x):
            own = {name: tensors[f"{prefix}{name}"][row] for name in names}
            with run.drawing(row):
                result = functional_call(module, own, (value.permute(0, 3, 1, 2) if images else value,))
            results.append(result.permute(0, 2, 3, 1) if images else result)
        return torch.stack(results)

    return forward


def altered(module: nn.Module) -> bool:
    """Whether it computes something else than its type says."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks) or parametrize.is_parametrized(module) or "forward" in vars(module)
