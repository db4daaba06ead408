"""What the tests of language hosts in engines share: tiny environments, and training by formulas."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from engines import settings
from lives import GROW
from numpy.typing import NDArray
from plain import WAIT
from torch import nn

from esper_env import EsperVectorEnv, Head, Op, Style, encode
from esper_env.contracts.streams import Stream, generator, key
from esper_env.engine.life import Life
from esper_env.slots.grown import build_gate

ATTENTION, MLP = 2, 11
"""Blueprint indices."""
CONTEXT, EPOCH, BATCH, TRAIN, VALIDATION = 8, 64, 16, 128, 48
TINY = {
    "task.context": CONTEXT, "task.train_size": TRAIN, "task.val_size": VALIDATION, "task.test_size": 40,
    "engine.epoch_size": EPOCH, "engine.batch_size": BATCH, "engine.counterfactual_size": 32,
    "engine.optimizer.warmup_steps": 6, "engine.optimizer.lr_schedule": "constant",
}  # fmt: skip


def texts(
    num_envs: int = 1,
    overrides: Mapping[str, Any] | None = None,
    engine: str = "reference",
    **arguments: Any,
) -> EsperVectorEnv:
    """EsperTinyStories with the smallest host on few short windows; `engine` as in `engines.ENGINES`."""
    arguments = {"horizon": 20, "autoreset_mode": "DISABLED", "device": "cpu"} | arguments
    arguments = {"host": "gpt_micro", "data": "procedural"} | arguments
    return EsperVectorEnv(
        num_envs, "stories", overrides=TINY | settings(engine) | dict(overrides or {}), **arguments
    )


def started(seed: int = 0, **arguments: Any) -> tuple[EsperVectorEnv, Life]:
    env = texts(**arguments)
    env.reset(seed=seed)
    return env, env._engine.life(0)


def grow(slot: int, style: Style = Style.LINEAR_ADD, blueprint: int = MLP) -> list[NDArray[Any]]:
    """DORMANT to HOLDING in the fewest steps."""
    heads = {"slot": slot, "blueprint": blueprint, "style": style, "tempo": 0, "alpha_target": 2}
    moved = [encode(Op.ADVANCE, slot=slot) if action[Head.OP] == Op.ADVANCE else WAIT for action in GROW[1:]]
    return [encode(Op.GERMINATE, **heads), *moved]


def memory(life: Life) -> list[torch.Tensor]:
    """Everything that optimizers of host and modules remember."""
    optimizers = [each for _, part in sorted(life.parts().items()) for each in part[1]]
    return [value.clone() for each in optimizers for state in each.state.values() for value in state.values()]


def windows(tokens: torch.Tensor, rows: NDArray[Any] | range) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of a stream and the tokens that follow, cut one by one."""
    starts = [CONTEXT * int(row) for row in rows]
    x, y = (torch.stack([tokens[s + by : s + by + CONTEXT] for s in starts]).long() for by in (0, 1))
    return x, y


def loss_of(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean negative log-probability of the right token, in nats."""
    return -logits.log_softmax(dim=-1).gather(-1, y[..., None]).mean()


class Adam:
    """AdamW by its formula, for some parameters of one part of a network."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.means = [torch.zeros_like(p) for p in parameters]
        self.squares = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        self.steps += 1
        for p, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            p *= 1 - lr * (self.decay if p.dim() > 1 else 0)
            mean.copy_(0.9 * mean + 0.1 * p.grad)
            square.copy_(0.95 * square + 0.05 * p.grad**2)
            unbiased = mean / (1 - 0.9**self.steps), square / (1 - 0.95**self.steps)
            p -= lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8)


class Twin:
    """A network that is trained beside an environment's, from the same weights, in functions alone."""

    def __init__(self, env: EsperVectorEnv, lr: float = 1e-3, warmup: int = 6, largest: float = 1.0) -> None:
        self.life = env._engine.life(0)
        self.tokens = env._engine._setup.loaded_task.train.tokens
        self.host = copy.deepcopy(self.life.model.host)
        self.lr, self.warmup, self.largest = lr, warmup, largest
        self.optimizers = {-1: [Adam(list(self.host.parameters()), 0.1)]}
        self.modules: dict[int, nn.ModuleList] = {}
        self.batches, self.losses = 0, [0.0]
        self.norms: dict[int, list[list[float]]] = {}

    def adopt(self, slot: int) -> None:
        """Copy the branch that the environment's slot holds."""
        self._add(slot, copy.deepcopy(self.life.model.grafts[slot].branch))

    def add_gate(self, slot: int) -> None:
        """The gate of the slot's first module, as it is born."""
        gate = build_gate(self.life.model.place(slot), key(self.life.seed, Stream.MODULE_INIT, slot, 1, 1))
        self._add(slot, gate.to(next(self.host.parameters())))

    def _add(self, slot: int, part: nn.Module) -> None:
        self.modules.setdefault(slot, nn.ModuleList()).append(part)
        self.optimizers.setdefault(slot, []).append(Adam(list(part.parameters()), 0.0))

    def forward(
        self, x: torch.Tensor, alphas: Mapping[int, float], style: Style, isolated: bool
    ) -> torch.Tensor:
        for index, segment in enumerate(self.host.segments):
            x = segment(x)
            slot = index if index in alphas else None  # in this host there is a slot after every block
            if slot is None:
                continue
            d = self.modules[slot][0](x.detach() if isolated else x)
            if isolated:
                x = x + (d - d.detach())
            elif style == Style.LINEAR_MULTIPLY:
                x = x * (1 + alphas[slot] * torch.tanh(d))
            else:
                x = x + alphas[slot] * (self.modules[slot][1](x) if style == Style.GATED else 1.0) * d
        return x

    def epoch(
        self,
        alphas: Mapping[int, float] | None = None,
        style: Style = Style.LINEAR_ADD,
        isolated: bool = False,
    ) -> None:
        """One epoch, in which the modules in `alphas` take part."""
        alphas = alphas or {}
        lap, at = divmod(self.batches * BATCH, TRAIN)
        rows = generator(self.life.seed, Stream.DATA, lap).permutation(TRAIN)[at : at + EPOCH]
        learning = {-1: self.host} | {slot: self.modules[slot] for slot in alphas}
        self.losses, self.norms = [], {part: [] for part in learning}
        for batch in range(EPOCH // BATCH):
            x, y = windows(self.tokens, rows[batch * BATCH : (batch + 1) * BATCH])
            loss = loss_of(self.forward(x, alphas, style, isolated), y)
            for module in (self.host, *self.modules.values()):
                module.zero_grad()
            loss.backward()
            self.losses.append(float(loss.detach()))
            self.batches += 1
            for part, module in learning.items():
                parameters = list(module.parameters())
                self.norms[part].append([float(p.grad.norm()) for p in parameters])
                nn.utils.clip_grad_norm_(parameters, self.largest)
                for optimizer in self.optimizers[part]:
                    optimizer.step(self.lr * min(1.0, self.batches / self.warmup))


def mean_loss(env: EsperVectorEnv, split: str, count: int, without: frozenset[int] = frozenset()) -> float:
    """Of the first windows of a split, one at a time."""
    model, tokens = env._engine.life(0).model.eval(), getattr(env._engine._setup.loaded_task, split).tokens
    with torch.no_grad():
        losses = [
            loss_of(model(x[None], without=without), y[None])
            for x, y in zip(*windows(tokens, range(count)), strict=True)
        ]
    return float(torch.stack(losses).double().mean())
