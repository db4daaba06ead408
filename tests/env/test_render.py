"""The picture of an episode shows what happened."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from lives import rules_only

import esper_env
from esper_env.contracts.facts import HostFacts, Place
from esper_env.contracts.state import GameState
from esper_env.render import COLORS, CURVE, HEIGHT, LEFT, RIGHT, WIDTH, EpisodeTrace

Stage = esper_env.Stage
HORIZON = 10


def facts(num_slots: int = 1) -> HostFacts:
    places = tuple(Place(f"block{i}.relu", "cnn", (8, 4, 4), 0.5) for i in range(num_slots))
    names = ("noop", "conv_light")
    fits, params = np.ones((num_slots, 2), dtype=bool), np.full((num_slots, 2), 100)
    return HostFacts(places, 1000, 1, fits, params, np.full(num_slots, 10), names, 0.1, np.log(10))


def begun(num_envs: int = 1, num_slots: int = 1) -> tuple[EpisodeTrace, GameState]:
    trace = EpisodeTrace(num_envs, facts(num_slots), HORIZON)
    trace.begin(np.arange(num_envs))
    state = GameState.empty(num_envs, num_slots)
    state.quality[:] = 0.3
    return trace, state


def pixels(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of exactly this color, above the legend."""
    return np.argwhere((picture[: HEIGHT - 40] == color).all(axis=2))


def played(num_envs: int = 1) -> np.ndarray:
    return np.ones(num_envs, dtype=bool)


@pytest.mark.parametrize("num_slots", [1, 3, 5, 12])
def test_every_picture_has_the_same_size_and_type(num_slots):
    trace, _ = begun(num_slots=num_slots)
    picture = trace.draw(0)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.FOSSILIZED, Stage.EMBARGOED])
def test_a_stage_colors_as_much_of_its_lane_as_the_epochs_it_lasts(stage):
    trace, state = begun()
    state.slots.stage[:] = stage
    ends = []
    for _ in range(3):
        trace.add(state, played())
        columns = pixels(trace.draw(0), COLORS[stage])[:, 1]
        ends.append((columns.min(), columns.max() + 1))
    width = (RIGHT - LEFT) / HORIZON
    assert ends == [(LEFT, pytest.approx(LEFT + width * epochs, abs=1)) for epochs in (1, 2, 3)]


def test_a_blending_module_fills_its_lane_as_far_as_alpha():
    trace, state = begun()
    state.slots.stage[:] = Stage.BLENDING
    for alpha in (0.25, 0.5, 1.0):
        state.slots.alpha[:] = alpha
        trace.add(state, played())
    found = pixels(trace.draw(0), COLORS[Stage.BLENDING])
    middles = [LEFT + (RIGHT - LEFT) / HORIZON * (epoch + 0.5) for epoch in range(3)]
    quarter, half, whole = (np.count_nonzero(found[:, 1] == round(middle)) for middle in middles)
    assert (quarter, half) == (pytest.approx(whole / 4, abs=1), pytest.approx(whole / 2, abs=1))


def test_the_curve_is_linear_in_quality():
    heights = []
    for quality in (0.45, 0.5, 0.55):
        trace, state = begun()
        state.quality[:] = quality
        for _ in range(HORIZON):
            trace.add(state, played())
        found = pixels(trace.draw(0), CURVE)
        heights.append(found[found[:, 1] == (LEFT + RIGHT) // 2 + 5, 0].mean())
    low, middle, high = heights
    assert low > middle > high, "rows count from the top"
    assert low - middle == pytest.approx(middle - high, abs=1)


def test_a_blueprint_is_named_where_it_was_planted():
    trace, state = begun()
    trace.add(state, played())
    without = trace.draw(0)
    state.slots.planting[:] = 1
    state.slots.blueprint[:] = 1
    trace.add(state, played())
    with_name = trace.draw(0)
    trace.begin(np.array([0]))
    state.slots.blueprint[:] = 0
    for _ in range(2):
        trace.add(state, played())
    unnamed = trace.draw(0)
    named_at = np.argwhere((with_name != unnamed).any(axis=2))
    assert len(named_at) > 50
    assert named_at[:, 1].min() >= LEFT + (RIGHT - LEFT) // HORIZON, "not before the epoch of planting"
    assert (without != with_name).any()


def test_environments_have_pictures_of_their_own():
    trace, state = begun(num_envs=2)
    untouched = trace.draw(1)
    state.slots.stage[:] = Stage.HOLDING
    trace.add(state, np.array([True, False]))
    np.testing.assert_array_equal(trace.draw(1), untouched)
    assert (trace.draw(0) != untouched).any()


def test_a_new_episode_begins_with_an_empty_picture():
    trace, state = begun()
    empty = trace.draw(0)
    trace.add(state, played())
    trace.begin(np.array([0]))
    np.testing.assert_array_equal(trace.draw(0), empty)


def test_without_pillow_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "esper-env\[render\]"'):
        EpisodeTrace(1, facts(), HORIZON)


def test_an_environment_renders_the_epochs_it_has_played():
    envs = gym.make_vec("EsperMicro-v0", num_envs=2, engine="null", render_mode="rgb_array")
    envs.reset(seed=0)
    first = envs.render()
    assert len(first) == 2
    np.testing.assert_array_equal(first[0], first[1])
    envs.step(np.zeros((2, 8), dtype=np.int64))
    after = envs.render()
    assert (after[0] != first[0]).any()
    envs.close()


def test_rendering_without_a_render_mode_warns_and_gives_nothing():
    envs = gym.make_vec("EsperMicro-v0", num_envs=1, engine="null")
    envs.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert envs.render() is None
    envs.close()


def test_a_rollback_is_marked_where_it_happened_and_counted_in_the_title():
    quiet, broken = rules_only(render_mode="rgb_array"), rules_only(render_mode="rgb_array")
    for env in (quiet, broken):
        env.reset(seed=0)
        for epoch in range(6):
            env._state.rollbacks[0] = 2 if env is broken and epoch >= 3 else 0
            env.step(esper_env.encode(esper_env.Op.WAIT)[None])
    changed = (quiet.render()[0] != broken.render()[0]).any(axis=2)
    x = round(LEFT + (RIGHT - LEFT) * 4 / 30)
    assert changed[100:250, x].mean() > 0.9, "a line at the end of the fourth epoch"
    assert not changed[100:250, x + 5 :].any()
    assert changed[10:38].any(), "the title"
