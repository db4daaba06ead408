"""A harvested network by itself: made of torch's own parts, it runs where this package is not installed."""

import copy
from collections.abc import Mapping

import torch
from torch import fx, nn

from esper_env.engine.life import Life
from esper_env.slots.grown import Graft, GrownModel
from esper_env.tasks.loader import evaluation_batches
from esper_env.tasks.task import ImageTask, Task

_CHECKED = 8
"""Samples on which an exported network must agree with what it was made from."""


class _Standardized(nn.Module):
    """A network behind the normalization of the images it was trained on.

    Args:
        network: from float32 (batch, channels, height, width) to logits.
        task: whose training images decide mean and deviation.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, network: nn.Module, task: ImageTask) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", task.mean * 255)
        self.register_buffer("scale", 1 / (task.std * 255))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Uint8 (batch, height, width, channels) -> logits (batch, classes)."""
        # The operations of the task's loader, value by value: the last bit decides which pixel a pool takes.
        x = ((images.to(self.shift.dtype) - self.shift) * self.scale).permute(0, 3, 1, 2)
        logits: torch.Tensor = self.network(x)
        return logits


class _Reading(nn.Module):
    """A network that reads tokens, as a module of one argument.

    Args:
        network: from int64 (batch, token) to logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Int64 (batch, token), at most a context of them -> logits (batch, token, vocabulary)."""
        logits: torch.Tensor = self.network(tokens)
        return logits


def exported(life: Life, task: Task) -> fx.GraphModule:
    """The network of a life as the harvest would leave it: see `export`."""
    fossils = {slot: life.planted[slot].blueprint.name for slot in life.fossils}
    with life.drawing():
        return export(life.model, fossils, task)


def export(model: GrownModel, fossils: Mapping[int, str], task: Task) -> fx.GraphModule:
    """The network with its fossils alone, traced down to parts of torch.nn (J. Reed et al., torch.fx, 2022).

    Args:
        model: stays as it is.
        fossils: slot -> name of its blueprint.
        task: for the normalization, and for samples to check the result with.

    Returns:
        uint8 images (batch, height, width, channels), as data sets store them -> logits (batch, classes), or
        int64 tokens (batch, token), at most a context of them -> logits (batch, token, vocabulary); in eval
        mode, on the task's device.

    Raises:
        ValueError: a blueprint whose forward pass can't be traced, or that computes something else then.
    """
    harvested = copy.deepcopy(model).eval()
    harvested.zero_grad(set_to_none=True)
    for slot in set(range(len(model.slots))) - set(fossils):
        harvested.remove(slot)
    for slot, graft in enumerate(harvested.grafts):
        if graft is not None:
            _refuse_untraceable(graft, fossils[slot], harvested.place(slot).name)
    with torch.no_grad():
        x, _ = next(evaluation_batches(task, task.validation, _CHECKED))
        network, raw = _with_its_input(harvested, x, task)
        logits = network(raw)
        if not torch.allclose(logits, harvested(x), rtol=1e-3, atol=1e-4, equal_nan=True):
            names = sorted(set(fossils.values()))
            raise ValueError(
                f"the network can't be exported: traced, it gives other logits, so one of {names} does not "
                "compute the same in every pass"
            )
    return network


def _with_its_input(model: GrownModel, x: torch.Tensor, task: Task) -> tuple[fx.GraphModule, torch.Tensor]:
    """The network as users get it, and what it has to be given to read x, the first samples of validation."""
    if isinstance(task, ImageTask):
        return _traced(_Standardized(model, task)), task.validation.images[: len(x)]
    return _traced(_Reading(model)), x


def _traced(module: nn.Module) -> fx.GraphModule:
    # The weights' layout in memory stays as it is: which kernel runs, and so the last bit, can depend on it.
    return fx.GraphModule(module, fx.Tracer().trace(module)).eval()


def _refuse_untraceable(graft: Graft, blueprint: str, place: str) -> None:
    try:
        fx.Tracer().trace(nn.Sequential(graft.branch))  # so that a branch from torch.nn stays one piece
    except Exception as error:
        raise ValueError(
            f"blueprint {blueprint!r} at {place} can't be exported: "
            f"torch.fx can't trace its forward pass: {error}"
        ) from error
