"""What is measured of a peer: the time of a step and of its training, and the losses that prove the work."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from peers.work import Work, precise, slots

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What can be chosen for a peer without changing what it computes."""

    threads: int = 1
    """torch's threads inside an operation."""
    channels_last: bool | None = None
    """Layout of activations in memory: channels last, or channels first; None where it is not a choice."""
    plain: bool = False
    """A hand-written training loop in place of this package's reference engine."""
    graphs: bool = False
    """A training step is captured as a CUDA graph."""
    deterministic: bool = True
    """On CUDA, for this package's engines: cuDNN gives the same bits every time."""

    def __str__(self) -> str:
        """In words, for the report."""
        words = [f"{self.threads} thread" + "s" * (self.threads > 1)]
        if self.channels_last is not None:
            words += ["channels last" if self.channels_last else "channels first"]
        words += ["plain loop"] * self.plain + ["CUDA graphs"] * self.graphs
        words += ["not deterministic"] * (not self.deterministic)
        return ", ".join(words)


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one step of all environments."""

    step: float
    """Everything: planting, training, validation, counterfactuals and, where there are any, rules."""
    train: float
    """Training alone."""


def synchronize(device: str) -> None:
    """Wait for the device, so that a clock tells the truth."""
    if device == "cuda":
        torch.cuda.synchronize()


class Peer(ABC):
    """Trains and measures all networks of a `Work`, an epoch a step.

    Args:
        work: what is done; every peer gets the same losses from it.
        options: how.
    """

    name: ClassVar[str]
    letter: ClassVar[str]
    most: ClassVar[dict[str, int]] = {}
    """Most environments that are measured, by device, where the rate no longer depends on their number."""
    tuned_on: ClassVar[int] = 16
    """Most environments on which options are tried."""

    def __init__(self, work: Work, options: Options) -> None:
        self.work, self.options = work, options
        self.losses: list[Floats] = []
        """Mean training loss of every environment, (env,), of every step so far."""
        self._train_seconds = 0.0

    @classmethod
    @abstractmethod
    def choices(cls, work: Work, threads: list[int]) -> list[Options]:
        """What is tried before the measurement; the fastest is measured."""

    def step(self) -> Timing:
        """One step of every environment."""
        torch.set_num_threads(self.options.threads)
        if self.work.device == "cuda":
            precise(self.work.precision)
        slots(
            self.work, len(self.losses)
        )  # So that no peer's clock counts what the benchmark itself works out.
        before = self._train_seconds
        synchronize(self.work.device)
        began = perf_counter()
        self.losses.append(self._step(len(self.losses)))
        synchronize(self.work.device)
        return Timing(perf_counter() - began, self._train_seconds - before)

    @abstractmethod
    def _step(self, index: int) -> Floats:
        """Do it; returns the mean training loss of every environment, (env,)."""

    @contextmanager
    def _training(self) -> Iterator[None]:
        """What happens inside is counted as training."""
        synchronize(self.work.device)
        began = perf_counter()
        yield
        synchronize(self.work.device)
        self._train_seconds += perf_counter() - began

    def close(self) -> None:  # noqa: B027  Most hold nothing but memory.
        """Free what it holds."""


@contextmanager
def cast(work: Work, cache: bool = True) -> Iterator[None]:
    """Inside, torch computes in bfloat16 where that is asked for (its own autocast)."""
    with torch.autocast(work.device, torch.bfloat16, enabled=work.precision == "bf16", cache_enabled=cache):
        yield
