"""The fused engine on a GPU: the CPU's numbers up to rounding, recorded steps the bits of unrecorded ones.

What needs no GPU to be true is tested on the CPU too.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import texts
import torch
from plain import WAIT, grow, tiny
from test_cuda_text import BLOCKS, FLEX_ATTENTION

from esper_env import EsperVectorEnv, Op, Style, encode
from esper_env.engine import score

DEVICE = "cuda"
SCRIPTS = {
    "micro": [
        [*grow(0, Style.GATED), encode(Op.FOSSILIZE, slot=0), WAIT, WAIT],
        [*grow(2, Style.LINEAR_MULTIPLY, 7), encode(Op.PRUNE, slot=2, alpha_speed=1), WAIT, WAIT],
        [WAIT] * (len(grow(0)) + 3),
    ],
    "stories": [
        [*texts.grow(0, Style.GATED, FLEX_ATTENTION), encode(Op.FOSSILIZE, slot=0), WAIT, WAIT],
        [*texts.grow(2, Style.LINEAR_MULTIPLY), encode(Op.PRUNE, slot=2, alpha_speed=1), WAIT, WAIT],
        [WAIT] * (len(texts.grow(0)) + 3),
    ],
}
MAKERS = {"micro": tiny, "stories": texts.texts}
BATCHES = {
    "micro": {"engine.epoch_size": 512, "engine.batch_size": 32},
    "stories": {"engine.epoch_size": 192, "engine.batch_size": 16},
}
"""Enough steps in an epoch for some to be replayed; of texts some are in the warm-up and some after it."""
FIGURES = {"micro": ("train_loss", "val_loss", "val_accuracy"), "stories": ("train_loss", "val_loss")}
DOUBLE = {"engine.precision": "float64"}
PRESETS = pytest.mark.parametrize("preset", SCRIPTS)
DEVICES = pytest.mark.parametrize("device", [pytest.param(DEVICE, marks=pytest.mark.gpu), "cpu"])


def figures(
    preset: str = "micro", engine: str = "fused", **arguments: Any
) -> tuple[EsperVectorEnv, list[np.ndarray[Any, Any]]]:
    """`FIGURES` of every epoch of `SCRIPTS`, (env, figure), and the environments."""
    overrides = BATCHES[preset] | arguments.pop("overrides", {})
    envs = MAKERS[preset](3, engine=engine, overrides=overrides, **({"device": DEVICE} | arguments))
    envs.reset(seed=4)
    seen = []
    for actions in zip(*SCRIPTS[preset], strict=True):
        info = envs.step(np.stack(actions))[-1]
        assert info["action_valid"].all()
        seen.append(np.stack([info[name] for name in FIGURES[preset]], axis=1))
    return envs, seen


@pytest.mark.gpu
@PRESETS
def test_float64_on_cuda_is_float64_on_the_cpu(preset: str) -> None:
    (_, here), (_, there) = (figures(preset, overrides=DOUBLE, device=each) for each in (DEVICE, "cpu"))
    np.testing.assert_allclose(here, there, rtol=1e-8, atol=1e-8)


def all_rows(x: torch.Tensor, *others: Any) -> Iterator[tuple[slice, slice]]:
    """Pieces of three tokens of every row, as a GPU has larger ones."""
    for token in range(0, x.shape[1], 3):
        yield slice(0, len(x)), slice(token, token + 3)


@DEVICES
@pytest.mark.parametrize("together", [False, True], ids=["its own pieces", "pieces of all rows"])
def test_texts_are_those_of_the_reference_on_this_device(
    together: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision, however logits are cut."""
    _, expected = figures("stories", "reference", overrides=DOUBLE, device=device)
    if together:
        monkeypatch.setattr(score, "_pieces", all_rows)
    _, found = figures("stories", overrides=DOUBLE, device=device)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.gpu
def test_windows_by_flex_attention_train_as_in_the_reference() -> None:
    (_, found), (_, expected) = (
        figures("stories", engine, overrides=BLOCKS, device=DEVICE) for engine in ("fused", "reference")
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


@pytest.mark.gpu
@PRESETS
def test_recorded_steps_give_the_bits_of_unrecorded_ones_and_are_bounded_in_number(preset: str) -> None:
    recorded, with_graphs = figures(preset, overrides={"engine.cuda_graphs": 2})
    _, without = figures(preset, overrides={"engine.cuda_graphs": 0})
    assert np.stack(with_graphs).tobytes() == np.stack(without).tobytes()
    kept = recorded._engine._programs._recordings
    assert 1 <= len(kept) <= 2
    assert all(recording.graph is not None and not recording.refused for recording in kept.values())


@DEVICES
@PRESETS
def test_the_same_seed_gives_the_same_bits(preset: str, device: str) -> None:
    (_, first), (_, second) = (figures(preset, device=device) for _ in range(2))
    assert np.stack(first).tobytes() == np.stack(second).tobytes()


@pytest.mark.gpu
@PRESETS
@pytest.mark.parametrize("overrides", [{"engine.precision": "bfloat16"}, {"engine.tf32": True}])
def test_narrower_products_train_as_well(overrides: dict[str, Any], preset: str) -> None:
    (_, narrow), (_, exact) = figures(preset, overrides=overrides), figures(preset)
    assert np.isfinite(narrow).all()
    np.testing.assert_allclose(narrow[0], exact[0], rtol=0.1, atol=0.1)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    figures(preset, overrides=overrides)
    assert before == (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


@DEVICES
def test_in_bfloat16_texts_are_those_of_the_reference_up_to_rounding(device: str) -> None:
    narrow = {"engine.precision": "bfloat16"}
    (_, found), (_, expected), (_, exact) = (
        figures("stories", engine, overrides=overrides, device=device)
        for engine, overrides in (("fused", narrow), ("reference", narrow), ("fused", {}))
    )
    assert not np.array_equal(found, exact)
    for each in (expected, exact):
        np.testing.assert_allclose(found[0], each[0], rtol=0, atol=1e-3)
        np.testing.assert_allclose(found, each, rtol=0, atol=1e-2)


@pytest.mark.gpu
@PRESETS
def test_a_step_copies_from_the_device_once(preset: str) -> None:
    envs, _ = figures(preset)
    envs.step(np.stack([WAIT] * 3))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        envs.step(np.stack([WAIT] * 3))
    copies = [event for event in profile.events() if "Memcpy DtoH" in event.name]
    assert len(copies) == 1
