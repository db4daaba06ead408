"""Measuring a network: validation, harvest and what each live module contributes."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from esper_env.slots.grown import GrownModel
from esper_env.tasks.loader import evaluation_batches
from esper_env.tasks.task import ImageTask, Split


@torch.no_grad()
def predict(
    model: GrownModel,
    task: ImageTask,
    split: Split,
    limit: int | None = None,
    without: frozenset[int] = frozenset(),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats and correctness (0 or 1) of the first `limit` samples, both float32 (sample,).

    Args:
        model: put into eval mode.
        task: for the normalization.
        split: what to measure on.
        limit: number of samples, None for all.
        without: slots whose modules are switched off.
    """
    model.eval()
    losses, correct = [], []
    for x, y in evaluation_batches(task, split, limit):
        logits = model(x, without=without)
        losses.append(F.cross_entropy(logits, y, reduction="none"))
        correct.append(logits.argmax(dim=1) == y)
    return torch.cat(losses), torch.cat(correct).float()


def summary(model: GrownModel, task: ImageTask, split: Split) -> torch.Tensor:
    """Mean loss in nats and accuracy in [0, 1] on a whole split, (2,)."""
    loss, correct = predict(model, task, split)
    return torch.stack([loss.double().mean(), correct.double().mean()])


def measure(
    model: GrownModel, task: ImageTask, live: Iterable[int], counterfactual_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Validation and leave-one-out contributions.

    Args:
        model: the network.
        task: the data.
        live: slots with alpha above 0 that are not fossilized.
        counterfactual_size: first samples of the validation split to measure contributions on.

    Returns:
        (2,): mean validation loss in nats and accuracy in [0, 1]; (slot,): accuracy with the module less
        accuracy without it, in points, on the same samples; NaN for a slot that is not live.
    """
    loss, correct = predict(model, task, task.validation)
    contribution = torch.full((len(model.slots),), torch.nan, dtype=torch.float64, device=task.device)
    for slot in live:
        _, without = predict(model, task, task.validation, counterfactual_size, frozenset({slot}))
        contribution[slot] = 100 * (correct[:counterfactual_size].double().mean() - without.double().mean())
    return torch.stack([loss.double().mean(), correct.double().mean()]), contribution
