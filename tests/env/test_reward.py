"""Every term of the reward by hand."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from lives import facts, game, put

from esper_env import REWARD_MODES, Op, Stage, StepChange
from esper_env.contracts.state import REWARD_TERMS, SlotState
from esper_env.mdp import reward
from esper_env.mdp.prices import RewardConfig

NAN = float("nan")
HORIZON = 20


def in_slot_1(values: dict[str, Any] | None) -> SlotState:
    slots = game().slots
    put(slots, 0, 1, **(values or {}))
    return slots


def step_change(**values: Any) -> StepChange:
    """A step of one environment in which nothing happens but what is named."""
    nothing = {name: game().slots for name in ("before", "trained", "after")}
    nothing |= {"quality_before": 0.3, "quality_after": 0.3, "harvested": NAN}
    nothing |= {"compute_before": 0.0, "compute_after": 0.0}
    nothing |= {"op": int(Op.WAIT), "terminated": False, "panicked": False}
    given = nothing | values
    return StepChange(**{name: v if isinstance(v, SlotState) else np.array([v]) for name, v in given.items()})


def terms(
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    op: Op = Op.WAIT,
    accuracy: tuple[float, float] = (0.3, 0.3),
    harvested: float | None = None,
    trained: dict[str, Any] | None = None,
    panicked: bool = False,
    **config: Any,
) -> dict[str, float]:
    """The terms of one step of which slot 1 was so before, so in the epoch, and so afterwards."""
    change = step_change(
        before=in_slot_1(before),
        trained=in_slot_1(after if trained is None else trained),
        after=in_slot_1(after),
        op=int(op),
        quality_before=accuracy[0],
        quality_after=accuracy[1],
        harvested=NAN if harvested is None else harvested,
        terminated=harvested is not None,
        panicked=panicked,
    )
    paid = reward.terms(change, facts(), RewardConfig(**config), HORIZON)
    assert tuple(paid) == REWARD_TERMS
    assert all(value.shape == (1,) for value in paid.values())
    return {name: float(value[0]) for name, value in paid.items()}


def test_a_step_in_which_nothing_happens_is_worth_nothing() -> None:
    assert terms() == dict.fromkeys(REWARD_TERMS, 0)


def test_quality_pays_a_point_a_point_and_the_harvest_what_it_has_above_the_grown_model() -> None:
    assert terms(accuracy=(0.3, 0.34))["quality"] == pytest.approx(4)
    ended = terms(accuracy=(0.3, 0.34), harvested=0.29)
    assert ended["harvest"] == pytest.approx(-5)
    assert ended["quality"] + ended["harvest"] == pytest.approx(100 * (0.29 - 0.3))


def test_the_economys_harvest_pays_a_point_a_point_above_guessing() -> None:
    assert terms(harvested=0.65, mode="economy")["harvest"] == pytest.approx(55)
    assert terms(harvested=0.05, mode="economy")["harvest"] == pytest.approx(-5), "worse than guessing"
    assert terms(accuracy=(0.2, 0.6), mode="economy") == dict.fromkeys(REWARD_TERMS, 0)


def test_both_parts_of_the_harvest_can_be_priced_together() -> None:
    ended = terms(accuracy=(0.3, 0.34), harvested=0.29, harvest=10.0, outcome=7.0)
    assert ended["harvest"] == pytest.approx(10 * (0.29 - 0.34) + 7 * (0.29 - 0.1))


def test_a_harvested_network_without_a_number_counts_as_guessing() -> None:
    ended = terms(accuracy=(0.3, 0.34), harvested=NAN)
    assert ended["quality"] + ended["harvest"] == pytest.approx(100 * (0.1 - 0.3))


def test_rent_is_logarithmic_in_all_parameters_present_at_any_alpha_and_capped() -> None:
    module = {"stage": Stage.GERMINATED, "module_params": 450, "gate_params": 50}
    assert terms(after=module)["rent"] == pytest.approx(-2 / HORIZON * np.log(1.5))
    assert terms(before=module)["rent"] == 0, "what is gone pays no more"
    huge = module | {"module_params": 50_000}
    assert terms(after=huge)["rent"] == pytest.approx(-2 / HORIZON * np.log(11))


def test_churn_prices_the_squared_change_of_alpha_of_modules_that_were_removed_too() -> None:
    module = {"stage": Stage.BLENDING, "module_params": 500}
    moved = terms(module | {"alpha": 0.2}, module | {"alpha": 0.6})
    assert moved["churn"] == pytest.approx(-0.2 * 0.4**2 * 0.5)
    removed = terms(module | {"alpha": 0.8}, {"stage": Stage.PRUNED})
    assert removed["churn"] == pytest.approx(-0.2 * 0.8**2 * 0.5)
    huge = module | {"module_params": 8000}
    assert terms(huge | {"alpha": 1.0}, {"stage": Stage.PRUNED})["churn"] == -1
    assert terms(module | {"alpha": 0.2}, module | {"alpha": 0.2})["churn"] == 0


def test_churn_of_all_slots_is_summed_before_it_is_capped() -> None:
    before, after = game().slots, game().slots
    for slot, size in enumerate((2000, 2500)):
        put(before, 0, slot, module_params=size, alpha=0.0)
        put(after, 0, slot, module_params=size, alpha=1.0)
    change = step_change(before=before, trained=after, after=after)
    assert reward.terms(change, facts(), RewardConfig(), HORIZON)["churn"][0] == pytest.approx(-0.9)


def test_what_the_governor_prunes_is_charged_as_a_rollback_and_not_as_churn() -> None:
    blended = {"stage": Stage.BLENDING, "module_params": 500, "alpha": 0.6}
    grew = terms(blended | {"alpha": 0.2}, {"stage": Stage.PRUNED}, trained=blended, panicked=True)
    assert grew["churn"] == pytest.approx(-0.2 * 0.4**2 * 0.5), "the agent's own ramp alone"
    assert grew["rent"] == pytest.approx(-2 / HORIZON * np.log(1.5)), "it was there in the epoch"
    assert grew["rollback"] == -10
    assert grew["shaping"] == pytest.approx(-0.3 * 3.5), "its potential is given back"
    assert terms(panicked=True, rollback=2.5)["rollback"] == -2.5


HELD, FOSSIL = {"stage": Stage.HOLDING, "credit": 5.0}, {"stage": Stage.FOSSILIZED, "credit": 5.0}


def credit(before: dict[str, Any], after: dict[str, Any], **more: Any) -> float:
    return terms(before, after, mode="economy", **more)["credit"]


def test_credit_is_paid_as_it_is_won_and_all_of_it_is_lost_at_the_end() -> None:
    assert credit({}, HELD) == 5
    assert credit(HELD, HELD | {"credit": 3.5}) == -1.5
    assert credit(HELD, FOSSIL) == 0, "committing keeps the value"
    assert credit(HELD, {"stage": Stage.PRUNED}) == -5
    for held in (HELD, FOSSIL):
        assert credit(held, held | {"credit": 6.0}, harvested=0.3) == -5


def test_where_credit_is_kept_the_end_takes_what_was_not_fossilized() -> None:
    assert credit(HELD, FOSSIL, harvested=0.3, credit_at_end="kept") == 0
    assert credit(FOSSIL, FOSSIL, harvested=0.3, credit_at_end="kept", gamma=0.9) == pytest.approx(-0.5)
    assert credit(HELD, HELD | {"credit": 6.0}, harvested=0.3, credit_at_end="kept") == -5


def test_credit_is_discounted_like_any_potential_and_has_a_price() -> None:
    assert credit(HELD, HELD | {"credit": 6.0}, gamma=0.9) == pytest.approx(0.9 * 6 - 5)
    assert credit(HELD, HELD, harvested=0.3, gamma=0.9) == -5
    assert terms(after=HELD, mode="economy", credit=0.5)["credit"] == 2.5
    assert terms(after=HELD)["credit"] == 0, "free of charge in the other modes"


@pytest.mark.parametrize("op", Op)
def test_ops_cost_what_the_rules_say(op: Op) -> None:
    prices = {"GERMINATE": 0.15, "PRUNE": 0.05, "SET_ALPHA_TARGET": 0.005, "FOSSILIZE": 0.01}
    assert terms(op=op)["op_cost"] == -prices.get(op.name, 0)


POTENTIALS = {"GERMINATED": 1, "TRAINING": 2, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6}


@pytest.mark.parametrize("stage", Stage)
def test_shaping_pays_the_discounted_gain_of_potential_and_takes_it_all_back_at_the_end(stage: Stage) -> None:
    held = {"stage": stage}
    phi = POTENTIALS.get(stage.name, 0)
    assert terms(after=held, gamma=0.9)["shaping"] == pytest.approx(0.3 * 0.9 * phi)
    assert terms(before=held, gamma=0.9)["shaping"] == pytest.approx(-0.3 * phi)
    assert terms(held, held, gamma=0.9)["shaping"] == pytest.approx(-0.3 * 0.1 * phi)
    assert terms(held, held, harvested=0.3, gamma=0.9)["shaping"] == pytest.approx(-0.3 * phi)


def test_the_potential_sums_over_all_slots_and_environments_stay_apart() -> None:
    slots = game(num_envs=2).slots
    put(slots, 0, 0, stage=Stage.TRAINING)
    put(slots, 0, 1, stage=Stage.HOLDING)
    put(slots, 1, 1, stage=Stage.EMBARGOED)
    assert reward.potential(slots, RewardConfig()).tolist() == [7.5, 0]


def test_every_price_is_a_field_of_the_configuration() -> None:
    module = {"stage": Stage.HOLDING, "module_params": 500, "alpha": 1.0}
    costs = {f"{op.name.lower()}_cost": 1.0 for op in list(Op)[1:]}
    for op in list(Op)[1:]:
        assert terms(op=op, **costs)["op_cost"] == -1
    worth = module | {"credit": 3.0}
    paid = terms(worth, {}, Op.PRUNE, (0.1, 0.5), 0.4, panicked=True, mode="custom")
    assert paid == dict.fromkeys(REWARD_TERMS, 0), "every term has a price that can be 0"
    assert terms(op=Op.GERMINATE, op_cost=3.0)["op_cost"] == pytest.approx(-0.45)
    assert terms(after=module, rent=4.0)["rent"] == pytest.approx(-4 / HORIZON * np.log(1.5))
    assert terms(after=module | {"module_params": 3000}, rent_cap=1.0)["rent"] == pytest.approx(
        -0.1 * np.log(2)
    )
    assert terms(module, churn=8.0, churn_cap=3.0)["churn"] == -3
    assert terms(after=module, potentials={"HOLDING": 10.0})["shaping"] == pytest.approx(3)


@pytest.mark.parametrize("mode", ["dense", "sparse", "economy"])
def test_compute_beyond_the_static_hosts_is_charged_by_its_logarithm_and_telescopes(mode: str) -> None:
    config, spent = RewardConfig(mode=mode), [0.0, 0.02, 0.1, 0.1, 1.5]
    paid = [
        reward.terms(step_change(compute_before=a, compute_after=b), facts(), config, HORIZON)["rent"][0]
        for a, b in pairwise(spent)
    ]
    assert paid[0] == pytest.approx(-2 * np.log(1.02))
    assert paid[2] == 0, "an epoch that cost what the static host's costs"
    assert sum(paid) == pytest.approx(-2 * np.log(2.5)), "2 ln(FLOPs / static FLOPs)"


COMMON = {"rent": -0.1 * np.log(1.5), "churn": -0.025, "op_cost": -0.15, "shaping": -0.6, "rollback": -10}
IN_FULL = {
    "dense": COMMON | {"quality": 10, "harvest": -5, "credit": 0},
    "sparse": COMMON | {"quality": 10, "harvest": -5, "credit": 0},
    "economy": COMMON | {"quality": 0, "harvest": 25, "credit": -2},
    "custom": dict.fromkeys(REWARD_TERMS, 0),
}


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_a_mode_is_a_set_of_prices(mode: str) -> None:
    module = {"stage": Stage.TRAINING, "module_params": 500, "alpha": 0.5, "credit": 2.0}
    later = module | {"alpha": 1.0, "credit": 4.0}
    paid = terms(module, later, Op.GERMINATE, (0.3, 0.4), 0.35, panicked=True, mode=mode)
    assert paid == pytest.approx(IN_FULL[mode])
    config = RewardConfig(mode=mode)
    assert {name: getattr(config, name) for name in REWARD_MODES[mode]} == REWARD_MODES[mode]
    assert set(REWARD_MODES[mode]) == {*REWARD_TERMS, "outcome", "compute_rent", "pay_at_end"}
