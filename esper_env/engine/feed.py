"""Batches of many environments at once, each from its own stream (see `tasks.loader`)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from esper_env.engine.kernels.kernels import Kernels
from esper_env.tasks.loader import augmentation, normalization, order
from esper_env.tasks.task import ImageTask


def batches(
    task: ImageTask,
    kernels: Kernels,
    seeds: Sequence[int],
    epochs: Sequence[int],
    epoch_size: int,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: (x (row, sample, height, width, channel), y int64 (row, sample)) by batch.

    Each row has the samples that `tasks.loader.train_batches` gives its environment.

    Args:
        task: images on the device.
        kernels: what picks and crops them.
        seeds: (row,), episode seeds.
        epochs: (row,), 0 for the first epoch after reset.
        epoch_size: stream entries an epoch, a multiple of batch_size.
        batch_size: samples of a row and batch.
    """
    augmented = bool(task.crop_padding or task.flip)
    plans = [
        _plan(task, seed, epoch * epoch_size, epoch_size, augmented)
        for seed, epoch in zip(seeds, epochs, strict=True)
    ]
    plan = torch.from_numpy(np.stack(plans, axis=1)).to(task.device)
    shift, scale = normalization(task)
    for part in plan.split(batch_size, dim=2):
        crop = (part[1], part[2], part[3]) if augmented else None
        x = kernels.images(task.train.images, part[0], crop, task.crop_padding, shift, scale)
        yield x, task.train.labels.index_select(0, part[0].flatten()).view_as(part[0])


def _plan(
    task: ImageTask, seed: int, start: int, count: int, augmented: bool
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(1 or 4, sample): indices, and offsets and mirror of the crop."""
    rows = [order(seed, start, count, task.train.num_samples)]
    if augmented:
        rows += augmentation(seed, start, count, task.train.num_samples, task.crop_padding, task.flip)
    return np.stack(rows)
