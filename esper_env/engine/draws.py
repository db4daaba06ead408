"""What modules draw from torch's own generators, such as a dropout's masks: a stream of each environment."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from esper_env.slots.grown import drawing_from


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
