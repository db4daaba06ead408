"""Isolation, composition and gates, held against their formulas."""

import math

import numpy as np
import pytest
import torch

from esper_env.contracts.action import Style
from esper_env.contracts.facts import Place
from esper_env.slots.blend import blend, isolate
from esper_env.slots.grown import build_gate


def test_isolation_keeps_the_sign_of_zero_and_gives_both_the_same_gradient() -> None:
    h = torch.tensor([-0.0, 1.0], requires_grad=True)
    d = torch.tensor([math.nan, 3.0], requires_grad=True)
    value = isolate(h, d)
    value.backward(torch.tensor([2.0, 5.0]))
    assert value.detach().numpy().tobytes() == h.detach().numpy().tobytes()
    assert h.grad is not None
    assert d.grad is not None
    assert h.grad.tolist() == d.grad.tolist() == [2.0, 5.0]


@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_composition_is_its_formula(style: Style, alpha: float) -> None:
    generator = np.random.default_rng(0)
    h, d = generator.normal(size=(2, 2, 3, 4, 4))
    g = generator.uniform(size=(2, 1, 1, 1))
    formula = {Style.LINEAR_MULTIPLY: h * (1 + alpha * np.tanh(d)), Style.GATED: h + alpha * g * d}
    got = blend(*map(torch.from_numpy, (h, d)), alpha, style, torch.from_numpy(g))
    np.testing.assert_allclose(got.numpy(), formula.get(style, h + alpha * d), rtol=1e-12)


def test_gate_is_an_mlp_on_the_mean_over_space() -> None:
    place = Place("block2.relu", "cnn", (16, 4, 4), 0.5)
    gate = build_gate(place, 4)
    h = torch.randn(5, *place.shape, generator=torch.Generator().manual_seed(0))
    w1, b1, w2, b2 = (p.detach().numpy() for p in gate.parameters())
    hidden = np.maximum(h.numpy().mean((2, 3)) @ w1.T + b1, 0)
    expected = 1 / (1 + np.exp(-(hidden @ w2.T + b2)))
    np.testing.assert_allclose(gate(h).detach().numpy()[:, :, 0, 0], expected, rtol=1e-5)


def test_gate_of_a_transformer_is_an_mlp_on_each_token() -> None:
    place = Place("block2", "transformer", (6, 40), 0.5)
    gate = build_gate(place, 4)
    h = torch.randn(5, *place.shape, generator=torch.Generator().manual_seed(0))
    w1, b1, w2, b2 = (p.detach().numpy() for p in gate.parameters())
    assert w1.shape == (10, 40)
    expected = 1 / (1 + np.exp(-(np.maximum(h.numpy() @ w1.T + b1, 0) @ w2.T + b2)))
    np.testing.assert_allclose(gate(h).detach().numpy(), expected, rtol=1e-5)


def test_a_family_without_a_gate_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"cnn.*transformer.*'graph' \(node\)"):
        build_gate(Place("node", "graph", (3, 4), 1.0), 0)
