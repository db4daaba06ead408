"""Every feature by hand, where it lies, and that what was not measured never looks like a measured 0."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import facts, game, plausible, put, rules_only, wandering

from esper_env import Op, Stage
from esper_env.contracts.state import GameState, Ramp, SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.mdp import governor, observation
from esper_env.mdp.episode import Limits
from esper_env.mdp.masks import BudgetConfig
from esper_env.mdp.observation import BASE_FEATURES, SLOT_FEATURES, View

HORIZON = 20
NAN = float("nan")


def view(state: GameState, params: float | None = None, compute: float = np.inf, num_slots: int = 2) -> View:
    budget = BudgetConfig(params=params).of_each("params", len(state.epoch))
    limits = Limits(HORIZON, budget, np.full(len(state.epoch), compute), 1e4, max_steps=None, max_panics=3)
    return View(state, facts(num_slots), limits, 0.995)


def seen(state: GameState, num_slots: int = 2, **budgets: float) -> dict[str, Any]:
    """Name -> value (float) or block (list) of environment 0."""
    vector = observation.encode(view(state, num_slots=num_slots, **budgets))[0]
    return {
        name: pytest.approx(block[0], abs=1e-6) if len(block) == 1 else pytest.approx(block, abs=1e-6)
        for name, block in ((n, vector[part].tolist()) for n, _, part in observation.layout(facts(num_slots)))
    }


def bits(state: GameState) -> bytes:
    return observation.encode(view(state)).tobytes()


def measured() -> GameState:
    """A game in which every number was measured, and slot 1 holds a blending module."""
    state = game()
    state.epoch[:], state.last_op[:], state.last_success[:] = 5, Op.ADVANCE, True
    state.train_loss[:], state.val_loss[:], state.quality[:] = 1.0, 1.5, 0.4
    state.loss_history[0, :3], state.quality_history[0, :3] = (1.5, 2.0, 2.5), (0.4, 0.3, 0.2)
    state.train_flops[:], state.rollbacks[:] = 300.0, 1
    put(
        state.slots, 0, 1, stage=Stage.BLENDING, epochs_in_stage=2, age=8, blueprint=1, style=3, tempo=5,
        module_params=200, gate_params=50, alpha=0.6, alpha_velocity=0.2, alpha_start=0.0, alpha_target=1.0,
        ramp=Ramp.UP, ramp_total=5, ramp_done=3, gradient_norm=2.0, gradient_health=0.9, gradient_ratio=1.5,
        vanishing=True, exploding=True, delta_ratio=0.5, contribution=2.5, contribution_velocity=-0.5,
        contribution_age=10, interaction=[-3.0, NAN],
    )  # fmt: skip
    return state


def test_base_features_are_those_calculated_by_hand() -> None:
    now = seen(measured(), params=1.5, compute=1200.0)
    log = np.log
    assert now["epoch"] == 5 / 20
    assert now["params_left"] == 1 - 250 / 500
    assert now["compute_left"] == 0.75
    assert now["panics_left"] == pytest.approx(2 / 3)
    assert now["evaluated"] == 1
    assert now["val_loss"] == log(2.5) / 7
    assert now["val_quality"] == 0.4
    assert now["loss_history"] == [log(2.5) / 7, log(3) / 7, log(3.5) / 7, -1, -1]
    assert now["quality_history"] == [0.4, 0.3, 0.2, -1, -1]
    assert now["generalization_gap"] == log(1.5) / 7
    shares = [now[f"{s}_share"] for s in ("training", "blending", "holding", "fossilized")]
    assert shares == [0, 0.5, 0, 0]
    assert now["last_success"] == 1
    assert now["last_op"] == [0, 0, 0, 0, 0, 1]


def test_slot_features_are_those_calculated_by_hand() -> None:
    now = {k.removeprefix("slot1."): v for k, v in seen(measured()).items() if k.startswith("slot1.")}
    log = np.log
    assert now["log2_channels"] == 3 / 12
    assert now["log2_positions"] == pytest.approx(3 / 14)
    assert now["depth"] == 1
    assert now["present"] == 1
    assert now["stage"] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert (now["alpha"], now["alpha_target"], now["alpha_velocity"]) == (0.6, 1, 0.2)
    assert now["ramp"] == [0, 1, 0]
    assert (now["ramp_total"], now["ramp_done"], now["ramp_left"]) == (5 / 12, 3 / 12, 2 / 12)
    assert now["tempo"] == 5 / 12
    assert now["style"] == [0, 0, 0, 1]
    assert now["counterfactual_measured"] == 1
    assert now["contribution"] == log(3.5) / log(101)
    assert now["contribution_velocity"] == -log(1.5) / log(101)
    assert now["interaction_measured"] == 1
    assert now["interaction"] == -log(4) / log(101)
    assert now["freshness"] == 0.995**10
    assert now["gradients_measured"] == 1
    assert now["gradient_norm"] == log(3) / 7
    assert now["gradient_ratio"] == 0.15
    assert now["gradient_health"] == 0.9
    assert (now["vanishing"], now["exploding"]) == (1, 1)
    assert now["delta_ratio"] == log(1.5) / 7
    assert (now["epochs_in_stage"], now["age"]) == (2 / 20, 8 / 20)
    assert now["module_params"] == pytest.approx(np.log(1.25) / np.log(101))
    assert now["blueprint"] == [0, 1, 0]
    assert len(now) == len(SLOT_FEATURES)


def test_an_empty_slot_shows_zeros_but_for_where_it_is() -> None:
    now = seen(measured())
    for feature in SLOT_FEATURES:
        shown = now[f"slot0.{feature.name}"]
        if feature.static:
            where = {"log2_channels": 3 / 12, "log2_positions": 3 / 14, "depth": 0.5}
            assert shown == pytest.approx(where[feature.name])
        else:
            size = feature.size(facts().num_blueprints)
            assert shown == (0 if size == 1 else [0] * size)


def test_a_slot_that_cools_down_shows_its_stage_and_no_module() -> None:
    state = game()
    put(state.slots, 0, 1, stage=Stage.EMBARGOED, epochs_in_stage=3, alpha_velocity=0.0)
    now = seen(state)
    assert now["slot1.present"] == 1
    assert now["slot1.stage"] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert now["slot1.style"] == [0] * 4
    assert now["slot1.ramp"] == [0] * 3
    assert now["slot1.blueprint"] == [1, 0, 0]
    assert now["slot1.epochs_in_stage"] == 3 / 20


def test_budgets_read_one_when_there_is_none_and_zero_when_nothing_is_left() -> None:
    state = measured()
    assert seen(state)["params_left"] == 1
    assert seen(state)["compute_left"] == 1
    assert seen(state, params=1.0)["params_left"] == 0
    assert seen(state, params=1.25)["params_left"] == 0
    assert seen(state, compute=200.0)["compute_left"] == 0
    put(state.slots, 0, 1, gate_params=0)
    assert seen(state, params=1.5)["params_left"] == 0.5, "a gate to come is counted"


SLOT_MEASURES = ["contribution", "contribution_velocity", "gradient_norm", "gradient_ratio", "delta_ratio"]
SLOT_MEASURES += ["gradient_health", "interaction"]


@pytest.mark.parametrize("name", SLOT_MEASURES)
def test_a_missing_measurement_of_a_slot_differs_from_a_measured_zero(name: str) -> None:
    zero, missing = measured(), measured()
    put(zero.slots, 0, 1, **{name: 0.0})
    put(missing.slots, 0, 1, **{name: NAN})
    if name == "gradient_norm":  # measured with the health, which carries the flag of both
        put(missing.slots, 0, 1, gradient_health=NAN)
    assert bits(zero) != bits(missing)


def test_before_the_first_epoch_nothing_looks_like_a_measured_zero() -> None:
    zero = game()
    for measure in ("train_loss", "val_loss", "quality", "loss_history", "quality_history"):
        getattr(zero, measure)[:] = 0.0
    first, then = seen(game()), seen(zero)
    for name, missing, measured_zero in (("evaluated", 0, 1), ("val_loss", -1, 0), ("val_quality", -1, 0)):
        assert (first[name], then[name]) == (missing, measured_zero)
    for name in ("loss_history", "quality_history"):
        assert first[name] == [-1] * 5
        assert then[name] == [0] * 5


@pytest.mark.parametrize(("rollbacks", "left"), [(0, 1.0), (1, 2 / 3), (2, 1 / 3), (3, 0.0)])
def test_what_is_left_of_the_governors_patience_is_seen(rollbacks: int, left: float) -> None:
    state = measured()
    state.rollbacks[:] = rollbacks
    assert seen(state)["panics_left"] == pytest.approx(left)


@pytest.mark.parametrize(("train_loss", "gap"), [(1.0, np.log(3) / 7), (np.inf, -1.0)])
def test_a_rollback_shows_what_came_back_as_it_was_measured(train_loss: float, gap: float) -> None:
    state, stats = measured(), EpochStats.empty(1, 2)
    state.train_loss[:] = train_loss
    stats.val_loss[:], stats.val_accuracy[:], stats.measure_flops[:] = 3.0, 0.15, 1.0
    governor.roll_back(state, stats, np.array([True]), facts())
    now = seen(state)
    assert now["epoch"] == 5 / 20
    assert (now["evaluated"], now["val_loss"], now["val_quality"]) == (1, np.log(4) / 7, 0.15)
    assert now["generalization_gap"] == gap, "to the training loss of the epoch that broke it"
    assert now["quality_history"] == [0.4, 0.3, 0.2, -1, -1], "what was measured before is still known"
    assert now["panics_left"] == pytest.approx(1 / 3)
    assert now["slot1.stage"] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert (now["slot1.interaction_measured"], now["slot1.counterfactual_measured"]) == (0, 0)


def test_interactions_of_three_modules_add_up_and_one_alone_has_none() -> None:
    state = game(num_slots=3)
    for slot, row in enumerate(([NAN, 1.0, 3.0], [1.0, NAN, -1.0], [3.0, -1.0, NAN])):
        put(state.slots, 0, slot, stage=Stage.HOLDING, alpha=1.0, interaction=row)
    now = seen(state, num_slots=3)
    shown = [now[f"slot{s}.interaction"] for s in range(3)]
    assert shown == [pytest.approx(np.log(1 + v) / np.log(101)) for v in (4.0, 0.0, 2.0)]
    assert [now[f"slot{s}.interaction_measured"] for s in range(3)] == [1, 1, 1]
    put(state.slots, 0, 1, interaction=[NAN] * 3)
    assert [seen(state, num_slots=3)[f"slot1.{n}"] for n in ("interaction_measured", "interaction")] == [0, 0]


def test_the_slices_tile_the_vector_and_the_space_has_every_bound() -> None:
    rows = observation.layout(facts())
    assert [row[2].start for row in rows] == [0, *[row[2].stop for row in rows[:-1]]]
    names = [feature.name for feature in SLOT_FEATURES]
    worth = ["counterfactual_measured", "contribution", "contribution_velocity", "interaction_measured"]
    assert names[names.index(worth[0]) :][:6] == [*worth, "interaction", "freshness"]
    assert [feature.name for feature in BASE_FEATURES[1:4]] == ["params_left", "compute_left", "panics_left"]
    assert len({row[0] for row in rows}) == len(rows) == len(BASE_FEATURES) + 2 * len(SLOT_FEATURES)
    low, high = observation.bounds(facts())
    assert low.shape == high.shape == (rows[-1][2].stop,)
    for _, feature, part in rows:
        assert (low[part] == feature.low).all()
        assert (high[part] == feature.high).all()
    env = rules_only()
    assert env.single_observation_space.shape == (len(env.reset(seed=0)[0][0]),)
    assert env.features["slot2.blueprint"].stop == env.single_observation_space.shape[0]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.0, 1.0, 1e3, 1e30, np.inf]))
def test_whatever_is_measured_the_observation_is_finite_and_in_bounds(seed: int, scale: float) -> None:
    rng, env, state = np.random.default_rng(seed), 4, game(4)
    for record in (state, state.slots):
        for name in record.__dataclass_fields__:
            array = getattr(record, name)
            if name != "slots" and array.dtype.kind == "f" and not name.startswith("alpha"):
                values = np.array([-1.0, 1.0, np.nan, 0.5])[rng.integers(4, size=array.shape)]
                array[:] = np.where(values == 0.5, 0.0, values * (scale if scale else 0.1))
    state.train_flops[:] = 1e30
    state.slots.stage[:] = rng.integers(0, len(Stage), size=(env, 2))
    state.rollbacks[:] = rng.integers(0, 5, size=env)
    for name, most in (("epochs_in_stage", 999), ("age", 999), ("contribution_age", 10**6), ("blueprint", 3)):
        getattr(state.slots, name)[:] = rng.integers(0, most, size=(env, 2))
    vector = observation.encode(view(state, params=1.1, compute=1e3))
    low, high = observation.bounds(facts())
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    assert ((vector >= low) & (vector <= high)).all()


def unmeasured(slots: SlotState, epochs: np.ndarray) -> EpochStats:
    """Statistics in which now and then something is missing, or not finite."""
    stats, rng = plausible(slots, epochs), np.random.default_rng(int(epochs.sum()))
    for name in ("gradient_norm", "gradient_ratio", "delta_ratio", "val_loss", "train_loss"):
        array = getattr(stats, name)
        array[rng.random(array.shape) < 0.2] = rng.choice([np.nan, np.inf])
    return stats


@pytest.mark.parametrize("reward", ["dense", "economy"])
def test_lives_with_missing_and_infinite_measurements_stay_in_the_space_and_pay_finite_rewards(
    reward: str,
) -> None:
    env = rules_only(8, script=unmeasured, reward=reward, overrides={"governor.max_panics": 99})
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(29):
        assert env.observation_space.contains(obs)
        obs, paid, *_ = env.step(wandering(env, rng, 0.6))
        assert np.isfinite(paid).all()
    assert env._state.rollbacks.min() > 1, "what is missing here breaks networks too"


def test_the_first_observation_of_an_episode_shows_that_nothing_has_happened() -> None:
    now = seen(game())
    assert (now["epoch"], now["evaluated"], now["last_success"], now["generalization_gap"]) == (0, 0, 0, 0)
    assert now["last_op"] == [0] * 6
