"""What is no state of this environment is refused by name, and changes nothing."""

import re
from typing import Any

import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from lives import GROW, play, rules_only
from plain import TINY, WAIT, tiny
from test_state import bits

from esper_env import EsperVectorEnv


@pytest.mark.parametrize("env", [-1, 2, 1.0, True, None])
def test_an_index_that_is_none_is_refused(env: Any) -> None:
    envs = rules_only(2)
    envs.reset(seed=0)
    state = envs.get_state(0)
    for call in (lambda: envs.get_state(env), lambda: envs.set_state(env, state)):
        with pytest.raises(
            ValueError, match=re.escape(f"env={env!r} is not allowed: an index from 0 to 1 is")
        ):
            call()


def without(state: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    return state | {part: {key: value for key, value in state[part].items() if key != name}}


def test_what_is_no_state_of_this_configuration_is_refused_by_name_and_changes_nothing() -> None:
    env = tiny(2)
    env.reset(seed=0)
    play(env, GROW[:4])
    good = env.get_state(1)
    before = bits(env.get_state(0))
    wrong = {
        "is no state": [None, 3, {}, {"version": 1}, {**good, "more": 1}],
        "state['version']=9": [{**good, "version": 9}],
        "state is damaged": [
            {**good, "engine": {}}, {**good, "engine": None}, {**good, "series": 3}, {**good, "flags": {}},
            {**good, "made_for": None}, {**good, "rules": 1},
            without(good, "engine", "kept"), {**good, "engine": {**good["engine"], "life": {"seed": 1}}},
        ],
        "state['rules'] is damaged": [
            without(good, "rules", "epoch"), {**good, "rules": {**good["rules"], "epoch": 1}},
        ],
        "state['slots'] is damaged": [{**good, "slots": {k: v[:2] for k, v in good["slots"].items()}}],
    }  # fmt: skip
    for message, states in wrong.items():
        for state in states:
            with pytest.raises(ValueError, match=re.escape(message)):
                env.set_state(0, state)
    assert bits(env.get_state(0)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": {**TINY, "reward.rent": 1.0}}, "reward.rent is 2.0 there and 1.0 here"),
        ({"overrides": TINY, "horizon": 9}, "horizon is 20 there and 9 here"),
        ({"overrides": TINY, "slots": 2}, "host.slots is None there and 2 here"),
        ({"overrides": {**TINY, "task.image_size": 32}}, "task.image_size is 16 there and 32 here"),
    ],
)
def test_a_state_of_another_configuration_is_refused_by_the_first_difference(
    arguments: dict[str, Any], message: str
) -> None:
    env = tiny()
    env.reset(seed=0)
    other = EsperVectorEnv(1, "micro", **{"horizon": 20, "engine": "null"} | arguments)
    state = env.get_state(0)
    state["made_for"]["engine.name"] = "null"
    with pytest.raises(ValueError, match=re.escape(message)):
        other.set_state(0, state)


def test_a_state_may_move_to_another_device_and_folder() -> None:
    env, other = rules_only(), rules_only(data_dir="elsewhere", device="auto")
    env.reset(seed=0)
    assert env.config != other.config
    other.set_state(0, env.get_state(0))
    assert other.step(WAIT[None])[0].tobytes() == env.step(WAIT[None])[0].tobytes()


def test_there_is_no_state_before_a_reset_or_after_close() -> None:
    env = rules_only(2)
    with pytest.raises(ResetNeeded, match="environment 1 was never reset"):
        env.get_state(1)
    env.reset(seed=0)
    state = env.get_state(0)
    env.close()
    for call in (lambda: env.get_state(0), lambda: env.set_state(0, state), lambda: env.export(0)):
        with pytest.raises(ClosedEnvironmentError):
            call()
