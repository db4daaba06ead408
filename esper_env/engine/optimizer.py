"""Optimizers of host and modules, their clipping and the statistics of their gradients."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

PER_TENSOR = "step"
"""What of an optimizer's memory is one number a tensor; everything else is as large as the tensor."""


class OptimizerConfig(BaseModel):
    """How weights descend, those of the host and of each module by themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host_optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd` is stochastic gradient descent with momentum; `adamw` is Adam with decoupled weight decay (I.
    Loshchilov, F. Hutter, 2019)."""
    host_lr: float = Field(0.01, gt=0)
    """Learning rate of the host."""
    host_momentum: float = Field(0.9, ge=0, lt=1)
    """Of `sgd`."""
    host_weight_decay: float = Field(5e-4, ge=0)
    """With `sgd` of all weights; with `adamw` of matrices alone, embeddings among them, not of what norms
    scale and shift by, as in GPT-3 and nanoGPT."""
    module_optimizer: Literal["sgd", "adamw"] = "sgd"
    """Of every module and gate, as `host_optimizer`; it begins afresh with each."""
    module_lr: float = Field(0.01, gt=0)
    """Learning rate of every module and gate."""
    module_momentum: float = Field(0.9, ge=0, lt=1)
    """Of `sgd`."""
    module_weight_decay: float = Field(0.0, ge=0)
    """As `host_weight_decay`."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Weight of the past in `adamw`'s mean of gradients."""
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    """Weight of the past in `adamw`'s mean of squared gradients."""
    adam_eps: float = Field(1e-8, gt=0)
    """What `adamw` adds to the root of that mean."""
    warmup_steps: int = Field(0, ge=0)
    """Batches of a life over which every learning rate, of modules too, rises linearly; 0 for none."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest gradient norm, of the host and of each module (with its gate) separately."""
    vanishing_norm: float = Field(1e-7, ge=0)
    """RMS norm below which a tensor's gradient counts as vanished."""
    exploding_norm: float = Field(10.0, gt=0)
    """RMS norm above which a tensor's gradient counts as exploded."""
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """`cosine` anneals every learning rate to 0 over the horizon (I. Loshchilov, F. Hutter, 2017)."""

    def factor(self, epoch: int, horizon: int) -> float:
        """What learning rates are multiplied with in the epoch of this index, counted from 0."""
        if self.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * epoch / horizon))

    def remembered(self, host: bool) -> tuple[str, ...]:
        """What there is room for in the optimizer of a host, or of a module, as torch calls it."""
        kind = self.host_optimizer if host else self.module_optimizer
        return (PER_TENSOR, "exp_avg", "exp_avg_sq") if kind == "adamw" else ("momentum_buffer",)

    def remembers(self, host: bool) -> bool:
        """Whether torch's optimizer of a host, or of a module, remembers anything."""
        adamw = PER_TENSOR in self.remembered(host)
        return adamw or (self.host_momentum if host else self.module_momentum) > 0

    def warmth(self, step: int) -> float:
        """What they are multiplied with besides in the batch of this index, counted from 0 at reset."""
        return min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0


def host_optimizer(parameters: Sequence[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """A fresh optimizer for a host."""
    lr, decay = config.host_lr, config.host_weight_decay
    if config.host_optimizer == "adamw":
        return _adamw(parameters, lr, decay, config)
    return torch.optim.SGD(parameters, lr, config.host_momentum, weight_decay=decay)


def module_optimizer(parameters: Sequence[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """A fresh optimizer for a module, or for its gate."""
    lr, decay = config.module_lr, config.module_weight_decay
    if config.module_optimizer == "adamw":
        return _adamw(parameters, lr, decay, config)
    return torch.optim.SGD(parameters, lr, config.module_momentum, weight_decay=decay)


def _adamw(
    parameters: Sequence[nn.Parameter], lr: float, decay: float, config: OptimizerConfig
) -> torch.optim.AdamW:
    """Two groups, of which the first decays: matrices, then vectors; in each the order is that given."""
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW([group for group in groups if group["params"]], lr, betas, config.adam_eps)


def memory_of(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """What this optimizer remembers of a parameter: tensors by name, of the right shapes and types."""
    if isinstance(optimizer, torch.optim.AdamW):
        # torch counts the steps of a parameter in a float32 on the CPU.
        steps = torch.zeros((), dtype=torch.float32)
        return {"step": steps, "exp_avg": parameter, "exp_avg_sq": parameter}
    return {"momentum_buffer": parameter}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Change the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class GradientMeter:
    """Mean square of each tensor's gradient norm over the batches of an epoch, before clipping."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.num_params = sum(p.numel() for p in self.parameters)
        self._squares: torch.Tensor | None = None
        self._batches = 0

    def add(self) -> torch.Tensor:
        """Count the gradients that are there now; returns the norm of each tensor, (tensor,)."""
        norms = torch.stack(torch._foreach_norm([_gradient(p) for p in self.parameters]))
        squares = norms.square()
        self._squares = squares if self._squares is None else self._squares + squares
        self._batches += 1
        return norms

    def rms(self) -> torch.Tensor:
        """(tensor,): root of the mean square norm; non-finite when any batch was."""
        assert self._squares is not None, "no batch was counted"
        return (self._squares / self._batches).sqrt()


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def clip(parameters: Sequence[nn.Parameter], norms: torch.Tensor, largest: float) -> None:
    """Scale the gradients of these tensors, whose norms are given, down to a joint norm of `largest`.

    As `torch.nn.utils.clip_grad_norm_` does, whose formula this is, with the norms that were measured anyway.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        scale = torch.clamp(largest / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)
        torch._foreach_mul_(gradients, scale)


def shares(rms: torch.Tensor, config: OptimizerConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of tensors whose gradient vanished, and share that exploded or was not finite in any batch.

    Args:
        rms: (..., tensor).
        config: what counts as vanished or exploded.
    """
    exploded = ~(rms <= config.exploding_norm)
    return (rms < config.vanishing_norm).to(rms.dtype).mean(dim=-1), exploded.to(rms.dtype).mean(dim=-1)
