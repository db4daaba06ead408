"""FLOPs against torch's own counter, forward and backward, and the facts against hand counts."""

import math

import numpy as np
import pytest
import torch
from counting import counted, measured
from lives import play, put
from plain import WAIT, same, started, tiny, weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper_env import EsperVectorEnv, Op, Stage, Style, encode
from esper_env.blueprints import catalogue
from esper_env.blueprints.catalogue import CATALOGUE, Blueprint, Builder
from esper_env.contracts.facts import Place
from esper_env.contracts.state import Ramp, SlotState
from esper_env.engine.ledger import (
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


def place(channels: int) -> Place:
    return Place("block1.relu", "cnn", (channels, SIZE, SIZE), 1.0)


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


MIXED = {
    0: (Stage.FOSSILIZED, "conv_light", Style.GATED, 1.0, Ramp.REST),
    1: (Stage.TRAINING, "bottleneck", Style.GATED, 0.0, Ramp.REST),
    2: (Stage.BLENDING, "conv_small", Style.GATED, 0.4, Ramp.UP),
    3: (Stage.BLENDING, "conv_heavy", Style.GATED, 0.6, Ramp.DOWN),
    4: (Stage.HOLDING, "attention", Style.LINEAR_MULTIPLY, 1.0, Ramp.REST),
    5: (Stage.GERMINATED, "norm", Style.LINEAR_ADD, 0.0, Ramp.REST),
}
"""A module in every stage, with and without a gate; no grouped convolution, which torch overcounts."""


def mixed(env: EsperVectorEnv) -> SlotState:
    """The slots of one environment."""
    slots = SlotState.empty(1, env.facts.num_slots)
    for slot, (stage, blueprint, style, alpha, ramp) in MIXED.items():
        values = {"stage": stage, "style": style, "alpha": alpha, "ramp": ramp, "planting": 1}
        put(slots, 0, slot, blueprint=env.facts.blueprints.index(blueprint), **values)
    return slots


@pytest.mark.parametrize("isolation", ["training", "always"])
def test_an_epoch_of_a_network_with_a_module_in_every_stage_costs_what_torch_counts(isolation: str) -> None:
    env, life = started(slots=6, isolation=isolation)
    life.sync(mixed(env), 0)
    for _ in range(2):  # with and without momentum
        with FlopCounterMode(display=False) as counter:
            life.train()
        assert life.training_flops() == counter.get_total_flops() > 128 * env.facts.host_flops
    assert life.live == [2, 3, 4]
    lattice = [28, 24, 20, 12, 16, 8, 4, 0]
    for subsets in (lattice, [28, 0, -1, -1], [-1], []):
        with FlopCounterMode(display=False) as counter:
            life.measure(subsets)
        validation, variants = life.measuring_flops(subsets)
        assert validation + variants == counter.get_total_flops()
        with FlopCounterMode(display=False) as alone:
            life.measure([])
        assert validation == alone.get_total_flops()


class Lazy(nn.Module):
    """Makes a parameter in its first forward pass on these devices."""

    def __init__(self, *devices: str) -> None:
        super().__init__()
        self.scale, self.late, self.devices = nn.Parameter(torch.ones(1)), nn.ParameterList(), devices

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type in self.devices and not self.late:
            self.late.append(nn.Parameter(torch.ones(2, device=x.device)))
        return x * self.scale


@pytest.mark.parametrize(
    ("builder", "match"),
    [
        (lambda place: nn.LazyConv2d(place.channels, 1), r"'sly'.*\['weight', 'bias'\].*lazy"),
        (lambda place: Lazy("meta", "cpu"), r"'sly'.*1 parameters when built, 3 after"),
    ],
    ids=["torch's lazy layer", "a forward pass that adds"],
)
def test_a_blueprint_whose_parameters_come_later_is_refused_by_name_at_construction(
    builder: Builder, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    catalogue.register_blueprint("sly", {"cnn": builder})
    with pytest.raises(ValueError, match=match):
        tiny()


class Padded(nn.Module):
    """A branch of any size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.ballast = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.ballast.sum()


@pytest.mark.parametrize("when", ["when built", "after its probe"])
def test_a_module_of_another_size_than_its_costs_say_is_refused_when_planted(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter([4] * 6 + [5] * 9)  # three slots, built for their size and for their FLOPs
    builders: dict[str, Builder] = {
        "when built": lambda place: Padded(next(sizes)),
        "after its probe": lambda place: Lazy("cpu"),
    }
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    index = catalogue.register_blueprint("sly", {"cnn": builders[when]})
    env, life = started()
    with pytest.raises(RuntimeError, match=rf"'sly' at block2\.relu.* {when}.*must not vary"):
        env.step(encode(Op.GERMINATE, slot=1, blueprint=index)[None])
    assert not life.planted


def test_a_module_without_parameters_trains_nothing_and_cannot_blend_but_may_have_a_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    index = catalogue.register_blueprint("still", {"cnn": lambda place: nn.Tanh()})
    env, life = started(3)
    alone, twin = started(3)
    assert env.facts.fits[:, index].all()
    assert not env.facts.module_params[:, index].any()
    script = [encode(Op.GERMINATE, slot=0, blueprint=index), encode(Op.ADVANCE, slot=0), *[WAIT] * 5]
    play(env, script)
    play(alone, [WAIT] * len(script))
    assert same(weights(life.model.host), weights(twin.model.host))
    slots = env._state.slots
    assert slots.stage[0, 0] == Stage.TRAINING
    assert np.isnan([slots.gradient_norm[0, 0], slots.gradient_health[0, 0]]).all()
    assert not env._masks.op_slot[0, Op.ADVANCE, 0]
    assert env._gates[2].failed(0, 0) == ("gradients_measured", "healthy")
    slots = slots.copy()
    put(slots, 0, 0, stage=Stage.BLENDING, style=Style.GATED, alpha=1.0)
    life.planted[0].graft.style = Style.GATED
    life.sync(slots, 0)
    before = weights(life.planted[0].graft)
    with FlopCounterMode(display=False) as counter:
        trained, measures = life.train()
    assert life.training_flops() == counter.get_total_flops()
    assert len(before) == 4
    assert not same(weights(life.planted[0].graft), before), "the gate learns"
    assert measures[:, 0].isfinite().all()
    assert trained.isfinite().all()
