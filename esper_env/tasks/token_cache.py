"""Encoded stories on disk, so that a code is trained once: beside the stories, else in the user's cache."""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from esper_env.tasks.tokenizer import Tokens


class Kept(NamedTuple):
    """What is kept of a data set."""

    splits: tuple[Tokens, Tokens, Tokens]
    """Train, validation, test, int16 (token,)."""
    record: str
    """The code, as `BytePairs` takes it."""


def name_for(*parts: object) -> str:
    """A file name that differs whenever any of what decides the tokens does."""
    return f"tokens-{sha256(repr(parts).encode()).hexdigest()[:16]}.npz"


def places(folder: Path) -> tuple[Path, ...]:
    """Where tokens of the stories in `folder` may be kept, best first."""
    return tuple(dict.fromkeys((folder, Path.home() / ".cache" / "esper" / folder.name)))


def read(folder: Path, name: str) -> tuple[Kept, Path] | None:
    """What is kept under a name, and where; None if nothing is.

    Raises:
        ValueError: the file is damaged; it is left as it is.
    """
    for path in (place / name for place in places(folder)):
        if path.exists():
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                    splits = (arrays["train"], arrays["validation"], arrays["test"])
                    return Kept(splits, arrays["record"].tobytes().decode()), path
            except Exception as error:
                raise ValueError(
                    f"{path}: not a whole file of tokens ({type(error).__name__}: {error}); remove it, and "
                    "it is made again from the stories"
                ) from error
    return None


def write(folder: Path, name: str, kept: Kept) -> Path | None:
    """Keep something under a name.

    Returns:
        Where it is; None if no place can be written.
    """
    for place in _writable(places(folder)):
        part = place / f".{name}-{secrets.token_hex(4)}"
        try:
            with part.open("xb") as file:
                train, validation, test = kept.splits
                record = np.frombuffer(kept.record.encode(), dtype=np.uint8)
                np.savez(file, train=train, validation=validation, test=test, record=record)
            # In one rename, so that another process never sees half a file.
            os.replace(part, place / name)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            continue
        return place / name
    return None


def _writable(folders: tuple[Path, ...]) -> Iterator[Path]:
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            # Root may write anywhere; a folder that nobody is meant to write is left alone all the same.
            if os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222:
                yield folder
