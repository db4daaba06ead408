"""A network that reads text and forgets everything is seen, and put back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import play
from plain import WAIT
from test_governor import LANGUAGE, after, found, judge, matching, showing
from texts import started

from esper_env import EsperVectorEnv, HostFacts
from esper_env.tasks.plot import Words
from esper_env.tasks.stories import StoryTask
from esper_env.tasks.windows import TextSplit

HORIZON = 12
LEARNING = {
    "task.train_size": 512, "engine.epoch_size": 256, "engine.optimizer.host_lr": 1e-2,
    "engine.optimizer.lr_schedule": "cosine",
}  # fmt: skip
"""Enough to learn below six tenths of the uninformed loss; at the end rates are too low to learn it anew."""


SHARES = {"4,096 byte pairs": 0.71, "bytes": 0.551, "the grammar's words": 0.882}
"""Uninformed loss of TinyStories and of the procedural stories, as shares of ln(vocabulary)."""
TEXTS = pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)


def texts_of(share: float) -> HostFacts:
    return replace(LANGUAGE, frequency_loss=share * LANGUAGE.chance_loss)


@TEXTS
@pytest.mark.parametrize("best", [1.0, 0.6001, 0.5999, 0.3])
@pytest.mark.parametrize("level", ["uninformed_loss", "chance_loss"])
def test_what_has_been_learned_is_remembered_for_each_level_by_itself(
    share: float, best: float, level: str
) -> None:
    where = texts_of(share)
    loss = best * getattr(where, level)
    state = after(loss, where=where)
    assert where.uninformed_loss == share * where.chance_loss < where.chance_loss
    assert state.has_learned[0] == (loss < 0.6 * math.log(4096))
    assert state.has_learned_context[0] == (loss < 0.6 * share * math.log(4096))


@TEXTS
@pytest.mark.parametrize("best", [0.61, 0.59, 0.5, 0.45, 0.4, 0.35])
def test_back_at_chance_after_six_tenths_of_it_is_a_collapse_whatever_frequencies_cost(
    share: float, best: float
) -> None:
    """The rule that images have."""
    chance = LANGUAGE.chance_loss
    for where in (texts_of(share), LANGUAGE):
        shown = judge(after(best * chance, where=where), showing([chance]), where)
        assert found(shown) == ("collapsed" if best < 0.6 else "good")


@TEXTS
@pytest.mark.parametrize("best", [0.61, 0.59, 0.5])
def test_back_at_frequencies_is_a_collapse_after_six_tenths_of_their_loss(share: float, best: float) -> None:
    where = texts_of(share)
    level = where.uninformed_loss
    shown = judge(after(best * level, where=where), showing([level]), where)
    assert found(shown) == ("collapsed" if best < 0.6 else "good")


@TEXTS
@pytest.mark.parametrize(("off", "near"), [(0, True), (0.0649, True), (-0.0649, True), (0.0651, False)])
@pytest.mark.parametrize("level", ["uninformed_loss", "chance_loss"])
def test_a_collapse_is_both_losses_near_frequencies_or_near_chance(
    share: float, off: float, near: bool, level: str
) -> None:
    where = texts_of(share)
    loss = (1 + off) * getattr(where, level)
    near |= share == 0.882 and level == "uninformed_loss"  # these two bands touch
    shown = judge(after(0.4 * where.uninformed_loss, where=where), showing([loss]), where)
    assert found(shown) == ("collapsed" if near else "good")
    assert found(judge(after(0.61 * where.chance_loss, where=where), showing([loss]), where)) == "good"


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), both=st.booleans(), share=st.sampled_from([*SHARES.values()]))
def test_random_troubles_with_texts_are_judged_as_a_governor_in_plain_python_does(
    seed: int, both: bool, share: float
) -> None:
    matching(seed, both, texts_of(share))


def test_the_random_troubles_with_texts_show_everything_that_can_be_found() -> None:
    found_in = np.array(matching(0, where=texts_of(0.71)))
    assert set(found_in.flat) == {"good", "bad", "non_finite", "collapsed", "diverged"}
    assert (found_in != np.array(matching(0, where=LANGUAGE))).any()


def test_losses_between_the_two_levels_or_one_at_each_are_no_collapse() -> None:
    where = texts_of(0.71)
    for loss, train_loss in ((0.85, 0.85), (0.71, 1.0), (1.0, 0.71), (0.71, 0.4), (0.4, 0.71)):
        state = after(0.3 * where.chance_loss, where=where)
        shown = showing([loss * where.chance_loss], train_loss * where.chance_loss)
        assert found(judge(state, shown, where)) == "good", (loss, train_loss)


def task_of(train: list[int], validation: list[int]) -> StoryTask:
    splits = [TextSplit(torch.tensor([0, *part], dtype=torch.int16), 2) for part in (train, validation)]
    return StoryTask("test", "numbers", splits[0], splits[1], splits[1], Words())


def test_the_uninformed_loss_is_that_of_frequencies_in_the_train_split() -> None:
    """Counted by hand, each token once more than it is there; the last one is in no window."""
    of = {3: math.log((6 + 163) / (4 + 1)), 5: math.log((6 + 163) / (2 + 1)), 7: math.log((6 + 163) / 1)}
    task = task_of([3, 3, 5, 3, 3, 5, 7], [3, 5, 5, 7])
    assert task.frequency_loss == pytest.approx((of[3] + 2 * of[5] + of[7]) / 4, rel=1e-12)


def test_nobody_is_worse_informed_than_one_who_guesses_evenly() -> None:
    assert task_of([3] * 1000, [7] * 10).frequency_loss == math.log(163)


def test_the_levels_of_environments_are_those_of_their_data() -> None:
    for vocabulary in ({}, {"engine": "null"}):
        env = EsperVectorEnv(1, "stories", host="gpt_micro", data="procedural", device="cpu", **vocabulary)
        chance = math.log(163)
        known = 4.49 if not vocabulary else chance
        assert env.facts.uninformed_loss == pytest.approx(known, abs=0.02)
        assert env.facts.chance_loss == chance
    images = EsperVectorEnv(1, "micro", device="cpu").facts
    assert images.frequency_loss is None
    assert images.uninformed_loss == images.chance_loss == math.log(10)


def learned() -> EsperVectorEnv:
    """An environment one step before its end."""
    env, _ = started(seed=1, horizon=HORIZON, overrides=LEARNING)
    play(env, [WAIT] * (HORIZON - 1))
    return env


def forget(env: EsperVectorEnv) -> None:
    """Let the network expect each token as often as it is in the training split, whatever it reads."""
    task: StoryTask = env._engine._setup.loaded_task
    counts = task.train.counts(task.num_classes)
    state = env._engine.get_state(0)
    weights = state["life"]["parts"][-1]["weights"]
    weights["segments.3.0.weight"].zero_()
    weights["segments.3.0.bias"].zero_()[0] = 1
    table = torch.from_numpy(np.log((counts + 1) / counts.sum()))
    for name in ("segments.0.0.tokens.weight", "segments.3.1.weight"):  # one parameter
        weights[name][:, 0] = table
    env._engine.set_state(0, state)


def test_a_network_that_forgets_all_but_frequencies_is_put_back() -> None:
    env = learned()
    healthy, level = float(env._state.val_loss[0]), env.facts.uninformed_loss
    assert healthy < 0.6 * level < 0.6 * math.log(Words.size)
    forget(env)
    info = env.step(WAIT[None])[-1]
    assert info["train_loss"][0] == pytest.approx(level, rel=0.065)
    assert info["reward_terms"]["rollback"][0] == -10
    assert info["val_loss"][0] == pytest.approx(healthy, abs=0.1)
    blind = learned()
    blind.facts = replace(blind.facts, frequency_loss=None)
    forget(blind)
    info = blind.step(WAIT[None])[-1]
    assert info["reward_terms"]["rollback"][0] == 0, "this is not the loss of guessing evenly"
    assert info["val_loss"][0] == pytest.approx(level, rel=0.065)
