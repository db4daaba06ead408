"""Which subsets of a network's live modules are measured, and where in the row each of them is found.

Live modules are players here, numbered in the order of their slots, so that one table serves every choice of
slots: it is read at the number of players.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import factorial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Index = TypeVar("Index", int, Ints)


@dataclass(frozen=True)
class Lattice:
    """By number of players (count,), and for each of them in a row `of`; what there is not is 0."""

    asked: Ints
    """(count,): subsets that are measured; the first of them is everybody, the last nobody."""
    complete: Bools
    """(count,): every subset is measured."""
    member: Ints
    """(of, subset): 1 where the player is in the subset."""
    without: Ints
    """(of,): which subset lacks this player alone."""
    alone: Ints
    """(of,): which subset is this player alone. This and what follows is there where all subsets are."""
    pair: Ints
    """(of, player): which subset is these two."""
    arrival: Ints
    """(of, 2, term): the subsets that lack the player, by size; the same with the player."""
    weight: Floats
    """(of, term): share of all orders in which exactly that subset comes before the player."""

    def of(self, count: Index, player: Index) -> Index:
        """Row of a player, of so many."""
        return count * (len(self.asked) - 1) + player


@cache
def lattice(num_slots: int, up_to: int) -> Lattice:
    """The table for up to `num_slots` players.

    Args:
        num_slots: Most players.
        up_to: Most players of whom every subset is measured; of more, everybody, all but one, and nobody.
    """
    most, counts = min(num_slots, max(up_to, 2)), num_slots + 1  # all but one, and nobody, are all of two
    rows, subsets, terms = counts * num_slots, max(1 << most, num_slots + 2), 1 << (most - 1)
    table = Lattice(
        asked=np.zeros(counts, dtype=np.int64),
        complete=np.arange(counts) <= most,
        member=np.zeros((rows, subsets), dtype=np.int64),
        without=np.zeros(rows, dtype=np.int64),
        alone=np.zeros(rows, dtype=np.int64),
        pair=np.zeros((rows, num_slots), dtype=np.int64),
        arrival=np.zeros((rows, 2, terms), dtype=np.int64),
        weight=np.zeros((rows, terms)),
    )
    for count in range(1, counts):
        _fill(table, count, _chosen(count, count <= up_to))
    for array in vars(table).values():
        array.setflags(write=False)
    return table


@cache
def pairs(num_slots: int) -> tuple[Ints, Ints]:
    """(pair,) each: the lower and the higher slot of every pair."""
    lower, higher = np.triu_indices(num_slots, k=1)
    return lower, higher


def mask(players: Sequence[int]) -> int:
    """The subset of these players, or slots, as a bit mask."""
    return sum(1 << player for player in players)


def _chosen(count: int, every: bool) -> list[int]:
    """The subsets that are measured, the whole first."""
    players, whole = range(count), (1 << count) - 1
    if not every:
        return [whole, *(whole ^ 1 << player for player in players), 0]
    return [mask(part) for size in range(count, -1, -1) for part in combinations(players, size)]


def _fill(table: Lattice, count: int, chosen: list[int]) -> None:
    column = {subset: index for index, subset in enumerate(chosen)}
    table.asked[count] = len(chosen)
    for player in range(count):
        own, row = 1 << player, table.of(count, player)
        table.member[row, : len(chosen)] = [subset >> player & 1 for subset in chosen]
        table.without[row] = column[chosen[0] ^ own]
        if table.complete[count]:
            table.alone[row] = column[own]
            table.pair[row, :count] = [column[own | 1 << other] for other in range(count)]
            _fill_terms(table, row, count, own, column)


def _fill_terms(table: Lattice, row: int, count: int, own: int, column: Mapping[int, int]) -> None:
    for term, subset in enumerate(sorted((s for s in column if not s & own), key=int.bit_count)):
        size = subset.bit_count()
        table.arrival[row, :, term] = column[subset], column[subset | own]
        table.weight[row, term] = factorial(size) * factorial(count - size - 1) / factorial(count)
