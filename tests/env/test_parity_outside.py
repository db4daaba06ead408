"""Blueprints from outside run row by row, as they are; and states move between engines."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from apart import agree, trained
from engines import ENGINES, FUSED
from numpy.typing import NDArray
from parity import DOUBLE, EXACT, QUICK, Pair, small
from plain import grow
from torch import nn
from torch.nn.utils import parametrizations

from esper_env import Op, Place, Stage, Style, encode
from esper_env.blueprints import catalogue

WAIT = encode(Op.WAIT)


class Odd(nn.Module):
    """Dropout, batch norm, a buffer that counts, and weights: frozen, unused, and shared by two layers."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        width = place.channels
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.second.weight = self.first.weight
        self.frozen = nn.Conv2d(width, width, 1).requires_grad_(False)
        self.unused = nn.Linear(3, 2)
        self.norm, self.dropout = nn.BatchNorm2d(width), nn.Dropout2d(0.3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(width, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
            self.mean += 0.1 * (x.detach().mean((0, 2, 3))[:, None, None] - self.mean)
        y: torch.Tensor = self.second(self.dropout(torch.relu(self.norm(self.first(x - self.mean)))))
        return y + self.frozen(x) * (1 + 0.01 * torch.randn_like(x))


def hooked(place: Place) -> nn.Module:
    layer = nn.Conv2d(place.channels, place.channels, 1)
    layer.register_forward_hook(lambda module, given, result: 2 * result)
    return nn.Sequential(layer, nn.ReLU())


def wide(place: Place) -> nn.Module:
    """Known layers in forms that are not known."""
    width = place.channels
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=2, dilation=2, padding_mode="circular"),
        nn.GroupNorm(1, width, affine=False),
        nn.AvgPool2d(3, 1, 1),
        nn.Conv2d(width, 2 * width, 3, padding=1, groups=width),
        nn.ELU(),
        nn.Conv2d(2 * width, width, (1, 3), padding=(0, 1)),
    )


def still(place: Place) -> nn.Module:
    return nn.Tanh()


class OddText(nn.Module):
    """Dropout, a buffer that counts, noise, and a weight that two layers share."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(place.channels, place.channels) for _ in range(2))
        self.second.weight = self.first.weight
        self.frozen = nn.LayerNorm(place.channels).requires_grad_(False)
        self.unused, self.dropout = nn.Linear(3, 2), nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        y: torch.Tensor = self.second(self.dropout(torch.tanh(self.first(self.frozen(x)))))
        return y * (1 + 0.01 * torch.randn_like(y))


class Scaled(nn.Module):
    """A layer, and a parameter that is a single number."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x) * self.scale
        return y


TEXT_BUILDERS: dict[str, Callable[[Place], nn.Module]] = {
    "odd_text": OddText,
    "known_text": lambda place: nn.Sequential(
        nn.Linear(place.channels, 5),
        nn.Sequential(nn.SiLU(), nn.Identity(), nn.Linear(5, place.channels)),
        nn.Sigmoid(),
        nn.LayerNorm(place.channels),
        nn.GELU(approximate="tanh"),
    ),
    "wide_text": lambda place: nn.Sequential(
        nn.LayerNorm(place.channels, elementwise_affine=False),
        nn.Softsign(),
        nn.Linear(place.channels, place.channels),
    ),
    "scaled_text": lambda place: Scaled(nn.Linear(place.channels, place.channels)),
}
BUILDERS: dict[str, Callable[[Place], nn.Module]] = {
    "odd": Odd,
    "hooked": hooked,
    "wide": wide,
    "normed": lambda place: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(place.channels, place.channels, 1, bias=False)), nn.SiLU()
    ),
    "known": lambda place: nn.Sequential(
        nn.Conv2d(place.channels, place.channels, 3, padding=1),
        nn.BatchNorm2d(place.channels),
        nn.Sequential(nn.SiLU(), nn.Conv2d(place.channels, place.channels, 1), nn.ReLU(), nn.Identity()),
        nn.GroupNorm(1, place.channels),
    ),
    "still": still,
    "scaled": lambda place: Scaled(nn.Conv2d(place.channels, place.channels, 1)),
}


