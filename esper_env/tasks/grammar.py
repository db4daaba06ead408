"""A grammar whose every story can be weighed exactly: a random walk through words, over facts drawn before.

A story walks through a graph whose nodes are places in a text. A node writes a word of its own, or one that
depends on a fact of the story, a slot: who the hero is, what is hers. The slots of a kind hold different
values, each choice of values as likely as any other, and no branch depends on them. Where a node has several
successors, no word is written by two of them once the facts are known. So a reader who has the story from
its beginning always knows the node: what the best possible reader pays can be computed (`tasks.entropy`,
which refuses a branch between two facts of a kind before either is told).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, Union

import numpy as np

from esper_env.tasks.tokenizer import END

Part = Union[str, tuple["Part", ...], "Choice", "Again"]
"""A piece of text: words, `{slot}` and `{slot.form}` standing for what a slot decides; or several pieces."""


@dataclass(frozen=True)
class Choice:
    """One of several pieces."""

    options: tuple[tuple[float, Part], ...]
    """Probability and piece; the probabilities sum to 1."""


@dataclass(frozen=True)
class Again:
    """A piece, and after it with probability `again` the same once more, and so on."""

    piece: Part
    again: float


def one_of(*pieces: Part) -> Choice:
    """One of some pieces, all as likely."""
    return Choice(tuple((1 / len(pieces), piece) for piece in pieces))


Kind = Mapping[str, Sequence[str]]
"""What a value decides, form -> a word for each value. The words of the form "" are all different."""


class Slot(NamedTuple):
    """A fact of a story."""

    name: str
    kind: str


class Node(NamedTuple):
    """A place in the text."""

    slot: int
    """Which fact decides the word; -1 for none."""
    words: tuple[int, ...]
    """The word of each of its values; just the word where none decides."""


Edges = tuple[tuple[int, float], ...]
"""The nodes that may come next, and their probabilities, which sum to 1."""


class Grammar:
    """A grammar.

    Args:
        story: a story but for the mark at its end.
        kinds: by name.
        slots: the facts of a story.

    Raises:
        ValueError: a form that a kind does not have, two branches that may write the same word, or `Again`
            over a piece that may be empty.
    """

    def __init__(self, story: Part, kinds: Mapping[str, Kind], slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        self.counts = {name: len(kind[""]) for name, kind in kinds.items()}
        """Values of each kind."""
        self._kinds, self._at = kinds, {slot.name: index for index, slot in enumerate(slots)}
        written: set[str] = set()
        graph = _Graph(self, written)
        graph.build((story, END), graph.root)
        self.words = (END, *sorted(written - {END}))
        """The vocabulary; the token of a word is its index."""
        token = {word: index for index, word in enumerate(self.words)}
        nodes = {at: index for index, at in enumerate(graph.emissions)}
        self.nodes = tuple(
            Node(slot, tuple(token[word] for word in words)) for slot, words in graph.emissions.values()
        )
        self.end = len(self.nodes) - 1
        """The node of the mark at the end."""

        def edges(at: int) -> Edges:
            return tuple((nodes[to], p) for to, p in graph.reached(at).items())

        self.start = edges(graph.root)
        """Where a story begins."""
        self.edges = (*(edges(at) for at in graph.emissions if nodes[at] != self.end), self.start)
        """What comes after each node."""
        for ways in self.edges:
            self._refuse_ambiguous(ways)

    def forms(self, marked: str) -> tuple[int, tuple[str, ...]]:
        """The slot, and the word for each of its values, that `slot` or `slot.form` stands for."""
        name, _, form = marked.partition(".")
        slot = self._at.get(name, -1)
        kind = self._kinds[self.slots[slot].kind] if slot >= 0 else {}
        if form not in kind:
            raise ValueError(f"{{{marked}}}: there is no such slot, or no such form of it")
        return slot, tuple(kind[form])

    def tell(self, rng: np.random.Generator) -> list[int]:
        """The tokens of one story, with the mark at its end."""
        values, tokens, edges = self._draw(rng), [], self.start
        while True:
            at = edges[0][0] if len(edges) == 1 else _pick(edges, rng.random())
            slot, words = self.nodes[at]
            tokens.append(words[values[slot]] if slot >= 0 else words[0])
            if at == self.end:
                return tokens
            edges = self.edges[at]

    def _draw(self, rng: np.random.Generator) -> list[int]:
        """A value for each slot, different ones within a kind."""
        drawn = {kind: iter(rng.permutation(count).tolist()) for kind, count in self.counts.items()}
        return [next(drawn[slot.kind]) for slot in self.slots]

    def _refuse_ambiguous(self, edges: Edges) -> None:
        for (first, _), (second, _) in combinations(edges, 2):
            one, other = self.nodes[first], self.nodes[second]
            told_apart = one.words == other.words and one.slot != other.slot and distinct(one)
            if set(one.words) & set(other.words) and not told_apart:
                shared = [self.words[word] for word in sorted(set(one.words) & set(other.words))]
                raise ValueError(f"two branches may write {shared} next: a reader could not tell them apart")


def distinct(node: Node) -> bool:
    """Whether a node's word tells which value its slot has."""
    return node.slot >= 0 and len(set(node.words)) == len(node.words)


def _pick(edges: Edges, number: float) -> int:
    """The edge in whose share of [0, 1) a number lies."""
    for at, probability in edges[:-1]:
        number -= probability
        if number < 0:
            return at
    return edges[-1][0]


class _Graph:
    """Places in a text under construction; those without an emission are joints that write nothing."""

    def __init__(self, grammar: Grammar, written: set[str]) -> None:
        self._grammar, self._written = grammar, written
        self.root = 0
        self.emissions: dict[int, tuple[int, tuple[str, ...]]] = {}
        self._edges: list[list[tuple[int, float]]] = [[]]

    def build(self, part: Part, source: int) -> int:
        """Append a piece to a place; the place after it."""
        match part:
            case str():
                for word in part.split():
                    source = self._write(word, source)
            case tuple():
                for each in part:
                    source = self.build(each, source)
            case Choice():
                joint = self._place()
                for probability, each in part.options:
                    self._edges[self.build(each, self._place(source, probability))].append((joint, 1.0))
                source = joint
            case Again():
                top = self._place(source, 1.0)
                last = self.build(part.piece, top)
                self._edges[last].append((top, part.again))
                source = self._place(last, 1 - part.again)
        return source

    def _place(self, source: int | None = None, probability: float = 1.0) -> int:
        self._edges.append([])
        at = len(self._edges) - 1
        if source is not None:
            self._edges[source].append((at, probability))
        return at

    def _write(self, word: str, source: int) -> int:
        marked = re.fullmatch(r"\{(.*)\}", word)
        at = self._place(source)
        self.emissions[at] = self._grammar.forms(marked[1]) if marked else (-1, (word,))
        self._written |= set(self.emissions[at][1])
        return at

    def reached(self, at: int, passed: frozenset[int] = frozenset()) -> dict[int, float]:
        """The places with an emission that come next, by way of joints, and their probabilities."""
        if at in passed:
            raise ValueError(
                "Again is not allowed over a piece that may be empty: the story might never go on"
            )
        found: dict[int, float] = {}
        for to, probability in self._edges[at]:
            onwards = {to: 1.0} if to in self.emissions else self.reached(to, passed | {at})
            for place, share in onwards.items():
                found[place] = found.get(place, 0.0) + probability * share
        return found
