"""A state holds everything: whoever goes on from it, wherever, sees the same bits."""

import copy
import io
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import APART, ENGINES, settings
from gymnasium.error import ResetNeeded
from lives import GROW, play, rules_only
from numpy.typing import NDArray
from plain import TINY, WAIT, poison, tiny, weights

from esper_env import EsperEnv, EsperVectorEnv, Op, Style, encode
from esper_env.contracts.state import GameState, SlotState

PAGE = Path(__file__).parents[2] / "docs" / "snapshots.md"
HORIZON = 17


def planting(slot: int, blueprint: int, style: Style) -> NDArray[np.int64]:
    return encode(Op.GERMINATE, slot=slot, blueprint=blueprint, style=style, tempo=0, alpha_target=2)


def advance(slot: int) -> NDArray[np.int64]:
    return encode(Op.ADVANCE, slot=slot)


LIFE = [
    planting(0, 1, Style.GATED), planting(2, 5, Style.LINEAR_ADD), advance(0), encode(Op.PRUNE, slot=2),
    planting(1, 6, Style.LINEAR_ADD), advance(1), advance(0), WAIT, WAIT, advance(0), advance(1),
    planting(2, 2, Style.LINEAR_MULTIPLY), encode(Op.FOSSILIZE, slot=0),
    encode(Op.SET_ALPHA_TARGET, slot=1, alpha_target=0, alpha_speed=1), advance(2), WAIT, WAIT,
    planting(1, 3, Style.SIGMOID_ADD), planting(0, 3, Style.SIGMOID_ADD), advance(0),
]  # fmt: skip
"""Gated blending, a slot planted twice, a fossil, alpha on its way down; after step 17 the next episode."""
SAMPLED = {
    "attribution.lattice_up_to": 1, "attribution.shapley_permutations": 2, "governor.snapshot_every": 3,
}  # fmt: skip


