"""CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

Read from the cache folder when it is there, else downloaded with torchvision, which checks the md5.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from esper_env.tasks import folder as files

SHAPES = ((50_000, 32, 32, 3), (50_000,), (10_000, 32, 32, 3), (10_000,))
NUM_CLASSES = 10


def cached(data_dir: str | None = None) -> bool:
    """Whether CIFAR-10 is in the cache folder, whole or not: then nothing is downloaded.

    Args:
        data_dir: the cache folder; None for ESPER_DATA_DIR, else `~/.cache/esper`.
    """
    return files.present(files.cache_folder(data_dir)[0] / "cifar10")


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
    target = cache / "cifar10"
    if not files.present(target):
        try:
            _fetch(target, patience)
        except Exception as error:
            raise files.DataUnavailableError(_advice(target, named_by, error)) from error
    return files.read(target, SHAPES, NUM_CLASSES)


def _advice(target: Path, named_by: str, error: Exception) -> str:
    return (
        f"CIFAR-10 is not in {target} (cache folder named by {named_by}) and downloading it with "
        f"torchvision failed: {type(error).__name__}: {error}. Three ways out: put "
        f"{', '.join(files.FILES)} (uint8, NHWC) into {target}; set ESPER_DATA_DIR or data_dir to a folder "
        f'that has cifar10/ in it; or use data="procedural", which needs no files.'
    )


def _fetch(target: Path, patience: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".cifar10-", dir=target.parent))
    try:
        _watch(lambda: _download(work / "torchvision", work / "ready"), work, patience)
        _publish(work / "ready", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(raw: Path, ready: Path) -> None:
    from torchvision.datasets import CIFAR10

    ready.mkdir()
    for kind, train in (("train", True), ("test", False)):
        data = CIFAR10(str(raw), train=train, download=True)
        np.save(ready / f"{kind}_images.npy", np.asarray(data.data, dtype=np.uint8))
        np.save(ready / f"{kind}_labels.npy", np.asarray(data.targets, dtype=np.uint8))


def _watch(download: Callable[[], None], work: Path, patience: float) -> None:
    """Runs `download` in a thread and gives up when `work` has not grown for `patience` seconds.

    A thread, because a name look-up can hang longer than any socket timeout; growth, because a slow
    network is not a dead one.
    """
    raised: list[Exception] = []

    def run() -> None:
        try:
            download()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="cifar10-download", daemon=True)
    thread.start()
    size, since = 0, time.monotonic()
    while thread.is_alive():
        thread.join(0.05)
        if (grown := _size(work)) != size:
            size, since = grown, time.monotonic()
        elif time.monotonic() - since > patience:
            raise TimeoutError(f"no data came for {patience:g} s")
    if raised:
        raise raised[0]


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _publish(ready: Path, target: Path) -> None:
    # One rename makes the four files appear together. It fails where the folder already holds something
    # (a README, or another process's download): then file by file, which never replaces what is there.
    try:
        os.rename(ready, target)
    except OSError:
        target.mkdir(exist_ok=True)
        for name in files.FILES:
            if not (target / name).exists():
                os.replace(ready / name, target / name)
