"""(d) As HFTA does it: grouped convolutions over (batch, env * channels, height, width), baddbmm beyond.

S. Wang and others, "Horizontally Fused Training Array" (MLSys 2021). Own code: HFTA has neither SGD nor
GroupNorm, nor different modules in one array.
"""

import torch
import torch.nn.functional as F
from torch import nn

from esper_env.blueprints.attention import ChannelAttention
from esper_env.blueprints.norm import NormDelta
from esper_env.hosts.cnn import MeanHead
from peers.stack import Stack
from peers.stacked import StackedPeer

Tensors = dict[str, torch.Tensor]


class GroupedPeer(StackedPeer):
    """Every layer of all networks is one layer with as many groups."""

    name, letter = "grouped (HFTA)", "d"

    def _apply(
        self, module: nn.Module, stack: Stack, prefix: str, first: int, x: torch.Tensor
    ) -> torch.Tensor:
        params, buffers = stack.of(prefix, first)
        return self._run(module, "", params | buffers, len(stack) - first, x)

    def _run(self, module: nn.Module, at: str, own: Tensors, rows: int, x: torch.Tensor) -> torch.Tensor:
        """One module, whose tensors are named from `at` on, over x (batch, row, ...)."""
        if isinstance(module, nn.Sequential):
            for name, child in module.named_children():
                x = self._run(child, f"{at}{name}.", own, rows, x)
            return x
        if isinstance(module, MeanHead):
            return self._run(module.linear, f"{at}linear.", own, rows, x.mean(dim=(3, 4)))
        if isinstance(module, ChannelAttention):
            hidden = self._run(module.squeeze, f"{at}squeeze.", own, rows, x.mean(dim=(3, 4)))
            excited = self._run(module.excite, f"{at}excite.", own, rows, F.silu(hidden))
            return x * (2 * torch.sigmoid(excited) - 1)[..., None, None]
        if isinstance(module, NormDelta):
            return self._run(module.norm, f"{at}norm.", own, rows, x) - x
        if isinstance(module, nn.Linear):
            bias, weight = own[f"{at}bias"], own[f"{at}weight"]
            return torch.baddbmm(bias[:, None], x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
        if isinstance(module, nn.ReLU | nn.Sigmoid):
            activated: torch.Tensor = module(x)
            return activated
        return self._fused(module, at, own, rows, x)

    def _fused(self, module: nn.Module, at: str, own: Tensors, rows: int, x: torch.Tensor) -> torch.Tensor:
        """Layers that see rows as channels."""
        groups = x.shape[1]
        images = self._laid_out(x.flatten(1, 2))
        weight, bias = (
            own[at + name].flatten(0, 1) if at + name in own else None for name in ("weight", "bias")
        )
        if isinstance(module, nn.Conv2d):
            assert weight is not None
            shared = 1 if groups < rows else groups
            images = F.conv2d(images, weight, bias, padding=module.padding, groups=shared * module.groups)
        elif isinstance(module, nn.BatchNorm2d):
            mean, variance = (own[f"{at}running_{name}"].view(-1) for name in ("mean", "var"))
            images = F.batch_norm(images, mean, variance, weight, bias, module.training, 0.1, module.eps)
        elif isinstance(module, nn.GroupNorm):
            images = F.group_norm(images, rows * module.num_groups, weight, bias, module.eps)
        elif isinstance(module, nn.MaxPool2d):
            images = module(images)
        else:
            raise ValueError(f"{type(module).__name__} has no grouped form")
        return images.unflatten(1, (rows, -1))
