"""The cache folder and the four files of an image data set in it, checked before anything uses them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")


class Arrays(NamedTuple):
    """An image data set as it lies on disk. Images uint8 (N, H, W, C), labels int64 (N,)."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


class DataUnavailableError(FileNotFoundError):
    """No data set where it was looked for, and none could be fetched. A damaged one is a `ValueError`."""


def cache_folder(data_dir: str | None) -> tuple[Path, str]:
    """The folder that holds the data sets, and which setting named it (`data_dir` wins)."""
    if data_dir is not None:
        return Path(data_dir).expanduser(), "data_dir"
    if variable := os.environ.get("ESPER_DATA_DIR"):
        return Path(variable).expanduser(), "ESPER_DATA_DIR"
    return Path.home() / ".cache" / "esper", "the default"


def present(folder: Path, files: Sequence[str] = FILES) -> bool:
    """Whether the data set is there; False if none of its files is.

    Raises:
        ValueError: some of them are there and some are not.
    """
    missing = [name for name in files if not (folder / name).exists()]
    if missing and len(missing) < len(files):
        found = [name for name in files if name not in missing]
        raise ValueError(
            f"{folder}: {', '.join(missing)} missing, found only {', '.join(found)}; "
            f"expected all of {', '.join(files)}. Nothing was changed."
        )
    return not missing


def read(
    folder: Path, shapes: tuple[tuple[int, ...], ...] | None = None, num_classes: int | None = None
) -> Arrays:
    """The four files of `folder`, each checked.

    Args:
        folder: holds `FILES`.
        shapes: exact shapes of the four arrays in the order of `FILES`; None takes any (N, H, W, 1 or 3).
        num_classes: labels lie in [0, num_classes); None derives it from the training labels.

    Raises:
        ValueError: a file that is unreadable, truncated, of another shape, dtype or label range.
    """
    arrays = [_load(folder / name) for name in FILES]
    for index, name in enumerate(FILES):
        _check_form(folder / name, arrays[index], shapes[index] if shapes else None)
    for kind, (images, labels) in zip(("train", "test"), (arrays[:2], arrays[2:]), strict=True):
        _check_pair(folder, kind, images, labels)
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise ValueError(
            f"{folder / FILES[2]}: images of shape {arrays[2].shape[1:]}, expected "
            f"{arrays[0].shape[1:]} as in {FILES[0]}"
        )
    limit = num_classes or int(arrays[1].max()) + 1
    for index in (1, 3):
        _check_range(folder / FILES[index], arrays[index], limit)
    return Arrays(arrays[0], arrays[1].astype(np.int64), arrays[2], arrays[3].astype(np.int64))


def _load(path: Path) -> NDArray[Any]:
    # A memory map notices a truncated file at once and leaves the copying to the split.
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable .npy file ({error}); expected a whole array") from error


def _check_form(path: Path, array: NDArray[Any], shape: tuple[int, ...] | None) -> None:
    is_images = path.name.endswith("images.npy")
    dtype_ok = array.dtype == np.uint8 if is_images else np.issubdtype(array.dtype, np.integer)
    if not dtype_ok:
        raise ValueError(f"{path}: dtype {array.dtype}, expected {'uint8' if is_images else 'integers'}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{path}: shape {array.shape}, expected {shape}")
    form_ok = array.ndim == 4 and array.shape[3] in (1, 3) if is_images else array.ndim == 1
    if not form_ok or array.size == 0:
        expected = "(N, height, width, 1 or 3 channels)" if is_images else "(N,)"
        raise ValueError(f"{path}: shape {array.shape}, expected {expected} with nothing empty")


def _check_pair(folder: Path, kind: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    if len(images) != len(labels):
        raise ValueError(
            f"{folder / f'{kind}_labels.npy'}: {len(labels)} labels, expected {len(images)} "
            f"as there are images in {kind}_images.npy"
        )


def _check_range(path: Path, labels: NDArray[Any], limit: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= limit or limit < 2:
        raise ValueError(f"{path}: labels from {low} to {high}, expected 0 to {max(limit, 2) - 1}")
