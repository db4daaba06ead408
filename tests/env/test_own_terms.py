"""Reward terms of one's own: registered, priced, shown, summed, refused."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from lives import GROW, rules_only

from esper_env import EsperVectorEnv, HostFacts, Op, StepChange, encode, register_reward_term
from esper_env.contracts.state import REWARD_TERMS
from esper_env.mdp.prices import OWN_TERMS

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
WAIT = encode(Op.WAIT)
GERMINATE = GROW[0]
NULL = {"engine": "null", "disable_env_checker": True}


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    kept = dict(OWN_TERMS)
    OWN_TERMS.clear()
    yield
    OWN_TERMS.clear()
    OWN_TERMS.update(kept)


def modules(change: StepChange, facts: HostFacts) -> np.ndarray:
    """How many modules were there in the epoch."""
    return (change.trained.module_params > 0).sum(axis=1)


@pytest.fixture
def registered() -> None:
    register_reward_term("modules", modules)


def stepped(env: EsperVectorEnv, *actions: np.ndarray) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Reward and info of every step, the same action in every environment."""
    played = [env.step(np.tile(action, (env.num_envs, 1))) for action in actions]
    return [(step[1], step[4]) for step in played]


@pytest.mark.usefixtures("registered")
def test_a_priced_term_stands_beside_the_others_and_is_part_of_the_sum() -> None:
    env = rules_only(2, reward={"quality": 100, "modules": 0.25})
    _, info = env.reset(seed=0)
    names = (*REWARD_TERMS, "modules")
    assert list(info["reward_terms"]) == [part for name in names for part in (name, f"_{name}")]
    assert np.isnan(info["reward_terms"]["modules"]).all()
    assert not info["reward_terms"]["_modules"].any()
    for reward, now in stepped(env, GERMINATE, WAIT):
        terms = now["reward_terms"]
        assert terms["modules"].tolist() == [0.25, 0.25]
        assert terms["_modules"].tolist() == [True, True]
        np.testing.assert_allclose(sum(terms[name] for name in names), reward, atol=1e-12)
        assert reward == pytest.approx(terms["quality"] + 0.25)


@pytest.mark.usefixtures("registered")
def test_a_term_comes_on_top_of_a_named_mode() -> None:
    env, plain = rules_only(overrides={"reward.own": {"modules": 2}}), rules_only()
    for one in (env, plain):
        one.reset(seed=0)
    [(with_it, info)], [(without, _)] = stepped(env, GERMINATE), stepped(plain, GERMINATE)
    assert with_it[0] - without[0] == pytest.approx(2)
    assert env.config.reward.mode == "dense"
    assert info["reward_terms"]["op_cost"][0] == -0.15


@pytest.mark.usefixtures("registered")
def test_a_term_without_a_price_is_neither_shown_nor_measured() -> None:
    def forbidden(change: StepChange, facts: HostFacts) -> np.ndarray:
        raise AssertionError("measured")

    register_reward_term("forbidden", forbidden)
    env = rules_only(reward={"modules": 1})
    env.reset(seed=0)
    [(_, info)] = stepped(env, WAIT)
    assert "forbidden" not in info["reward_terms"]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("mode", AutoresetMode)
def test_it_is_paid_in_every_autoreset_mode_and_never_for_a_reset(mode: AutoresetMode) -> None:
    env = rules_only(2, autoreset_mode=mode, reward={"modules": 1}, horizon=3)
    env.reset(seed=0)
    steps = stepped(env, GERMINATE, WAIT, WAIT)
    assert [reward.tolist() for reward, _ in steps] == [[1, 1]] * 3
    last = steps[-1][1]
    assert last["reward_terms"]["modules"].tolist() == [1, 1]
    if mode == AutoresetMode.SAME_STEP:
        assert last["final_info"]["reward_terms"]["modules"].tolist() == [1, 1]
    if mode == AutoresetMode.NEXT_STEP:
        [(reward, info)] = stepped(env, GERMINATE)
        assert reward.tolist() == [0, 0], "the step that resets plays nothing"
        assert info["reward_terms"]["_modules"].all()


@pytest.mark.usefixtures("registered")
def test_paid_at_the_end_it_is_the_discounted_sum() -> None:
    late = {"reward.own": {"modules": 1.0}}
    env = rules_only(reward="sparse", gamma=0.5, horizon=4, overrides=late)
    env.reset(seed=0)
    paid = [info["reward_terms"]["modules"][0] for _, info in stepped(env, WAIT, GERMINATE, WAIT, WAIT)]
    assert paid == [0, 0, 0, pytest.approx(1 + 1 / 0.5 + 1 / 0.5**2)]


