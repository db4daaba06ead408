"""Measuring a network: validation, its variants without some modules, and whether it is finite."""

from collections.abc import Collection, Iterable, Sequence
from time import perf_counter
from typing import NamedTuple

import torch

from esper_env.engine.objective import sample_scores
from esper_env.slots.grown import GrownModel
from esper_env.tasks.loader import evaluation_batches
from esper_env.tasks.task import Split, Task
from esper_env.tasks.windows import TextSplit


class Measured(NamedTuple):
    """What a pass over the validation split showed."""

    validation: torch.Tensor
    """float64 (2,): mean loss in nats and accuracy in [0, 1] on the whole split."""
    subsets: torch.Tensor
    """float64 (2, subset): the same of each variant on the first samples; NaN where none was asked for."""
    counterfactual_seconds: float
    """Time spent on variants beyond the whole network; on CUDA the time the host waited, for work that may
    still be running then."""


@torch.no_grad()
def predict(
    model: GrownModel,
    task: Task,
    split: Split | TextSplit,
    limit: int | None = None,
    without: frozenset[int] = frozenset(),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats and correctness (0 or 1, NaN for texts) of the first `limit` samples, (sample,).

    Args:
        model: put into eval mode.
        task: for the normalization.
        split: what to measure on.
        limit: number of samples, None for all.
        without: slots whose modules are switched off.
    """
    model.eval()
    batches = evaluation_batches(task, split, limit)
    losses, correct = torch.cat([sample_scores(model(x, without=without), y) for x, y in batches], dim=1)
    return losses, correct


def summary(model: GrownModel, task: Task, split: Split | TextSplit) -> torch.Tensor:
    """Mean loss in nats and accuracy in [0, 1] on a whole split, float64 (2,)."""
    return torch.stack(predict(model, task, split)).double().mean(dim=1)


@torch.no_grad()
def measure(
    model: GrownModel, task: Task, live: Collection[int], subsets: Sequence[int], size: int
) -> Measured:
    """Validate the network, and its variants on the way.

    One pass: the first samples go through the whole network and the variants together, the rest through the
    whole network alone. Batches are the same whatever is asked for.

    Args:
        model: put into eval mode.
        task: its validation split is measured on.
        live: slots that the variants can switch off.
        subsets: bit masks, bit s for a live slot s that is on; negative ones ask for nothing.
        size: first samples of the split to measure variants on.
    """
    model.eval()
    whole = sum(1 << slot for slot in live)
    scores: dict[int, list[torch.Tensor]] = {whole: []}
    scores |= {subset: [] for subset in subsets if subset >= 0}
    seconds = 0.0
    for x, y in evaluation_batches(task, task.validation, size):
        variants = model.variants(x, live, scores)
        _add(scores, y, [next(variants)])
        began = perf_counter()
        _add(scores, y, variants)
        seconds += perf_counter() - began
    means = torch.full((2, len(subsets)), torch.nan, dtype=torch.float64, device=task.device)
    for column, subset in enumerate(subsets):
        if subset >= 0:
            means[:, column] = _means(scores[subset])
    if size < task.validation.num_samples:
        beyond = evaluation_batches(task, task.validation.after(size))
        scores[whole] += [sample_scores(model(x), y) for x, y in beyond]
    return Measured(_means(scores[whole]), means, seconds)


@torch.no_grad()
def all_finite(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Whether every value is finite, a bool scalar on their device; tensors of integers are.

    Raises:
        ValueError: no tensor at all.
    """
    kept = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not kept:
        raise ValueError("there is no tensor of floating point numbers to look at")
    # The largest value, not the sum of squares, which overflows for numbers that are finite.
    return torch.stack(torch._foreach_norm(kept, torch.inf)).isfinite().all()


def _add(
    scores: dict[int, list[torch.Tensor]], y: torch.Tensor, variants: Iterable[tuple[int, torch.Tensor]]
) -> None:
    for subset, logits in variants:
        scores[subset].append(sample_scores(logits, y))


def _means(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts, dim=1).double().mean(dim=1)
