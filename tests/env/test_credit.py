"""The economy's credit of one step: tempered, for every slot, kept by fossils."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import game, put

from esper_env import Stage
from esper_env.contracts.state import GameState
from esper_env.mdp.credit import appraise, tempered
from esper_env.mdp.prices import RewardConfig

NAN = float("nan")


@pytest.mark.parametrize(
    ("contribution", "gained", "value"),
    [
        (-3.0, 5.0, -3.0),
        (-3.0, NAN, -3.0),
        (-3.0, -5.0, -3.0),
        (4.0, NAN, 2.0),
        (4.0, 0.0, 0.0),
        (4.0, -1.0, 0.0),
        (4.0, 10.0, 4.0),
        (4.0, 4.0, 4.0),
        (12.0, 4.0, 6.0),
        (1000.0, 4.0, 8000 / 1004),
        (0.0, 5.0, 0.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_a_contribution_is_held_against_what_was_gained(
    contribution: float, gained: float, value: float
) -> None:
    assert tempered(np.array([contribution]), np.array([gained])) == pytest.approx([value])


@settings(derandomize=True, deadline=None)
@given(st.floats(0, 100), st.floats(0, 100))
def test_help_never_counts_more_than_itself_or_twice_the_gain_and_more_gain_never_lowers_it(
    contribution: float, gained: float
) -> None:
    value, more = tempered(np.full(2, contribution), np.array([gained, gained + 1]))
    assert 0 <= value <= min(contribution, 2 * gained) + 1e-9
    assert value <= more + 1e-9


def credits(state: GameState, **config: object) -> list[float]:
    appraise(state, RewardConfig(mode="economy", **config))
    return state.slots.credit[0].tolist()


def two_modules(**second: object) -> GameState:
    """Modules contributing 4 and 6 points, planted at 20% and 30%, now at 50%."""
    state = game()
    state.quality[:] = 0.5
    held = {"stage": Stage.HOLDING, "alpha": 1.0}
    put(state.slots, 0, 0, **held, contribution=4.0, quality_at_germination=0.2)
    put(state.slots, 0, 1, **held | {"contribution": 6.0, "quality_at_germination": 0.3} | second)
    return state


def test_every_live_slot_is_credited() -> None:
    assert credits(two_modules()) == [4, 6]
    assert credits(two_modules(contribution=60.0)) == [4, pytest.approx(2 * 20 * 60 / 80)]


def test_help_counts_for_and_harm_against() -> None:
    assert credits(two_modules(contribution=-6.0)) == [4, -6]


def test_interaction_counts_from_exactly_two_live_modules_on() -> None:
    state = two_modules()
    state.slots.interaction[0, 0, 1] = state.slots.interaction[0, 1, 0] = 3.0
    bonus = 0.1 * np.tanh(1.5)
    assert credits(state) == pytest.approx([4 + bonus, 6 + bonus])
    state.slots.interaction[0, 0, 1] = state.slots.interaction[0, 1, 0] = -3.0
    assert credits(state) == pytest.approx([4 - bonus, 6 - bonus])
    assert credits(state, interaction_bonus=1.0, interaction_scale=6.0) == pytest.approx(
        [4 - np.tanh(0.5), 6 - np.tanh(0.5)]
    )
    assert credits(state, interaction_bonus=0.0) == [4, 6]


def test_a_third_module_adds_its_interaction_to_the_sum() -> None:
    state = game(num_slots=3)
    state.quality[:] = 0.5
    for slot in range(3):
        put(
            state.slots, 0, slot, stage=Stage.HOLDING, alpha=1.0, contribution=4.0, quality_at_germination=0.1
        )
    state.slots.interaction[0] = [[NAN, 1.0, -4.0], [1.0, NAN, 0.5], [-4.0, 0.5, NAN]]
    sums = np.array([-3.0, 1.5, -3.5])
    assert credits(state) == pytest.approx(4 + 0.1 * np.tanh(sums / 2))


def test_a_fossil_keeps_the_value_it_had() -> None:
    fossil = two_modules(stage=Stage.FOSSILIZED, credit=2.5)
    assert credits(fossil) == [4, 2.5]


@pytest.mark.parametrize("stage", [Stage.DORMANT, Stage.GERMINATED, Stage.TRAINING, Stage.PRUNED])
def test_what_does_not_influence_the_host_is_worth_nothing(stage: Stage) -> None:
    assert credits(two_modules(stage=stage, alpha=0.0, credit=6.0)) == [4, 0]


def test_a_live_module_that_was_not_measured_is_worth_nothing_yet() -> None:
    assert credits(two_modules(contribution=NAN)) == [4, 0]


def test_shapley_values_are_the_basis_where_they_were_measured() -> None:
    state = two_modules()
    state.slots.shapley[0] = [1.0, NAN]
    assert credits(state) == [1, 6]
    assert credits(state, credit_basis="contribution") == [4, 6]
