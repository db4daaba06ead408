"""What the best possible reader of a grammar's stories loses, exactly.

A story is a path through the nodes of a grammar, over facts drawn before. A reader's belief is a probability
for each pair of the last node and what is known of each fact: the set of values it may still have, all
choices being as likely. With each token it follows the forward algorithm (L. Rabiner, "A tutorial on hidden
Markov models", 1989, section III A). Impossible pairs vanish, so that a few tokens leave few.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from esper_env.tasks.grammar import Edges, Grammar, distinct

Masks = tuple[int, ...]
"""By slot, a bit for each value that it may still have."""
State = tuple[int, Masks]
"""Node of the last token, and what is known."""


class Walk(NamedTuple):
    """An endless stream of stories on average."""

    mean_length: float
    """Tokens of a story, with the mark at its end."""
    entropy_rate: float
    """Nats a token for a reader who has all that came before."""
    shares: dict[int, float]
    """By node, its share of the stream."""


def walk(grammar: Grammar) -> Walk:
    """Averages over all stories, by solving for the expected visits of each node.

    Raises:
        ValueError: a story may use what follows from a fact before the fact itself is told, or go on with
            either of two facts of a kind, of which neither is told.
    """
    begun, first = _ahead(grammar, grammar.start, 0)
    after, nats = _reached(grammar, begun)
    index = {place: at for at, place in enumerate(after)}
    flow, entered = np.eye(len(index)), np.zeros(len(index))
    for place, ahead in after.items():
        for to, probability in ahead:
            flow[index[to], index[place]] -= probability
    for place, probability in begun:
        entered[index[place]] = probability
    visits = np.linalg.solve(flow, entered)
    length = float(visits.sum())
    shares: dict[int, float] = {}
    for (node, _), visited in zip(after, visits.tolist(), strict=True):
        shares[node] = shares.get(node, 0.0) + visited / length
    return Walk(length, (first + float(visits @ np.array(nats))) / length, shares)


_Place = tuple[int, int]
"""A node, and the slots that are told when its word is written, a bit each."""


def _reached(
    grammar: Grammar, begun: list[tuple[_Place, float]]
) -> tuple[dict[_Place, list[tuple[_Place, float]]], list[float]]:
    """What comes after each place that a story can reach, and the entropy of the next token there."""
    after: dict[_Place, list[tuple[_Place, float]]] = {}
    nats, waiting = [], [place for place, _ in begun]
    while waiting:
        place = waiting.pop()
        if place not in after:
            edges = () if place[0] == grammar.end else grammar.edges[place[0]]
            after[place], entropy = _ahead(grammar, edges, place[1])
            nats.append(entropy)
            waiting += [to for to, _ in after[place]]
    return after, nats


def _ahead(grammar: Grammar, edges: Edges, told: int) -> tuple[list[tuple[_Place, float]], float]:
    """The places that may come next, their probabilities, and the entropy of the next token."""
    _refuse_alike(grammar, edges, told)
    ahead, nats = [], 0.0
    for to, probability in edges:
        slot, choices = grammar.nodes[to].slot, 1
        if slot >= 0 and not told >> slot & 1:
            choices = _left(grammar, to, told)
        nats += probability * (math.log(choices) - math.log(probability))
        ahead.append(((to, told | 1 << slot if slot >= 0 else told), probability))
    return ahead, nats


def _refuse_alike(grammar: Grammar, edges: Edges, told: int) -> None:
    """A word of a kind tells which slot it stands for only if one of the two is known."""
    slots = {slot for to, _ in edges if (slot := grammar.nodes[to].slot) >= 0 and not told >> slot & 1}
    for first, second in combinations(sorted(slots), 2):
        one, other = grammar.slots[first], grammar.slots[second]
        if one.kind == other.kind:
            raise ValueError(
                f"two branches may tell {one.name!r} or {other.name!r} next, both of them {one.kind!r}: a "
                "reader could not tell them apart"
            )


def _left(grammar: Grammar, at: int, told: int) -> int:
    """Values that a node's slot may still have when it is told there, other slots of its kind being told."""
    name, kind = grammar.slots[grammar.nodes[at].slot]
    if not distinct(grammar.nodes[at]):
        raise ValueError(f"a story may speak of what follows from {name!r} before it says {name!r}")
    alike = [told >> i & 1 for i, slot in enumerate(grammar.slots) if slot.kind == kind]
    return grammar.counts[kind] - sum(alike)


class Reader:
    """The best possible reader.

    Args:
        grammar: whose stories follow each other in what it reads.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._anywhere = walk(grammar).shares
        self._unknown = tuple((1 << grammar.counts[slot.kind]) - 1 for slot in grammar.slots)
        kinds = [slot.kind for slot in grammar.slots]
        self._alike = [tuple(i for i, other in enumerate(kinds) if other == kind) for kind in kinds]
        self._values = [_values(node.words) for node in grammar.nodes]

    def surprise(self, tokens: Sequence[int], from_beginning: bool = False) -> list[float]:
        """Nats of each token, (len(tokens),), for a reader who sees the ones before it in this piece alone.

        Args:
            tokens: a piece of a stream of stories.
            from_beginning: whether the reader knows that a story begins with the first; if not, the piece
                may lie anywhere in an endless stream.

        Raises:
            ValueError: no stream of stories has this piece.
        """
        first = dict(self._grammar.start) if from_beginning else self._anywhere
        ahead: Iterable[tuple[State, float]] = (((at, self._unknown), share) for at, share in first.items())
        nats: list[float] = []
        for token in tokens:
            belief = self._written(ahead, token)
            if not belief:
                raise ValueError(f"token {token} cannot follow {list(tokens[: len(nats)])} in any story")
            probability = sum(belief.values())
            nats.append(-math.log(probability))
            ahead = self._moved({state: share / probability for state, share in belief.items()})
        return nats

    def _moved(self, belief: dict[State, float]) -> Iterator[tuple[State, float]]:
        """Nodes that may come next; nothing is known of a new story."""
        for (at, known), share in belief.items():
            left = self._unknown if at == self._grammar.end else known
            for to, probability in self._grammar.edges[at]:
                yield (to, left), share * probability

    def _written(self, ahead: Iterable[tuple[State, float]], token: int) -> dict[State, float]:
        """Which of these nodes write the token, with what it tells; probabilities, not normalized."""
        belief: dict[State, float] = {}
        for (at, known), share in ahead:
            values = self._values[at].get(token)
            if values is None:
                continue
            if (slot := self._grammar.nodes[at].slot) >= 0:
                told = (*known[:slot], known[slot] & values, *known[slot + 1 :])
                alike = self._alike[slot]
                share *= _choices(tuple(told[i] for i in alike)) / _choices(tuple(known[i] for i in alike))
                known = told
            if share:
                belief[at, known] = belief.get((at, known), 0.0) + share
        return belief


def _values(words: tuple[int, ...]) -> dict[int, int]:
    """Token -> the values that write it, a bit each."""
    values: dict[int, int] = {}
    for value, word in enumerate(words):
        values[word] = values.get(word, 0) | 1 << value
    return values


@cache
def _choices(masks: Masks) -> int:
    """Ways to give each slot of a kind one of the values that it may have, no value to two of them."""
    if not masks:
        return 1
    first, *rest = masks
    bits = [1 << value for value in range(first.bit_length()) if first >> value & 1]
    return sum(_choices(tuple(mask & ~bit for mask in rest)) for bit in bits)
