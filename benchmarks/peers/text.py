"""Peers that train language hosts: single plain ones under SyncVectorEnv, and this package's engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import nn

from esper_env import EsperVectorEnv
from esper_env.contracts.streams import Stream, key
from esper_env.engine.setup import Setup, prepare
from esper_env.presets import resolve
from esper_env.slots.grown import seeded
from esper_env.tasks.loader import evaluation_batches, train_batches
from peers.peer import Floats, Timing, synchronize
from peers.work import seed

CHECKED = 2
"""Steps whose losses are compared; they also warm up."""


@dataclass(frozen=True)
class Cell:
    """What is trained: hosts without modules, the same for every peer and number of environments."""

    host: str
    num_envs: int
    device: str = "cpu"
    precision: str = "fp32"
    """`fp32` or `bf16`."""
    batches: int = 2
    """Of an epoch."""
    batch_size: int = 32
    """Windows."""
    context: int | None = None
    """Tokens of a window; None for the host's."""
    data: str = "tinystories"
    vocabulary: int = 4096

    def arguments(self, **engine: Any) -> dict[str, Any]:
        """What `EsperVectorEnv` is built with; `engine` are more overrides."""
        overrides: dict[str, Any] = {
            "task.context": self.context, "task.vocabulary": self.vocabulary,
            "task.val_size": self.batch_size, "task.test_size": self.batch_size,
            "engine.epoch_size": self.batches * self.batch_size, "engine.batch_size": self.batch_size,
            "engine.counterfactual_size": self.batch_size, "engine.optimizer.lr_schedule": "constant",
        }  # fmt: skip
        names = {"preset": "stories", "host": self.host, "data": self.data, "device": self.device}
        return {**names, "horizon": 10_000, "overrides": overrides | engine}

    @property
    def windows(self) -> int:
        """Trained on in a step, by all environments."""
        return self.num_envs * self.batches * self.batch_size

    @property
    def tokens(self) -> int:
        """The same in tokens."""
        return self.windows * setup(self).loaded_task.input_shape[0]


@cache
def setup(cell: Cell) -> Setup:
    """Data, sizes and builders, which all peers share."""
    arguments = cell.arguments()
    overrides = arguments.pop("overrides")
    built = resolve(arguments.pop("preset"), arguments, overrides)
    return prepare(built.host, built.task, built.engine, built.horizon)


class PlainGpt(gym.Env[Floats, np.int64]):
    """Trains and validates one language host by hand, an epoch a step.

    Args:
        cell: what is done.
        env: which of its environments this is.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(1)

    def __init__(self, cell: Cell, env: int) -> None:
        self._cell, self._setup, self._seed = cell, setup(cell), seed(env)
        self._seconds, self._epochs = 0.0, 0

    def clock(self) -> float:
        """Seconds of training so far."""
        return self._seconds

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Floats, dict[str, Any]]:
        """A fresh network."""
        super().reset(seed=seed)
        rules = self._setup.config.optimizer
        with seeded(key(self._seed, Stream.HOST_INIT)):
            self._model: nn.Module = self._setup.build_host().to(self._setup.loaded_task.device)
        parameters = list(self._model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": rules.host_weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        betas = (rules.adam_beta1, rules.adam_beta2)
        self._optimizer = torch.optim.AdamW(groups, rules.host_lr, betas, rules.adam_eps, fused=True)
        warmth = torch.optim.lr_scheduler.LambdaLR(self._optimizer, rules.warmth)
        self._warmth = warmth
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Train, then validate."""
        synchronize(self._cell.device)
        began = perf_counter()
        loss = self._train()
        synchronize(self._cell.device)
        self._seconds += perf_counter() - began
        with torch.no_grad():
            task = self._setup.loaded_task
            batches = evaluation_batches(task, task.validation)
            validation = torch.stack([self._loss(x, y) for x, y in batches]).mean()
        self._epochs += 1
        trained, measured = torch.stack([loss, validation]).tolist()
        return np.array([measured]), -measured, False, False, {"train_loss": trained}

    def _train(self) -> torch.Tensor:
        task, size = self._setup.loaded_task, self._setup.config.batch_size
        total = torch.zeros((), device=task.device)
        for x, y in train_batches(task, self._seed, self._epochs, self._setup.epoch_size, size):
            loss = self._loss(x, y)
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), self._setup.config.optimizer.clip_norm)
            self._optimizer.step()
            self._warmth.step()
            total += loss.detach()
        return total / self._cell.batches

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self._cell.device, torch.bfloat16, enabled=self._cell.precision == "bf16"):
            logits = self._model(x)
        return F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())


