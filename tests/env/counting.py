"""FLOPs by torch's own counter, which the ledger is held against."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper_env.engine.ledger import Cost

STATES = {"isolated": (False, True), "blended": (True, True), "frozen": (True, False)}
"""State -> whether the input and the parameters get gradients."""


def counted(module: nn.Module, x: torch.Tensor, backward: bool = True) -> int:
    """What torch's counter sees on real tensors; a layer's unused input gradient isn't asked for.

    Attention is done in plain products: the counter does not know the kernels of a CPU.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = module(x)
        if backward:
            output.sum().backward()
    return int(counter.get_total_flops())


def measured(module: nn.Module, shape: tuple[int, ...]) -> Cost:
    """The cost of one sample by torch's counter."""
    totals = {"forward": counted(module, torch.randn(1, *shape), backward=False)}
    for state, (input_gradient, learns) in STATES.items():
        module.requires_grad_(learns)
        totals[state] = counted(module, torch.randn(1, *shape, requires_grad=input_gradient))
    return Cost(**totals)
