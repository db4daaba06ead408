"""The fused engine on a GPU: the CPU's numbers up to rounding, recorded steps the bits of unrecorded ones."""

from typing import Any

import numpy as np
import pytest
import torch
from plain import WAIT, grow, tiny

from esper_env import EsperVectorEnv, Op, Style, encode

DEVICE = "cuda"
SCRIPTS = [
    [*grow(0, Style.GATED), encode(Op.FOSSILIZE, slot=0), WAIT, WAIT],
    [*grow(2, Style.LINEAR_MULTIPLY, 7), encode(Op.PRUNE, slot=2, alpha_speed=1), WAIT, WAIT],
    [WAIT] * (len(grow(0)) + 3),
]
BATCHES = {"engine.epoch_size": 512, "engine.batch_size": 32}
"""Enough steps in an epoch for some to be replayed."""


def figures(**arguments: Any) -> tuple[EsperVectorEnv, list[np.ndarray[Any, Any]]]:
    """Losses and accuracy of every epoch of `SCRIPTS`, (env, 3), and the environments."""
    overrides = BATCHES | arguments.pop("overrides", {})
    envs = tiny(3, engine="fused", overrides=overrides, **({"device": DEVICE} | arguments))
    envs.reset(seed=4)
    seen = []
    for actions in zip(*SCRIPTS, strict=True):
        info = envs.step(np.stack(actions))[-1]
        assert info["action_valid"].all()
        seen.append(np.stack([info[name] for name in ("train_loss", "val_loss", "val_accuracy")], axis=1))
    return envs, seen


@pytest.mark.gpu
def test_float64_on_cuda_is_float64_on_the_cpu() -> None:
    overrides = {"engine.precision": "float64"}
    (_, here), (_, there) = figures(overrides=overrides), figures(overrides=overrides, device="cpu")
    np.testing.assert_allclose(here, there, rtol=1e-8, atol=1e-8)


@pytest.mark.gpu
def test_recorded_steps_give_the_bits_of_unrecorded_ones_and_are_bounded_in_number() -> None:
    recorded, with_graphs = figures(overrides={"engine.cuda_graphs": 2})
    _, without = figures(overrides={"engine.cuda_graphs": 0})
    assert np.stack(with_graphs).tobytes() == np.stack(without).tobytes()
    kept = recorded._engine._programs._recordings
    assert 1 <= len(kept) <= 2
    assert all(recording.graph is not None and not recording.refused for recording in kept.values())


@pytest.mark.gpu
def test_the_same_seed_gives_the_same_bits() -> None:
    assert np.stack(figures()[1]).tobytes() == np.stack(figures()[1]).tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("overrides", [{"engine.precision": "bfloat16"}, {"engine.tf32": True}])
def test_narrower_products_train_as_well(overrides: dict[str, Any]) -> None:
    (_, narrow), (_, exact) = figures(overrides=overrides), figures()
    assert np.isfinite(narrow).all()
    np.testing.assert_allclose(narrow[0], exact[0], rtol=0.1, atol=0.1)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    figures(overrides=overrides)
    assert before == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


@pytest.mark.gpu
def test_a_step_copies_from_the_device_once() -> None:
    envs, _ = figures()
    envs.step(np.stack([WAIT] * 3))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        envs.step(np.stack([WAIT] * 3))
    copies = [event for event in profile.events() if "Memcpy DtoH" in event.name]
    assert len(copies) == 1
