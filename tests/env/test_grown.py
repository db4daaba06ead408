"""The laws of the growing network: isolation, composition, and that gradients reach what they must."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from growing import (
    CNN,
    NAMES,
    TRANSFORMER,
    backward,
    combinations,
    equal,
    fitting,
    gradients,
    grown,
    inputs,
    plant,
)
from torch.nn import functional

from esper_env.blueprints.catalogue import Blueprint
from esper_env.contracts.action import Style
from esper_env.hosts import gpt
from esper_env.hosts.cnn import HOSTS, ConvHost, Recipe
from esper_env.slots.grown import Graft, GrownModel, seeded


def shift_is_cancelled(model: GrownModel, slot: int, name: str) -> bool:
    """Whether this is the shift of a branch's last norm, at a place where batch norm subtracts it again.

    A constant a channel goes through pools and unpadded 1x1 convolutions as a constant, and batch norm
    removes it: the loss doesn't depend on it, whatever the branch is. The padding of 3x3 kernels or a linear
    head ends that.
    """
    recipe = HOSTS.get(model.host.name)
    return (
        recipe is not None
        and recipe.kernel == 1
        and model.place(slot).depth < 1
        and name in ("branch.norm.bias", "branch.5.bias")
    )


@pytest.mark.parametrize("name", NAMES)
def test_planting_changes_no_bit_of_logits_gradients_or_norm_statistics(name: str) -> None:
    model = grown(name)
    twin = copy.deepcopy(model)
    logits, expected = backward(twin), gradients(twin.host)
    buffers = list(twin.host.buffers())
    for (blueprint, style), slot in itertools.product(combinations(model), range(len(model.slots))):
        trial = copy.deepcopy(model)
        graft = plant(trial, slot, blueprint, style, blended=False)
        assert torch.equal(backward(trial), logits), (blueprint.name, style, slot)
        assert equal(gradients(trial.host), expected), (blueprint.name, style, slot)
        assert equal(list(trial.host.buffers()), buffers), (blueprint.name, style, slot)
        assert len(gradients(graft)) == len(list(graft.parameters()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["micro", "gpt_micro"])
def test_a_broken_module_in_isolation_never_reaches_the_host(name: str, value: float) -> None:
    model = grown(name)
    logits, expected = backward(model), gradients(model.host)
    for blueprint in fitting(model):
        trial = copy.deepcopy(model)
        for slot in range(len(model.slots)):
            for parameter in plant(trial, slot, blueprint, Style.LINEAR_ADD, blended=False).parameters():
                parameter.data.fill_(value)
        assert torch.equal(backward(trial), logits), blueprint.name
        assert equal(gradients(trial.host), expected), blueprint.name


def test_isolated_gradient_is_that_of_adding_the_output_at_the_same_value() -> None:
    model = grown("baseline", torch.float64)
    graft = plant(model, 1, CNN[0], Style.LINEAR_ADD, blended=False)
    backward(model)
    x, y = inputs(model.host, torch.float64)
    h = x
    for index, segment in enumerate(model.host.segments):
        h = segment(h)
        if index == model.slots[1]:
            d = graft.branch(h.detach())
            h = h + d - d.detach()
    expected = torch.autograd.grad(functional.cross_entropy(h, y), list(graft.parameters()))
    for got, want in zip(gradients(graft), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_every_branch_tensor_gets_a_gradient_within_two_steps_in_every_host(name: str) -> None:
    """In fp64, where rounding noise is near 1e-17: a gradient of 1e-12 is there."""
    model = grown(name, torch.float64)
    for blueprint, slot in itertools.product(fitting(model), range(len(model.slots))):
        trial = copy.deepcopy(model)
        largest = two_steps(trial, plant(trial, slot, blueprint, Style.LINEAR_ADD, blended=False))
        for tensor, size in largest.items():
            alive = not shift_is_cancelled(trial, slot, tensor)
            assert (size > 1e-12) == alive, (blueprint.name, trial.place(slot).name, tensor, size)


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("blueprint", CNN, ids=lambda b: b.name)
def test_every_branch_tensor_gets_a_gradient_at_every_width(blueprint: Blueprint, channels: int) -> None:
    with seeded(2):
        host = ConvHost("wide", Recipe((channels, channels), 3, True, (1,)), (3, 8, 8), 10).double()
    model = GrownModel(host, [0])
    largest = two_steps(model, plant(model, 0, blueprint, Style.LINEAR_ADD, blended=False))
    assert min(largest.values()) > 1e-12, largest


@pytest.mark.parametrize("width", [4, 8, 32, 48, 96])
@pytest.mark.parametrize("blueprint", TRANSFORMER, ids=lambda b: b.name)
def test_every_branch_tensor_gets_a_gradient_at_every_width_of_a_transformer(
    blueprint: Blueprint, width: int
) -> None:
    with seeded(2):
        host = gpt.GptHost("wide", gpt.Recipe(2, width, 2, 12, (1,)), 12, 16).double()
    model = GrownModel(host, [0])
    largest = two_steps(model, plant(model, 0, blueprint, Style.LINEAR_ADD, blended=False))
    assert min(largest.values()) > 1e-12, largest


def two_steps(model: GrownModel, graft: Graft) -> dict[str, float]:
    """Largest gradient norm of each of the module's tensors over two steps of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    largest = dict.fromkeys((name for name, _ in graft.named_parameters()), 0.0)
    for _ in range(2):
        backward(model)
        for name, parameter in graft.named_parameters():
            assert parameter.grad is not None
            largest[name] = max(largest[name], float(parameter.grad.norm()))
        optimizer.step()
    return largest


