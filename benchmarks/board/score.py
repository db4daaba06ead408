"""Scores: how much of what there is to win an entry wins, and at which price.

The score of an episode is (q - s) / (O - S): q its test quality after the harvest, s that of the static host
from the same seed under the same budgets, O and S the means of oracle and static host in the table of
references. 0 is the static host, 1 the oracle; it is not clipped, neither below nor above, so that means stay
means. Then it is averaged over the budgets of an instance. Scores and targets are taken of what was admitted
alone; harm, and whatever needs no oracle, of everything.

A target is the validation quality of the static host from the same seed after its last epoch, plus half of
what the oracle's exceeds the static host's by in the table: how many epochs, and which share of the static
host's training FLOPs, until a network is as good.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from board.cells import Cell
from board.entries import STATIC, Entry, part_of
from board.records import Episode, Row, Table

Floats = NDArray[np.float64]
HARM = 0.01
"""An episode that ends more than this below the static host's has done harm: one point of test quality."""
HELD_OUT, TRAIN = "held-out", "train"
"""All parts but the one that agents train on, and that one."""


@dataclass(frozen=True)
class Group:
    """Instances that are reported together."""

    tier: str
    part: str
    rows: dict[str, list[Row]]
    """Instance -> its budgets."""

    @property
    def admitted(self) -> dict[str, list[Row]]:
        """Instance -> its admitted budgets, where it has any."""
        kept = {instance: [row for row in rows if row.admitted] for instance, rows in self.rows.items()}
        return {instance: rows for instance, rows in kept.items() if rows}

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.tier} {self.part}"


def groups(table: Table) -> list[Group]:
    """For every tier: all that is held out, then its axes apart, then the part for training.

    Without groups of which nothing was admitted.
    """
    tiers: dict[str, dict[str, dict[str, list[Row]]]] = {}
    for row in table.rows:
        tier, part = part_of(row.instance)
        tiers.setdefault(tier, {}).setdefault(part, {}).setdefault(row.instance, []).append(row)
    found = []
    for tier, parts in tiers.items():
        axes = {part: rows for part, rows in parts.items() if part != TRAIN}
        together = {instance: rows for of in axes.values() for instance, rows in of.items()}
        named = ({HELD_OUT: together} if together else {}) | axes
        named |= {TRAIN: parts[TRAIN]} if TRAIN in parts else {}
        found += [Group(tier, part, rows) for part, rows in named.items()]
    return [group for group in found if group.admitted]


@dataclass(frozen=True)
class Static:
    """What the static host reached from a seed."""

    quality: float
    """On the test split."""
    val_quality: float
    """After its last epoch; 0 where it was no number."""


class Grid:
    """Which host seeds everybody plays, and what the static host reaches on them.

    Args:
        table: The references.
        static: What the agent that waits played; None where nobody has.
    """

    def __init__(self, table: Table, static: Entry | None) -> None:
        self._static: dict[tuple[str, Cell, int], Static] = {}
        self.seeds: dict[str, list[int]] = {}
        """Instance -> host seeds."""
        for row in table.rows:
            own = row.references["static"]
            for seed, quality, val in zip(own.seeds, own.quality, own.val_quality, strict=True):
                self._static[row.instance, row.cell, seed] = Static(quality, val or 0.0)
            self.seeds[row.instance] = list(own.seeds)
        self._played = played = dict[str, dict[Cell, list[int]]]()
        for (instance, cell, _, seed), episode in (static.episodes if static else {}).items():
            self._static[instance, cell, seed] = Static(episode.quality, episode.val_quality[-1] or 0.0)
            played.setdefault(instance, {}).setdefault(cell, []).append(seed)
        self._uneven: set[str] = set()
        """Instances whose static host was played on other seeds under other budgets."""
        for instance, cells in played.items():
            first, *others = (sorted(seeds) for seeds in cells.values())
            self.seeds[instance] = first
            if any(seeds != first for seeds in others):
                self._uneven.add(instance)

    def missing(self, entry: Entry, group: Group) -> list[str]:
        """What an entry, or the static host, has not played of a group, in words."""
        lacking = []
        for instance, rows in group.rows.items():
            seeds = self.seeds[instance]
            for row in rows:
                where = f"{instance} ({row.cell.id})"
                wanted = [{(instance, row.cell, run, seed) for seed in seeds} for run in entry.runs]
                gone = [
                    f"{where}, training seed {run}"
                    for run, keys in zip(entry.runs, wanted, strict=True)
                    if not keys <= entry.episodes.keys()
                ]
                unpaired = not all((instance, row.cell, seed) in self._static for seed in seeds)
                if unpaired or (gone and row.cell not in self._played.get(instance, ())):
                    gone = [f"{where}, which {STATIC!r} has not played"]
                lacking += gone
            if instance in self._uneven:
                lacking.append(
                    f"{instance}, which {STATIC!r} played from other host seeds under other budgets"
                )
        counts = {instance: len(self.seeds[instance]) for instance in group.rows}
        if not lacking and len(set(counts.values())) > 1:
            lacking.append(f"as many host seeds everywhere, which {STATIC!r} has not played ({counts})")
        return lacking

    def static(self, instance: str, cell: Cell, seed: int) -> Static:
        """What the static host reached."""
        return self._static[instance, cell, seed]


