"""Batches of many environments at once, each from its own stream (see `tasks.loader`)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from esper_env.engine.kernels.kernels import Kernels
from esper_env.tasks import loader
from esper_env.tasks.stories import StoryTask
from esper_env.tasks.task import ImageTask, Split, Task
from esper_env.tasks.windows import TextSplit


def plan(task: Task, seeds: Sequence[int], epochs: Sequence[int], epoch_size: int) -> Tensor:
    """What each row reads in an epoch, as `tasks.loader.train_batches` would: int64 (1 or 4, row, sample).

    Sample indices, and where images are augmented also row offset, column offset and mirror of the crop.

    Args:
        task: samples on the device.
        seeds: (row,), episode seeds.
        epochs: (row,), 0 for the first epoch after reset.
        epoch_size: stream entries an epoch.
    """
    starts = [epoch * epoch_size for epoch in epochs]
    rows = [loader.plan(task, seed, start, epoch_size) for seed, start in zip(seeds, starts, strict=True)]
    return torch.from_numpy(np.stack(rows, axis=1)).to(task.device)


def batch(task: Task, kernels: Kernels, part: Tensor) -> tuple[Tensor, Tensor]:
    """The samples of a part of a plan, (x, y).

    Images: x (row, sample, height, width, channel), y int64 (row, sample). Stories: x and y int64 (row,
    sample, token).
    """
    if isinstance(task, StoryTask):
        return task.train.windows(part[0])
    crop = (part[1], part[2], part[3]) if len(part) > 1 else None
    shift, scale = loader.normalization(task)
    x = kernels.images(task.train.images, part[0], crop, task.crop_padding, shift, scale)
    return x, task.train.labels.index_select(0, part[0].flatten()).view_as(part[0])


def evaluation(
    task: Task, kernels: Kernels, split: Split | TextSplit, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Some samples of a split as they are, (x, y) for one row.

    Images: x (sample, height, width, channel), y int64 (sample,). Stories: x and y int64 (sample, token).

    Args:
        task: of the split.
        kernels: what to read images with.
        split: images of a task of images, else windows.
        chosen: int64 (sample,), indices.
    """
    if isinstance(split, TextSplit):
        return split.windows(chosen)
    assert isinstance(task, ImageTask), "images of a task of images"
    shift, scale = loader.normalization(task)
    x = kernels.images(split.images, chosen[None], None, 0, shift, scale)[0]
    return x, split.labels.index_select(0, chosen)
