"""The figures of a report, as plain values: every entry on every group of instances."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from board.entries import Entry
from board.records import Record, Table
from board.score import (
    Floats,
    Grid,
    Group,
    Pair,
    Pairs,
    groups,
    headroom,
    reached,
    target,
    worst_decile,
)
from esper_agents.aggregate import (
    improvement,
    improvement_interval,
    interval,
    profile,
    profile_interval,
)
from esper_agents.statistics import iqm

RIVALS = ("schedule", "heuristic")
"""Entries that every other one is compared with."""
THRESHOLDS = np.linspace(-0.5, 1.5, 81)
"""Scores at which performance profiles are taken."""
ROUNDING = 1e-9
"""Scores that differ by less are the same."""
Figures = dict[str, Any]


def _mean(values: Floats) -> Floats:
    return np.asarray(values.mean(axis=-1))


def with_interval(values: Floats, statistic: Callable[[Floats], Floats] = _mean) -> list[float | None]:
    """A statistic of (instance, run, episode), and its 95% interval; None where there is none.

    Of what never varied nothing can be drawn: a bootstrap's interval would have no width.
    """
    ends = interval(values, statistic) if np.ptp(values) > ROUNDING else (np.nan, np.nan)
    return plain([float(statistic(values.reshape(1, -1))[0]), *ends])


def _share(values: Floats) -> list[float | None]:
    return [None if value is None else min(1.0, max(0.0, value)) for value in with_interval(values)]


def plain(values: Sequence[float]) -> list[float | None]:
    """For JSON: None for what is not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]


def collected(table: Table, entries: Mapping[str, Entry], grid: Grid) -> list[Figures]:
    """Every group in turn: the instances, each entry's figures, and what of an entry is missing."""
    found = []
    for group in groups(table):
        within = {name: entry.within(group.tier) for name, entry in entries.items()}
        own = {name: entry for name, entry in within.items() if entry.records}
        missing = {name: grid.missing(entry, group) for name, entry in own.items()}
        played = {name: Pairs(entry, group, grid) for name, entry in own.items() if not missing[name]}
        scores = {name: pairs.over_cells(lambda pair: pair.score) for name, pairs in played.items()}
        rows = {
            name: _figures(pairs, scores[name])
            | _spent(own[name], group)
            | {"algo": own[name].records[0].agent.algo}
            | {"against": _against(name, scores), "profile": _profile(scores[name])}
            for name, pairs in played.items()
        }
        found.append(
            {
                "tier": group.tier,
                "part": group.part,
                "instances": list(group.rows),
                "cells": sum(map(len, group.rows.values())),
                "entries": rows,
                "missing": {name: of for name, of in missing.items() if of and _touched(own[name], group)},
            }
        )
    return found


def _touched(entry: Entry, group: Group) -> bool:
    return any(record.instance in group.rows for record in entry.records)


def _figures(pairs: Pairs, score: Floats) -> Figures:
    """Score, harm and costs of one entry on one group."""
    harm = pairs.over_cells(lambda pair: float(pair.harm))
    steps = pairs.each(lambda pair: pair.episode.length)
    counted = {
        "quality": lambda pair: pair.episode.quality,
        "param_ratio": lambda pair: pair.episode.param_ratio,
        "most_ratio": lambda pair: pair.episode.most_ratio,
        "flops_ratio": lambda pair: pair.episode.flops_ratio,
        "rollbacks": lambda pair: pair.episode.rollbacks,
        "pruned": lambda pair: pair.episode.pruned,
        "fossilized": lambda pair: pair.episode.fossilized,
    }
    return {
        "runs": score.shape[1],
        "episodes": int(steps.size),
        "iqm": with_interval(score, iqm),
        "mean": with_interval(score),
        "gain": with_interval(pairs.over_cells(lambda pair: 100 * pair.gain)),
        "harm": _share(harm),
        "worst_decile": 100 * worst_decile(pairs.each(lambda pair: pair.gain)),
        "invalid_share": float(pairs.each(lambda pair: pair.episode.invalid).sum() / steps.sum()),
        **{name: float(pairs.each(of).mean()) for name, of in counted.items()},
        "target": _targets(pairs),
        "each": {"score": score.tolist(), "harm": [_share(of[None]) for of in harm]},
    }


def _targets(pairs: Pairs) -> Figures:
    """How many episodes reached the target, and after what; medians count the others as infinite."""

    def epochs(pair: Pair) -> float:
        own = pair.episode
        return reached(own.val_quality, target(pair.row), [float(n + 1) for n in range(own.length)])

    def flops(pair: Pair) -> float:
        return reached(pair.episode.val_quality, target(pair.row), pair.episode.epoch_flops)

    after, cost = pairs.each(epochs), pairs.each(flops)
    medians = plain([_median(after), _median(cost)])
    return {"reached": float(np.isfinite(after).mean()), "epochs": medians[0], "flops": medians[1]}


def _median(values: Floats) -> float:
    """The lower of the middle two, so that one that is infinite is not averaged with one that is not."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _against(name: str, scores: Mapping[str, Floats]) -> Figures:
    """Paired difference of scores to each rival, and the probability to be better than it."""
    found = {}
    for rival in RIVALS:
        if rival == name or rival not in scores:
            continue
        ours, theirs = scores[name], scores[rival]
        gap = ours - theirs.mean(axis=1, keepdims=True)
        better = improvement(ours, theirs)
        ends = improvement_interval(ours, theirs) if 0 < better < 1 else (np.nan, np.nan)
        found[rival] = {
            "gap": with_interval(gap),
            "gap_each": [with_interval(of[None]) for of in gap],
            "gap_iqm": with_interval(gap, iqm),
            "better": plain([better, *ends]),
        }
    return found


def _profile(score: Floats) -> Figures:
    """Share of (instance, training seed, host seed) above each threshold."""
    low, high = profile_interval(score, THRESHOLDS)
    return {
        "thresholds": THRESHOLDS.tolist(),
        "above": profile(score, THRESHOLDS).tolist(),
        "low": plain(low),
        "high": plain(high),
    }


def _spent(entry: Entry, group: Group) -> Figures:
    """Wall-clock seconds, and machines."""
    own: list[Record] = [record for record in entry.records if record.instance in group.rows]
    episodes = sum(len(record.episodes) for record in own)
    seconds = sum(record.seconds for record in own)
    return {
        "seconds": seconds,
        "seconds_an_episode": seconds / episodes,
        "hardware": sorted({str(record.hardware) for record in own}),
    }


def room(table: Table) -> list[Figures]:
    """Every instance and budget of the table: what there is to win, and whether it was admitted."""
    return [
        {
            "instance": row.instance,
            "cell": row.cell.model_dump(),
            "admitted": row.admitted,
            "headroom": headroom(row),
            "differences": {name: each.model_dump() for name, each in row.differences.items()},
            "quality": {name: float(np.mean(each.quality)) for name, each in row.references.items()},
            "param_ratio": {name: float(np.mean(each.param_ratio)) for name, each in row.references.items()},
            "flops_ratio": {name: float(np.mean(each.flops_ratio)) for name, each in row.references.items()},
        }
        for row in table.rows
    ]
