"""CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

Read from the cache folder when it is there, else downloaded with torchvision, which checks the md5.
"""

from pathlib import Path

import numpy as np

from esper_env.tasks import folder as files
from esper_env.tasks.download import DataSet, ensure

SHAPES = ((50_000, 32, 32, 3), (50_000,), (10_000, 32, 32, 3), (10_000,))
NUM_CLASSES = 10


def cached(data_dir: str | None = None) -> bool:
    """Whether CIFAR-10 is in the cache folder, whole or not: then nothing is downloaded.

    Args:
        data_dir: the cache folder; None for ESPER_DATA_DIR, else `~/.cache/esper`.
    """
    return SOURCE.cached(data_dir)


def load(cache: Path, named_by: str, patience: float) -> files.Arrays:
    """All 60,000 images, from `cache / "cifar10"` or from the network.

    Args:
        cache: the cache folder.
        named_by: which setting named it, for the error.
        patience: seconds without a new byte after which a download is given up.

    Raises:
        ValueError: the files are there but incomplete or damaged; they are left as they are.
        DataUnavailableError: they are not there and the download failed.
    """
    return files.read(ensure(SOURCE, cache, named_by, patience), SHAPES, NUM_CLASSES)


def _download(raw: Path, ready: Path) -> None:
    from torchvision.datasets import CIFAR10

    for kind, train in (("train", True), ("test", False)):
        data = CIFAR10(str(raw), train=train, download=True)
        np.save(ready / f"{kind}_images.npy", np.asarray(data.data, dtype=np.uint8))
        np.save(ready / f"{kind}_labels.npy", np.asarray(data.targets, dtype=np.uint8))


SOURCE = DataSet("CIFAR-10", "cifar10", files.FILES, "uint8, NHWC", "torchvision", _download)
