"""The reference engine on a GPU plays the same game as on a CPU.

Copies are exact. Whatever is computed twice is compared with a tolerance: torch's own settings (TF32, cuDNN's
choice of kernels) hold, and nothing is forced to be deterministic.
"""

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from lives import GROW, play
from plain import WAIT, grow, same, task_of, tiny, weights
from test_snapshot import everything, poison
from torch import nn

from esper_env import EsperVectorEnv, Op, Style, encode
from esper_env.engine import evaluate
from esper_env.slots.grown import drawing_from

DEVICE = "cuda"
FOSSILIZE = encode(Op.FOSSILIZE, slot=0)
LIFE = [*grow(0, Style.GATED), FOSSILIZE, *grow(1, Style.LINEAR_MULTIPLY)]
"""A gated fossil in slot 0, and a module that is held in slot 1."""


def grown(num_envs: int = 1, **arguments: Any) -> EsperVectorEnv:
    """Environments on the GPU that have played `LIFE`."""
    env = tiny(num_envs, device=DEVICE, horizon=40, **arguments)
    env.reset(seed=2)
    play(env, LIFE)
    assert {p.device.type for p in env._engine.life(0).model.parameters()} == {DEVICE}
    return env


def same_state(first: Any, second: Any) -> bool:
    """Nested containers with the same values, tensors to the last bit (NaN is NaN)."""
    if isinstance(first, torch.Tensor):
        return first.device == second.device and first.numpy().tobytes() == second.numpy().tobytes()
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    return bool(first == second)


@pytest.mark.gpu
def test_a_life_on_cuda_is_that_on_the_cpu_up_to_rounding() -> None:
    envs = [EsperVectorEnv(2, "micro", device=device, horizon=12) for device in ("cpu", DEVICE)]
    infos = [env.reset(seed=0)[1] for env in envs]
    for step, action in enumerate(GROW):
        infos = [env.step(np.tile(action, (2, 1)))[-1] for env in envs]
        np.testing.assert_array_equal(infos[0]["op_slot_mask"], infos[1]["op_slot_mask"])
        if step == 0:
            np.testing.assert_allclose(infos[0]["train_loss"], infos[1]["train_loss"], rtol=1e-3)


@pytest.mark.gpu
def test_a_rollback_brings_back_the_bits_that_were_kept_and_leaves_the_other_environment_alone() -> None:
    env = grown(2, overrides={"governor.snapshot_every": 99})
    lives = [env._engine.life(e) for e in range(2)]
    env._engine.keep(np.array([True, True]))
    kept, other = everything(lives[0]), weights(lives[1].model)
    poison(lives[0], math.nan)
    stats = env._engine.restore(np.array([True, False]))
    assert same(everything(lives[0]), kept)
    assert same(weights(lives[1].model), other)
    assert (list(lives[0].planted), list(lives[1].planted)) == ([0], [0, 1])
    assert np.isfinite(stats.val_loss).tolist() == [True, False]
    again = lives[0].measure([]).validation.tolist()
    np.testing.assert_allclose([stats.val_loss[0], stats.val_accuracy[0]], again, rtol=1e-3, atol=0.02)


@pytest.mark.gpu
def test_a_broken_weight_is_seen_and_the_step_goes_on_with_the_network_that_was_kept() -> None:
    env = grown(2)
    with torch.no_grad():
        next(env._engine.life(0).model.host.parameters())[0] = math.nan
    obs, reward, _, _, info = env.step(np.tile(WAIT, (2, 1)))
    assert np.isfinite(obs).all()
    assert np.isfinite(reward).all()
    assert env._state.rollbacks.tolist() == [1, 0]
    assert np.isfinite(info["val_loss"]).all()
    assert np.isfinite(env.step(np.tile(WAIT, (2, 1)))[-1]["train_loss"]).all()


@pytest.mark.gpu
def test_variants_are_plain_passes_without_the_modules_that_are_off() -> None:
    env = grown()
    play(env, grow(2))
    life, task = env._engine.life(0), task_of(env)
    assert life.live == [1, 2]
    asked = [0b110, -1, 0b100, 0b010, 0]
    measured = evaluate.measure(life.model, task, (1, 2), asked, 64)
    assert measured.subsets.device.type == DEVICE
    for subset, (loss, right) in zip(asked, measured.subsets.T.tolist(), strict=True):
        if subset < 0:
            assert math.isnan(loss)
            continue
        off = frozenset(slot for slot in (1, 2) if not subset >> slot & 1)
        losses, correct = evaluate.predict(life.model, task, task.validation, 64, off)
        assert loss == pytest.approx(float(losses.double().mean()), rel=1e-3)
        assert right == pytest.approx(float(correct.double().mean()), abs=2 / 64)
    worth = env.attribution()
    assert np.isfinite(worth["contribution"][0]).tolist() == [False, True, True]
    assert worth["shapley"][0, 1:].sum() == pytest.approx(worth["joint"][0], abs=1e-9)


@pytest.mark.gpu
def test_a_state_is_on_the_cpu_and_goes_on_on_the_gpu_or_elsewhere() -> None:
    env, file = grown(), io.BytesIO()
    state = env.get_state(0)
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert same_state(loaded, state)
    for device in (DEVICE, "cpu"):
        other = tiny(2, device=device, horizon=40)
        other.reset(seed=9)
        other.set_state(1, loaded)
        assert same_state(other.get_state(1), state)
        life = other._engine.life(1)
        assert {p.device.type for p in life.model.parameters()} == {device}
        buffers = [
            s["momentum_buffer"] for p in life.planted.values() for s in p.optimizers[0].state.values()
        ]
        assert {buffer.device.type for buffer in buffers} == {device}
        expected = env._engine.life(0).measure([]).validation.tolist()
        np.testing.assert_allclose(life.measure([]).validation.tolist(), expected, rtol=1e-2, atol=0.03)
        assert np.isfinite(other.step(np.tile(WAIT, (2, 1)))[0]).all()
    assert same_state(env.get_state(0), state)


@pytest.mark.gpu
def test_an_export_is_on_the_device_and_gives_the_environments_logits_up_to_rounding() -> None:
    env = grown()
    net, task = env.export(0), task_of(env)
    assert {value.device.type for value in net.state_dict().values()} == {DEVICE}
    images = task.test.images[:64]
    life = env._engine.life(0)
    life.remove(1)  # the harvest would
    losses, _ = evaluate.predict(life.model, task, task.test, 64)
    with torch.no_grad():
        found = nn.functional.cross_entropy(net(images), task.test.labels[:64], reduction="none")
        moved = net.cpu()(images.cpu())
    torch.testing.assert_close(found, losses, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved, net.to(DEVICE)(images).detach().cpu(), rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
def test_what_is_drawn_on_the_device_follows_from_the_key_and_leaves_its_generator_alone() -> None:
    device = task_of(tiny(device=DEVICE)).device
    before = torch.cuda.get_rng_state(device), torch.get_rng_state()
    drawn = []
    for key in (5, 5, 6):
        with drawing_from(key, device):
            drawn.append(nn.functional.dropout(torch.ones(64, device=device)).cpu())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.cuda.get_rng_state(device), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