def bits(value: Any) -> Any:
    """Anything that can be compared, floats to the last bit."""
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [bits(part) for part in value]
    return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def action(env: EsperVectorEnv, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is wanted in every environment; begins the next episode where no autoreset does."""
    if env.autoreset_mode.name == "DISABLED" and env._over.any():
        env.reset(options={"reset_mask": env._over.copy()})
    return np.tile(wanted, (env.num_envs, 1))


def seen(env: EsperVectorEnv, wanted: NDArray[np.int64]) -> Any:
    """All that a step shows."""
    return bits([*env.step(action(env, wanted)), env.attribution()])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("reward", "mode"), [("dense", "DISABLED"), ("sparse", "SAME_STEP"), ("economy", "NEXT_STEP")]
)
def test_a_life_handed_on_in_every_step_is_the_life_itself(reward: str, mode: str, engine: str) -> None:
    """What a state forgot would be forgotten in each of these environments."""

    def make() -> EsperVectorEnv:
        return tiny(1, SAMPLED, engine, horizon=HORIZON, reward=reward, autoreset_mode=mode)

    straight, relay = make(), make()
    for env in (straight, relay):
        env.reset(seed=7)
    sampled, down = 0, 0
    for step, wanted in enumerate(LIFE):
        state, relay = through_a_file(relay.get_state(0)), make()
        relay.set_state(0, state)
        assert bits(relay.get_state(0)) == bits(state)
        assert seen(relay, wanted) == seen(straight, wanted), step
        assert straight._state.last_success[0] or step >= HORIZON - 1
        sampled += int(np.isfinite(straight.attribution()["shapley_error"]).sum() > 1)
        down += sum(planted.frozen for planted in straight._engine.life(0).planted.values())
    assert bits(relay.get_state(0)) == bits(straight.get_state(0)), "weights and momenta included"
    assert (sampled, down) == (2, 2)


@pytest.mark.parametrize("engine", APART)
def test_from_a_state_in_the_middle_the_rest_of_a_life_is_the_same_at_any_index(engine: str) -> None:
    env = tiny(1, SAMPLED, engine, horizon=HORIZON, reward="economy")
    env.reset(seed=7)
    for wanted in LIFE[:8]:
        env.step(wanted[None])
    branches = tiny(3, SAMPLED, engine, horizon=HORIZON, reward="economy")
    branches.reset(seed=50)
    state = env.get_state(0)
    for index in (0, 2):
        branches.set_state(index, state)
    for wanted in LIFE[8:HORIZON]:
        expected, (obs, reward, *_) = env.step(wanted[None]), branches.step(np.stack([wanted, WAIT, wanted]))
        assert obs[0].tobytes() == obs[2].tobytes() == expected[0][0].tobytes()
        assert reward[0] == reward[2] == expected[1][0]
    for index in (0, 2):
        assert bits(branches.get_state(index)) == bits(env.get_state(0))


@pytest.mark.parametrize("engine", APART)
def test_the_other_environments_do_not_notice(engine: str) -> None:
    envs, twins = tiny(3, engine=engine), tiny(3, engine=engine)
    for each in (envs, twins):
        each.reset(seed=1)
        shown = [each.step(np.stack([wanted, WAIT, wanted])) for wanted in GROW[:7]]
    obs, info = envs.set_state(1, envs.get_state(2))
    assert obs[[0, 2]].tobytes() == shown[-1][0][[0, 2]].tobytes()
    assert obs[1].tobytes() == obs[2].tobytes()
    for key in ("action_mask", "val_loss", "val_accuracy"):
        assert info[key][[0, 2]].tobytes() == shown[-1][4][key][[0, 2]].tobytes()
    first, second = (each.step(np.tile(WAIT, (3, 1))) for each in (envs, twins))
    assert first[0][[0, 2]].tobytes() == second[0][[0, 2]].tobytes()
    assert not np.array_equal(first[0][1], second[0][1])


@pytest.mark.parametrize("engine", ENGINES)
def test_what_set_state_returns_is_the_observation_of_then_in_the_form_of_a_reset(engine: str) -> None:
    env = tiny(2, engine=engine)
    obs, first = env.reset(seed=3)
    obs, _, _, _, info = env.step(np.stack([GROW[0], WAIT]))
    shown, restored = env.set_state(0, env.get_state(0))
    assert shown.tobytes() == obs.tobytes()
    assert restored.keys() == first.keys()
    assert restored["val_loss"].tobytes() == info["val_loss"].tobytes()
    assert np.isnan(restored["reward_terms"]["rent"]).all()
    assert not restored["_reward_terms"].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_shares_nothing_with_what_it_was_taken_from_or_put_into(engine: str) -> None:
    env = tiny(engine=engine)
    env.reset(seed=7)
    play(env, LIFE[:10])
    state = env.get_state(0)
    before = copy.deepcopy(state)
    play(env, LIFE[10:13])
    assert bits(state) == bits(before)
    env.set_state(0, state)
    play(env, LIFE[10:13])
    env._engine.restore(np.array([True]))
    play(env, [WAIT])
    assert bits(state) == bits(before)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_governors_snapshot_travels_with_the_state(engine: str) -> None:
    env, other = (tiny(overrides=SAMPLED, engine=engine) for _ in range(2))
    env.reset(seed=7)
    play(env, LIFE[:14])
    other.set_state(0, through_a_file(env.get_state(0)))
    for each in (env, other):
        poison(each)
    assert seen(other, WAIT) == seen(env, WAIT)
    assert (env._state.rollbacks[0], env._engine.life(0).fossils) == (1, [0])
    assert seen(other, WAIT) == seen(env, WAIT)
    assert bits(other.get_state(0)) == bits(env.get_state(0))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momenta_are_in_the_state_where_there_are_any(momentum: float, engine: str) -> None:
    overrides = {f"engine.optimizer.{part}_momentum": momentum for part in ("host", "module")}
    env, other = (tiny(overrides=overrides, engine=engine) for _ in range(2))
    env.reset(seed=1)
    play(env, LIFE[:4])
    state = through_a_file(env.get_state(0))
    [remembered] = state["engine"]["life"]["parts"][-1]["optimizers"]
    assert len(remembered) == (11 if momentum else 0)
    other.set_state(0, state)
    assert seen(other, WAIT) == seen(env, WAIT)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failed_probe_is_remembered(engine: str) -> None:
    env = tiny(engine=engine)
    env.reset(seed=1)
    play(env, LIFE[:1])
    state = env.get_state(0)
    state["engine"]["life"]["modules"][0]["probe_passed"] = False
    env.set_state(0, state)
    env.set_state(0, env.get_state(0))
    assert not env.step(WAIT[None])[-1]["op_slot_mask"][0, Op.ADVANCE, 0]


def test_every_field_of_the_rules_is_in_the_state() -> None:
    env = tiny()
    env.reset(seed=1)
    state = env.get_state(0)
    assert state["rules"].keys() == {field.name for field in fields(GameState)} - {"slots"}
    assert state["slots"].keys() == {field.name for field in fields(SlotState)}
    stage = state["slots"]["stage"]
    assert (stage.dtype, stage.shape) == (torch.int8, (3,))


def test_the_series_of_episodes_goes_on_whatever_its_seed() -> None:
    env, other = rules_only(), rules_only()
    env.reset(seed=2**70 + 1)
    env.reset()
    other.reset(seed=1)
    other.set_state(0, through_a_file(env.get_state(0)))
    for each in (env, other):
        each.reset()
    assert env._state.seed[0] == other._state.seed[0]


def test_an_episode_that_was_over_is_over_again() -> None:
    env, other = rules_only(horizon=3), rules_only(2, horizon=3)
    env.reset(seed=0)
    play(env, [WAIT] * 3)
    other.reset(seed=1)
    _, info = other.set_state(1, env.get_state(0))
    assert info["action_mask"][1].sum() == len(other.layout.nvec)
    with pytest.raises(ResetNeeded, match=re.escape("[1]")):
        other.step(np.stack([WAIT, WAIT]))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_makes_an_environment_ready_that_was_never_reset(engine: str) -> None:
    env, other = tiny(engine=engine), tiny(engine=engine)
    env.reset(seed=1)
    other.set_state(0, env.get_state(0))
    assert seen(env, WAIT) == seen(other, WAIT)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_environment_has_the_same_in_its_own_form(engine: str) -> None:
    def make() -> EsperEnv:
        return EsperEnv("micro", horizon=10, device="cpu", overrides=TINY | settings(engine))

    env, other, batch = make(), make(), tiny(engine=engine, horizon=10)
    env.reset(seed=4)
    obs = [env.step(wanted)[0] for wanted in GROW[:6]][-1]
    for target in (env, other):
        shown, info = target.set_state(env.get_state())
        assert shown.tobytes() == obs.tobytes()
        assert isinstance(info["val_loss"], float)
        assert "reward_terms" not in info
    batch.set_state(0, env.get_state())
    shown = [env.step(WAIT)[0], other.step(WAIT)[0], batch.step(WAIT[None])[0][0]]
    assert len({each.tobytes() for each in shown}) == 1


def test_a_picture_goes_on_where_it_was_or_leaves_blank_what_nobody_drew() -> None:
    drawing, again, plain = (rules_only(render_mode=mode) for mode in ("rgb_array", "rgb_array", None))
    for env in (drawing, plain):
        env.reset(seed=1)
        play(env, GROW[:5])
    again.set_state(0, through_a_file(drawing.get_state(0)))
    assert np.array_equal(again.render()[0], drawing.render()[0])
    again.set_state(0, plain.get_state(0))
    blank = again.render()[0]
    for env in (again, drawing):
        play(env, GROW[5:])
    past, now = np.s_[300:480, 120:230], np.s_[300:480, 312:352]
    assert not np.array_equal(blank[past], drawing.render()[0][past])
    assert np.array_equal(again.render()[0][past], blank[past])
    assert np.array_equal(again.render()[0][now], drawing.render()[0][now])


@pytest.mark.parametrize("engine", ENGINES)
def test_asking_for_a_state_changes_nothing(engine: str) -> None:
    env, twin = tiny(engine=engine), tiny(engine=engine)
    for each in (env, twin):
        each.reset(seed=6)
        play(each, LIFE[:8])
    env.get_state(0)
    assert seen(env, advance(0)) == seen(twin, advance(0))
    assert bits(weights(env._engine.life(0).model)) == bits(weights(twin._engine.life(0).model))


def test_the_example_on_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(code, {})
    keep, blend, prune = re.findall(r"(\d+\.\d)%", capsys.readouterr().out)
    assert keep == prune != blend
