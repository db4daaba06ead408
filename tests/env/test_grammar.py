"""Grammars weighed exactly: against all stories one by one, and against the plain forward algorithm."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
import pytest

from esper_env.tasks.entropy import Reader, walk
from esper_env.tasks.grammar import Again, Choice, Grammar, Part, Slot, one_of
from esper_env.tasks.tokenizer import END

KINDS = {
    "child": {"": ["Tom", "Sue", "Ann"], "he": ["he", "she", "she"]},
    "toy": {"": ["ball", "kite"], "use": ["kick", "fly"]},
}
SLOTS = (Slot("hero", "child"), Slot("friend", "child"), Slot("toy", "toy"))
STORY: Part = (
    "a", one_of("big", "small"), "{hero} met {friend} .",
    Choice(((0.7, "{hero} had a {toy} ."), (0.3, "{friend} had a {toy} and {friend.he} ran ."))),
    "{hero.he} said", one_of("{hero}", "{friend}", ("no", one_of(",", "")), "no no"), "{toy.use} .",
)  # fmt: skip
PLAIN: Part = (STORY[:-2], one_of("{hero}", "{friend}", ("no", one_of(",", ""))), "{toy.use} .")
LOOPING: Part = (
    "a {hero} had a {toy} .",
    Again(Choice(((0.6, "{hero} ran ."), (0.4, ("{friend} , {friend.he}", one_of("ran", "sat"), ".")))), 0.5),
    "they {toy.use} .",
)  # fmt: skip


def small(story: Part) -> Grammar:
    return Grammar(story, KINDS, SLOTS)


def told(part: Part, words: dict[str, str]) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Every way to tell a piece over given facts, read off the grammar's text and nothing else."""
    match part:
        case str():
            yield 1.0, tuple(words[word] if "{" in word else word for word in part.split())
        case tuple():
            for ways in product(*(list(told(each, words)) for each in part)):
                yield math.prod(p for p, _ in ways), sum((text for _, text in ways), ())
        case Choice():
            for share, each in part.options:
                yield from ((share * p, text) for p, text in told(each, words))


def all_stories(part: Part) -> Counter[tuple[str, ...]]:
    """Story -> probability, by going through all facts and all branches."""
    found: Counter[tuple[str, ...]] = Counter()
    facts = [(pair, toy) for pair in permutations(range(3), 2) for toy in range(2)]
    for (hero, friend), toy in facts:
        words = {}
        for name, kind, value in (("hero", "child", hero), ("friend", "child", friend), ("toy", "toy", toy)):
            words |= {f"{{{name}{'.' * bool(form)}{form}}}": of[value] for form, of in KINDS[kind].items()}
        for probability, text in told(part, words):
            found[(*text, END)] += probability / len(facts)
    return found


def tokens_of(grammar: Grammar, text: tuple[str, ...]) -> list[int]:
    return [grammar.words.index(word) for word in text]


def test_every_story_has_the_probability_of_all_its_tellings() -> None:
    grammar, stories = small(PLAIN), all_stories(PLAIN)
    reader = Reader(grammar)
    assert len(stories) > 100
    assert sum(stories.values()) == pytest.approx(1)
    for text, probability in stories.items():
        nats = reader.surprise(tokens_of(grammar, text), from_beginning=True)
        assert math.exp(-sum(nats)) == pytest.approx(probability, rel=1e-9)


def test_the_entropy_rate_is_that_of_all_stories_one_by_one() -> None:
    stories = all_stories(PLAIN)
    entropy = -sum(p * math.log(p) for p in stories.values())
    length = sum(p * len(text) for text, p in stories.items())
    averages = walk(small(PLAIN))
    assert averages.mean_length == pytest.approx(length, rel=1e-12)
    assert averages.entropy_rate == pytest.approx(entropy / length, rel=1e-12)


def test_stories_are_told_as_often_as_they_should_be() -> None:
    """Chi-square; its mean is the degrees of freedom, its standard deviation sqrt(2 of them)."""
    grammar, stories, count = small(PLAIN), all_stories(PLAIN), 30_000
    rng = np.random.default_rng(0)
    seen = Counter(tuple(grammar.words[token] for token in grammar.tell(rng)) for _ in range(count))
    assert set(seen) <= set(stories)
    chi = sum((seen[text] - count * p) ** 2 / (count * p) for text, p in stories.items())
    freedom = len(stories) - 1
    assert abs(chi - freedom) < 4 * math.sqrt(2 * freedom)


def plainly_filtered(grammar: Grammar, tokens: list[int]) -> list[float]:
    """The forward algorithm over every pair of a node and all facts, from the chain's stationary state."""
    facts = [(*pair, toy) for pair in permutations(range(3), 2) for toy in range(2)]
    states = [(at, values) for at in range(len(grammar.nodes)) for values in facts]
    index = {state: number for number, state in enumerate(states)}
    chain = np.zeros((len(states), len(states)))
    for at, values in states:
        for to, probability in grammar.edges[at]:
            for onwards in facts if at == grammar.end else [values]:
                share = probability / len(facts) if at == grammar.end else probability
                chain[index[at, values], index[to, onwards]] += share
    written = np.array(
        [
            grammar.nodes[at].words[values[slot] if (slot := grammar.nodes[at].slot) >= 0 else 0]
            for at, values in states
        ]
    )
    ahead = np.linalg.svd(chain.T - np.eye(len(states)))[2][-1]
    ahead /= ahead.sum()
    nats = []
    for token in tokens:
        belief = ahead * (written == token)
        nats.append(-math.log(belief.sum()))
        ahead = belief / belief.sum() @ chain
    return nats


