"""FLOPs against torch's own counter, forward and backward, and the facts against hand counts."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper_env.blueprints.catalogue import CATALOGUE, Blueprint
from esper_env.contracts.facts import Place
from esper_env.engine.ledger import (
    Cost,
    branch_cost,
    describe,
    forward_flops,
    gate_cost,
    host_flops,
    layer_flops,
    training_flops,
)
from esper_env.hosts.cnn import HOSTS, build_host
from esper_env.slots.grown import build_branch, build_gate

CNN = [blueprint for blueprint in CATALOGUE if "cnn" in blueprint.builders]
SIZE = 6
STATES = {"isolated": (False, True), "blended": (True, True), "frozen": (True, False)}
"""State -> whether the input and the parameters get gradients."""


def place(channels: int) -> Place:
    return Place("block1.relu", "cnn", (channels, SIZE, SIZE), 1.0)


def counted(module: nn.Module, x: torch.Tensor, backward: bool = True) -> int:
    """What torch's counter sees on real tensors; a layer's unused input gradient isn't asked for."""
    with FlopCounterMode(display=False) as counter:
        output = module(x)
        if backward:
            output.sum().backward()
    return int(counter.get_total_flops())


def measured(module: nn.Module, shape: tuple[int, ...]) -> Cost:
    """The cost of one sample by torch's counter."""
    totals = {"forward": counted(module, torch.randn(1, *shape), backward=False)}
    for state, (input_gradient, learns) in STATES.items():
        module.requires_grad_(learns)
        totals[state] = counted(module, torch.randn(1, *shape, requires_grad=input_gradient))
    return Cost(**totals)


class NonLocal(nn.Module):
    """A branch from outside with products of activations, a transposed convolution and a functional one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.kernel = nn.Parameter(torch.zeros(channels, channels, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, value = self.query(x).flatten(2), x.flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ value, dim=2)
        return (value @ weights).view_as(x) + nn.functional.conv2d(x, self.kernel, padding=1)


@pytest.mark.parametrize("channels", [1, 8, 64])
@pytest.mark.parametrize("blueprint", CNN, ids=lambda b: b.name)
def test_branch_costs_what_torch_counts_in_every_state(blueprint: Blueprint, channels: int) -> None:
    expected = measured(build_branch(blueprint, place(channels), 0), place(channels).shape)
    cost = branch_cost(blueprint, place(channels))
    # torch's counter takes the weight gradient of a depthwise convolution for a dense one
    surplus = 2 * 9 * channels * SIZE**2 * (channels - 1) if blueprint.name == "depthwise" else 0
    assert cost.forward == expected.forward
    assert cost.frozen == expected.frozen
    assert cost.isolated == expected.isolated - surplus
    assert cost.blended == expected.blended - surplus


@pytest.mark.parametrize("channels", [4, 64])
def test_gate_costs_what_torch_counts_in_every_state(channels: int) -> None:
    assert gate_cost(place(channels)) == measured(build_gate(place(channels), 0), place(channels).shape)


def test_blueprint_from_outside_costs_what_torch_counts() -> None:
    """Every product here has two operands that get gradients, so that 3 x forward is right for them."""
    blueprint = Blueprint("non_local", {"cnn": lambda place: NonLocal(place.channels)})
    expected = measured(NonLocal(4), place(4).shape)
    cost = branch_cost(blueprint, place(4))
    assert (cost.forward, cost.blended) == (expected.forward, expected.blended)
    products, mix = 2 * 2 * 4 * SIZE**4, 2 * 9 * 16 * SIZE**2 + 2 * 16 * SIZE**2
    assert cost.forward == products + mix
    assert cost.forward < cost.frozen <= cost.isolated <= cost.blended


def test_blueprint_that_cannot_run_at_a_place_is_named() -> None:
    class Flat(nn.Linear):
        """Takes 3 features only."""

    broken = Blueprint("flat", {"cnn": lambda place: Flat(3, 3)})
    with pytest.raises(ValueError, match=r"'flat'.*block1\.relu"):
        branch_cost(broken, place(4))
    with pytest.raises(ValueError, match="'flat'"):
        describe(build_host("micro", (3, 16, 16), 10), [0], [CATALOGUE[0], broken], 0.1, math.log(10))


@pytest.mark.parametrize("name", HOSTS)
def test_host_costs_what_torch_counts(name: str) -> None:
    host = build_host(name, (3, 32, 32), 10).eval()
    x = torch.randn(2, 3, 32, 32)
    assert 2 * host_flops(host) == counted(host, x) == training_flops(host, x)
    assert forward_flops(host, x) == counted(host, x, backward=False)


def test_baseline_costs_what_a_hand_count_says() -> None:
    convolutions = [2 * 27 * 8 * 1024, 2 * 72 * 16 * 256, 2 * 144 * 32 * 64]
    head = 2 * 32 * 10
    expected = 3 * (sum(convolutions) + head) - convolutions[0]  # images get no gradient
    assert host_flops(build_host("baseline", (3, 32, 32), 10)) == expected


def test_layers_cost_their_formula() -> None:
    strided = nn.Conv2d(6, 4, (3, 5), stride=2, groups=2)
    output = strided(torch.zeros(2, 6, 11, 11))
    assert layer_flops(strided, output) == 2 * (6 // 2) * 3 * 5 * (2 * 4 * 5 * 4)
    assert layer_flops(nn.Linear(7, 5), torch.zeros(2, 3, 5)) == 2 * 7 * 5 * 6
    assert layer_flops(nn.BatchNorm2d(4), output) == 0


def test_counting_leaves_the_module_as_it_is_even_under_no_grad() -> None:
    host = build_host("micro", (3, 16, 16), 10)
    before = {name: value.clone() for name, value in host.state_dict().items()}
    with torch.no_grad():
        assert (
            training_flops(host, torch.empty(1, 3, 16, 16, device="meta").expand(2, -1, -1, -1)) == 2 * 276960
        )
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
    assert not any(layer._forward_hooks for layer in host.modules())


def test_facts_are_the_sizes_of_what_would_be_built() -> None:
    host = build_host("baseline", (3, 32, 32), 10)
    before = torch.get_rng_state()
    facts = describe(host, [0, 2, 4], CATALOGUE, 0.1, math.log(10))
    assert torch.equal(torch.get_rng_state(), before)
    assert (facts.host_params, facts.host_flops) == (6418, 4425600)
    assert [place.name for place in facts.places] == ["block1.relu", "block2.relu", "block3.relu"]
    assert facts.fits.tolist() == 3 * [[False] + 7 * [True] + 5 * [False]]
    light = [9 * c * c + 2 * c for c in (8, 16, 32)]
    assert facts.module_params[:, 1].tolist() == light
    assert facts.module_params[:, 7].tolist() == [2 * n for n in light]
    assert (facts.module_params > 0).tolist() == facts.fits.tolist()
    assert facts.gate_params.tolist() == [81, 145, 273]
    assert facts.blueprints == tuple(blueprint.name for blueprint in CATALOGUE)
    assert (facts.chance_quality, facts.chance_loss) == (0.1, math.log(10))
    for array in (facts.fits, facts.module_params, facts.gate_params):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
