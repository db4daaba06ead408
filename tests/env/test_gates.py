"""Each check of each gate alone, on hand-made states, in both strictnesses."""

from typing import Any

import numpy as np
import pytest
from lives import facts, game, put

from esper_env import Gate, Stage
from esper_env.contracts.state import Ramp
from esper_env.mdp.gates import GateConfig, GateResult, judge

CHECKS = {
    Gate.G0: (("blueprint_fits",), ()),
    Gate.G1: (("probe_passed",), ()),
    Gate.G2: (
        ("trained_long_enough", "gradients_measured", "healthy", "none_exploding"),
        ("validation_gain", "gradient_ratio"),
    ),
    Gate.G3: (("alpha_rests_at_one",), ("blended_long_enough",)),
    Gate.G5: (
        ("counterfactual_measured", "gradients_measured", "healthy", "alpha_rests_at_one"),
        ("contributes",),
    ),
}
"""Gate -> checks in both modes, further checks of strict."""

GOOD: dict[Gate, dict[str, Any]] = {
    Gate.G0: {"stage": Stage.DORMANT},
    Gate.G1: {"stage": Stage.GERMINATED, "probe_passed": True},
    Gate.G2: {
        "stage": Stage.TRAINING, "epochs_in_stage": 3, "gradient_health": 0.7, "gradient_ratio": 0.1,
        "quality_at_stage_start": 0.3,
    },
    Gate.G3: {"stage": Stage.BLENDING, "alpha": 1.0, "ramp": Ramp.REST, "epochs_in_stage": 10},
    Gate.G5: {
        "stage": Stage.HOLDING, "alpha": 1.0, "contribution": 1.0, "gradient_health": 0.7,
    },
}  # fmt: skip
"""A slot that just passes in strict mode, the quality being 0.305."""

STRICT = GateConfig(mode="strict", strict_ratio=0.1)
PERMISSIVE = GateConfig()


def result(gate: Gate, config: GateConfig, **changes: Any) -> GateResult:
    state = game()
    state.quality[:] = 0.305
    values = GOOD[gate] | changes
    fits = facts().fits[None].copy()
    fits[0, 0] &= values.pop("fits", True)
    put(state.slots, 0, 0, **values)
    return judge(state, fits, config)[gate]


@pytest.mark.parametrize("gate", Gate)
def test_a_slot_that_holds_every_threshold_passes_in_both_modes(gate: Gate) -> None:
    always, strictly = CHECKS[gate]
    for config, names in ((PERMISSIVE, always), (STRICT, always + strictly)):
        judged = result(gate, config)
        assert judged.level == gate
        assert tuple(judged.checks) == names
        assert judged.passed[0, 0]
        assert judged.failed(0, 0) == ()
        assert ((judged.score >= 0) & (judged.score <= 1)).all()


NAN = float("nan")
FAILURES = [
    (Gate.G0, {"fits": False}, ("blueprint_fits",), True),
    (Gate.G1, {"probe_passed": False}, ("probe_passed",), True),
    (Gate.G2, {"epochs_in_stage": 2}, ("trained_long_enough",), True),
    (Gate.G2, {"gradient_health": 0.69}, ("healthy",), True),
    (Gate.G2, {"gradient_health": NAN}, ("gradients_measured", "healthy"), True),
    (Gate.G2, {"exploding": True}, ("none_exploding",), True),
    (Gate.G2, {"quality_at_stage_start": 0.3001}, ("validation_gain",), False),
    (Gate.G2, {"quality_at_stage_start": NAN}, ("validation_gain",), False),
    (Gate.G2, {"gradient_ratio": 0.099}, ("gradient_ratio",), False),
    (Gate.G2, {"gradient_ratio": NAN}, ("gradient_ratio",), False),
    (Gate.G3, {"alpha": 0.7}, ("alpha_rests_at_one",), True),
    (Gate.G3, {"ramp": Ramp.UP}, ("alpha_rests_at_one",), True),
    (Gate.G3, {"epochs_in_stage": 9}, ("blended_long_enough",), False),
    (Gate.G5, {"contribution": NAN}, ("counterfactual_measured",), True),
    (Gate.G5, {"gradient_health": 0.69}, ("healthy",), True),
    (Gate.G5, {"gradient_health": NAN}, ("gradients_measured", "healthy"), True),
    (Gate.G5, {"alpha": 0.7}, ("alpha_rests_at_one",), True),
    (Gate.G5, {"ramp": Ramp.DOWN}, ("alpha_rests_at_one",), True),
    (Gate.G5, {"contribution": 0.99}, ("contributes",), False),
    (Gate.G5, {"contribution": -3.0}, ("contributes",), False),
]
"""Gate, what is wrong, the checks that must fail, whether in permissive mode too."""


