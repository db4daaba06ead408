"""The economy's credit as a potential: it says early what the outcome pays, and adds nothing to a return."""

import numpy as np
import pytest
from economies import (
    DUPLICATES,
    HORIZON,
    JOINT,
    WAIT,
    committing,
    economy,
    fickle,
    live_pair,
    to_the_end,
    worth,
)
from laws import KEPT, MODES, Lives, live
from lives import GROW, rules_only
from numpy.typing import NDArray
from plain import tiny
from scripted import SLOTS, Agent, View, grower, wait, wanderer

from esper_env import Op, Stage, encode
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats

CONV_LIGHT, NORM = 1, 3
MANY = 48


def breaking(slots: SlotState, epochs: NDArray[np.int64]) -> EpochStats:
    """In a third of the environments many epochs break the network, in a third some, in a third none."""
    stats, row = fickle(slots, epochs), np.arange(len(epochs))
    stats.finite = (row % 3 == 0) | ((epochs + row) % np.where(row % 3 == 1, 7, 17) != 6)
    return stats


@pytest.fixture(scope="module", params=[None, 0.7], ids=["horizon", "compute budget"])
def lives(request: pytest.FixtureRequest) -> Lives:
    """Random legal lives that prune, commit, roll back, and end in each way there is."""
    env = rules_only(
        MANY,
        breaking,
        horizon=40,
        autoreset_mode="NextStep",
        compute_budget=request.param,
        auto_advance=["G1", "G2", "G3"],
    )
    rng, drawn = np.random.default_rng(5), []

    def agent(row: int) -> Agent:
        def act(view: View) -> NDArray[np.int64]:
            if view.step == len(drawn):
                drawn.append(committing(env, rng))
            return drawn[view.step][row]

        return act

    return live(env, [agent(row) for row in range(MANY)], 3)


def held(lives: Lives) -> NDArray[np.float64]:
    """(step, env): credit of all slots."""
    return np.array([change.after.credit.sum(axis=1) for change in lives.changes])


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_over_any_life_credit_sums_to_nothing(lives: Lives, gamma: float) -> None:
    assert np.abs(lives.sums("economy", gamma)["credit"]).max() < 1e-9
    length = np.sum(lives.played, axis=0)
    assert (np.abs(held(lives)).max(axis=0) > 0.1).mean() > 0.5, "most hold some on their way"
    assert (lives.stages() == Stage.PRUNED).any()
    assert (lives.stages()[length - 1, np.arange(MANY)] == Stage.FOSSILIZED).any()
    assert set(lives.panics.tolist()) >= {0, 3}, "some end with the third panic, some never break"
    assert length.min() < length.max() in (28, 40)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_where_it_is_kept_it_sums_to_what_the_fossils_hold_at_the_end(lives: Lives, gamma: float) -> None:
    last, every = np.sum(lives.played, axis=0) - 1, np.arange(MANY)
    credit = np.array([change.after.credit for change in lives.changes])[last, every]
    kept = np.where(lives.stages()[last, every] == Stage.FOSSILIZED, credit, 0.0).sum(axis=1)
    paid = lives.sums("economy", gamma, **KEPT)["credit"]
    np.testing.assert_allclose(paid, gamma ** (last + 1) * kept, atol=1e-9)
    assert kept.min() < 0 < kept.max()


def the_same(lives: Lives) -> None:
    """Every mode returns the harvested quality won in points, less what it cost."""
    expected = lives.points("harvest") - 10 + lives.costs()
    for mode in MODES:
        np.testing.assert_allclose(lives.returns(mode), expected, atol=1e-9)


def test_without_a_discount_every_mode_returns_the_same_for_the_same_life(lives: Lives) -> None:
    the_same(lives)
    assert np.ptp(lives.points("harvest")) > 1


