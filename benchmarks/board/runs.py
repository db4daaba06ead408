"""Whether the training runs of an entry are of one recipe, and each a run of its own.

A run's record is what its checkpoint says. That it was trained as it says nobody can check; weights that were
changed a little pass for others.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper_agents import checkpoint

OF_A_RUN = ("seed", *checkpoint.PLACES)
"""Settings in which training runs of one entry may differ."""
Run = int | None
"""A training seed."""


def unlike(runs: Mapping[Run, Path]) -> list[str]:
    """What speaks against runs being of one entry: other settings or lengths, or one run given as several.

    Args:
        runs: Training seed -> checkpoint.

    Raises:
        ValueError: a checkpoint that can't be read.
    """
    records = {run: checkpoint.read_record(path) for run, path in runs.items()}
    own = {run: _recipe(record) for run, record in records.items()}
    found = []
    for run, recipe in own.items():
        first = next(iter(own.values()))
        other = sorted(name for name in {*recipe, *first} if recipe.get(name) != first.get(name))
        found += [f"training seed {run} has other {other}"] if other else []
    begun = {run: start["sha256"] for run, record in records.items() if (start := record.get("start"))}
    found += [f"training seeds {same} began with the same weights" for same in _equal(begun)]
    weights = {run: _weights(path) for run, path in runs.items()}
    return found + [f"training seeds {same} have the same weights" for same in _equal(weights)]


def _recipe(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, and for how many steps they were trained."""
    config = {name: value for name, value in record["config"].items() if name not in OF_A_RUN}
    return config | {"steps of training": record.get("state", {}).get("timesteps")}


def _weights(path: Path) -> str:
    """SHA-256 of what plays, in hex."""
    with zipfile.ZipFile(path) as archive:
        played = sorted({*archive.namelist()} - {checkpoint.RECORD})
        return hashlib.sha256(b"".join(archive.read(name) for name in played)).hexdigest()


def _equal(digests: Mapping[Run, str]) -> list[list[Run]]:
    """Groups of runs with the same digest."""
    groups: dict[str, list[Run]] = {}
    for run, digest in digests.items():
        groups.setdefault(digest, []).append(run)
    return [group for group in groups.values() if len(group) > 1]
