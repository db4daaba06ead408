"""Peers that step Gymnasium environments: one after another, in worker processes, and ours, all at once."""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from esper_env import EsperVectorEnv
from esper_env.env import EsperEnv
from peers.peer import Options, Peer, cast, synchronize
from peers.plain import PlainEnv
from peers.work import Work, slots, write

Floats = NDArray[np.float64]


class PreparedEnv(EsperEnv):
    """`EsperEnv` with the reference engine, whose modules are those of the work; its actions are WAIT.

    Args:
        work: what is done.
        env: which of its environments this is.
        options: whether CUDA is deterministic; else the engine knows best.
    """

    def __init__(self, work: Work, env: int, options: Options) -> None:
        arguments = work.arguments(**{"engine.deterministic": options.deterministic})
        super().__init__(**arguments, engine="reference")
        self._work, self._row, self._steps = work, env, 0
        self._seconds = np.zeros(2)
        _clocked(self._envs, self._count, work.device)

    def _count(self, seconds: float) -> None:
        self._seconds[0] += seconds

    def clock(self) -> Floats:
        """Seconds of training and of steps so far, (2,)."""
        return self._seconds.copy()

    def step(self, action: Any) -> Any:
        """See `EsperEnv`."""
        began = perf_counter()
        write(self._envs._state.slots, slots(self._work, self._steps), [self._row])
        self._steps += 1
        with cast(self._work):
            result = super().step(action)
        self._seconds[1] += perf_counter() - began
        return result


def _clocked(env: EsperVectorEnv, count: Callable[[float], None], device: str) -> None:
    """Count the seconds in which the engine trains."""
    train = env._engine.epoch

    def epoch(playing: NDArray[np.bool_]) -> None:
        synchronize(device)
        began = perf_counter()
        train(playing)
        synchronize(device)
        count(perf_counter() - began)

    env._engine.epoch = epoch  # type: ignore[method-assign]


class _VectorPeer(Peer):
    """Single environments under one of Gymnasium's own vectorizers."""

    envs: SyncVectorEnv | AsyncVectorEnv

    def __init__(self, work: Work, options: Options) -> None:
        super().__init__(work, options)
        kind = PlainEnv if options.plain else PreparedEnv
        self._spent = np.zeros(2)
        self.envs = self._vectorized([partial(kind, work, env, options) for env in range(work.num_envs)])
        self.envs.reset(seed=0)
        self._wait = np.zeros_like(self.envs.action_space.sample())

    def _vectorized(self, builders: list[Callable[[], gym.Env[Any, Any]]]) -> Any:
        raise NotImplementedError

    def _step(self, index: int) -> Floats:
        began = perf_counter()
        _, _, _, _, info = self.envs.step(self._wait)
        spent = np.sum(self.envs.call("clock"), axis=0)
        train, whole = spent - self._spent
        self._spent = spent
        # Workers overlap, so their seconds are more than passed: training gets its share of what did.
        self._train_seconds += (perf_counter() - began) * train / whole
        losses: Floats = info["train_loss"]
        return losses

    def close(self) -> None:
        """Free the networks, end the processes."""
        self.envs.close()


class SyncPeer(_VectorPeer):
    """(a) One network after another."""

    name, letter, tuned_on = "SyncVectorEnv, plain modules", "a", 4
    most: ClassVar[dict[str, int]] = {"cpu": 64, "cuda": 16}

    @classmethod
    def choices(cls, work: Work, threads: list[int]) -> list[Options]:
        """The hand-written loop in both layouts, and the reference engine."""
        plain = [Options(count, last, plain=True) for count in threads for last in (True, False)]
        return plain + [Options(count, deterministic=work.device == "cpu") for count in threads]

    def _vectorized(self, builders: list[Callable[[], gym.Env[Any, Any]]]) -> Any:
        return SyncVectorEnv(builders, autoreset_mode=AutoresetMode.DISABLED)


class AsyncPeer(_VectorPeer):
    """(b) A process for each network, as Gymnasium does it."""

    name, letter = "AsyncVectorEnv", "b"
    most: ClassVar[dict[str, int]] = {"cpu": 16, "cuda": 16}

    @classmethod
    def choices(cls, work: Work, threads: list[int]) -> list[Options]:
        """A worker computes with one thread; the hand-written loop, and the reference engine."""
        plain = Options(1, True, plain=True)
        return [plain] if work.device == "cuda" else [plain, Options(1, False, plain=True), Options(1)]

    def _vectorized(self, builders: list[Callable[[], gym.Env[Any, Any]]]) -> Any:
        context = "spawn" if self.work.device == "cuda" else None
        return AsyncVectorEnv(builders, context=context, autoreset_mode=AutoresetMode.DISABLED)


class OursPeer(Peer):
    """(e) `EsperVectorEnv`."""

    name, letter = "ours", "e"
    engine: ClassVar[str] = "fused"
    """Which engine it runs."""
    kernels: ClassVar[str] = "auto"
    """What that computes with."""
    graphs: ClassVar[int | None] = None
    """Most CUDA graphs that it keeps; None for its own default."""

    def __init__(self, work: Work, options: Options) -> None:
        super().__init__(work, options)
        self.env = EsperVectorEnv(work.num_envs, **work.arguments(**self._switches()), engine=self.engine)
        _clocked(self.env, self._count, work.device)
        self.env.reset(seed=0)
        self._wait = np.zeros((work.num_envs, 8), dtype=np.int64)

    @classmethod
    def choices(cls, work: Work, threads: list[int]) -> list[Options]:
        """The number of threads."""
        exact = [True, False] if work.device == "cuda" else [True]
        return [Options(count, deterministic=same) for count in threads for same in exact]

    def _switches(self) -> dict[str, Any]:
        graphs = {} if self.graphs is None else {"engine.cuda_graphs": self.graphs}
        return graphs | {
            "engine.deterministic": self.options.deterministic,
            "engine.kernels": self.kernels,
            "engine.precision": "bfloat16" if self.work.precision == "bf16" else "float32",
            "engine.tf32": self.work.precision == "tf32",
        }

    def _count(self, seconds: float) -> None:
        self._train_seconds += seconds

    def _step(self, index: int) -> Floats:
        write(self.env._state.slots, slots(self.work, index), list(range(self.work.num_envs)))
        _, _, _, _, info = self.env.step(self._wait)
        losses: Floats = info["train_loss"]
        return losses

    def train_flops(self) -> float:
        """FLOPs of training so far, of all environments, by the environments' own ledger."""
        return float(self.env.ledger()["train_flops"].sum())

    def close(self) -> None:
        """Free the networks."""
        self.env.close()


class TorchOursPeer(OursPeer):
    """(e) with torch's operations alone, on a CPU."""

    name, kernels = "ours, torch kernels", "torch"


class EagerOursPeer(OursPeer):
    """(e) without CUDA graphs."""

    name, graphs = "ours, no CUDA graphs", 0


class ReferencePeer(OursPeer):
    """(r) The reference engine in the same hands: the standard for losses, and for one environment."""

    name, letter, engine, tuned_on = "reference engine", "r", "reference", 4
    most: ClassVar[dict[str, int]] = SyncPeer.most

    def _switches(self) -> dict[str, Any]:
        return {"engine.deterministic": self.options.deterministic}

    def _step(self, index: int) -> Floats:
        with cast(self.work):
            return super()._step(index)