@pytest.mark.parametrize("name", NAMES)
def test_at_full_alpha_in_every_slot_host_modules_and_gates_get_gradients(name: str) -> None:
    model = grown(name, torch.float64)
    for blueprint, style in combinations(model):
        trial = copy.deepcopy(model)
        grafts = [plant(trial, slot, blueprint, style, blended=True) for slot in range(len(model.slots))]
        backward(trial)
        for tensor, parameter in trial.host.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.norm() > 1e-12, (blueprint.name, style, tensor)
        for slot, graft in enumerate(grafts):
            dead = [n for n, p in graft.named_parameters() if p.grad is None or p.grad.norm() <= 1e-12]
            assert all(shift_is_cancelled(trial, slot, n) for n in dead), (blueprint.name, style, dead)
        gates = [p for graft in grafts if graft.gate is not None for p in graft.gate.parameters()]
        assert len(gates) == (4 * len(grafts) if style == Style.GATED else 0)
        assert all(p.grad is not None and p.grad.norm() > 1e-12 for p in gates), blueprint.name


@pytest.mark.parametrize("style", Style)
def test_blended_input_carries_the_branch_gradient_upstream_unless_detached(style: Style) -> None:
    """With a detached input the host sees the branch's output and gate as constants, and nothing else."""
    model = grown("baseline", torch.float64)
    graft = plant(model, 1, CNN[0], style, blended=True)
    backward(model)
    free = gradients(model.host)
    graft.detach_input = True
    backward(model)
    cut = gradients(model.host)
    graft.requires_grad_(False)
    graft.branch.register_forward_hook(lambda *call: call[2].detach())
    if graft.gate is not None:
        graft.gate.register_forward_hook(lambda *call: call[2].detach())
    graft.detach_input = False
    backward(model)
    assert equal(cut, gradients(model.host))
    upstream = 6  # parameters of the two blocks before the slot
    assert not any(torch.equal(a, b) for a, b in zip(free[:upstream], cut[:upstream], strict=True))
    assert equal(free[upstream:], cut[upstream:])


def test_gated_without_a_gate_is_refused() -> None:
    model = grown("micro")
    graft = plant(model, 0, CNN[0], Style.GATED, blended=True)
    graft.gate = None
    with pytest.raises(ValueError, match="GATED"):
        backward(model)


