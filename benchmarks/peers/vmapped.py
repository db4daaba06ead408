"""(c) `torch.func`: `functional_call` of one module under `vmap` over stacked weights and norm statistics."""

import torch
from torch import nn
from torch.func import functional_call, vmap

from peers.stack import Stack
from peers.stacked import StackedPeer


class VmapPeer(StackedPeer):
    """Model ensembling as torch's own tutorial has it, with gradients by autograd over the mapped passes.

    (Under `torch.func.grad` batch norm could not update its running statistics, which it does in place.)
    """

    name, letter = "torch.func vmap", "c"

    def _apply(
        self, module: nn.Module, stack: Stack, prefix: str, first: int, x: torch.Tensor
    ) -> torch.Tensor:
        params, buffers = stack.of(prefix, first)
        if x.dim() == 5:
            x = self._laid_out(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        shared = x.shape[1] == 1

        def one(
            params: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor], x: torch.Tensor
        ) -> torch.Tensor:
            output: torch.Tensor = functional_call(module, (params, buffers), (x,))
            return output

        if not params:
            plain: torch.Tensor = module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return plain
        axes = (0, 0, None if shared else 1)
        mapped: torch.Tensor = vmap(one, axes, 1)(params, buffers, x[:, 0] if shared else x)
        return mapped