@pytest.mark.usefixtures("registered")
def test_a_single_environment_shows_it_as_a_float() -> None:
    env = gym.make("EsperMicro-v0", reward={"modules": 3}, **NULL)
    _, info = env.reset(seed=0)
    assert "reward_terms" not in info
    _, reward, _, _, info = env.step(GERMINATE)
    assert info["reward_terms"] == {**dict.fromkeys(REWARD_TERMS, 0.0), "modules": 3.0}
    assert (reward, type(reward), type(info["reward_terms"]["modules"])) == (3.0, float, float)


# Python 3.12 and later warn about any fork of a process with threads; what is forked here starts none.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("vectorization_mode", ["sync", "async"])
def test_it_works_in_gymnasiums_vectorizers(vectorization_mode: str) -> None:
    workers = {"context": "fork"} if vectorization_mode == "async" else {}
    envs = gym.make_vec(
        "EsperMicro-v0",
        num_envs=2,
        vectorization_mode=vectorization_mode,
        vector_kwargs=workers,
        engine="null",
        reward={"modules": 0.5},
    )
    try:
        envs.reset(seed=0)
        _, reward, _, _, info = envs.step(np.stack([GERMINATE, WAIT]))
    finally:
        envs.close()
    assert reward.tolist() == [0.5, 0]
    assert info["reward_terms"]["modules"].tolist() == [0.5, 0]


BAD: dict[str, Any] = {
    "shape": lambda change, facts: np.zeros(7),
    "slots": lambda change, facts: change.after.alpha,
    "number": lambda change, facts: 1.0,
    "nan": lambda change, facts: change.harvested,
    "infinite": lambda change, facts: np.full(change.op.shape, np.inf),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_finite_number_an_environment_is_refused_by_name(name: str) -> None:
    register_reward_term(name, BAD[name])
    env = rules_only(2, reward={name: 0.0})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"(?s)reward term '{name}' gave .*a finite array of shape \(2,\)"):
        stepped(env, WAIT)


def test_a_term_can_not_change_the_game() -> None:
    def meddle(change: StepChange, facts: HostFacts) -> np.ndarray:
        for slots in (change.before, change.trained, change.after):
            slots.alpha[:], slots.module_params[:], slots.stage[:] = 1.0, 10**6, 5
        change.quality_after[:] = 1.0
        return np.zeros(len(change.op))

    register_reward_term("meddle", meddle)
    env, twin = rules_only(2, overrides={"reward.own": {"meddle": 1}}), rules_only(2)
    first = [one.reset(seed=0)[0] for one in (env, twin)]
    assert np.array_equal(*first)
    for action in GROW:
        seen = [one.step(np.tile(action, (2, 1))) for one in (env, twin)]
        for mine, theirs in zip(seen[0][:4], seen[1][:4], strict=True):
            assert np.array_equal(mine, theirs)


TAKEN = [*REWARD_TERMS, "outcome", "rent_cap", "own", "mode", "modules"]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", [*TAKEN, "", "two words", "1st", "_hidden", "a.b", 3, None])
def test_a_name_that_is_taken_or_no_identifier_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"reward term .* is not allowed") as error:
        register_reward_term(name, modules)
    assert repr(name) in str(error.value)
    assert list(OWN_TERMS) == ["modules"]


def test_an_amount_must_be_something_to_call() -> None:
    with pytest.raises(ValueError, match="'mine': 3 can't be called"):
        register_reward_term("mine", 3)  # type: ignore[arg-type]


def test_a_price_for_a_term_that_nobody_registered_is_refused_and_says_what_there_is() -> None:
    register_reward_term("mine", modules)
    with pytest.raises(ValueError, match=r"no term \['mien'\].*'mine'.*'quality'"):
        rules_only(reward={"mien": 1.0})
    for price in (-1.0, True, "1", float("nan")):
        with pytest.raises(ValueError, match=r"reward\.own\.mine="):
            rules_only(reward={"mine": price})


@pytest.mark.parametrize("index", [0, 1])
def test_the_code_of_the_page_on_rewards_runs(index: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[index]], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_after_a_term_failed_in_the_middle_of_a_step_only_a_reset_goes_on() -> None:
    register_reward_term("broken", lambda change, facts: np.full(1, np.nan))
    env = rules_only(reward={"broken": 1.0})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reward term 'broken'"):
        env.step(GERMINATE[None])
    with pytest.raises(ResetNeeded):
        env.step(WAIT[None])
    env.reset(seed=0)
    assert env._state.epoch[0] == 0


def test_a_registered_term_is_priced_by_its_path() -> None:
    register_reward_term("mine", modules)
    assert rules_only(overrides={"reward.own.mine": 2.0}).config.reward.own == {"mine": 2.0}
    with pytest.raises(ValueError, match=r"there is no term \['other'\]"):
        rules_only(overrides={"reward.own.other": 2.0})