@pytest.mark.parametrize("name", ["baseline", "gpt_micro"])
def test_pruning_in_isolation_restores_the_never_planted_twin_bit_for_bit(name: str) -> None:
    model = grown(name)
    twin, some = copy.deepcopy(model), fitting(model)[:3]
    grafts = [plant(model, slot, blueprint, Style.GATED, False) for slot, blueprint in enumerate(some)]
    hosts = [torch.optim.SGD(m.host.parameters(), lr=0.01, momentum=0.9) for m in (model, twin)]
    modules = torch.optim.SGD([p for graft in grafts for p in graft.parameters()], lr=0.01, momentum=0.9)
    for _ in range(3):
        for m, optimizer in zip((model, twin), hosts, strict=True):
            backward(m)
            optimizer.step()
        modules.step()
    for slot in range(3):
        model.remove(slot)
    assert model.grafts == (None, None, None)
    assert equal(list(model.state_dict().values()), list(twin.state_dict().values()))
    assert torch.equal(backward(model), backward(twin))


@pytest.mark.parametrize("name", ["baseline", "gpt_micro"])
def test_without_switches_slots_off_exactly(name: str) -> None:
    model = grown(name).eval()
    for slot in range(3):
        plant(model, slot, fitting(model)[slot], Style.LINEAR_ADD, blended=True)
    x, _ = inputs(model.host, torch.float32)
    for off in ({0}, {1, 2}, {0, 1, 2}):
        reduced = copy.deepcopy(model)
        for slot in off:
            reduced.remove(slot)
        assert torch.equal(model(x, without=frozenset(off)), reduced(x))
        assert not torch.equal(model(x), reduced(x))
    assert torch.equal(model(x, without=frozenset({0, 1, 2})), model.host(x))


def test_what_is_not_in_the_graph_neither_runs_nor_learns() -> None:
    model = grown("micro")
    graft = plant(model, 0, CNN[0], Style.LINEAR_ADD, blended=False)
    calls: list[int] = []
    graft.branch.register_forward_hook(lambda *call: calls.append(1))
    x, _ = inputs(model.host, torch.float32)
    graft.in_graph = False
    backward(model)
    assert gradients(graft) == []
    graft.in_graph = True
    model.eval()(x)
    graft.isolated, graft.alpha = False, 0.0
    model.train()(x)
    assert calls == []
    model(x, record=True)
    assert calls == [1]


def test_recorded_delta_ratio_is_rms_of_branch_over_rms_of_host() -> None:
    model = grown("baseline").eval()
    isolated = plant(model, 1, CNN[0], Style.LINEAR_ADD, blended=False)
    blended = plant(model, 2, CNN[1], Style.GATED, blended=True)
    x, _ = inputs(model.host, torch.float32)
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for slot, graft in ((1, isolated), (2, blended)):
        graft.branch.register_forward_hook(
            lambda _, inputs, output, slot=slot: seen.update(
                {slot: (inputs[0].detach().numpy(), output.detach().numpy())}
            )
        )
    assert torch.equal(model(x, record=True), model(x))
    assert model.delta_ratio is None
    model(x, record=True)
    assert model.delta_ratio is not None
    assert not model.delta_ratio.requires_grad
    rms = {slot: [np.sqrt(np.square(a, dtype=np.float64).mean()) for a in seen[slot]] for slot in seen}
    expected = [math.nan, rms[1][1] / rms[1][0], rms[2][1] / rms[2][0]]
    np.testing.assert_allclose(model.delta_ratio.numpy(), expected, rtol=1e-5)


def test_parameters_come_by_slot_whatever_the_order_of_planting() -> None:
    first, second = grown("baseline"), grown("baseline")
    for model, order in ((first, (0, 1, 2)), (second, (2, 0, 1))):
        for slot in order:
            plant(model, slot, CNN[slot], Style.GATED, blended=True)
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in second.named_parameters()]
    assert equal(list(first.parameters()), list(second.parameters()))


def test_a_taken_slot_refuses_a_second_module() -> None:
    model = grown("micro")
    plant(model, 0, CNN[0], Style.LINEAR_ADD, blended=False)
    with pytest.raises(ValueError, match=r"slot 0 \(block1\.relu\)"):
        plant(model, 0, CNN[1], Style.LINEAR_ADD, blended=False)
