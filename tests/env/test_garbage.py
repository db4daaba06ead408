"""An environment that nobody holds is gone with its tensors at once; nothing waits for a collector."""

import gc

import numpy as np
import pytest
import torch
from engines import ENGINES
from parity import QUICK, SIZES, lively, small


@pytest.fixture
def collected_by_hand():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collected_by_hand")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("preset", SIZES)
def test_tensors_go_with_their_environment(preset: str, engine: str) -> None:
    play(preset, engine)  # loads the data, which stay
    gc.collect()
    before = sum(each.numel() for each in tensors())
    during = play(preset, engine)
    assert during > before + 10_000
    assert sum(each.numel() for each in tensors()) == before


def play(preset: str, engine: str) -> int:
    """Numbers in all tensors at the end of a game."""
    env = small(2, engine, QUICK, preset)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        info = env.step(lively(env, info, rng))[-1]
    assert (env._state.slots.alpha > 0).any(), "nothing was measured with and without a module"
    return sum(each.numel() for each in tensors())


def tensors() -> list[torch.Tensor]:
    """All there are."""
    return [each for each in gc.get_objects() if type(each) is torch.Tensor]
