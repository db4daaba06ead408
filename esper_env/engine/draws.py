"""What modules draw from torch's own generators, such as a dropout's masks: a stream of each environment."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from esper_env.slots.grown import drawing_from


class RowDraws:
    """What the rows of a program draw from; `load` says which environments they are in an epoch.

    It is no part of the program, which holds what asks it: two that hold each other stay in memory, with all
    their tensors, until Python happens to look for such pairs.
    """

    def load(self, draws: "Draws", envs: NDArray[np.int64]) -> None:
        """Begin an epoch; envs (row,)."""
        self._draws, self._envs = draws, envs

    def of(self, row: int) -> AbstractContextManager[None]:
        """See `Run.drawing`."""
        return self._draws.of(int(self._envs[row]))


class Draws:
    """Streams that go on from call to call. Only modules that run row by row need them.

    Args:
        keys: where the stream of each environment begins.
        device: the CPU, or a CUDA device with its index.
    """

    def __init__(self, keys: Mapping[int, int], device: torch.device) -> None:
        self._keys, self._device = keys, device
        self._states: dict[int, list[torch.Tensor]] = {}

    @contextmanager
    def of(self, env: int) -> Iterator[None]:
        """Inside, torch's generators of CPU and device go on where they stopped for this environment."""
        generators = [torch.default_generator]
        if self._device.type == "cuda":
            generators.append(torch.cuda.default_generators[self._device.index])
        with drawing_from(self._keys[env], self._device):
            for generator, state in zip(generators, self._states.get(env, ()), strict=False):
                generator.set_state(state)
            yield
            self._states[env] = [generator.get_state() for generator in generators]