@pytest.mark.parametrize(("gate", "wrong", "names", "always"), FAILURES)
def test_one_thing_wrong_fails_its_own_check_alone(
    gate: Gate, wrong: dict[str, Any], names: tuple[str, ...], always: bool
) -> None:
    strict = result(gate, STRICT, **wrong)
    known = [n for n in names if n in strict.checks]
    failed = [
        n for n in strict.failed(0, 0) if not (n == "contributes" and "counterfactual_measured" in names)
    ]
    assert failed == known == list(names)
    assert not strict.passed[0, 0]
    permissive = result(gate, PERMISSIVE, **wrong)
    assert permissive.passed[0, 0] == (not always)
    assert permissive.failed(0, 0) == (names if always else ())


@pytest.mark.parametrize("gate", Gate)
def test_a_gate_passes_in_its_own_stage_only(gate: Gate) -> None:
    for stage in Stage:
        judged = result(gate, PERMISSIVE, stage=stage)
        assert judged.passed[0, 0] == (stage == GOOD[gate]["stage"])


def test_scores_tell_how_far_along_a_module_is() -> None:
    assert result(Gate.G2, PERMISSIVE, quality_at_stage_start=0.28).score[0, 0] == pytest.approx(0.5)
    assert result(Gate.G2, PERMISSIVE, quality_at_stage_start=0.4).score[0, 0] == 0
    assert result(Gate.G3, PERMISSIVE, alpha=0.7).score[0, 0] == 0.7
    assert result(Gate.G5, PERMISSIVE, contribution=2.5).score[0, 0] == 0.25
    assert result(Gate.G5, PERMISSIVE, contribution=NAN).score[0, 0] == 0
    assert result(Gate.G5, PERMISSIVE, contribution=99.0).score[0, 0] == 1


def test_every_threshold_is_read_from_the_configuration() -> None:
    loose = GateConfig(
        mode="strict", min_training_epochs=0, min_health=0, strict_gain=-9, strict_ratio=0,
        strict_blending_epochs=0, strict_contribution=-9,
    )  # fmt: skip
    poor = {
        Gate.G2: {
            "epochs_in_stage": 0,
            "gradient_health": 0.0,
            "gradient_ratio": 0.0,
            "quality_at_stage_start": 0.39,
        },
        Gate.G3: {"epochs_in_stage": 0},
        Gate.G5: {"gradient_health": 0.0, "contribution": -8.0},
    }
    for gate, values in poor.items():
        assert result(gate, loose, **values).passed[0, 0]
        assert not result(gate, STRICT, **values).passed[0, 0]


def test_slots_and_environments_are_judged_apart() -> None:
    state = game(num_envs=2)
    state.quality[:] = (0.305, 0.9)
    for env in (0, 1):
        put(state.slots, env, 1, **GOOD[Gate.G2])
    state.slots.quality_at_stage_start[1, 1] = 0.899
    judged = judge(state, np.tile(facts().fits, (2, 1, 1)), STRICT)[Gate.G2]
    assert judged.passed.tolist() == [[False, True], [False, False]]
    assert judged.failed(1, 1) == ("validation_gain",)
