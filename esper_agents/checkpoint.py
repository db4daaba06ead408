"""Checkpoints that are whole at any time, and the folder of a run.

A file is written beside its place, synced, and renamed over it: a process that is killed leaves the old file
or the new one, never half of one.
"""

import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

CHECKPOINT = "checkpoint.zip"
"""Name of the last checkpoint in a run's folder."""
RECORD = "esper.json"
"""Entry of a checkpoint that is ours; the others are the algorithm library's."""
WEIGHTS, LIBRARY_WEIGHTS, LIFE = "policy.pt", "policy.pth", "life.json"
"""Entries that an agent plays with: of esper_ppo, of Stable-Baselines3, of a search."""
PLACES = ("logdir", "start_from")
"""Settings of a run that name folders of the machine it was trained on."""
RUN_RECORD = "config.json"
"""Name of the run's configuration in its folder."""


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file in one step, durably."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, values: Any) -> None:
    """Plain values as JSON, for people to read."""
    write_atomic(path, (json.dumps(values, indent=2) + "\n").encode())


def write_checkpoint(path: Path, model: bytes, record: dict[str, Any]) -> None:
    """One file: the zip of a model, with the record as one more entry."""
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(RECORD, json.dumps(record))
    write_atomic(path, content.getvalue())


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint; no code in the file is run.

    Raises:
        ValueError: not a checkpoint of ours, a damaged one, or one that asks for a password.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{path} is damaged: {damaged} fails its checksum")
            record = json.loads(archive.read(RECORD))
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is not a checkpoint of a training run: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError(f"{path} is not a checkpoint of a training run: its {RECORD} has no config")
    return record


def to_play(path: Path) -> bytes:
    """Of a checkpoint tensors and JSON that playing needs, and no code; the same one gives the same bytes.

    Where it was trained is left out: of the weights that it began with their digest alone is kept.

    Raises:
        ValueError: not a checkpoint of ours, or a damaged one.
    """
    record, content = read_record(path), io.BytesIO()
    record["config"] = {name: value for name, value in record["config"].items() if name not in PLACES}
    if record.get("start"):
        record["start"] = {"sha256": record["start"]["sha256"]}
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(content, "w") as archive:
        for entry in whole.infolist():
            if entry.filename in (WEIGHTS, LIBRARY_WEIGHTS, LIFE):
                archive.writestr(zipfile.ZipInfo(entry.filename), whole.read(entry))
        archive.writestr(zipfile.ZipInfo(RECORD), json.dumps(record))
    return content.getvalue()


def refuse_without(path: Path, entry: str) -> None:
    """Whether there is all that training needs to go on.

    Raises:
        ValueError: the entry is missing, as in what `to_play` gives.
    """
    with zipfile.ZipFile(path) as archive:
        if entry not in archive.namelist():
            raise ValueError(f"{path} has no {entry}: it was kept to be played, and can't be gone on from")


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, that of a run's folder, or the newest of a folder of runs.

    Raises:
        ValueError: there is none.
    """
    if path.is_file():
        return path
    if (path / CHECKPOINT).is_file():
        return path / CHECKPOINT
    found = sorted(path.glob(f"*/{CHECKPOINT}"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise ValueError(f"{path} has no checkpoint: neither {CHECKPOINT} nor */{CHECKPOINT} is there")
    return found[-1]


def new_run(logdir: Path, name: str) -> Path:
    """A new folder `logdir/name-N` with the lowest N above all that are there."""
    logdir.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name.rpartition("-")[2]) for path in logdir.glob(f"{name}-*") if _numbered(path)]
    number = max(numbers, default=0) + 1
    while True:
        try:
            (logdir / f"{name}-{number}").mkdir()
        except FileExistsError:
            number += 1
            continue
        return logdir / f"{name}-{number}"


def _numbered(path: Path) -> bool:
    return path.name.rpartition("-")[2].isdecimal()
