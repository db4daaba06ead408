"""Which instances are worth playing: where a search finds much more than the host alone, and than a schedule.

Differences are those of test quality, paired by host, on hosts that neither search nor tuning has seen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LIMITS = {"oracle_static": ("oracle", "static", 5.0), "oracle_schedule": ("oracle", "schedule", 2.0)}
"""Difference -> its two references, and how many standard errors it has to be above 0."""
LEAST = 8
"""Hosts below which nothing is admitted: a standard error of few differences says little."""


def difference(better: Sequence[float], worse: Sequence[float]) -> dict[str, float | None]:
    """Mean of the paired differences, its standard error, and how many of these it is.

    Args:
        better: One a host.
        worse: The same hosts.

    Raises:
        ValueError: fewer than two pairs, or lists of different lengths.
    """
    if len(better) != len(worse) or len(better) < 2:
        raise ValueError(f"{len(better)} and {len(worse)} values are no pairs of at least two")
    gaps = np.array(better, dtype=np.float64) - np.array(worse, dtype=np.float64)
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return {"mean": mean, "error": error, "sigma": mean / error if error else None}


def judged(references: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The differences of a row, and whether it is admitted: hosts enough, and all are far enough above 0.

    Args:
        references: Name -> `seeds` and `quality`, one a host.

    Raises:
        ValueError: references that did not play the same hosts.
    """
    found, admitted = {}, len(references["oracle"]["seeds"]) >= LEAST
    for name, (better, worse, limit) in LIMITS.items():
        a, b = references[better], references[worse]
        if a["seeds"] != b["seeds"]:
            raise ValueError(f"{better} played the hosts {a['seeds']} and {worse} {b['seeds']}: no pairs")
        gap = found[name] = difference(a["quality"], b["quality"])
        admitted &= (gap["mean"] or 0) > 0 and (gap["sigma"] is None or gap["sigma"] >= limit)
    return {"admitted": admitted, "differences": found}
