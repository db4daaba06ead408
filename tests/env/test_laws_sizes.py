"""Laws of what is charged: no parameter is hidden, every slot counts alike, and no cost ever pays."""

import dataclasses

import numpy as np
import pytest
from laws import KEPT, MODES, Lives, live
from lives import rules_only
from plain import tiny
from scripted import SLOTS, Agent, View, churner, grower, wait

from esper_env import EsperVectorEnv, Stage, Style
from esper_env.contracts.state import SlotState
from esper_env.mdp import reward
from esper_env.mdp.prices import RewardConfig

CONV_LIGHT, ATTENTION = 1, 2


HORIZON = 24
SLOT_FIELDS = ("before", "trained", "after")


def counted(env: EsperVectorEnv, row: int) -> int:
    """Parameters of a network as torch holds it, modules that are not in the graph included."""
    return sum(parameter.numel() for parameter in env._engine.life(row).model.parameters())


def test_rent_and_ledger_count_every_parameter_in_every_stage_and_at_every_alpha() -> None:
    env = tiny(2, horizon=HORIZON)
    agents = [grower(CONV_LIGHT, style=Style.GATED), churner(ATTENTION, 9, speed=3, style=Style.GATED)]
    sizes: dict[int, list[int]] = {0: [], 1: []}

    def counting(row: int) -> Agent:
        def act(view: View) -> np.ndarray:
            sizes[row].append(counted(env, row))
            assert env.ledger()["params"][row] == sizes[row][-1]
            return agents[row](view)

        return act

    lives = live(env, [counting(0), counting(1)], 0)
    real = np.array([sizes[0], sizes[1]]).T
    # The agent of step t + 1 sees the network of step t; the last one is harvested before it can be counted.
    for change, size in zip(lives.changes[:-1], real[1:], strict=True):
        rent = reward.terms(change, env.facts, RewardConfig(compute_rent=0), HORIZON)["rent"]
        np.testing.assert_allclose(rent, -2 / HORIZON * np.log(size / real[0]), atol=1e-12)
    alphas = np.array([change.after.alpha for change in lives.changes])
    assert {*Stage} - {*lives.stages().ravel()} == set()
    assert len(set(alphas[(alphas > 0) & (alphas < 1)].round(6))) > 5


def permuted(slots: SlotState, order: list[int]) -> SlotState:
    moved = slots.copy()
    for field in dataclasses.fields(slots):
        value = getattr(slots, field.name)[:, order]
        setattr(moved, field.name, value[..., order] if field.name == "interaction" else value)
    return moved


def test_every_slot_counts_alike_in_every_term() -> None:
    env = rules_only(1)
    lives = live(env, churner(CONV_LIGHT, 14, speed=1), 0)
    worth = {name: 0 for name in lives.sums("economy")}
    for config in (*(RewardConfig(mode=mode) for mode in MODES), RewardConfig(mode="economy", **KEPT)):
        for change in lives.changes:
            paid = reward.terms(change, env.facts, config, 30)
            for order in ([1, 2, 0], [2, 1, 0]):
                slots = {name: permuted(getattr(change, name), order) for name in SLOT_FIELDS}
                moved = reward.terms(dataclasses.replace(change, **slots), env.facts, config, 30)
                assert {name: value[0] for name, value in moved.items()} == pytest.approx(
                    {name: value[0] for name, value in paid.items()}, abs=1e-12
                )
            worth |= {name: worth[name] + abs(value[0]) for name, value in paid.items()}
    assert all(worth[name] > 0 for name in ("rent", "churn", "shaping", "credit"))


@pytest.mark.parametrize("slot", SLOTS)
def test_a_module_in_any_slot_alone_is_charged_shaped_and_credited(slot: int) -> None:
    lives = live(rules_only(2), [grower(CONV_LIGHT, (slot,)), wait], [0, 0])
    first, second = credited(lives).T
    assert np.abs(first).max() > 1, "on the way"
    assert first.sum() == pytest.approx(0, abs=1e-9), "all of it is lost at the end"
    assert not second.any()
    for name in ("rent", "churn", "credit"):
        first, second = lives.sums("economy", **KEPT)[name]
        assert (first > 0) if name == "credit" else (first < 0)
        assert second == 0


def credited(lives: Lives) -> np.ndarray:
    """(step, env): what the economy pays for credit in every step."""
    config = RewardConfig(mode="economy")
    paid = [reward.terms(change, lives.facts, config, lives.horizon) for change in lives.changes]
    return np.array([terms["credit"] for terms in paid])


def test_costs_never_pay_and_quality_pays_forward() -> None:
    env = rules_only(2)
    lives = live(env, [churner(CONV_LIGHT, 11, speed=2), grower(CONV_LIGHT)], [0, 0])
    for change in lives.changes:
        paid = reward.terms(change, env.facts, RewardConfig(), 30)
        assert all((paid[name] <= 0).all() for name in ("rent", "churn", "op_cost", "rollback"))
        won = change.quality_after - change.quality_before
        np.testing.assert_array_equal(np.sign(paid["quality"]), np.sign(won))
    returns = {mode: lives.returns(mode) for mode in MODES}
    assert all(later > sooner for sooner, later in returns.values()), "useful fossils beat churn"
