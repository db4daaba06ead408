"""The shape of a task, known before its data are loaded, so that a host can be checked first."""

import math
from dataclasses import dataclass

import torch

from esper_env.tasks.config import Family, TaskConfig
from esper_env.tasks.plot import Words
from esper_env.tasks.procedural import CLASSES
from esper_env.tasks.task import Task, load_task

CIFAR10_TRAIN_FILES = 50_000
"""Images in CIFAR-10's training files."""


@dataclass(frozen=True)
class Outline:
    """What a host and the rules have to know of a task. Samples are images or windows of tokens."""

    input_shape: tuple[int, ...]
    """(channels, height, width) or (context,) of one sample."""
    num_classes: int
    """Labels, or entries of the vocabulary."""
    train_size: int | None
    """Samples of the training split; None where they are known only once the data are read (tinystories)."""
    val_size: int | None
    """Samples of the validation split, likewise."""
    chance_quality: float
    """Quality of guessing: the accuracy, 0 for language."""

    @property
    def chance_loss(self) -> float:
        """Cross-entropy of guessing, in nats."""
        return math.log(self.num_classes)


def outline(config: TaskConfig, family: Family = "image", context: int | None = None) -> Outline:
    """The outline of a task. Only a folder of the user's own has to be read for it.

    Args:
        config: which data.
        family: what the host reads.
        context: tokens a window of a host that reads text, unless the config says otherwise.

    Raises:
        ValueError: data of another family; for a folder, as `load_task`.
    """
    config.refuse_other(family)
    if family == "text":
        shape = (config.window(context),)
        if config.data == "procedural":
            return Outline(shape, Words.size, *config.sizes("text")[:2], 0.0)
        return Outline(shape, config.vocabulary, None, None, 0.0)
    if config.data == "cifar10":
        val_size = round(config.validation_share("image") * CIFAR10_TRAIN_FILES)
        return Outline((3, 32, 32), 10, CIFAR10_TRAIN_FILES - val_size, val_size, 1 / 10)
    if config.data == "procedural":
        image = (3, config.image_size, config.image_size)
        return Outline(image, len(CLASSES), *config.sizes("image")[:2], 1 / len(CLASSES))
    return outline_of(load_task(config, torch.device("cpu")))


def outline_of(task: Task) -> Outline:
    """The outline of a task that is loaded."""
    chance_quality = 1 / task.num_classes if task.family == "image" else 0.0
    sizes = task.train.num_samples, task.validation.num_samples
    return Outline(task.input_shape, task.num_classes, *sizes, chance_quality)
