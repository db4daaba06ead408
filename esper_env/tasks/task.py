"""A task: train, validation and test samples on the device, and what a host has to know about them."""

import threading
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray

from esper_env.contracts.streams import Stream, generator
from esper_env.tasks import cifar10, folder, procedural
from esper_env.tasks.config import Family, TaskConfig
from esper_env.tasks.stories import StoryTask, load_stories

SPLIT_SEED = 0
"""Seed of the one permutation that carves validation out of the training files: the same for everybody."""


class Split(NamedTuple):
    """Images and labels on the device."""

    images: torch.Tensor
    """uint8 (N, H, W, C)."""
    labels: torch.Tensor
    """int64 (N,)."""

    @property
    def num_samples(self) -> int:
        """N."""
        return self.labels.shape[0]

    def after(self, size: int) -> "Split":
        """The split without its first `size` samples."""
        return Split(self.images[size:], self.labels[size:])


@dataclass(frozen=True)
class ImageTask:
    """Image classification. Tensors are shared by all environments of the process: never written to."""

    name: str
    """The `data` of the config."""
    provenance: str
    """One line that says what the images are and where they come from."""
    train: Split
    validation: Split
    test: Split
    """The three splits, disjoint."""
    num_classes: int
    """Number of labels."""
    mean: torch.Tensor
    """float32 (C,): channel means of the training split, images in [0, 1]."""
    std: torch.Tensor
    """float32 (C,): channel standard deviations, at least one gray level."""
    crop_padding: int = 0
    """Pixels of border for random crops; 0 for none."""
    flip: bool = False
    """Whether training images are mirrored at random."""
    family: str = "image"
    """What kind of input a host gets."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one sample, as a host gets it."""
        height, width, channels = self.train.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.train.images.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of number that normalized images, and networks for them, have: that of mean and std."""
        return self.mean.dtype

    def in_type(self, dtype: torch.dtype) -> "ImageTask":
        """The same task for networks of another type of number."""
        return replace(self, mean=self.mean.to(dtype), std=self.std.to(dtype))


Task = ImageTask | StoryTask
"""What an engine trains on."""


@overload
def load_task(
    config: TaskConfig, device: torch.device, family: Literal["image"] = "image", context: int | None = None
) -> ImageTask: ...


@overload
def load_task(
    config: TaskConfig, device: torch.device, family: Literal["text"], context: int | None = None
) -> StoryTask: ...


@overload
def load_task(
    config: TaskConfig, device: torch.device, family: Family, context: int | None = None
) -> Task: ...


def load_task(
    config: TaskConfig, device: torch.device, family: Family = "image", context: int | None = None
) -> Task:
    """The task of a config. Samples are held once per process and device, whoever asks for them.

    Args:
        config: which data.
        device: where the samples lie.
        family: what the host reads.
        context: tokens a window of a host that reads text, unless the config says otherwise.

    Raises:
        ValueError: data of another family; or files that are incomplete or damaged, left as they are.
        DataUnavailableError: no files, and no download.
    """
    config.refuse_other(family)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _LOCK:
        if family == "text":
            return load_stories(config, config.window(context), device)
        source = _source(config, device)
    augment = config.data == "cifar10" if config.augment is None else config.augment
    return replace(source, crop_padding=config.crop_padding, flip=config.flip) if augment else source


_LOCK = threading.Lock()


def _source(config: TaskConfig, device: torch.device) -> ImageTask:
    # Only what decides the images is the key, so that two configs that differ elsewhere share them.
    if config.data == "procedural":
        sizes = config.sizes("image")
        return _procedural(config.image_size, sizes, config.generator_seed, config.difficulty, device)
    path, named_by = folder.cache_folder(config.data_dir)
    share = config.validation_share("image")
    key = (config.data, path.resolve(), share, device)
    if key not in _READ:
        _READ[key] = _from_files(config.data, path, named_by, share, config.patience, device)
    return _READ[key]


_READ: dict[tuple[str, Path, float, torch.device], ImageTask] = {}
"""What was read from files, by what decides the images."""


@cache
def _procedural(
    image_size: int,
    sizes: tuple[int, int, int],
    seed: int,
    difficulty: procedural.Difficulty,
    device: torch.device,
) -> ImageTask:
    splits = [
        procedural.generate(image_size, size, seed, split, difficulty) for split, size in enumerate(sizes)
    ]
    provenance = f"procedural images {image_size}x{image_size}, generator v{procedural.VERSION}, seed {seed}"
    if difficulty != procedural.Difficulty():
        provenance += f", {difficulty}"
    return _on_device("procedural", provenance, splits, len(procedural.CLASSES), device)


def _from_files(
    data: str, cache_path: Path, named_by: str, val_fraction: float, patience: float, device: torch.device
) -> ImageTask:
    if data == "cifar10":
        arrays = cifar10.load(cache_path, named_by, patience)
        provenance = f"real CIFAR-10, from {cache_path / 'cifar10'}"
    else:
        path = cache_path / data.removeprefix("folder:")
        if not folder.present(path):
            raise folder.DataUnavailableError(
                f"data={data!r}: none of {', '.join(folder.FILES)} is in {path} "
                f"(cache folder named by {named_by})"
            )
        arrays = folder.read(path)
        provenance = f"files of the user, from {path}"
    train, validation = _carve(arrays.train_images, arrays.train_labels, val_fraction)
    test = (np.array(arrays.test_images), arrays.test_labels)
    return _on_device(data, provenance, [train, validation, test], int(arrays.train_labels.max()) + 1, device)


_Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _carve(images: NDArray[np.uint8], labels: NDArray[np.int64], fraction: float) -> tuple[_Images, _Images]:
    """Train and validation. Validation keeps the order of the permutation: its first k are a fair sample."""
    num_val = round(fraction * len(labels))
    if not 0 < num_val < len(labels):
        raise ValueError(
            f"val_fraction={fraction} of {len(labels)} training images leaves {len(labels) - num_val} for "
            f"training and {num_val} for validation; both need at least 1"
        )
    order = generator(SPLIT_SEED, Stream.DATA).permutation(len(labels))
    train, validation = np.sort(order[num_val:]), order[:num_val]
    return (images[train], labels[train]), (images[validation], labels[validation])


def _on_device(
    name: str, provenance: str, splits: list[_Images], num_classes: int, device: torch.device
) -> ImageTask:
    mean, std = _moments(splits[0][0])
    train, validation, test = (
        Split(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))
        for images, labels in splits
    )
    return ImageTask(name, provenance, train, validation, test, num_classes, mean.to(device), std.to(device))


def _moments(images: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Channel means and standard deviations in [0, 1], float32 (C,), from exact counts of gray levels."""
    counts = np.zeros((images.shape[3], 256))
    for start in range(0, len(images), 1000):
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(images[start : start + 1000, ..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt(share @ levels**2 - mean**2)
    # A channel that never varies would divide by zero.
    return torch.from_numpy(mean).float(), torch.from_numpy(np.maximum(std, 1 / 255)).float()