@dataclass(frozen=True)
class Pair:
    """An episode, and what it is judged by."""

    row: Row
    episode: Episode
    static: Static
    """The static host from the same seed."""

    @property
    def gain(self) -> float:
        """Test quality above the static host's."""
        return self.episode.quality - self.static.quality

    @property
    def score(self) -> float:
        """The gain as a share of the oracle's."""
        return self.gain / headroom(self.row)

    @property
    def harm(self) -> bool:
        """Whether it ended more than a point below the static host."""
        return self.gain < -HARM

    @property
    def target(self) -> float:
        """Validation quality that is to be reached; NaN, which nobody reaches, where no oracle has any."""
        return self.static.val_quality + 0.5 * val_headroom(self.row)

    @property
    def epochs(self) -> float:
        """Until the target is reached; infinite if never."""
        return reached(self.episode.val_quality, self.target, range(1, self.episode.length + 1))

    @property
    def flops(self) -> float:
        """The same in training FLOPs, as a share of the static host's whole run."""
        return reached(self.episode.val_quality, self.target, self.episode.epoch_flops)


def headroom(row: Row) -> float:
    """The oracle's test quality above the static host's, means of the table."""
    return float(np.mean(row.references["oracle"].quality) - np.mean(row.references["static"].quality))


def val_headroom(row: Row) -> float:
    """The oracle's last validation quality above the static host's; NaN where it was no number."""
    oracle, static = (
        np.mean([quality for quality in row.references[name].val_quality if quality is not None] or [np.nan])
        for name in ("oracle", "static")
    )
    return float(oracle - static)


def reached(quality: Sequence[float | None], wanted: float, spent: Sequence[float]) -> float:
    """What had been spent when a quality was first reached, on the line between epochs; infinite if never.

    Args:
        quality: After every epoch; None where it was not a number.
        wanted: The quality.
        spent: After every epoch.
    """
    for epoch, now in enumerate(quality):
        if now is None or not now >= wanted:  # nor if nobody knows what was wanted
            continue
        before = quality[epoch - 1] if epoch else None
        if before is None:
            return spent[epoch]
        share = (wanted - before) / (now - before)
        return spent[epoch - 1] + share * (spent[epoch] - spent[epoch - 1])
    return math.inf


class Pairs:
    """An entry's episodes on instances, in order.

    Args:
        entry: Of which nothing is missing (see `Grid.missing`).
        rows: Instance -> its budgets.
        grid: Host seeds, and the static host.
    """

    def __init__(self, entry: Entry, rows: Mapping[str, Sequence[Row]], grid: Grid) -> None:
        self._pairs = []
        for instance, budgets in rows.items():
            axes = budgets, entry.runs, grid.seeds[instance]
            pairs = np.empty([len(axis) for axis in axes], dtype=object)
            for index, (row, run, seed) in zip(np.ndindex(*pairs.shape), product(*axes), strict=True):
                episode = entry.episodes[instance, row.cell, run, seed]
                pairs[index] = Pair(row, episode, grid.static(instance, row.cell, seed))
            self._pairs.append(pairs)

    def over_cells(self, figure: Callable[[Pair], float]) -> Floats:
        """(instance, run, episode): mean over the budgets of each instance."""
        of = np.vectorize(figure, otypes=[float])
        return np.array([of(pairs).mean(axis=0) for pairs in self._pairs])

    def each(self, figure: Callable[[Pair], float]) -> Floats:
        """(episode,): of all."""
        return np.array([figure(pair) for pairs in self._pairs for pair in pairs.flat], dtype=np.float64)


def worst_decile(values: Floats) -> float:
    """Mean of the worst tenth, at least of one."""
    return float(np.sort(values)[: max(1, round(len(values) / 10))].mean())
