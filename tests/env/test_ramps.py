"""Ramps of any length follow their curve, tick by tick, to the last bit."""

import numpy as np
import pytest
from lives import game, put

from esper_env import Stage
from esper_env.contracts.action import Curve
from esper_env.contracts.state import Ramp
from esper_env.mdp.transition import TABULATED, LifecycleConfig, tick
from esper_env.slots.schedule import progress


@pytest.mark.parametrize("total", [1, 5, TABULATED, TABULATED + 1, 3 * TABULATED])
def test_alpha_is_on_its_curve_after_every_tick(total: int) -> None:
    """All five curves at once, from 0.25 up to 0.8 in one slot and down to 0.1 in the other."""
    config, quality = LifecycleConfig(), np.zeros(len(Curve))
    state = game(len(Curve), 2)
    for env, curve in enumerate(Curve):
        for slot, (way, target) in enumerate(((Ramp.UP, 0.8), (Ramp.DOWN, 0.1))):
            put(state.slots, env, slot, stage=Stage.BLENDING, alpha=0.25, alpha_start=0.25)
            put(state.slots, env, slot, alpha_target=target, ramp=way, ramp_curve=curve, ramp_total=total)
    start, target = state.slots.alpha_start.copy(), state.slots.alpha_target.copy()
    curves = state.slots.ramp_curve.copy()
    for done in range(1, total + 1):
        before = state.slots.copy()
        tick(state.slots, before, quality, config)
        share = np.full(curves.shape, done / total)
        expected = start + (target - start) * progress(curves, share, config.sigmoid_steepness)
        expected = target if done == total else expected
        assert state.slots.alpha.tobytes() == expected.tobytes(), done
        assert state.slots.alpha_velocity.tobytes() == (expected - before.alpha).tobytes()
    assert (state.slots.ramp == Ramp.REST.value).all()


def test_ramps_of_different_length_do_not_disturb_each_other() -> None:
    """One beyond the table and one within: the short one arrives on its own tick."""
    state = game(2, 1)
    for env, total in enumerate((3, 2 * TABULATED)):
        put(state.slots, env, 0, stage=Stage.BLENDING, alpha_target=1.0, ramp=Ramp.UP, ramp_total=total)
    for _ in range(4):
        tick(state.slots, state.slots.copy(), np.zeros(2), LifecycleConfig())
    assert state.slots.alpha[:, 0].tolist() == [1.0, 4 / (2 * TABULATED)]
    assert state.slots.ramp_done[:, 0].tolist() == [3, 4]
