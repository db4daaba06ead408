"""The training of the engines is plain torch: the same losses, weights and gradients."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES
from lives import play
from plain import WAIT, Loop, grow, started, task_of, tiny
from scipy.special import expit
from torch import nn

from esper_env import EsperVectorEnv, Op, Style, encode
from esper_env.contracts.streams import Stream, key
from esper_env.engine import life as life_module
from esper_env.engine.optimizer import clip
from esper_env.tasks.task import ImageTask

CLIPPED = {"engine.optimizer.clip_norm": 0.7}
"""In the middle of the norms here, so that some gradients are clipped and some are not."""


EXACT = 1e-11


def close(first: nn.Module, second: nn.Module, tolerance: float = 1e-6) -> None:
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("engine", ENGINES)
def test_training_a_host_is_a_plain_torch_loop_over_its_shuffled_stream(engine: str) -> None:
    env = tiny(overrides=CLIPPED, engine=engine)
    env.reset(seed=7)
    for _ in range(5):  # the fifth epoch begins the second permutation
        loop = Loop(env, largest=0.7)
        loop.run()
        info = env.step(WAIT[None])[-1]
        close(env._engine.life(0).model.host, loop.model.host)
        assert info["train_loss"][0] == pytest.approx(np.mean(loop.losses), rel=1e-5)
    assert env._engine.life(0).seed == key(7, Stream.EPISODE, 0)


def test_norms_below_the_largest_stay_and_those_above_shrink_to_it() -> None:
    for size, expected in ((0.5, 0.5), (0.7, 0.7), (7.0, 0.7)):
        parameters = [
            nn.Parameter(torch.zeros(3)),
            nn.Parameter(torch.zeros(4)),
            nn.Parameter(torch.zeros(1)),
        ]
        parameters[0].grad = torch.tensor([0.6, 0.0, 0.0]) * size
        parameters[1].grad = torch.tensor([0.0, 0.8, 0.0, 0.0]) * size
        clip(parameters, torch.tensor([0.6, 0.8, 0.0]) * size, 0.7)
        norm = sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5
        assert norm == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("style", Style)
def test_training_a_grown_network_is_a_plain_torch_loop(style: Style, engine: str) -> None:
    """In double precision: in single, a pixel that is all but 0 may pass the ReLU here and not there."""
    double = {"record.ratio_memory": 0.0, "engine.precision": "float64"}
    env = tiny(overrides=CLIPPED | double, engine=engine)
    env.reset(seed=7)
    script = grow(1, style)
    play(env, script[:2])  # one epoch of TRAINING is over
    for _ in range(3):
        loop = Loop(env, largest=0.7)
        loop.run({1: 0.0}, isolated={1})
        play(env, [WAIT])
        close(env._engine.life(0).model, loop.model, EXACT)
        check_gradients(env, loop)
    play(env, script[5:6])  # one epoch of BLENDING is over, and a gate is there to be copied
    for action, time in ((WAIT, 2 / 3), (WAIT, 1.0), (script[8], 1.0)):
        low, way, high = expit(-6), expit(12 * (time - 0.5)), expit(6)
        loop = Loop(env, largest=0.7)
        loop.run({1: (way - low) / (high - low) if style == Style.SIGMOID_ADD else time})
        play(env, [action])
        close(env._engine.life(0).model, loop.model, EXACT)
        check_gradients(env, loop)


def check_gradients(env: EsperVectorEnv, loop: Loop) -> None:
    """Root mean square norms over the epoch's batches, before clipping."""
    slots = env._state.slots
    rms = {part: np.sqrt(np.mean(np.square(norms), axis=0)) for part, norms in loop.norms.items()}
    count = {None: 1102, 1: slots.params[0, 1]}
    size = {part: np.linalg.norm(norms) for part, norms in rms.items()}
    ratio = size[1] / size[None] * np.sqrt(count[None] / count[1])
    health = 1 - 0.5 * np.mean(rms[1] < 1e-7) - 0.8 * np.mean(rms[1] > 10)
    assert slots.gradient_norm[0, 1] == pytest.approx(size[1], rel=1e-4)
    assert slots.gradient_ratio[0, 1] == pytest.approx(min(ratio, 10), rel=1e-4)
    assert slots.gradient_health[0, 1] == pytest.approx(health)
    assert slots.delta_ratio[0, 1] == pytest.approx(loop.deltas[1], rel=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_learning_rate_follows_the_schedule(schedule: str) -> None:
    env, life = started(
        horizon=4, overrides={"engine.optimizer.lr_schedule": schedule, "engine.optimizer.module_lr": 0.02}
    )
    for epoch in range(4):
        env.step((encode(Op.GERMINATE, slot=0, blueprint=1) if epoch == 0 else WAIT)[None])
        factor = 0.5 + 0.5 * math.cos(math.pi * epoch / 4) if schedule == "cosine" else 1
        if epoch < 3:  # the harvest removes the module
            assert life.planted[0].optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02 * factor)
        assert life._host_optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * factor)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_an_epoch_is_the_next_samples_of_each_environments_own_permutation(
    num_envs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, read = life_module.train_batches, {}

    def recording(task: ImageTask, seed: int, *rest: int) -> Any:
        for x, y in batches(task, seed, *rest):
            read.setdefault(seed, []).append((x.clone(), y.clone()))
            yield x, y

    monkeypatch.setattr(life_module, "train_batches", recording)
    env = tiny(num_envs)
    env.reset(seed=20)
    for epoch in range(1, 5):
        env.step(np.tile(WAIT, (num_envs, 1)))
        assert [len(seen) for seen in read.values()] == [2 * epoch] * num_envs
    orders = []
    for e in range(num_envs):
        seen = read[env._engine.life(e)._seed]
        rows = torch.cat([x for x, _ in seen]).flatten(1)
        assert rows.shape == (512, 3 * 16 * 16)
        assert len(rows.unique(dim=0)) == 512, "each image once in four quarters"
        assert (
            torch.cat([y for _, y in seen]).bincount().tolist()
            == task_of(env).train.labels.bincount().tolist()
        )
        orders.append(rows)
    assert len({order.numpy().tobytes() for order in orders}) == num_envs
