"""What tokens say, how many characters they are, and what a network tells."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from hypothesis import example, given, settings
from lives import play
from test_state import bits
from test_tokenizer import ANY_TEXT, CODES
from texts import ATTENTION, CONTEXT, TINY, grow, started, texts
from torch import nn

from esper_env import EsperEnv, EsperVectorEnv, Op, Style, encode, register_blueprint
from esper_env.blueprints import catalogue
from esper_env.engine.tell import tell
from esper_env.tasks.plot import GRAMMAR, Words, generate
from esper_env.tasks.tokenizer import END, BytePairs, Bytes


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@given(text=ANY_TEXT)
@example("Ünïcode 雪\x00\n")
@settings(max_examples=150, deadline=None)
def test_characters_of_tokens_are_those_of_the_text(code: Bytes | BytePairs, text: str) -> None:
    assert code.characters[code.encode(text)].sum() == len(text)
    assert code.characters.shape == (code.size,)
    assert code.characters[code.end] == 0


def test_characters_of_words_are_those_of_the_text_with_a_space_before_its_first_word() -> None:
    story = GRAMMAR.tell(np.random.default_rng(0))
    assert Words.characters[story].sum() == len(Words().decode(story[:-1])) + 1
    assert Words.characters[Words.end] == 0


def own_stories(folder: Path) -> dict[str, Any]:
    """Arguments of an environment on stories as bytes, of 23 letters, one of them of two bytes."""
    (folder / "tinystories").mkdir()
    for name, count in (("train", 400), ("valid", 40)):
        text = "".join(f"Zoë has {i:03} blue balls.\n<|endoftext|>\n" for i in range(count))
        (folder / "tinystories" / f"{name}.txt").write_text(text)
    overrides = TINY | {"task.vocabulary": 256, "task.train_size": 64, "task.val_size": 32}
    return {"data": "tinystories", "data_dir": str(folder), "overrides": overrides}


def test_characters_per_token_are_counted_where_each_loss_is(tmp_path: Path) -> None:
    env = texts(**own_stories(tmp_path))
    story = "Zoë has 380 blue balls."
    tokens = len(story.encode()) + 1
    told = (story + "\0") * 20  # 5% of 400
    written = "".join(char + "+" * (len(char.encode()) - 1) for char in told)
    assert tokens == 25
    found = env.metadata["characters_per_token"]
    assert list(found) == ["validation", "test"]
    for name, windows in (("validation", 32), ("test", 40)):
        predicted = written[1 : windows * CONTEXT + 1]
        letters = len(predicted) - predicted.count("\0") - predicted.count("+")
        assert found[name] == letters / (windows * CONTEXT) < 24 / 25


def test_only_hosts_that_read_text_have_characters() -> None:
    split = generate(48, CONTEXT, 0, 1)[1:]
    expected = sum(len(GRAMMAR.words[t]) + (GRAMMAR.words[t] not in ".,") for t in split if t != Words.end)
    found = texts().metadata["characters_per_token"]["validation"]
    assert found == pytest.approx(expected / len(split), rel=1e-12)
    for env in (EsperVectorEnv(1, "micro", device="cpu"), EsperVectorEnv(1, "stories", engine="null")):
        env.reset(seed=0)
        assert env.metadata["characters_per_token"] is None
        assert env.tell(0) is None
        with pytest.raises(ValueError, match="reads no text"):
            env.decode([1])


class Fixed(nn.Module):
    """The same logits whatever it reads, but for the end token, which comes after some calls."""

    def __init__(self, logits: list[float], calls: int = 10**9) -> None:
        super().__init__()
        self.logits, self.calls, self.seen = torch.tensor(logits), calls, list[list[int]]()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen.append(tokens[0].tolist())
        logits = self.logits.clone()
        logits[Words.end] = 1e9 if len(self.seen) > self.calls else -math.inf
        return logits.expand(1, tokens.shape[1], -1)


def story_task() -> Any:
    return started()[0]._stories


def test_it_is_told_from_the_end_of_a_story_to_the_next_within_a_context() -> None:
    logits = [0.0] * Words.size
    logits[7] = 1.0
    network = Fixed(logits, calls=12)
    assert tell(network, story_task(), 50, 0, 0) == [7] * 12
    assert network.seen[0] == [Words.end]
    assert network.seen[3] == [Words.end, 7, 7, 7]
    assert network.seen[-1] == [7] * CONTEXT
    assert len(tell(Fixed(logits), story_task(), 5, 0, 0)) == 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_the_network_expects_them(temperature: float) -> None:
    logits = [-math.inf] * Words.size
    logits[3:6] = 0.0, 1.0, 2.0
    told = Counter(tell(Fixed(logits), story_task(), 4000, temperature, 1))
    shares = np.exp(np.array([0, 1, 2]) / temperature)
    shares /= shares.sum()
    found = [told[token] / 4000 for token in (3, 4, 5)]
    np.testing.assert_allclose(found, shares, atol=4.5 * math.sqrt(0.25 / 4000))
    assert sum(told.values()) == sum(told[token] for token in (3, 4, 5))


def most_probable(model: nn.Module, count: int) -> list[int]:
    """The tokens that a network tells at temperature 0."""
    model, tokens = model.eval(), [Words.end]
    with torch.no_grad():
        while len(tokens) <= count:
            token = int(model(torch.tensor([tokens[-CONTEXT:]]))[0, -1].argmax())
            if token == Words.end:
                break
            tokens.append(token)
    return tokens[1:]


def test_the_network_that_tells_is_that_of_the_harvest_and_nothing_of_it_changes() -> None:
    env, life = started(horizon=40)
    play(env, [*grow(0, Style.GATED, ATTENTION), encode(Op.FOSSILIZE, slot=0)])
    play(env, grow(1, Style.LINEAR_ADD)[:6])
    before = bits(env.get_state(0))
    told = env.tell(0, tokens=30, temperature=0)
    assert bits(env.get_state(0)) == before
    env._engine.harvest(np.array([True]))
    assert told == env.decode(most_probable(life.model, 30))


class Branching(nn.Module):
    """torch.fx can't trace it: what it does depends on its input's size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight if x.shape[0] > 1 else self.weight * x


