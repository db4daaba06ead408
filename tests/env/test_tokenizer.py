"""Text as tokens: every text comes back to the letter, with and without the library."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from esper_env.contracts.streams import Stream, generator
from esper_env.tasks.plot import GRAMMAR, Words
from esper_env.tasks.tokenizer import END, BytePairs, Bytes, train

TEXTS = [
    Words().decode(GRAMMAR.tell(generator(0, Stream.GENERATOR, i))[:-1]) + f' "Ünïcode 雪 {i}"\n'
    for i in range(40)
]
CODE = train(TEXTS, 400)
CODES = {"bytes": Bytes(), "pairs": CODE}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@given(text=ANY_TEXT)
@example("")
@example(f"a {END}b<|endof\r\n  text|>\x00\ufeff\u2028 don't")
@settings(max_examples=150, deadline=None)
def test_every_text_comes_back_to_the_letter(code: Bytes | BytePairs, text: str) -> None:
    tokens = code.encode(text)
    assert code.decode(tokens) == text
    assert all(0 <= token < code.size for token in tokens)


@given(st.lists(st.integers(0, CODE.size - 1), max_size=40))
@settings(max_examples=150, deadline=None)
def test_decoding_without_the_library_is_decoding_with_it(tokens: list[int]) -> None:
    library = Tokenizer.from_str(CODE.record)
    assert CODE.decode(tokens) == library.decode(tokens, skip_special_tokens=False)


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_stories_follow_each_other_each_with_its_end(code: Bytes | BytePairs) -> None:
    tokens = code.encode_stories(iter(TEXTS))
    parts = [[*code.encode(text), code.end] for text in TEXTS]
    assert tokens.dtype == np.int16
    assert tokens.tolist() == [token for part in parts for token in part]
    assert code.decode(tokens.tolist()) == "".join(text + END for text in TEXTS)
    assert all(code.end not in part[:-1] for part in parts)


def test_more_stories_than_are_encoded_at_a_time_keep_their_order() -> None:
    stories = [f"story {number}" for number in range(2300)]
    assert CODE.decode(CODE.encode_stories(stories).tolist()) == "".join(f"{story}{END}" for story in stories)


def test_no_story_is_no_token() -> None:
    assert [len(code.encode_stories([])) for code in CODES.values()] == [0, 0]


def test_a_byte_is_a_token_and_no_text_has_the_byte_that_ends_stories() -> None:
    assert Bytes().encode("aé") == [97, 0xC3, 0xA9]
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 7)]))
    assert Bytes.end not in Bytes().encode(every)


def test_the_same_stories_give_the_same_code_and_shorter_text_than_bytes() -> None:
    assert train(iter(TEXTS), 400).record == CODE.record
    assert train(TEXTS[:20], 400).record != CODE.record
    length = len(Bytes().encode_stories(TEXTS))
    assert CODE.size == 400
    assert len(CODE.encode_stories(TEXTS)) < length / 2


def test_the_smallest_vocabulary_is_all_bytes_and_the_end() -> None:
    code = train(TEXTS, 257)
    assert len(code.encode_stories(TEXTS)) == len(Bytes().encode_stories(TEXTS))


def test_a_vocabulary_that_the_stories_cannot_fill_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"vocabulary=20000 is not allowed: .* for \d+ entries only"):
        train(TEXTS, 20_000)


def test_a_cut_letter_is_shown_as_such() -> None:
    assert Bytes().decode([0xC3]) == "\ufffd"
