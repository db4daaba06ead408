"""What an epoch's statistics become in the state, by hand."""

from typing import Any

import numpy as np
import pytest
from lives import facts, game, put

from esper_env import Op, Stage
from esper_env.contracts.state import GameState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.mdp import record
from esper_env.mdp.attribution import Attribution
from esper_env.mdp.record import RecordConfig

NAN = float("nan")


def nothing(num_envs: int = 1, num_slots: int = 2) -> Attribution:
    """No module was live."""
    per_slot = (num_envs, num_slots)
    shapes = (per_slot, (*per_slot, num_slots), per_slot, per_slot, num_envs, num_envs)
    return Attribution(*(np.full(shape, NAN) for shape in shapes))


def epoch(state: GameState, played: list[bool] | None = None, **values: Any) -> None:
    """One epoch in which these things were measured at (environment 0, slot 0), or in environment 0."""
    stats, worth = EpochStats.empty(*state.slots.stage.shape), nothing(*state.slots.stage.shape)
    for name, value in values.items():
        array = getattr(worth if hasattr(worth, name) else stats, name)
        array[(0,) * array.ndim] = value
    playing = np.array(played) if played else np.ones(len(state.epoch), dtype=bool)
    record.observe(state, stats, worth, playing, facts(), RecordConfig())


@pytest.mark.parametrize(
    ("vanishing", "exploding", "health"),
    [(0, 0, 1.0), (0.5, 0, 0.75), (0, 0.25, 0.8), (1, 0.5, 0.1), (1, 1, 0.0), (0.25, 1, 0.075)],
)
def test_health_is_one_less_half_the_vanishing_and_four_fifths_of_the_exploding_share(
    vanishing: float, exploding: float, health: float
) -> None:
    state = game()
    epoch(state, vanishing_share=vanishing, exploding_share=exploding)
    assert state.slots.gradient_health[0, 0] == pytest.approx(health, abs=1e-15)
    assert state.slots.vanishing[0, 0] == (vanishing > 0)
    assert state.slots.exploding[0, 0] == (exploding > 0)
    assert np.isnan(state.slots.gradient_health[0, 1]), "the other slot was not measured"


def test_the_gradient_ratio_averages_from_its_first_clipped_value_and_rests_while_unmeasured() -> None:
    state, seen = game(), []
    for value in (2.0, 4.0, NAN, 50.0, np.inf, 0.0):
        epoch(state, gradient_ratio=value, vanishing_share=NAN if np.isnan(value) else 0.0)
        seen.append(state.slots.gradient_ratio[0, 0])
    third = 0.9 * 2.2 + 0.1 * 10
    fourth = 0.9 * third + 0.1 * 10
    assert seen == pytest.approx([2.0, 0.9 * 2 + 0.1 * 4, 2.2, third, fourth, 0.9 * fourth])
    assert np.isnan(state.slots.gradient_ratio[0, 1])


def test_norm_health_and_delta_are_missing_again_when_they_are_not_measured_again() -> None:
    state = game()
    names = ("gradient_norm", "delta_ratio")
    epoch(state, gradient_norm=3.0, delta_ratio=0.5, vanishing_share=0, exploding_share=1)
    assert [getattr(state.slots, n)[0, 0] for n in names] == [3.0, 0.5]
    epoch(state)
    assert all(np.isnan(getattr(state.slots, n)[0, 0]) for n in (*names, "gradient_health"))
    assert not state.slots.exploding[0, 0]


def test_a_contribution_keeps_its_last_value_ages_and_has_a_velocity_once_measured_twice() -> None:
    state, seen = game(), []
    for value in (NAN, 3.0, 5.0, NAN, NAN, 4.0):
        epoch(state, contribution=value)
        slots = state.slots
        seen += [(slots.contribution[0, 0], slots.contribution_velocity[0, 0], slots.contribution_age[0, 0])]
    assert np.isnan(seen[0][:2]).all()
    assert seen[1][::2] == (3.0, 0)
    assert np.isnan(seen[1][1])
    assert seen[2] == (5.0, 2.0, 0)
    assert seen[3:5] == [(5.0, 2.0, 1), (5.0, 2.0, 2)]
    assert seen[5] == pytest.approx((4.0, 0.7 * 2.0 + 0.3 * -1.0, 0))