class TextPeer:
    """Trains all hosts of a cell, an epoch a step.

    Args:
        cell: what is done.
        threads: torch's, inside an operation.
    """

    name: ClassVar[str]

    def __init__(self, cell: Cell, threads: int) -> None:
        self.cell, self.threads = cell, threads
        self.losses: list[Floats] = []
        """Mean training loss of every environment, (env,), of every step so far."""

    def step(self) -> Timing:
        """One step of every environment."""
        torch.set_num_threads(self.threads)
        synchronize(self.cell.device)
        before, began = self._clock(), perf_counter()
        self.losses.append(self._step())
        synchronize(self.cell.device)
        return Timing(perf_counter() - began, self._clock() - before)

    def _step(self) -> Floats:
        raise NotImplementedError

    def _clock(self) -> float:
        """Seconds of training so far."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what it holds."""


class SyncTextPeer(TextPeer):
    """(a) One plain host after another."""

    name = "(a) SyncVectorEnv, plain GPTs"
    kind: ClassVar[type[PlainGpt]] = PlainGpt

    def __init__(self, cell: Cell, threads: int) -> None:
        super().__init__(cell, threads)
        builders = [partial(self.kind, cell, env) for env in range(cell.num_envs)]
        self._envs = SyncVectorEnv(builders, autoreset_mode=AutoresetMode.DISABLED)
        self._envs.reset(seed=0)

    def _step(self) -> Floats:
        losses: Floats = self._envs.step(np.zeros(self.cell.num_envs, dtype=np.int64))[-1]["train_loss"]
        return losses

    def _clock(self) -> float:
        return float(sum(self._envs.call("clock")))

    def close(self) -> None:
        """See `TextPeer`."""
        self._envs.close()


class OurTextPeer(TextPeer):
    """(e) `EsperVectorEnv`."""

    name, engine = "(e) ours", "fused"
    switches: ClassVar[dict[str, Any]] = {"engine.deterministic": False}
    """As a plain loop has it: on CUDA attention by whatever is fastest."""

    def __init__(self, cell: Cell, threads: int) -> None:
        super().__init__(cell, threads)
        precision = {"engine.precision": "bfloat16" if cell.precision == "bf16" else "float32"}
        self.env = EsperVectorEnv(
            cell.num_envs, **cell.arguments(**self.switches, **precision), engine=self.engine
        )
        self._seconds, self._train = 0.0, self.env._engine.epoch
        self.env._engine.epoch = self._timed  # type: ignore[method-assign]
        self.env.reset(seed=0)
        self._wait = np.zeros((cell.num_envs, 8), dtype=np.int64)

    def _timed(self, playing: NDArray[np.bool_]) -> None:
        with self._counted():
            self._train(playing)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        synchronize(self.cell.device)
        began = perf_counter()
        yield
        synchronize(self.cell.device)
        self._seconds += perf_counter() - began

    def _step(self) -> Floats:
        losses: Floats = self.env.step(self._wait)[-1]["train_loss"]
        return losses

    def _clock(self) -> float:
        return self._seconds

    def close(self) -> None:
        """See `TextPeer`."""
        self.env.close()


class ReferenceTextPeer(OurTextPeer):
    """The definition of the work."""

    name, engine = "(r) reference engine", "reference"


PEERS: tuple[type[TextPeer], ...] = (SyncTextPeer, OurTextPeer)
"""In the order in which they take turns; ratios are to the first."""


@cache
def standard(cell: Cell) -> tuple[Floats, float]:
    """Losses (step, env) of the reference engine, and FLOPs of training on a window."""
    peer = ReferenceTextPeer(cell, torch.get_num_threads())
    for _ in range(CHECKED):
        peer.step()
    flops = float(peer.env.facts.host_flops)
    peer.close()
    return np.stack(peer.losses), flops
