"""Procedural stories: two children, their toys, an animal and a place, told by a small grammar.

What a story is about is said once, at its beginning; after that its sentences speak of it again and again, in
any order. So most names, pronouns, verbs, colours and toys follow from words that are tens of tokens back,
and a reader who looks only at the last few words can't know them. The rest is chance, of known size.
"""

from collections.abc import Iterable
from functools import cache
from itertools import count

import numpy as np
import torch

from esper_env.contracts.streams import Stream, generator
from esper_env.tasks.entropy import Reader, walk
from esper_env.tasks.grammar import Again, Choice, Grammar, Kind, Part, Slot, one_of
from esper_env.tasks.tokenizer import END, Tokens
from esper_env.tasks.windows import TextSplit

VERSION = 1
"""Raised when any token changes."""

_CLOSE = (",", ".")
"""Words with no space before them."""

_STORIES = 1
"""Keeps the random numbers of stories apart from those of procedural images."""


def _children(boys: str, girls: str) -> Kind:
    he, she = boys.split(), girls.split()
    forms = {"he": ("he", "she"), "him": ("him", "her"), "his": ("his", "her"), "boy": ("boy", "girl")}
    return {"": he + she} | {form: [a] * len(he) + [b] * len(she) for form, (a, b) in forms.items()}


def _pairs(form: str, text: str) -> Kind:
    first, second = zip(*(pair.split("/") for pair in text.split()), strict=True)
    return {"": first, form: second}


KINDS: dict[str, Kind] = {
    "child": _children("Ben Jack Max Sam Tim Tom", "Amy Anna Lily Lucy Mia Sue"),
    "toy": _pairs(
        "use",
        "ball/kick bike/ride boat/sail book/read box/open cake/eat doll/hug drum/beat flute/play kite/fly",
    ),
    "color": {"": ["black", "blue", "brown", "green", "pink", "red", "white", "yellow"]},
    "place": _pairs(
        "spot",
        "beach/rocks farm/barn forest/trees garden/roses park/bench river/bridge school/gate zoo/cages",
    ),
    "animal": _pairs(
        "cried", "bird/sang bee/buzzed cat/purred cow/mooed dog/barked duck/quacked frog/croaked pig/grunted"
    ),
}
SLOTS = (
    Slot("hero", "child"), Slot("hero_toy", "toy"), Slot("hero_color", "color"),
    Slot("friend", "child"), Slot("friend_toy", "toy"), Slot("friend_color", "color"),
    Slot("place", "place"), Slot("animal", "animal"),
)  # fmt: skip

BEGINNING: Part = (
    one_of("once upon a time", "one day", "long ago"),
    "there was a", one_of("little", "kind", "brave", "happy"), "child named {hero} . {hero.he} was a",
    one_of("good", "shy", "funny", "smart"), "{hero.boy} and had a {hero_color} {hero_toy} . {hero} loved to",
    "{hero_toy.use} it every day . one", one_of("sunny", "rainy", "cold", "warm"),
    one_of("day", "morning"), "{hero} went to the {place} with {hero.his} {animal} . there {hero.he} met",
    "{friend} , a", one_of("new", "nice", "tall"), "{friend.boy} with a {friend_color} {friend_toy} .",
)  # fmt: skip
ASKED: Part = (
    "asked if {X.he} could {Y_toy.use} the {Y_color} {Y_toy} of {Y} .",
    Choice((
        (0.7, ("{Y} said yes and {X} was", one_of("glad", "very happy"))),
        (0.3, "{X} had to wait , because {Y} still wanted to {Y_toy.use} it"),
    )),
    ".",
)  # fmt: skip
LOST: Part = (
    "lost {X.his} {X_color} {X_toy} near the {place.spot} . {X.he} was", one_of("sad", "upset"),
    ". {Y} helped {X.him} and found the {X_toy}", one_of("under", "behind"), "the {place.spot} .",
)  # fmt: skip
DEEDS: Part = (
    "{X}",
    Choice((
        (0.3, ("wanted to {X_toy.use} {X.his} {X_color} {X_toy}", one_of("again", "with {Y}"), ".")),
        (0.25, ASKED),
        (0.15, LOST),
        (0.15, ("gave {X.his} {X_toy} to {Y} and {Y} gave {X.him} a", one_of("hug", "smile"), ".")),
        (0.15, ("ran to the {place.spot} with the {animal}", one_of("and laughed", ""), ".")),
    )),
)  # fmt: skip
TOGETHER: Part = ("they", one_of("sat", "played", "danced"), one_of("near", "by"), "the {place.spot} .")
NOISE: Part = (
    "the {animal} {animal.cried}", one_of("loudly", "softly"), "and looked at the",
    one_of("{hero_color} {hero_toy} of {hero}", "{friend_color} {friend_toy} of {friend}"), ".",
)  # fmt: skip
ENDING: Part = (
    "at last it was", one_of("dark", "late"),
    ". {hero} took {hero.his} {hero_color} {hero_toy} and {friend} took {friend.his} {friend_color}",
    "{friend_toy} . they left the {place} with the {animal} and were", one_of("friends", "happy"),
    "ever after .",
)  # fmt: skip