@pytest.fixture(name="index")
def _index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    if request.param in TEXT_BUILDERS:
        return catalogue.register_blueprint(request.param, {"transformer": TEXT_BUILDERS[request.param]})
    return catalogue.register_blueprint(request.param, {"cnn": BUILDERS[request.param]})


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize(
    ("preset", "index"),
    [*product(["micro"], BUILDERS), *product(["stories"], TEXT_BUILDERS)],
    indirect=["index"],
)
def test_a_blueprint_from_outside_does_what_it_does_in_the_reference(
    preset: str, index: int, engine: str
) -> None:
    pair = Pair(4, engine, DOUBLE | QUICK, preset=preset)
    pair.reset(seed=2)
    scripts = [
        [*grow(env % 3, style, index), WAIT, encode(Op.FOSSILIZE, slot=env % 3)]
        for env, style in enumerate(Style)
    ]
    for moment, actions in enumerate(zip(*scripts, strict=True)):
        first, second = pair.step(np.stack(actions))
        agree(first, second, EXACT)
        if moment in (1, 5, 10):
            pair.agree(EXACT)
    parameters = pair.reference.facts.module_params[0, index]
    expected = Stage.FOSSILIZED if parameters else Stage.TRAINING
    assert (pair.reference._state.slots.stage.max(axis=1) == expected).all()


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("index", ["odd"], indirect=True)
def test_a_blueprint_from_outside_outlives_rollbacks_and_states(index: int, engine: str) -> None:
    pair = Pair(2, engine, DOUBLE | QUICK)
    pair.reset(seed=2)
    for action in [*grow(0, Style.GATED, index), WAIT, encode(Op.FOSSILIZE, slot=0), WAIT]:
        pair.step(np.stack([action, WAIT]))
    for env in pair.sides:
        state = env._engine.get_state(0)
        state["life"]["parts"][-1]["weights"]["segments.6.linear.bias"].fill_(torch.nan)
        env._engine.set_state(0, state)
    for _ in range(3):
        agree(*pair.step(np.stack([WAIT, WAIT])), EXACT)
    assert pair.fused._state.rollbacks.tolist() == [1, 0]
    pair.agree(EXACT)


def life(first: int, second: int, third: int) -> list[NDArray[np.int64]]:
    """A gated fossil, a module that blends and one that is not in the graph yet."""
    grown = [*grow(0, Style.GATED, first), encode(Op.FOSSILIZE, slot=0), *grow(1, blueprint=second)[:7]]
    return [*grown, encode(Op.GERMINATE, slot=2, blueprint=third)]


LIVES = {"micro": life(1, 1, 5), "stories": life(2, 12, 11)}


@pytest.mark.parametrize("preset", LIVES)
@pytest.mark.parametrize("giver", ENGINES)
@pytest.mark.parametrize("taker", ENGINES)
def test_a_state_goes_on_in_every_engine(giver: str, taker: str, preset: str) -> None:
    """And comes back from it as it was."""
    env, other = small(1, giver, preset=preset), small(2, taker, preset=preset)
    env.reset(seed=4)
    other.reset(seed=4)
    for action in LIVES[preset]:
        assert env.step(action[None])[-1]["action_valid"][0]
        other.step(np.stack([WAIT, action]))
    state = env._engine.get_state(0)
    other._engine.set_state(1, state)
    agree(trained(other, 1), trained(env, 0), 0.0)
    for each, index in ((env, 0), (other, 1)):
        each._engine.epoch(np.arange(each.num_envs) == index)
    agree(trained(env, 0), trained(other, 1), 1e-4)


@pytest.mark.parametrize("engine", FUSED)
def test_a_network_that_is_exported_gives_the_figures_that_its_engine_measured(engine: str) -> None:
    env = small(2, engine, QUICK, horizon=11)
    env.reset(seed=4)
    for action in [*grow(0, Style.GATED), WAIT, encode(Op.FOSSILIZE, slot=0)]:
        info = env.step(np.stack([action, WAIT]))[-1]
    for index in range(2):
        split = env._engine._setup.loaded_task.test  # type: ignore[attr-defined]
        with torch.no_grad():
            logits = env.export(index)(split.images)
        loss = nn.functional.cross_entropy(logits, split.labels)
        assert info["test_loss"][index] == pytest.approx(float(loss), rel=1e-5)
        assert info["test_accuracy"][index] == (logits.argmax(1) == split.labels).double().mean()
