"""The figures of a report, as plain values: every entry on every group of instances."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from board.entries import Entry
from board.instances import find
from board.records import Record, Reference, Row, Table
from board.score import (
    Floats,
    Grid,
    Group,
    Pair,
    Pairs,
    groups,
    headroom,
    worst_decile,
)
from esper_agents.aggregate import (
    improvement,
    improvement_interval,
    interval,
    profile,
    profile_interval,
)
from esper_agents.statistics import iqm, t_quantile

RIVALS = ("schedule", "heuristic")
"""Entries that every other one is compared with, if nothing else is said."""
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
    varied = np.ptp(values, axis=(1, 2)).max() > ROUNDING
    ends = interval(values, statistic) if varied else (np.nan, np.nan)
    return plain([float(statistic(values.reshape(1, -1))[0]), *ends])


def over_instances(values: Floats) -> list[float | None]:
    """95% interval of the mean of (instance, run, episode) over instances like these alone: Student's t."""
    means = values.mean(axis=(1, 2))
    if len(means) == 1:
        return [None, None]
    half = t_quantile(len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return plain([means.mean() - half, means.mean() + half])


def _share(values: Floats) -> list[float | None]:
    return [None if value is None else min(1.0, max(0.0, value)) for value in with_interval(values)]


def plain(values: Sequence[float]) -> list[float | None]:
    """For JSON: None for what is not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]


def collected(
    table: Table, entries: Mapping[str, Entry], grid: Grid, rivals: Sequence[str] = RIVALS
) -> list[Figures]:
    """Every group in turn: the instances, each entry's figures, and what of an entry is missing."""
    found = []
    for group in groups(table):
        within = {name: entry.within(group.tier) for name, entry in entries.items()}
        own = {name: entry for name, entry in within.items() if entry.records}
        missing = {name: grid.missing(entry, group) for name, entry in own.items()}
        whole = {name: entry for name, entry in own.items() if not missing[name]}
        scored = {name: Pairs(entry, group.admitted, grid) for name, entry in whole.items()}
        scores = {name: pairs.over_cells(lambda pair: pair.score) for name, pairs in scored.items()}
        rows = {
            name: {"algo": entry.records[0].agent.algo}
            | _scored(scores[name])
            | {"target": _target(scored[name])}
            | _figures(Pairs(entry, group.rows, grid), list(group.rows))
            | {"each": _each(entry, group, grid)}
            | _spent(entry, group)
            | {"against": _against(name, scores, rivals), "profile": _profile(scores[name])}
            for name, entry in whole.items()
        }
        found.append(
            {
                "tier": group.tier,
                "part": group.part,
                "instances": list(group.admitted),
                "cells": sum(map(len, group.admitted.values())),
                "hosts": sorted({len(grid.seeds[instance]) for instance in group.rows}),
                "played": {"instances": len(group.rows), "cells": sum(map(len, group.rows.values()))},
                "entries": rows,
                "missing": {name: of for name, of in missing.items() if of and _touched(own[name], group)},
            }
        )
    return found


def _touched(entry: Entry, group: Group) -> bool:
    return any(record.instance in group.rows for record in entry.records)


def _scored(score: Floats) -> Figures:
    """Of what was admitted."""
    return {
        "runs": score.shape[1],
        "iqm": with_interval(score, iqm),
        "mean": with_interval(score),
        "scores": score.tolist(),
    }


def _figures(pairs: Pairs, instances: Sequence[str]) -> Figures:
    """Harm and costs of one entry, of everything, admitted or not."""
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
        "episodes": int(steps.size),
        "gain": with_interval(pairs.over_cells(lambda pair: 100 * pair.gain)),
        "harm": _share(harm),
        "harm_each": {name: _share(of[None]) for name, of in zip(instances, harm, strict=True)},
        "worst_decile": 100 * worst_decile(pairs.each(lambda pair: pair.gain)),
        "invalid_share": float(pairs.each(lambda pair: pair.episode.invalid).sum() / steps.sum()),
        **{name: float(pairs.each(of).mean()) for name, of in counted.items()},
    }


def _each(entry: Entry, group: Group, grid: Grid) -> Figures:
    """Instance -> budgets -> mean score, None where these were refused, mean points and share of harm."""

    def means(row: Row) -> Figures:
        pairs = Pairs(entry, {row.instance: [row]}, grid)
        return {
            "score": float(pairs.over_cells(lambda pair: pair.score).mean()) if row.admitted else None,
            "gain": 100 * float(pairs.over_cells(lambda pair: pair.gain).mean()),
            "harm": float(pairs.over_cells(lambda pair: float(pair.harm)).mean()),
        }

    return {instance: {row.cell.id: means(row) for row in rows} for instance, rows in group.rows.items()}


def _target(pairs: Pairs) -> Figures:
    """Share of the episodes that reached it, and after what; whoever never did took all that there was."""

    def epochs(pair: Pair) -> float:
        return min(pair.epochs, float(find(pair.row.instance).horizon))

    def flops(pair: Pair) -> float:
        return min(pair.flops, pair.row.cell.compute)

    return {
        "reached": _share(pairs.over_cells(lambda pair: float(np.isfinite(pair.epochs)))),
        "epochs": with_interval(pairs.over_cells(epochs)),
        "flops": with_interval(pairs.over_cells(flops)),
    }


def _against(name: str, scores: Mapping[str, Floats], rivals: Sequence[str]) -> Figures:
    """Paired difference of scores to each rival, and the probability to be better than it."""
    found = {}
    for rival in rivals:
        if rival == name or rival not in scores:
            continue
        ours, theirs = scores[name], scores[rival]
        gap = ours - theirs.mean(axis=1, keepdims=True)
        better = improvement(ours, theirs)
        ends = improvement_interval(ours, theirs)
        if np.ptp(ends) <= ROUNDING or better in (0, 1):
            ends = (np.nan, np.nan)
        found[rival] = {
            "gap": with_interval(gap),
            "gap_drawn": over_instances(gap),
            "gap_each": [with_interval(of[None]) for of in gap],
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
            "above": {name: _above(each, row.references["static"]) for name, each in row.references.items()},
            "param_ratio": {name: float(np.mean(each.param_ratio)) for name, each in row.references.items()},
            "flops_ratio": {name: float(np.mean(each.flops_ratio)) for name, each in row.references.items()},
        }
        for row in table.rows
    ]


def _above(reference: Reference, static: Reference) -> float:
    """Mean quality above the static host's, over the hosts that both have played."""
    hosts = dict(zip(static.seeds, static.quality, strict=True))
    return float(np.mean([q - hosts[s] for s, q in zip(reference.seeds, reference.quality, strict=True)]))
