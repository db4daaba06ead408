"""Blueprints that draw from torch's own generators draw what belongs to their environment and epoch."""

import numpy as np
import pytest
import torch
from engines import APART, ENGINES
from lives import play
from plain import WAIT, grow, same, started, tiny, trajectory, weights
from test_state import bits, seen
from torch import nn

from esper_env import Op, Style, encode
from esper_env.blueprints import catalogue


class Noisy(nn.Module):
    """Dropout and noise from torch's own generator, noise in eval mode too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Dropout2d(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y + 0.01 * torch.randn_like(y)


def noisy(monkeypatch: pytest.MonkeyPatch) -> int:
    """Register a blueprint that draws; its index."""
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    return catalogue.register_blueprint("noisy", {"cnn": lambda place: Noisy(place.channels)})


@pytest.mark.parametrize("engine", APART)
def test_what_a_blueprint_draws_is_its_own_environments_and_repeatable(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = noisy(monkeypatch)
    torch.manual_seed(1)
    torch_state = torch.random.get_rng_state()
    scripts = [[*grow(s, Style.GATED, index), encode(Op.FOSSILIZE, slot=s)] for s in (0, 1)]
    batch = tiny(2, engine=engine, horizon=11)
    shown = trajectory(batch, scripts, seed=10)
    end = batch.step(np.stack([WAIT, WAIT]))[-1]
    for e, script in enumerate(scripts):
        alone = tiny(1, engine=engine, horizon=11)
        torch.rand(3 + e)
        assert trajectory(alone, [script], seed=10 + e)[0] == shown[e]
        info = alone.step(WAIT[None])[-1]
        for name in ("harvest_loss", "test_loss"):
            assert end[name][e] == info[name][0]
        assert same(weights(alone._engine.life(0).model), weights(batch._engine.life(e).model))
    torch.random.set_rng_state(torch_state)
    batch.reset(seed=0)
    play(batch, [encode(Op.GERMINATE, slot=2, blueprint=index), *[WAIT] * 10])
    assert torch.equal(torch.random.get_rng_state(), torch_state), "the global generator is left alone"


def test_every_epoch_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    index, drawn = noisy(monkeypatch), []
    env, life = started()
    play(env, grow(0, Style.LINEAR_ADD, index)[:2])
    forward = nn.Dropout2d.forward
    monkeypatch.setattr(nn.Dropout2d, "forward", lambda self, x: drawn.append(forward(self, x) == 0) or x)
    for _ in range(2):
        life.train()
    assert len(drawn) == 4
    assert not any(torch.equal(drawn[i], drawn[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_blueprint_draws_goes_on_where_a_state_left_it(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = noisy(monkeypatch)
    env, other = tiny(engine=engine), tiny(engine=engine)
    env.reset(seed=1)
    play(env, grow(0, Style.LINEAR_ADD, index)[:3])
    other.set_state(0, env.get_state(0))
    torch.rand(7)
    for _ in range(2):
        assert seen(other, WAIT) == seen(env, WAIT)
    assert bits(other.get_state(0)) == bits(env.get_state(0))
