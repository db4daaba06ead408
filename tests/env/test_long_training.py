"""Law: 50 epochs of isolated training, then a slow blend, upset no host, in any blueprint and style."""

import numpy as np
import pytest

from esper_env import EsperVectorEnv, Op, Style, encode

TRAINED, BLENDED = 50, 8
CNN_BLUEPRINTS = range(1, 8)


def upsets(losses: np.ndarray) -> np.ndarray:
    """(epoch,): above 3 times the mean, and above mean + 6 sigma, of the 20 epochs before."""
    found = np.zeros(len(losses), dtype=bool)
    for epoch in range(10, len(losses)):
        window = losses[max(0, epoch - 20) : epoch]
        found[epoch] = losses[epoch] > max(3 * window.mean(), window.mean() + 6 * window.std())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("blueprint", CNN_BLUEPRINTS)
def test_a_long_isolation_and_a_slow_blend_upset_no_host(blueprint: int) -> None:
    env = EsperVectorEnv(len(Style), "micro", device="cpu", horizon=200)
    slots = range(env.facts.num_slots)
    env.reset(seed=0)
    heads = {"blueprint": blueprint, "tempo": 2, "alpha_target": 2}
    plant = [[encode(Op.GERMINATE, slot=s, style=style, **heads) for style in Style] for s in slots]
    advance = [[encode(Op.ADVANCE, slot=s)] * len(Style) for s in slots]
    wait = [[encode(Op.WAIT)] * len(Style)]
    losses = []
    for actions in (*plant, *advance, *wait * TRAINED, *advance, *wait * BLENDED):
        *_, info = env.step(np.array(actions))
        assert info["action_valid"].all()
        losses.append(info["val_loss"])
    curves = np.array(losses)
    assert np.isfinite(curves).all()
    assert (env._state.slots.alpha == 1).all()
    for style, curve in zip(Style, curves.T, strict=True):
        assert not upsets(curve).any(), f"{style.name}: {np.flatnonzero(upsets(curve))}"