def test_interactions_and_shapley_values_hold_for_the_last_epoch_alone() -> None:
    state = game()
    put(state.slots, 0, 0, stage=Stage.HOLDING, alpha=1.0)
    epoch(state, contribution=3.0, interaction=2.0, shapley=1.5, shapley_error=0.25, joint=4.0, committed=0.3)
    told = record.attribution(state)
    shown = {name: values[0].tolist() for name, values in told.items()}
    assert shown["committed"] == 30.0
    assert shown["joint"] == 4.0
    assert [shown[name][0] for name in ("contribution", "shapley", "shapley_error")] == [3.0, 1.5, 0.25]
    assert shown["interaction"][0][0] == 2.0
    epoch(state)
    assert state.slots.contribution[0, 0] == 3.0, "the last contribution is remembered"
    for name, values in record.attribution(state).items():
        assert np.isnan(values).all(), f"{name} was not measured in this epoch"


def test_histories_hold_the_last_five_newest_first() -> None:
    state = game()
    for n in range(1, 8):
        epoch(state, val_loss=float(n), val_accuracy=n / 10)
        expected = [float(k) for k in range(n, max(n - 5, 0), -1)] + [NAN] * max(5 - n, 0)
        np.testing.assert_array_equal(state.loss_history[0], expected)
        np.testing.assert_allclose(state.quality_history[0], np.array(expected) / 10, rtol=1e-15)
    assert state.epoch[0] == 7


def test_quality_is_the_accuracy_or_for_language_the_share_of_the_loss_of_guessing_saved() -> None:
    loss, accuracy = np.array([1.0, 1.0, NAN]), np.array([0.4, NAN, NAN])
    quality = record.quality(loss, accuracy, facts())
    assert quality[:2] == pytest.approx([0.4, 1 - 1 / np.log(10)])
    assert np.isnan(quality[2])
    harvest = HarvestStats(loss, accuracy, np.zeros(3), np.ones(3))
    np.testing.assert_array_equal(record.harvested(harvest, facts()), quality)


def test_what_did_not_play_keeps_its_state() -> None:
    state = game(num_envs=2)
    put(
        state.slots,
        0,
        0,
        contribution=1.0,
        contribution_age=4,
        interaction=[NAN, 2.0],
        shapley=3.0,
        shapley_error=0.0,
        gradient_norm=2.0,
        gradient_health=0.5,
        probe_passed=True,
    )
    before = state.slots.copy()
    stats = EpochStats.empty(2, 2)
    stats.val_loss[1], stats.val_accuracy[1], stats.train_flops[:] = 1.0, 0.2, 5.0
    worth = nothing(2)
    for measures in (worth.contribution, worth.interaction, worth.shapley, worth.joint, worth.committed):
        measures[1] = 0.5
    record.observe(state, stats, worth, np.array([False, True]), facts(), RecordConfig())
    record.acted(state, np.array([Op.PRUNE, Op.PRUNE]), np.array([True, True]), np.array([False, True]))
    for name in before.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(state.slots, name)[0], getattr(before, name)[0], err_msg=name)
    assert state.epoch.tolist() == [0, 1]
    assert state.train_flops.tolist() == [0, 5]
    assert state.quality.tolist() == [0.1, 0.2]
    assert np.isnan([state.val_loss[0], state.committed_quality[0], state.joint_value[0]]).all()
    assert (state.committed_quality[1], state.joint_value[1]) == (0.5, 0.5)
    assert state.last_op.tolist() == [-1, Op.PRUNE]
    assert state.last_success.tolist() == [False, True]


def test_flops_add_up_and_a_failed_probe_is_kept() -> None:
    state = game()
    epoch(state, train_flops=3.0, measure_flops=1.0, counterfactual_flops=0.5, probe_passed=True)
    epoch(state, train_flops=4.0, measure_flops=2.0, counterfactual_flops=0.25, probe_passed=False)
    assert (state.train_flops[0], state.measure_flops[0], state.counterfactual_flops[0]) == (7.0, 3.0, 0.75)
    costs = record.ledger(state, facts())
    assert {name: cost[0] for name, cost in costs.items()} == {
        "params": 1000, "train_flops": 7, "measure_flops": 3, "counterfactual_flops": 0.75,
    }  # fmt: skip
    assert not state.slots.probe_passed[0, 0]


def test_what_diverged_was_measured_all_the_same() -> None:
    state = game()
    epoch(state, gradient_norm=NAN, gradient_ratio=NAN, vanishing_share=0.0, exploding_share=1.0)
    assert state.slots.gradient_norm[0, 0] == np.inf
    assert state.slots.gradient_ratio[0, 0] == 10.0
    assert state.val_loss[0] == np.inf, "the epoch's loss is NaN here: it did not stay unmeasured"


def test_a_language_model_whose_loss_is_no_number_guesses() -> None:
    state = game()
    epoch(state, val_loss=NAN, val_accuracy=NAN)
    assert state.quality[0] == state.quality_history[0, 0] == facts().chance_quality
