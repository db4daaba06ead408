"""The reference engine on a GPU plays the same game over language hosts as on a CPU; see `test_cuda`."""

from typing import Any

import numpy as np
import pytest
import torch
from lives import play
from plain import WAIT, same, weights
from test_cuda import same_state
from texts import ATTENTION, MLP, grow, memory, started, texts
from torch.nn import functional

from esper_env import EsperVectorEnv, Op, Style, encode
from esper_env.layers.window import FLEX, by_blocks, by_mask, window_form
from esper_env.tasks.plot import optimal_loss

DEVICE, FLEX_ATTENTION = "cuda", 12
LIFE = [*grow(0, Style.GATED, FLEX_ATTENTION), encode(Op.FOSSILIZE, slot=0), *grow(1, Style.LINEAR_ADD, MLP)]
"""A gated fossil that attends in windows, and a module that is held."""
BLOCKS = {"task.context": 128, "task.train_size": 64, "task.val_size": 40, "task.test_size": 24}
"""Windows of FlexAttention's blocks, and splits whose last batch is smaller."""


def lived(**arguments: Any) -> EsperVectorEnv:
    env = texts(device=DEVICE, horizon=40, overrides=BLOCKS, **arguments)
    env.reset(seed=2)
    play(env, LIFE)
    return env


@pytest.mark.gpu
def test_a_life_on_cuda_is_that_on_the_cpu_up_to_rounding() -> None:
    envs = [texts(2, device=device) for device in ("cpu", DEVICE)]
    infos = [env.reset(seed=0)[1] for env in envs]
    for step, action in enumerate(grow(0, Style.GATED, ATTENTION)):
        infos = [env.step(np.tile(action, (2, 1)))[-1] for env in envs]
        np.testing.assert_array_equal(infos[0]["op_slot_mask"], infos[1]["op_slot_mask"])
        if step == 0:
            np.testing.assert_allclose(infos[0]["train_loss"], infos[1]["train_loss"], rtol=1e-3)
    np.testing.assert_allclose(infos[0]["val_loss"], infos[1]["val_loss"], rtol=1e-2)


@pytest.mark.gpu
def test_the_same_life_has_the_same_bits_whatever_shapes_were_seen_before() -> None:
    first = lived()
    for batch in (1, 3, 5):  # lengths and batches that no life has
        q = torch.randn(batch, 1, 256, 32, device=DEVICE, requires_grad=True)
        by_blocks(q, q, q, 64).sum().backward()
    second = lived()
    lives = [env._engine.life(0) for env in (first, second)]
    assert same(weights(lives[0].model), weights(lives[1].model))
    assert same(memory(lives[0]), memory(lives[1]))
    assert same_state(first.get_state(0), second.get_state(0))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [32, 100])
def test_flex_attention_and_a_mask_agree_forward_and_backward(window: int) -> None:
    assert window_form(torch.device(DEVICE), torch.float32) == FLEX, "this needs triton"
    q, k, v = torch.randn(3, 4, 2, 256, 32, device=DEVICE).unbind(0)
    for tensor in (q, k, v):
        tensor.requires_grad_()
    values = []
    for form in (by_blocks, by_mask):
        mixed = form(q, k, v, window)
        values.append([mixed, *torch.autograd.grad(mixed.square().sum(), (q, k, v))])
    for found, expected in zip(*values, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
def test_an_export_gives_the_environments_losses_up_to_rounding_there_and_elsewhere() -> None:
    env = lived()
    net, task = env.export(0), env._engine._setup.loaded_task
    life = env._engine.life(0)
    life.remove_uncommitted()
    expected = life.measure([]).validation[0]
    x, y = task.validation.windows(torch.arange(40, device=DEVICE))
    with torch.no_grad():
        found = functional.cross_entropy(net(x).flatten(0, 1), y.flatten())
        moved = functional.cross_entropy(net.cpu()(x.cpu()).flatten(0, 1), y.cpu().flatten())
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved, found.cpu(), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_a_state_goes_on_on_the_gpu_or_elsewhere() -> None:
    env = lived()
    state = env.get_state(0)
    for device in (DEVICE, "cpu"):
        other = texts(device=device, horizon=40, overrides=BLOCKS)
        other.set_state(0, state)
        assert same_state(other.get_state(0), state)
        expected = env._engine.life(0).measure([]).validation.tolist()[0]
        assert other._engine.life(0).measure([]).validation.tolist()[0] == pytest.approx(expected, rel=1e-2)
        assert np.isfinite(other.step(WAIT[None])[0]).all()


@pytest.mark.gpu
def test_a_story_is_told_on_the_gpu_and_changes_nothing() -> None:
    env = lived()
    before = env.get_state(0)
    assert env.tell(0, tokens=140, temperature=0) == env.tell(0, tokens=140, temperature=0)
    assert same_state(env.get_state(0), before)


@pytest.mark.gpu
def test_the_optimum_of_a_split_is_that_of_the_cpu() -> None:
    losses = [
        optimal_loss(started(device=device)[0]._engine._setup.loaded_task.validation)
        for device in ("cpu", DEVICE)
    ]
    assert losses[0] == losses[1] > 0