def test_a_network_that_can_not_be_traced_tells_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    odd = register_blueprint("odd", {"transformer": lambda place: Branching(place.channels)})
    env, life = started(horizon=40)
    play(env, [*grow(0, Style.LINEAR_ADD, odd), encode(Op.FOSSILIZE, slot=0)])
    with pytest.raises(ValueError, match="'odd' at block1 can't be exported"):
        env.export(0)
    assert env.tell(0, tokens=12, temperature=0) == env.decode(most_probable(life.model, 12)) != ""


def test_the_same_seed_tells_the_same_and_another_one_something_else() -> None:
    env, _ = started()
    play(env, [encode(Op.WAIT)] * 4)
    assert env.tell(0, 20) == env.tell(0, 20, seed=0) != env.tell(0, 20, seed=1)
    assert len(env.tell(0, 20).split()) <= 20


def test_a_single_environment_tells_too() -> None:
    arguments = {"host": "gpt_micro", "data": "procedural", "device": "cpu", "overrides": TINY}
    env = EsperEnv("stories", **arguments)
    with pytest.raises(ResetNeeded):
        env.tell()
    env.reset(seed=3)
    assert env.metadata["characters_per_token"]["test"] > 1
    assert env.tell(tokens=9) == env._envs.tell(0, 9)
    assert env.decode(np.array([Words.end])) == END


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"env": 1}, "env=1"),
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": 2.5}, "tokens=2.5"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": True}, "temperature=True"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": None}, "seed=None"),
        ({"seed": 2**70}, f"seed={2**70} is not allowed: an integer of at least 0 and below {2**63} is"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    env, _ = started()
    with pytest.raises(ValueError, match=named):
        env.tell(**{"env": 0} | arguments)
    with pytest.raises(ValueError, match=r"\[163, -1\].*0 to 162"):
        env.decode([0, 163, -1])


@pytest.mark.parametrize("tokens", [[1.7], [[1, 2]], 5, "ab", [None]])
def test_what_is_no_row_of_integers_is_no_text(tokens: Any) -> None:
    env = texts()
    with pytest.raises(ValueError, match=r"tokens=.* is not allowed: a row of integers is"):
        env.decode(tokens)
    assert (
        env.decode(torch.tensor([1, 2])) == env.decode(np.array([1, 2], dtype=np.int16)) == env.decode([1, 2])
    )
