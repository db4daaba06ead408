"""Batches of one environment: its own shuffled stream; images are augmented and normalized on the device.

Each environment reads an endless stream: permutation 0 of the training split, then permutation 1, and so on.
Entry k of the stream, with its crop and its flip, is a function of (seed, k) alone: not of the epoch size,
the batch size, the device, or who else trains. Images stay on the device as uint8, windows of tokens as
int16; an epoch's indices and offsets are drawn on the CPU and sent once (K. Jordan, "94% on CIFAR-10 in 3.29
seconds on a single GPU", arXiv 2404.00498, keeps the data the same way).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from esper_env.contracts.streams import Stream, generator
from esper_env.tasks.stories import StoryTask
from esper_env.tasks.task import ImageTask, Split, Task
from esper_env.tasks.windows import TextSplit

Batch = tuple[torch.Tensor, torch.Tensor]
Ints = NDArray[np.int64]


def order(seed: int, start: int, count: int, num_samples: int) -> Ints:
    """Entries start .. start + count of the stream: sample indices, int64 (count,).

    Args:
        seed: episode seed of the environment.
        start: first entry, 0 at reset.
        count: number of entries.
        num_samples: size of the training split, the length of each permutation.
    """
    return _stream(seed, Stream.DATA, start, count, num_samples, lambda rng: rng.permutation(num_samples))


def augmentation(
    seed: int, start: int, count: int, num_samples: int, crop_padding: int, flip: bool
) -> tuple[Ints, Ints, Ints]:
    """Row offset, column offset (0 .. 2 crop_padding) and mirror (0, 1) of each entry, int64 (count,)."""
    places = 2 * crop_padding + 1
    code = _stream(
        seed, Stream.AUGMENT, start, count, num_samples,
        lambda rng: rng.integers(places * places * 2, size=num_samples),
    )  # fmt: skip
    return code // 2 // places, code // 2 % places, code % 2 * flip


def _stream(
    seed: int, stream: Stream, start: int, count: int, length: int, draw: Callable[..., Ints]
) -> Ints:
    first, last = start // length, (start + count - 1) // length
    drawn = [draw(generator(seed, stream, lap)) for lap in range(first, last + 1)]
    return np.concatenate(drawn)[start - first * length :][:count]


def plan(task: Task, seed: int, start: int, count: int) -> Ints:
    """What entries start .. start + count of the stream are, int64 (1 or 4, count).

    Sample indices, and where images are augmented also row offset, column offset and mirror of the crop.
    """
    num_samples = task.train.num_samples
    rows = [order(seed, start, count, num_samples)]
    if isinstance(task, ImageTask) and (task.crop_padding or task.flip):
        rows += augmentation(seed, start, count, num_samples, task.crop_padding, task.flip)
    return np.stack(rows)


def train_batches(
    task: Task, seed: int, epoch_index: int, epoch_size: int, batch_size: int
) -> Iterator[Batch]:
    """The batches of one epoch, (x, y).

    Images: x float32 (B, C, H, W) normalized and augmented, y int64 (B,). Stories: x and y int64
    (B, context), y being x one token later.

    Args:
        task: samples on the device.
        seed: episode seed of the environment.
        epoch_index: 0 for the first epoch after reset.
        epoch_size: stream entries an epoch, a multiple of batch_size.
        batch_size: B.
    """
    if epoch_size < 1 or batch_size < 1 or epoch_size % batch_size:
        raise ValueError(f"epoch_size={epoch_size} is not a positive multiple of batch_size={batch_size}")
    entries = torch.from_numpy(plan(task, seed, epoch_index * epoch_size, epoch_size)).to(task.device)
    take = _windows(task) if isinstance(task, StoryTask) else _images(task)
    yield from map(take, entries.split(batch_size, dim=1))


def _windows(task: StoryTask) -> Callable[[torch.Tensor], Batch]:
    return lambda entries: task.train.windows(entries[0])


def _images(task: ImageTask) -> Callable[[torch.Tensor], Batch]:
    normalize = _normalizer(task)

    def take(entries: torch.Tensor) -> Batch:
        images = task.train.images.index_select(0, entries[0])
        if len(entries) > 1:
            images = crop_flip(images, task.crop_padding, entries[1], entries[2], entries[3])
        return normalize(images), task.train.labels.index_select(0, entries[0])

    return take


AT_ONCE = {"image": 500, "text": 32}
"""Samples that are evaluated at a time, by family: logits of a window are as many as its tokens."""


def evaluation_batches(
    task: Task, split: Split | TextSplit, limit: int | None = None, batch_size: int | None = None
) -> Iterator[Batch]:
    """The first `limit` samples (None: all) of a split, in order, never augmented; else as `train_batches`.

    Args:
        task: for the normalization of images.
        split: one of its splits, or a part of one.
        limit: number of samples.
        batch_size: samples of a batch; None for `AT_ONCE`.
    """
    batch_size = batch_size or AT_ONCE[task.family]
    if isinstance(split, TextSplit):
        chosen = torch.arange(split.num_samples, device=task.device)[:limit]
        yield from map(split.windows, chosen.split(batch_size) if len(chosen) else ())
        return
    assert isinstance(task, ImageTask), "images of a task of images"
    normalize = _normalizer(task)
    images, labels = split.images[:limit], split.labels[:limit]
    for chunk, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        yield normalize(chunk), target


def crop_flip(
    images: torch.Tensor, padding: int, down: torch.Tensor, right: torch.Tensor, mirror: torch.Tensor
) -> torch.Tensor:
    """Each image in a black border, cropped at its own offset, then mirrored (K. He et al., 2016).

    Args:
        images: uint8 (B, H, W, C).
        padding: pixels of border on each side.
        down: int64 (B,), row of the crop in the bordered image.
        right: int64 (B,), its column.
        mirror: int64 (B,), 1 to swap left and right.
    """
    size, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    column = torch.arange(width, device=images.device)
    columns = torch.where(mirror[:, None] == 1, width - 1 - column, column) + right[:, None]
    line = torch.arange(height, device=images.device) + down[:, None]
    line += torch.arange(size, device=images.device)[:, None] * (height + 2 * padding)
    # One index per pixel into rows of C bytes: three times faster than advanced indexing on a CPU.
    pixels = line[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    return padded.view(-1, channels).index_select(0, pixels.view(-1)).view(images.shape)


def normalization(task: ImageTask) -> tuple[torch.Tensor, torch.Tensor]:
    """What is subtracted from gray levels, and what they are multiplied with after that, (channel,) each."""
    return task.mean * 255, 1 / (task.std * 255)


def _normalizer(task: ImageTask) -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 (B, H, W, C) to the task's type (B, C, H, W), of zero mean and unit variance per channel.

    Channels stay last in memory, as the images lie: convolutions are up to twice as fast on a CPU, and
    nothing is transposed.
    """
    # Repeated for a whole row: a broadcast over three channels takes four times as long on a CPU.
    width = task.input_shape[2]
    shift, scale = (each.repeat(width) for each in normalization(task))

    def normalize(images: torch.Tensor) -> torch.Tensor:
        return (
            images.flatten(2).to(shift.dtype).sub_(shift).mul_(scale).view(images.shape).permute(0, 3, 1, 2)
        )

    return normalize