def _cast(part: Part, x: str, y: str) -> Part:
    """A piece with these slots as X and Y."""
    match part:
        case str():
            return part.replace("{X", "{" + x).replace("{Y", "{" + y)
        case tuple():
            return tuple(_cast(each, x, y) for each in part)
        case Choice():
            return Choice(tuple((p, _cast(each, x, y)) for p, each in part.options))
        case Again():
            return Again(_cast(part.piece, x, y), part.again)


MIDDLE = Choice((
    (0.35, _cast(DEEDS, "hero", "friend")),
    (0.35, _cast(DEEDS, "friend", "hero")),
    (0.15, TOGETHER),
    (0.15, NOISE),
))  # fmt: skip
GRAMMAR = Grammar((BEGINNING, Again(MIDDLE, 0.8), ENDING), KINDS, SLOTS)


class Words:
    """The vocabulary of the grammar (a `Code`)."""

    name = f"grammar v{VERSION}"
    size = len(GRAMMAR.words)
    end = GRAMMAR.words.index(END)
    characters = np.array(
        [0 if word == END else len(word) + (word not in _CLOSE) for word in GRAMMAR.words], dtype=np.int64
    )

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens, each sentence with a capital."""
        text = ""
        for word in (GRAMMAR.words[token] for token in tokens):
            begins = not text or text.endswith((".", END))
            gap = "" if not text or word in _CLOSE else " "
            text += gap + (word[0].upper() + word[1:] if begins else word)
        return text


def generate(num_windows: int, context: int, seed: int, split: int) -> Tokens:
    """The stream of a split's first windows: stories, each with the end token after it, the last one cut off.

    Args:
        num_windows: number of windows.
        context: tokens of a window.
        seed: which data set.
        split: 0 train, 1 validation, 2 test: random streams of their own.

    Returns:
        int16 (num_windows * context + 1,).
    """
    length, tokens = num_windows * context + 1, list[int]()
    for story in count():
        if len(tokens) >= length:
            break
        tokens += GRAMMAR.tell(generator(seed, Stream.GENERATOR, _STORIES, VERSION, split, story))
    return np.array(tokens[:length], dtype=np.int16)


@cache
def entropy_rate() -> float:
    """Nats a token that no reader can avoid, however long its memory: the mean over an endless stream."""
    return walk(GRAMMAR).entropy_rate


def optimal_loss(split: TextSplit) -> float:
    """Mean loss in nats a token of the best possible reader of a split's windows, each read by itself.

    It is above the entropy rate, because a window begins anywhere in a story and little of it is known then.

    Raises:
        ValueError: this is no split of procedural stories.
    """
    every = torch.arange(split.num_samples, device=split.tokens.device)
    reader, (x, y) = Reader(GRAMMAR), split.windows(every)
    pieces = torch.cat([x, y[:, -1:]], dim=1).tolist()
    return float(np.mean([reader.surprise(piece)[1:] for piece in pieces]))
