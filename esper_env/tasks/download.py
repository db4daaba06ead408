"""A data set in the cache folder: used as it is when it is there, else downloaded, converted and kept."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper_env.tasks import folder as places


@dataclass(frozen=True)
class DataSet:
    """A public data set."""

    title: str
    """What people call it."""
    folder: str
    """Its folder in the cache folder."""
    files: tuple[str, ...]
    """What has to be in it."""
    form: str
    """What these files are, in a few words."""
    library: str
    """What downloads it."""
    download: Callable[[Path, Path], None]
    """Downloads into the first folder, which does not exist, and writes `files` into the second one."""

    def cached(self, data_dir: str | None) -> bool:
        """Whether it is in the cache folder, whole or not: then nothing is downloaded."""
        return places.present(places.cache_folder(data_dir)[0] / self.folder, self.files)


def ensure(data: DataSet, cache: Path, named_by: str, patience: float) -> Path:
    """The folder with the files of a data set, after a download if none of them is there.

    Args:
        data: which.
        cache: the cache folder.
        named_by: which setting named it, for the error.
        patience: seconds without a new byte after which a download is given up.

    Raises:
        ValueError: some of the files are there and some are not; nothing is changed.
        DataUnavailableError: they are not there and the download failed.
    """
    target = cache / data.folder
    if not places.present(target, data.files):
        try:
            _fetch(data, target, patience)
        except Exception as error:
            raise places.DataUnavailableError(_advice(data, target, named_by, error)) from error
    return target


def _advice(data: DataSet, target: Path, named_by: str, error: Exception) -> str:
    return (
        f"{data.title} is not in {target} (cache folder named by {named_by}) and downloading it with "
        f"{data.library} failed: {type(error).__name__}: {error}. Three ways out: put "
        f"{', '.join(data.files)} ({data.form}) into {target}; set ESPER_DATA_DIR or data_dir to a folder "
        f'that has {data.folder}/ in it; or use data="procedural", which needs no files.'
    )


def _fetch(data: DataSet, target: Path, patience: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{data.folder}-", dir=target.parent))
    try:
        (work / "ready").mkdir()
        _watch(lambda: data.download(work / "raw", work / "ready"), work, patience)
        _publish(work / "ready", target, data.files)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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

    thread = threading.Thread(target=run, name="download", daemon=True)
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


def _publish(ready: Path, target: Path, files: tuple[str, ...]) -> None:
    # One rename makes the files appear together. It fails where the folder already holds something
    # (a README, or another process's download): then file by file, which never replaces what is there.
    try:
        os.rename(ready, target)
    except OSError:
        target.mkdir(exist_ok=True)
        for name in files:
            if not (target / name).exists():
                os.replace(ready / name, target / name)
