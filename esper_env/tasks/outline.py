"""The shape of a task, known before its data are loaded, so that a host can be checked first."""

import math
from dataclasses import dataclass

import torch

from esper_env.tasks.procedural import CLASSES
from esper_env.tasks.task import TaskConfig, load_task

CIFAR10_TRAIN_FILES = 50_000
"""Images in CIFAR-10's training files."""


@dataclass(frozen=True)
class Outline:
    """What a host and the rules have to know of a task."""

    input_shape: tuple[int, int, int]
    """(channels, height, width) of one sample."""
    num_classes: int
    train_size: int
    """Samples of the training split."""
    val_size: int
    """Samples of the validation split."""

    @property
    def chance_quality(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.num_classes

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of guessing, in nats."""
        return math.log(self.num_classes)


def outline(config: TaskConfig) -> Outline:
    """The outline of a task. Only a folder of the user's own has to be read for it.

    Raises:
        ValueError: as `load_task`, for a folder.
    """
    if config.data == "cifar10":
        val_size = round(config.val_fraction * CIFAR10_TRAIN_FILES)
        return Outline((3, 32, 32), 10, CIFAR10_TRAIN_FILES - val_size, val_size)
    if config.data == "procedural":
        shape = (3, config.image_size, config.image_size)
        return Outline(shape, len(CLASSES), config.train_size, config.val_size)
    task = load_task(config, torch.device("cpu"))
    return Outline(task.input_shape, task.num_classes, task.train.num_samples, task.validation.num_samples)