@pytest.mark.parametrize("story", [PLAIN, LOOPING], ids=["plain", "looping"])
def test_a_piece_from_anywhere_is_read_as_by_the_plain_forward_algorithm(story: Part) -> None:
    grammar = small(story)
    reader, rng = Reader(grammar), np.random.default_rng(1)
    stream = [token for _ in range(60) for token in grammar.tell(rng)]
    for start in rng.integers(0, len(stream) - 40, 12).tolist():
        piece = stream[start : start + int(rng.integers(1, 40))]
        np.testing.assert_allclose(
            reader.surprise(piece), plainly_filtered(grammar, piece), rtol=1e-8, atol=1e-12
        )


def test_probabilities_of_the_next_token_sum_to_one() -> None:
    grammar = small(LOOPING)
    reader, rng = Reader(grammar), np.random.default_rng(2)
    stream = [token for _ in range(20) for token in grammar.tell(rng)]
    for start in range(0, 60, 7):
        piece = stream[start : start + start % 11]
        total = 0.0
        for token in range(len(grammar.words)):
            try:
                total += math.exp(-reader.surprise([*piece, token])[-1])
            except ValueError:
                continue
        assert total == pytest.approx(1, rel=1e-9)


def test_a_long_stream_surprises_by_the_entropy_rate() -> None:
    """Of looping stories there are endlessly many; the mean over 4,000 lies within 4 standard errors."""
    grammar = small(LOOPING)
    averages, rng, reader = walk(grammar), np.random.default_rng(3), Reader(grammar)
    stories = [grammar.tell(rng) for _ in range(4000)]
    over = [
        sum(reader.surprise(story, from_beginning=True)) - averages.entropy_rate * len(story)
        for story in stories
    ]
    assert abs(np.mean(over)) < 4 * np.std(over) / math.sqrt(len(over))
    lengths = [len(story) for story in stories]
    assert abs(np.mean(lengths) - averages.mean_length) < 4 * np.std(lengths) / math.sqrt(len(lengths))


def test_what_no_story_says_is_refused() -> None:
    grammar = small(LOOPING)
    token = {word: index for index, word in enumerate(grammar.words)}
    assert len(Reader(grammar).surprise([token["a"], token["Tom"]])) == 2
    with pytest.raises(ValueError, match="in any story"):
        Reader(grammar).surprise([token["a"], token["ran"]])


@pytest.mark.parametrize(
    "story",
    [
        STORY,
        ("{hero}", one_of("ran", "ran .")),
        ("{hero}", one_of("{hero.he} ran", "{friend.he} sat")),
        ("{hero}", one_of("Sue ran", "{friend} sat")),
        one_of("{hero} ran", "{hero} sat"),
    ],
    ids=["after a word", "at once", "of one form", "name and word", "same fact"],
)
def test_branches_that_look_the_same_are_refused(story: Part) -> None:
    with pytest.raises(ValueError, match="two branches may write"):
        small(story)


def test_what_follows_from_a_fact_must_not_be_said_before_it() -> None:
    grammar = small(("{hero.he} ran .", one_of("{hero}", ""), "so"))
    with pytest.raises(ValueError, match="follows from 'hero' before it says 'hero'"):
        walk(grammar)


def test_a_branch_between_two_facts_of_a_kind_is_refused_before_one_is_told() -> None:
    """A name alone does not tell whose it is; once one of the two is told, it does."""
    unknown = small(("a", one_of("{hero} ran", "{friend} ran")))
    for weigh in (walk, Reader):
        with pytest.raises(
            ValueError, match="two branches may tell 'hero' or 'friend' next, both of them 'child'"
        ):
            weigh(unknown)
    known = small(("{hero} , then", one_of("{hero} ran", "{friend} ran")))
    expected = math.log(3) + math.log(2) + math.log(2) / 2  # the hero, the branch, the friend in half of them
    assert walk(known).entropy_rate == pytest.approx(expected / 6, rel=1e-12)


@pytest.mark.parametrize("piece", ["", one_of("", "a"), ("", one_of("", ""))])
def test_what_may_be_empty_is_not_told_again_and_again(piece: Part) -> None:
    with pytest.raises(ValueError, match="Again is not allowed over a piece that may be empty"):
        small(("so", Again(piece, 0.5), "."))


@pytest.mark.parametrize("word", ["{dog}", "{hero.use}", "{}"])
def test_an_unknown_fact_or_form_is_refused_by_name(word: str) -> None:
    with pytest.raises(ValueError, match="no such slot, or no such form") as raised:
        small(("a", word))
    assert word in str(raised.value)
