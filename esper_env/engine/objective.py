"""What a network is trained for and measured by: the class of an image, or the next token of a text.

A label a sample is a class, a row of labels a text, whose loss is the mean over its tokens.
"""

import torch
import torch.nn.functional as F


def mean_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of a batch, in nats.

    Args:
        logits: (batch, class), or (batch, token, vocabulary).
        y: int64 (batch,), or (batch, token).
    """
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())


def correct(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(batch,): whether the class is the right one; NaN for texts, which have no accuracy."""
    if y.dim() > 1:
        return logits.new_full(y.shape[:1], torch.nan)
    return logits.argmax(dim=1) == y


def sample_scores(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(2, batch): cross-entropy in nats and correctness, in the type of the logits."""
    losses = F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none").view_as(y)
    if y.dim() > 1:
        losses = losses.mean(dim=1)
    return torch.stack([losses, correct(logits, y).to(losses.dtype)])
