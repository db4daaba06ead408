"""Networks of one kind as stacked tensors, a row each, with their gradients' norms, momenta and updates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Row:
    """One network: its weights and momenta, flat, (param,)."""

    module: nn.Module
    """What gave the weights, for the shapes; all of a stack are alike."""
    weights: torch.Tensor
    momenta: torch.Tensor

    @classmethod
    def fresh(cls, module: nn.Module, device: torch.device) -> "Row":
        """A network that has not been trained yet."""
        flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).to(device)
        return cls(module, flat, torch.zeros_like(flat))


class Stack:
    """Rows side by side.

    Args:
        rows: of the same architecture.
        envs: which environment each belongs to.
    """

    def __init__(self, rows: Sequence[Row], envs: Sequence[int]) -> None:
        self.module = rows[0].module
        self.flat = torch.stack([row.weights for row in rows])
        self.momenta = torch.stack([row.momenta for row in rows])
        device = self.flat.device
        self.envs = torch.tensor(envs, device=device)
        sizes = {name: parameter.shape for name, parameter in self.module.named_parameters()}
        parts = self.flat.split([shape.numel() for shape in sizes.values()], dim=1)
        self.params = {
            name: part.unflatten(1, shape).detach().requires_grad_()
            for (name, shape), part in zip(sizes.items(), parts, strict=True)
        }
        statistics = [dict(row.module.named_buffers()) for row in rows]
        self.buffers = {
            name: torch.stack([buffers[name] for buffers in statistics]).to(device) for name in statistics[0]
        }

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.envs)

    def row(self, index: int) -> Row:
        """What one network has become."""
        return Row(self.module, self.flat[index], self.momenta[index])

    def of(self, prefix: str, first: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Parameters and buffers of a submodule, of the rows from `first` on."""
        found = [
            {name.removeprefix(prefix): t[first:] for name, t in tensors.items() if name.startswith(prefix)}
            for tensors in (self.params, self.buffers)
        ]
        return found[0], found[1]

    def gradients(self, given: Iterable[torch.Tensor]) -> torch.Tensor:
        """Gradients of all parameters, in their order, as one tensor (row, param)."""
        return torch.cat([gradient.flatten(1) for gradient in given], dim=1)

    def update(
        self, gradients: torch.Tensor, scale: torch.Tensor, lr: float, momentum: float, decay: float
    ) -> None:
        """One step of torch's SGD with clipped gradients.

        Args:
            gradients: (row, param); overwritten.
            scale: (row,), what clipping multiplies them with.
            lr: learning rate.
            momentum: factor of the old momenta.
            decay: weight decay.
        """
        gradients.mul_(scale[:, None])
        if decay:
            gradients.add_(self.flat, alpha=decay)
        self.momenta.mul_(momentum).add_(gradients)
        self.flat.add_(self.momenta, alpha=-lr)
