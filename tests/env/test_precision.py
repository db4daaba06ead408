"""How exactly an engine computes: what is asked for, and torch's own switches left as they were."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from plain import WAIT, grow, tiny
from texts import grow as grow_text
from texts import texts

from esper_env.engine import precision

TINIEST = torch.finfo(torch.float32).tiny


MAKERS = {"micro": (tiny, grow), "stories": (texts, grow_text)}
"""By preset: environments, and the life of a module in them."""
NEAR = {"micro": (1e-3, 0.03), "stories": (1e-4, 5e-4)}
"""By preset: most that bfloat16 moves a loss in the first epoch, and in any of nine."""


@cache
def losses(preset: str, engine: str, name: str) -> np.ndarray[Any, Any]:
    """Training and validation loss of the epochs of a life with a blended module, (epoch, 4)."""
    make, grown = MAKERS[preset]
    envs = make(2, engine=engine, overrides={"engine.precision": name})
    envs.reset(seed=1)
    infos = [envs.step(np.stack([action, WAIT]))[-1] for action in grown(1)]
    return np.stack([np.concatenate([info["train_loss"], info["val_loss"]]) for info in infos])


@pytest.mark.parametrize("engine", ["fused", "reference"])
@pytest.mark.parametrize("preset", MAKERS)
def test_bfloat16_is_near_float32_but_not_the_same(preset: str, engine: str) -> None:
    """Narrow copies of weights that outlive the step they were made for are 4 to 1,300 times further off."""
    narrow, exact = (losses(preset, engine, name) for name in ("bfloat16", "float32"))
    first, later = NEAR[preset]
    assert not np.array_equal(narrow, exact)
    np.testing.assert_allclose(narrow[0], exact[0], rtol=0, atol=first)
    np.testing.assert_allclose(narrow, exact, rtol=0, atol=later)


@pytest.mark.parametrize("preset", MAKERS)
def test_in_bfloat16_the_fused_engine_is_the_reference(preset: str) -> None:
    """Before a module is blended; then images go further apart, by roundings in another order."""
    fused, reference = (losses(preset, engine, "bfloat16")[:5] for engine in ("fused", "reference"))
    np.testing.assert_allclose(fused, reference, rtol=0, atol=5e-4)


def test_a_cpu_that_would_imitate_bfloat16_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match="precision='bfloat16' is not allowed here"):
        tiny(overrides={"engine.precision": "bfloat16"})


@pytest.mark.parametrize("flushed_before", [True, False])
def test_denormals_are_flushed_inside_and_as_before_outside(flushed_before: bool) -> None:
    half = torch.tensor([TINIEST])
    try:
        torch.set_flush_denormal(flushed_before)
        with precision.switches(False, True, torch.device("cpu")):
            assert half.mul(0.5).item() == 0
        assert (half.mul(0.5).item() == 0) == flushed_before
    finally:
        torch.set_flush_denormal(False)


def test_switches_are_as_before_after_an_error() -> None:
    with pytest.raises(KeyError), precision.switches(False, True, torch.device("cpu")):
        raise KeyError
    assert torch.tensor([TINIEST]).mul(0.5).item() > 0


def test_attention_has_the_same_bits_every_time_where_that_is_asked_for() -> None:
    """The gradients of the other kernels are sums in any order."""
    kernels = torch.backends.cuda
    for deterministic in (True, False):
        with precision.switches(False, deterministic, torch.device("cuda")):
            assert kernels.math_sdp_enabled()
            others = (
                kernels.flash_sdp_enabled(),
                kernels.mem_efficient_sdp_enabled(),
                kernels.cudnn_sdp_enabled(),
            )
            assert all(others) == (not deterministic)
        assert kernels.flash_sdp_enabled()
