"""Which variants are asked for, and what they say of each module: games by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from games import FACTS, Game, asked, drawn, planned, powerset, scripted, with_live, worth
from lives import GROW, put, rules_only
from numpy.typing import NDArray

from esper_env import EsperVectorEnv, Head, Op, Stage, encode
from esper_env.contracts.facts import HostFacts
from esper_env.contracts.stats import EpochStats
from esper_env.mdp.attribution import NOTHING, Attribution, AttributionConfig, attribute, plan

LANGUAGE = replace(FACTS, chance_quality=0.0, chance_loss=float(np.log(4096)))


@pytest.mark.parametrize("live", [(3,), (0, 4), (0, 1, 2), (1, 2, 4)])
def test_up_to_three_live_modules_every_subset_is_asked_for_once_the_whole_first(
    live: tuple[int, ...],
) -> None:
    variants = asked(planned(with_live(live)))
    assert variants[0] == frozenset(live)
    assert len(variants) == 2 ** len(live)
    assert set(variants) == powerset(live)


@pytest.mark.parametrize(("live", "lattice_up_to"), [((0, 1, 2, 3), 3), ((0, 1, 2, 3, 4), 3), ((1, 2, 4), 2)])
def test_beyond_the_lattice_each_module_is_off_once_and_all(
    live: tuple[int, ...], lattice_up_to: int
) -> None:
    variants = asked(planned(with_live(live), lattice_up_to=lattice_up_to))
    whole = frozenset(live)
    assert variants[0] == whole
    assert len(variants) == len(live) + 2
    assert set(variants) == {whole, frozenset(), *(whole - {slot} for slot in live)}


def test_rows_of_different_length_are_filled_up_and_those_without_live_modules_ask_for_nothing() -> None:
    state = with_live((), (1, 2), (0,))
    assert planned(state).subsets.tolist() == [
        [NOTHING] * 4,
        [0b110, 0b010, 0b100, 0],
        [1, 0, NOTHING, NOTHING],
    ]
    resting = plan(state, np.array([True, False, True]), AttributionConfig())
    assert resting.subsets.tolist() == [[NOTHING] * 2, [NOTHING] * 2, [1, 0]], "1 does not play"
    assert planned(with_live((), ())).subsets.shape == (2, 0)


def test_only_what_influences_the_host_and_can_still_be_removed_is_switched_off() -> None:
    state = with_live((0,))
    put(state.slots, 0, 1, stage=Stage.FOSSILIZED, alpha=1.0)
    put(state.slots, 0, 2, stage=Stage.TRAINING, alpha=0.0)
    put(state.slots, 0, 3, stage=Stage.BLENDING, alpha=0.01)
    put(state.slots, 0, 4, stage=Stage.EMBARGOED)
    chosen = planned(state)
    assert np.flatnonzero(chosen.live[0]).tolist() == [0, 3]
    assert set(asked(chosen)) == powerset((0, 3))


def test_duplicates_contribute_nothing_alone_and_share_their_value() -> None:
    """f = 40 with either or both, 30 with none: J = 10."""
    told = worth((1, 3), lambda on: 40.0 if on else 30.0)
    assert told.committed[0] == pytest.approx(0.3)
    assert told.joint[0] == pytest.approx(10)
    assert told.contribution[0, [1, 3]] == pytest.approx([0, 0], abs=1e-12)
    assert told.interaction[0, 1, 3] == told.interaction[0, 3, 1] == pytest.approx(-10)
    assert told.shapley[0, [1, 3]] == pytest.approx([5, 5])
    assert told.shapley_error[0, [1, 3]].tolist() == [0, 0]


def test_a_pair_that_works_only_together_contributes_its_value_each_and_shares_it() -> None:
    told = worth((0, 4), lambda on: 42.0 if len(on) == 2 else 30.0)
    assert told.contribution[0, [0, 4]] == pytest.approx([12, 12])
    assert told.interaction[0, 0, 4] == pytest.approx(12)
    assert told.shapley[0, [0, 4]] == pytest.approx([6, 6])


@pytest.mark.parametrize("live", [(0, 1), (2, 4), (1, 3)])
def test_exactly_two_live_modules_have_an_interaction(live: tuple[int, int]) -> None:
    told = worth(live, lambda on: 10.0 * len(on) ** 2)
    assert told.interaction[0, live[0], live[1]] == pytest.approx(20)
    assert np.isnan(told.interaction).sum() == 25 - 2


def test_beyond_the_lattice_nothing_is_said_of_pairs_nor_of_shapley_unless_asked_for() -> None:
    points = drawn(0, 5)
    told = worth((0, 1, 2, 3), points)
    whole = frozenset(range(4))
    assert told.contribution[0, 2] == pytest.approx(points(whole) - points(whole - {2}))
    assert told.joint[0] == pytest.approx(points(whole) - points(frozenset()))
    for values in (told.interaction, told.shapley, told.shapley_error):
        assert np.isnan(values).all()
    sampled = worth((0, 1, 2, 3), points, shapley_permutations=2)
    assert np.isnan(sampled.interaction).all(), "a sum of the pairs that happen to be known would be wrong"


def of_losses(live: Sequence[int], losses: Sequence[float], where: HostFacts) -> Attribution:
    chosen = planned(with_live(live))
    stats = EpochStats.empty(1, 5, chosen.subsets.shape[1])
    stats.subset_loss[0] = losses
    return attribute(chosen, stats, where)


def test_for_language_the_loss_alone_decides() -> None:
    chance = LANGUAGE.chance_loss
    told = of_losses((2,), [0.5 * chance, 0.75 * chance], LANGUAGE)
    assert told.contribution[0, 2] == told.joint[0] == told.shapley[0, 2] == pytest.approx(25)
    assert told.committed[0] == pytest.approx(0.25)


@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_a_variant_without_a_finite_loss_guesses(broken: float) -> None:
    told = of_losses((2,), [0.5 * LANGUAGE.chance_loss, broken], LANGUAGE)
    assert (told.committed[0], told.contribution[0, 2]) == pytest.approx((0, 50))
    told = of_losses((2,), [broken, 0.5 * LANGUAGE.chance_loss], LANGUAGE)
    assert (told.committed[0], told.contribution[0, 2]) == pytest.approx((0.5, -50))


def grown(
    points: Game, slots: Sequence[int], *last: NDArray[np.int64]
) -> tuple[EsperVectorEnv, NDArray[np.float32]]:
    """Modules held in these slots, one after another, then the last actions; the observation after them."""
    env = rules_only(2, scripted(points))
    env.reset(seed=0)
    actions = []
    for slot in slots:
        actions += [np.where(np.arange(8) == Head.SLOT, slot, action) for action in GROW]
    for action in (*actions, *last):
        obs, *_, info = env.step(np.stack([action, encode(Op.WAIT)]))
        assert info["action_valid"].all()
    return env, obs


def shown(env: EsperVectorEnv, obs: NDArray[np.float32], name: str) -> list[float]:
    return [float(obs[0, env.features[f"slot{slot}.{name}"]][0]) for slot in range(3)]


@pytest.mark.parametrize(
    ("points", "contribution", "interaction"),
    [
        (lambda on: 40.0 if on else 30.0, 0.0, -10.0),
        (lambda on: 40.0 if len(on) == 2 else 30.0, 10.0, 10.0),
    ],
    ids=["duplicates", "a pair that works only together"],
)
def test_environments_tell_and_observe_what_the_pair_is_worth(
    points: Game, contribution: float, interaction: float
) -> None:
    env, obs = grown(points, (0, 2))
    told = env.attribution()
    assert told["joint"][0] == pytest.approx(10)
    assert told["committed"][0] == pytest.approx(30)
    assert told["contribution"][0, [0, 2]] == pytest.approx([contribution] * 2, abs=1e-9)
    assert told["interaction"][0, 0, 2] == told["interaction"][0, 2, 0] == pytest.approx(interaction)
    assert told["shapley"][0, [0, 2]] == pytest.approx([5, 5])
    assert told["shapley_error"][0, [0, 2]].tolist() == [0, 0]
    for name, values in told.items():
        assert np.isnan(values[1]).all(), f"{name} of an environment without modules"
    scale = np.log(101)
    seen = np.sign(interaction) * np.log1p(abs(interaction)) / scale
    assert shown(env, obs, "interaction") == pytest.approx([seen, 0, seen], abs=1e-6)
    assert shown(env, obs, "interaction_measured") == [1, 0, 1]
    assert shown(env, obs, "counterfactual_measured") == [1, 0, 1]
    assert shown(env, obs, "contribution") == pytest.approx(
        [np.log1p(contribution) / scale, 0, np.log1p(contribution) / scale], abs=1e-6
    )


def test_a_fossil_is_part_of_what_the_others_are_measured_against() -> None:
    env, obs = grown(lambda on: 40.0 if on else 30.0, (0, 2), encode(Op.FOSSILIZE, slot=0))
    told = env.attribution()
    assert told["committed"][0] == pytest.approx(40)
    assert (
        told["joint"][0] == told["contribution"][0, 2] == told["shapley"][0, 2] == pytest.approx(0, abs=1e-9)
    )
    assert np.isnan([*told["contribution"][0, :2], *told["shapley"][0, :2]]).all()
    assert np.isnan(told["interaction"]).all()
    assert shown(env, obs, "interaction_measured") == [0, 0, 0]
    assert shown(env, obs, "counterfactual_measured") == [1, 0, 1], (
        "a fossil's last contribution is remembered"
    )