def test_and_so_does_a_life_of_real_networks() -> None:
    env = tiny(5, {"engine.epoch_size": 64}, autoreset_mode="NextStep")
    scripts = [grower(CONV_LIGHT), grower(NORM, SLOTS[:2], commit_at=17), wanderer(1), wanderer(2), wait]
    real = live(env, scripts, 4)
    the_same(real)
    assert np.abs(held(real)).max() > 1


def test_with_a_discount_economy_pays_later_what_dense_pays_as_it_is_won(lives: Lives) -> None:
    gamma = 0.9
    dense, sparse, economy_ = (lives.returns(mode, gamma) for mode in MODES)
    np.testing.assert_allclose(sparse, dense, atol=1e-9)
    last = np.sum(lives.played, axis=0) - 1
    waits = np.zeros(MANY)
    for step, (change, played) in enumerate(zip(lives.changes, lives.played, strict=True)):
        won = 100 * (change.quality_after - change.quality_before)
        waits += np.where(played, (gamma**last - gamma**step) * won, 0.0)
    np.testing.assert_allclose(economy_ - dense, waits, atol=1e-9)
    assert np.abs(waits).max() > 1


FIRST, SECOND = encode(Op.FOSSILIZE, slot=0), encode(Op.FOSSILIZE, slot=1)
PRUNE = encode(Op.PRUNE, slot=1, alpha_speed=0)
ENDINGS = {"both": [FIRST, SECOND], "one": [FIRST], "partner pruned": [FIRST, PRUNE], "none": []}
WON = {
    "xor": {"both": JOINT, "one": 0, "partner pruned": 0, "none": 0},
    "duplicates": {"both": JOINT, "one": JOINT, "partner pruned": JOINT, "none": 0},
    "additive": {"both": JOINT, "one": 0.6 * JOINT, "partner pruned": 0.6 * JOINT, "none": 0},
    "harmful": {"both": -JOINT, "one": -0.6 * JOINT, "partner pruned": -0.6 * JOINT, "none": 0},
}
"""What the harvested network is worth beyond its host, in points."""


@pytest.mark.parametrize("basis", ["contribution", "shapley"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", WON)
def test_a_pair_is_paid_the_quality_that_it_leaves_behind(name: str, ending: str, basis: str) -> None:
    env = live_pair(name, basis, bonus=0.1)
    assert to_the_end(env, *ENDINGS[ending]) == pytest.approx(0, abs=1e-9)
    outcome = 100 * float(env._engine.harvest(np.array([True])).val_accuracy[0])
    assert outcome == pytest.approx(50 + WON[name][ending])


MEMORY = 20.0
COMMITTED_IN = (9, 20, HORIZON - 1)
"""As early as it may be, later, and in the last step."""


def committed_in(step: int, at_end: str) -> tuple[float, float]:
    """Credit and return of a life that plants one module, which learns on, and fossilizes it in this step."""
    env = economy(worth(DUPLICATES, MEMORY), "shapley", at_end=at_end)
    credit = paid = 0.0
    for action in [*GROW, *[WAIT] * (step - len(GROW)), FIRST, *[WAIT] * (HORIZON - step - 1)]:
        _, reward, _, _, info = env.step(action[None])
        assert info["action_valid"][0]
        credit, paid = credit + info["reward_terms"]["credit"][0], paid + reward[0]
    assert env._terminated[0]
    return credit, paid


def test_when_a_module_is_fossilized_changes_nothing_in_what_the_same_network_pays() -> None:
    credit, paid = zip(*(committed_in(step, "lost") for step in COMMITTED_IN), strict=True)
    assert credit == pytest.approx([0] * 3, abs=1e-9)
    assert paid == pytest.approx([paid[0]] * 3, abs=1e-9)


def test_where_credit_is_kept_waiting_with_it_pays() -> None:
    credit, _ = zip(*(committed_in(step, "kept") for step in COMMITTED_IN), strict=True)
    assert credit == pytest.approx([JOINT * (1 - np.exp(-step / MEMORY)) for step in COMMITTED_IN])
