"""A stream of tokens on the device, cut into windows without padding."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TextSplit(NamedTuple):
    """Windows of a text. Sample i reads tokens i C to i C + C - 1 and predicts the one after each of them."""

    tokens: Tensor
    """int16 (at least num_samples * context + 1,); what is over belongs to no window."""
    context: int
    """C, tokens of a window."""

    @property
    def num_samples(self) -> int:
        """Whole windows, each with a token after it."""
        return max(len(self.tokens) - 1, 0) // self.context

    def after(self, size: int) -> "TextSplit":
        """The split without its first `size` samples."""
        return TextSplit(self.tokens[size * self.context :], self.context)

    def counts(self, size: int) -> NDArray[np.int64]:
        """(size,): how often each of so many tokens is predicted in all windows."""
        predicted = self.tokens[1 : self.num_samples * self.context + 1]
        return torch.bincount(predicted, minlength=size).cpu().numpy()

    def windows(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Some samples: x and y, int64 (*chosen.shape, context), y being x one token later.

        Args:
            chosen: int64, indices of samples, of any shape, on the tokens' device.
        """
        rows = self.tokens.unfold(0, self.context + 1, self.context).index_select(0, chosen.flatten())
        x, y = (part.long().view(*chosen.shape, self.context) for part in (rows[:, :-1], rows[:, 1:]))
        return x, y
