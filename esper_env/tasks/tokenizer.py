"""Text as tokens: plain bytes, or a byte-pair code (R. Sennrich et al., ACL 2016; on bytes as in GPT-2).

Every text comes back from its tokens to the letter. The mark between stories is a token of its own.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|endoftext|>"
"""How the end of a story is written."""

Tokens = NDArray[np.int16]

_AT_ONCE = 1000
"""Stories that are encoded at a time."""


class Code(Protocol):
    """What tokens stand for."""

    name: str
    """Codes of one name give tokens the same meaning."""
    size: int
    """Entries of the vocabulary."""
    end: int
    """Token that ends a story."""
    characters: NDArray[np.int64]
    """(size,): characters that each token adds to a text, 0 for the end of a story."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens; those that are no whole letter become U+FFFD."""


def _begun(entries: Sequence[bytes]) -> NDArray[np.int64]:
    """(entry,): characters of UTF-8 that begin in each of these; one that is cut counts where it begins."""
    return np.array([sum(byte & 0xC0 != 0x80 for byte in entry) for entry in entries], dtype=np.int64)


class Bytes:
    """UTF-8, a byte a token. Byte 255, which UTF-8 never has, ends a story."""

    name = "bytes"
    size = 256
    end = 255
    characters = _begun([bytes([byte]) for byte in range(255)] + [b""])

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(text.encode())

    def encode_stories(self, stories: Iterable[str]) -> Tokens:
        """The tokens of some stories, each with the end token after it, int16 (token,)."""
        return np.frombuffer(b"".join(story.encode() + b"\xff" for story in stories), np.uint8).astype("i2")

    def decode(self, tokens: Iterable[int]) -> str:
        """See `Code`."""
        return bytes(tokens).replace(b"\xff", END.encode()).decode(errors="replace")


class BytePairs:
    """A byte-pair code. Encoding needs the library `tokenizers`, decoding does not.

    Args:
        record: the code as the library writes it, JSON.

    Raises:
        ValueError: this is no such record.
    """

    def __init__(self, record: str) -> None:
        vocabulary: dict[str, int] = json.loads(record)["model"]["vocab"]
        self.name = f"byte-pair code {sha256(record.encode()).hexdigest()[:8]}"
        self.record, self.size, self.end = record, len(vocabulary), vocabulary[END]
        byte_of = _letters()
        entries = sorted(vocabulary, key=vocabulary.__getitem__)
        self._entries = [bytes(byte_of[letter] for letter in entry) for entry in entries]
        told = [b"" if token == self.end else entry for token, entry in enumerate(self._entries)]
        self.characters = _begun(told)

    @cached_property
    def _library(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.record)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self._library.encode(text).ids

    def encode_stories(self, stories: Iterable[str]) -> Tokens:
        """The tokens of some stories, each with the end token after it, int16 (token,)."""
        return np.concatenate([np.zeros(0, "i2"), *self._chunks(stories)])

    def _chunks(self, stories: Iterable[str]) -> Iterator[Tokens]:
        left = iter(stories)
        while some := list(islice(left, _AT_ONCE)):
            encoded = self._library.encode_batch_fast(some)
            yield np.fromiter(chain.from_iterable((*each.ids, self.end) for each in encoded), np.int16)

    def decode(self, tokens: Iterable[int]) -> str:
        """See `Code`."""
        return b"".join(self._entries[token] for token in tokens).decode(errors="replace")


def train(stories: Iterable[str], vocabulary: int) -> BytePairs:
    """The byte-pair code of some stories: the same for the same stories in the same order.

    Args:
        stories: without the mark between them.
        vocabulary: entries, 257 at least: all bytes and the end token.

    Raises:
        ImportError: the library `tokenizers` is not installed.
        ValueError: the stories have too few different pairs for so many entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(stories), trainer)
    code = BytePairs(tokenizer.to_str())
    if code.size != vocabulary:
        raise ValueError(
            f"vocabulary={vocabulary} is not allowed: the stories have pairs for {code.size} entries only"
        )
    return code


def _letters() -> dict[str, int]:
    """The letter that stands for each byte in a record: itself if it is visible, else one from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
