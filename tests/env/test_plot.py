"""Procedural stories: what they are, and what a reader can know of them."""

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
import torch

from esper_env.tasks.entropy import Reader, walk
from esper_env.tasks.plot import GRAMMAR, KINDS, Words, entropy_rate, generate, optimal_loss
from esper_env.tasks.windows import TextSplit

LONG = generate(1, 120_000, seed=5, split=0)
"""A stream of some 780 stories."""


FIRST = (
    "Once upon a time there was a happy child named Anna. She was a good girl and had a green box. Anna "
    "loved to open it every day. One rainy day Anna went to the farm with her pig. There she met Tim, a "
    "new boy with a blue book. The pig grunted loudly and looked at the blue book of Tim. Anna lost her "
    "green box near the barn. She was upset. Tim helped her and found the box under the barn. Tim gave "
    "his book to Anna and Anna gave him a smile. Tim wanted to read his blue book again. At last it was "
    "dark. Anna took her green box and Tim took his blue book. They left the farm with the pig and were "
    "happy ever after. "
)


def split(num_windows: int, context: int, seed: int = 0) -> TextSplit:
    return TextSplit(torch.from_numpy(generate(num_windows, context, seed, 1)), context)


def test_version_1_tells_the_same_stories_for_ever() -> None:
    digest = hashlib.sha256(generate(50, 64, seed=0, split=0).tobytes()).hexdigest()
    assert digest[:16] == "97a1bb3634b54801"


def test_a_story_reads_like_one() -> None:
    text = Words().decode(LONG.tolist())
    first, second = text.split("<|endoftext|>")[:2]
    assert first == FIRST
    assert second.startswith(
        (" Once upon a time there was a", " One day there was a", " Long ago there was a")
    )
    assert Words().decode([]) == ""


def test_the_vocabulary_is_small_and_every_word_is_used() -> None:
    assert Words.size == len(GRAMMAR.words) == 163
    assert len(set(GRAMMAR.words)) == Words.size
    assert set(LONG.tolist()) == set(range(Words.size))
    assert GRAMMAR.words[Words.end] == "<|endoftext|>"


def test_a_stream_does_not_depend_on_how_much_is_told_or_how_it_is_cut() -> None:
    few, many = generate(10, 64, 3, 0), generate(40, 32, 3, 0)
    assert few.dtype == np.int16
    assert len(few) == 641
    assert np.array_equal(few, many[:641])


def test_splits_and_seeds_share_no_story() -> None:
    streams = [generate(400, 64, seed, part) for seed, part in ((0, 0), (0, 1), (0, 2), (1, 0))]
    told = [
        set("".join(f"{token} " for token in stream.tolist()).split(f" {Words.end} ")[1:-1])
        for stream in streams
    ]
    assert min(len(stories) for stories in told) > 100
    assert len(set.union(*told)) == sum(len(stories) for stories in told)


def test_what_is_told_again_is_what_was_told() -> None:
    """Read without the grammar: one child, one toy of one colour a hero; pronouns agree with the name."""
    he = set(KINDS["child"][""][:6])
    for story in Words().decode(LONG.tolist()).split(" <|endoftext|>")[:-1]:
        words = story.replace(".", " .").replace(",", " ,").split()
        hero = words[words.index("named") + 1]
        pronoun, owner = ("He", "his") if hero in he else ("She", "her")
        assert words[words.index(hero) + 2] == pronoun
        colour, toy = words[words.index("had") + 2 :][:2]
        verb = KINDS["toy"]["use"][list(KINDS["toy"][""]).index(toy)]
        assert f"{hero} loved to {verb} it every day" in story
        assert f"{hero} took {owner} {colour} {toy} and" in story


def test_the_entropy_rate_is_the_mean_surprise_of_a_long_stream() -> None:
    """The mean over stories lies within 4 standard errors."""
    reader, rate = Reader(GRAMMAR), entropy_rate()
    nats = np.array(reader.surprise(LONG.tolist(), from_beginning=True))
    ends = np.flatnonzero([token == Words.end for token in LONG]) + 1
    stories = np.split(nats, ends)[:-1]
    over = [story.sum() - rate * len(story) for story in stories]
    assert abs(np.mean(over)) < 4 * np.std(over) / math.sqrt(len(over))
    lengths = [len(story) for story in stories]
    mean_length = walk(GRAMMAR).mean_length
    assert abs(np.mean(lengths) - mean_length) < 4 * np.std(lengths) / math.sqrt(len(lengths))
    assert rate == pytest.approx(0.297479, abs=1e-6)


@pytest.mark.parametrize(("memory", "tolerance"), [(1, 0.01), (2, 0.02)])
def test_a_reader_of_few_words_pays_what_counting_words_says(memory: int, tolerance: float) -> None:
    """The conditional entropy by counts in 120,000 tokens: nothing of it knows of the grammar."""
    tokens = LONG.tolist()
    pieces = Counter(zip(*(tokens[shift:] for shift in range(memory + 1)), strict=False))
    before: Counter[tuple[int, ...]] = Counter()
    for piece, count in pieces.items():
        before[piece[:-1]] += count
    total = sum(pieces.values())
    counted = -sum(n / total * math.log(n / before[piece[:-1]]) for piece, n in pieces.items())
    reader = Reader(GRAMMAR)
    exact = sum(n / total * reader.surprise(piece)[-1] for piece, n in pieces.items())
    assert counted == pytest.approx(exact, rel=tolerance)
    assert counted < exact, "counts fit the very text that they are counted in"


def test_a_longer_memory_pays_over_tens_of_tokens() -> None:
    reader, tokens = Reader(GRAMMAR), LONG.tolist()
    starts = range(300, 110_000, 250)
    mean = {
        memory: np.mean([reader.surprise(tokens[at - memory : at + 1])[-1] for at in starts])
        for memory in (1, 8, 32, 128)
    }
    assert mean[1] > 1.6
    assert mean[8] > 0.6
    assert mean[8] - mean[32] > 0.2
    assert mean[32] - mean[128] > 0.05
    assert mean[128] == pytest.approx(entropy_rate(), abs=0.07)


def test_the_optimal_loss_of_a_split_is_above_the_entropy_rate_and_falls_with_the_context() -> None:
    losses = [optimal_loss(split(8192 // context, context)) for context in (16, 64, 256, 1024)]
    assert losses == sorted(losses, reverse=True)
    assert entropy_rate() < losses[-1] < entropy_rate() + 0.03
    assert losses[1] == pytest.approx(0.49, abs=0.03)


def test_the_optimal_loss_is_the_mean_surprise_of_what_a_host_predicts() -> None:
    windows = split(6, 20)
    reader, stream = Reader(GRAMMAR), windows.tokens.tolist()
    nats = [reader.surprise(stream[start : start + 21])[1:] for start in range(0, 120, 20)]
    assert optimal_loss(windows) == pytest.approx(np.mean(nats), rel=1e-12)


def test_other_text_has_no_optimal_loss() -> None:
    with pytest.raises(ValueError, match="in any story"):
        optimal_loss(TextSplit(torch.full((9,), 300, dtype=torch.int16), 8))
