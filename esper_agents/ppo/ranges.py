"""Weights of their own for each range of a feature: what is learned under one budget mostly stays there.

One network that plays under several budgets does under all what one of them taught. What is encoded goes
into one of as many blocks as there are ranges, so that a layer that reads them has a part for each. The
encoder itself, the core's recurrence and the last layers of the heads are common.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Ranges(nn.Module):
    """Which range of values of some features an observation is in: one number for each combination.

    Args:
        features: Where each feature lies, as `EsperVectorEnv.features` says.
        edges: Feature of one number -> values at which its ranges are divided, ascending.

    Raises:
        ValueError: a feature that is not there, or has several numbers.
    """

    def __init__(self, features: Mapping[str, slice], edges: Mapping[str, Sequence[float]]) -> None:
        super().__init__()
        single = [name for name, at in features.items() if at.stop - at.start == 1]
        unknown = sorted(set(edges) - set(single))
        if unknown:
            raise ValueError(f"own_weights names {unknown}, the features of one number are {single}")
        self._parts = [(features[name].start, tuple(own)) for name, own in sorted(edges.items())]
        self.count = math.prod(len(own) + 1 for _, own in self._parts)

    def forward(self, obs: Tensor) -> Tensor:
        """Int64 (...,) of observations (..., feature)."""
        found = torch.zeros(obs.shape[:-1], dtype=torch.int64, device=obs.device)
        for at, edges in self._parts:
            found = found * (len(edges) + 1) + torch.bucketize(
                obs[..., at].contiguous(), obs.new_tensor(edges)
            )
        return found


def in_blocks(values: Tensor, number: Tensor, count: int) -> Tensor:
    """Values (..., width) in the block of this number, int64 (...,), of `count`; zeros in the others."""
    where = nn.functional.one_hot(number, count).to(values.dtype)
    return (where[..., None] * values[..., None, :]).flatten(-2)
