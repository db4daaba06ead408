"""What the tests of the engines share: tiny environments, and training in plain torch."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from engines import settings
from lives import GROW
from numpy.typing import NDArray
from torch import nn

from esper_env import EsperVectorEnv, Head, Op, Style, encode
from esper_env.contracts.streams import Stream, generator
from esper_env.engine.life import Life
from esper_env.tasks.task import ImageTask, Split

WAIT = encode(Op.WAIT)
TINY = {
    "task.train_size": 512, "task.val_size": 128, "task.test_size": 128,
    "engine.epoch_size": 128, "engine.counterfactual_size": 64, "engine.optimizer.lr_schedule": "constant",
    "engine.optimizer.module_lr": 0.05,
}  # fmt: skip


def tiny(
    num_envs: int = 1, overrides: dict[str, Any] | None = None, engine: str = "reference", **arguments: Any
) -> EsperVectorEnv:
    """EsperMicro with a quarter of the epochs' size, trained for real; `engine` as in `engines.ENGINES`."""
    arguments = {"horizon": 20, "autoreset_mode": "DISABLED", "device": "cpu"} | arguments
    return EsperVectorEnv(
        num_envs, "micro", overrides=TINY | settings(engine) | (overrides or {}), **arguments
    )


def begun(seed: int, engine: str, **arguments: Any) -> EsperVectorEnv:
    env = tiny(engine=engine, **arguments)
    env.reset(seed=seed)
    return env


def started(seed: int = 0, **arguments: Any) -> tuple[EsperVectorEnv, Life]:
    env = tiny(**arguments)
    env.reset(seed=seed)
    return env, env._engine.life(0)


def poison(
    env: EsperVectorEnv, index: int = 0, at: int = -1, name: str = "", value: float = torch.nan
) -> None:
    """Make a weight or norm statistic of a part of the network, the first whose name ends so, no number."""
    state = env._engine.get_state(index)
    weights = state["life"]["parts"][at]["weights"]
    next(each for full, each in weights.items() if full.endswith(name)).fill_(torch.nan)
    env._engine.set_state(index, state)


def task_of(env: EsperVectorEnv) -> ImageTask:
    return env._engine._setup.loaded_task


def grow(slot: int, style: Style = Style.LINEAR_ADD, blueprint: int = 1) -> list[NDArray[np.int64]]:
    """GROW for another slot, style and blueprint."""
    heads = {"slot": slot, "blueprint": blueprint, "style": style, "tempo": 0, "alpha_target": 2}
    moved = [encode(Op.ADVANCE, slot=slot) if action[Head.OP] == Op.ADVANCE else WAIT for action in GROW[1:]]
    return [encode(Op.GERMINATE, **heads), *moved]


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def momenta(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [state["momentum_buffer"].clone() for state in optimizer.state.values()]


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def trajectory(
    env: EsperVectorEnv, scripts: Sequence[Sequence[NDArray[np.int64]]], seed: int
) -> list[list[bytes]]:
    """Per environment, the bits of every observation and reward."""
    obs, _ = env.reset(seed=seed)
    seen = [[row.tobytes()] for row in obs]
    for actions in zip(*scripts, strict=True):
        obs, reward, *_ = env.step(np.stack(actions))
        for e, bits in enumerate(seen):
            bits.append(obs[e].tobytes() + reward[e].tobytes())
    return seen


class Loop:
    """One epoch of a network in plain torch, from copies of what the engine holds."""

    def __init__(self, env: EsperVectorEnv, largest: float = 1.0) -> None:
        life = env._engine.life(0)
        self.task, self.start, self.seed = task_of(env), life.epochs * 128, life._seed
        self.model, self.lr, self.largest = copy.deepcopy(life.model), 0.05, largest
        optimizers = {None: [life._host_optimizer]} | {s: p.optimizers for s, p in life.planted.items()}
        self.memory = {slot: [m for o in old for m in momenta(o)] for slot, old in optimizers.items()}
        self.norms: dict[int | None, list[list[float]]] = {}
        self.losses: list[float] = []
        self.deltas: dict[int, float] = {}

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """128 entries of the shuffled stream, in batches of 64, normalized as the text says."""
        lap, at = divmod(self.start, 512)
        rows = generator(self.seed, Stream.DATA, lap).permutation(512)[at : at + 128]
        task, labels = self.task, self.task.train.labels
        # To the last bit: a pool may choose another pixel for less.
        x = (task.train.images[rows].to(task.mean.dtype) - task.mean * 255) * (1 / (task.std * 255))
        return list(zip(x.permute(0, 3, 1, 2).split(64), labels[rows].split(64), strict=True))

    def forward(self, x: torch.Tensor, alphas: dict[int, float], isolated: set[int]) -> torch.Tensor:
        for index, segment in enumerate(self.model.host.segments):
            x = segment(x)
            if index not in self.model.slots:
                continue
            slot = self.model.slots.index(index)
            graft = self.model.grafts[slot]
            if graft is not None and slot in alphas:
                d = graft.branch(x.detach() if slot in isolated else x)
                self.deltas[slot] = float((d.detach().square().mean() / x.detach().square().mean()).sqrt())
                if slot in isolated:
                    x = x + (d - d.detach())
                elif graft.style == Style.LINEAR_MULTIPLY:
                    x = x * (1 + alphas[slot] * torch.tanh(d))
                else:
                    share = alphas[slot] if graft.gate is None else alphas[slot] * graft.gate(x)
                    x = x + share * d
        return x

    def run(self, alphas: dict[int, float] | None = None, isolated: set[int] | None = None) -> None:
        """Momentum 0.9, decay 5e-4 on the host alone, norms clipped for each part by itself."""
        alphas, isolated = alphas or {}, isolated or set()
        parts: dict[int | None, list[nn.Parameter]] = {None: list(self.model.host.parameters())}
        parts |= {slot: list(self.model.grafts[slot].parameters()) for slot in alphas}
        self.model.train()
        optimizers = []
        for part, parameters in parts.items():
            decay = 5e-4 if part is None else 0.0
            optimizer = torch.optim.SGD(parameters, self.lr, momentum=0.9, weight_decay=decay)
            for parameter, buffer in zip(parameters, self.memory[part], strict=False):
                optimizer.state[parameter]["momentum_buffer"] = buffer
            optimizers.append(optimizer)
        for x, y in self.batches():
            loss = F.cross_entropy(self.forward(x, alphas, isolated), y)
            self.model.zero_grad()
            loss.backward()
            self.losses.append(float(loss.detach()))
            for part, parameters in parts.items():
                self.norms.setdefault(part, []).append([float(p.grad.norm()) for p in parameters])
                nn.utils.clip_grad_norm_(parameters, self.largest)
            for optimizer in optimizers:
                optimizer.step()


def accuracy(env: EsperVectorEnv, split: Split, alphas: dict[int, float]) -> float:
    """In percent, with these modules alone, normalized and composed by this file's own code."""
    loop = Loop(env)
    loop.model.eval()
    images = loop.task.train.images.double() / 255
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2), correction=0)
    x = ((split.images.double() / 255 - mean) / std).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = loop.forward(x, alphas, set())
    return 100 * float((logits.argmax(1) == split.labels).double().mean())
