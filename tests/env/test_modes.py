"""What the caller's code has switched in torch changes nothing of an environment."""

from itertools import count

import numpy as np
import pytest
import torch
from apart import trained
from engines import ENGINES
from parity import lively, small

from esper_env import EsperVectorEnv

AROUND = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def played(engine, around):
    """What a short life shows, the networks at its end, a state and an exported network's logits."""
    env, rng = small(3, engine), np.random.default_rng(0)
    with around():
        _, info = env.reset(seed=3)
        shown = []
        for _ in range(6):
            obs, rewards, *_, info = env.step(lively(env, info, rng))
            shown += [obs, rewards]
        env.set_state(1, env.get_state(0))
        shown.append(env.step(np.zeros((3, 8), dtype=np.int64))[0])
        exported = env.export(0)
    images = torch.randint(256, (4, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shown.append(exported(images).numpy())
    return shown, [trained(env, index)["life"]["parts"][-1]["weights"] for index in range(3)]


@pytest.mark.parametrize("mode", AROUND)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_life_under_a_mode_of_the_callers_has_the_same_bits(engine, mode):
    (shown, weights), (expected, others) = (
        played(engine, around) for around in (AROUND[mode], torch.enable_grad)
    )
    for own, other in zip(shown, expected, strict=True):
        assert own.tobytes() == other.tobytes()
    for own, other in zip(weights, others, strict=True):
        assert all(torch.equal(own[name], other[name]) for name in other)
    assert torch.is_grad_enabled()


DATA_SETS = count(1)
TINY = {"task.train_size": 256, "task.val_size": 64, "task.test_size": 64, "engine.counterfactual_size": 64}


@pytest.mark.parametrize("mode", AROUND)
@pytest.mark.parametrize("engine", ["fused", "reference"])
def test_environments_and_data_that_were_made_under_a_mode_are_like_any_others(engine, mode):
    """A process keeps its data sets: a new one is made by whoever asks first."""
    overrides = TINY | {"task.generator_seed": next(DATA_SETS)}

    def losses(around):
        with around():
            envs = EsperVectorEnv(2, "micro", engine=engine, horizon=3, epoch_size=64, overrides=overrides)
        envs.reset(seed=3)
        return [envs.step(np.zeros((2, 8), dtype=np.int64))[-1]["train_loss"] for _ in range(3)]

    np.testing.assert_array_equal(losses(AROUND[mode]), losses(torch.enable_grad))
