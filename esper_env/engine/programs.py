"""Programs of an engine, and on CUDA the recordings of their steps.

A step of small networks is hundreds of short kernels, which take longer to launch than to run. As a CUDA
graph they are launched at once (A. Gray, "Getting Started with CUDA Graphs", 2019). A recording serves a
topology, not an environment; the least recently used one makes room.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper_env.engine.feed import batch
from esper_env.engine.junction import Ratios
from esper_env.engine.kernels.kernels import Kernels
from esper_env.engine.kinds import Kinds
from esper_env.engine.program import Program, topology
from esper_env.engine.setup import Setup
from esper_env.engine.topology import Ints, Modules

WARM_UP = 2
"""Steps done as usual before one is recorded: libraries allocate and choose in their first calls."""
WORTH_IT = 8
"""Fewest steps still to come for which one is recorded: that takes as long as some steps."""


@dataclass
class Recording:
    """A program, and once it has run often enough its step as a graph."""

    program: Program
    part: Tensor | None = None
    """Where a recorded step reads what samples to take."""
    graph: torch.cuda.CUDAGraph | None = None
    warm: int = 0
    """Steps done as usual."""
    refused: bool = False
    """The step can't be recorded."""


class Programs:
    """Finds or makes the program of a topology, and runs it.

    Args:
        kinds: where networks are kept.
        kernels: what to compute with.
        setup: device, data and how many recordings are kept.
    """

    def __init__(self, kinds: Kinds, kernels: Kernels, setup: Setup) -> None:
        self._kinds, self._kernels, self._setup = kinds, kernels, setup
        self._task = setup.loaded_task
        self._limit = setup.config.cuda_graphs if self._task.device.type == "cuda" else 0
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._memory = torch.cuda.graph_pool_handle() if self._limit else None
        self._stream = torch.cuda.Stream() if self._limit else None

    def of(self, modules: Modules, envs: Ints) -> Recording:
        """The program for these environments, not loaded yet."""
        made_for = topology(modules, envs) if self._limit else None
        recording = self._recordings.pop(made_for, None)
        if recording is None:
            recording = Recording(Program(self._kinds, self._kernels, modules, envs, self._setup))
        if self._limit:
            self._recordings[made_for] = recording
            while len(self._recordings) > self._limit:
                self._recordings.popitem(last=False)
        return recording

    def run(self, recording: Recording, parts: Sequence[Tensor]) -> Ratios:
        """All steps of an epoch of a loaded program.

        Args:
            recording: the program.
            parts: by step, the part of the plan that it reads.

        Returns:
            The delta ratios in the last step.
        """
        ratios: Ratios = []
        for index, part in enumerate(parts):
            if index == len(parts) - 1:
                recording.program.step(*batch(self._task, self._kernels, part), ratios)
            elif not self._limit or recording.refused:
                recording.program.step(*batch(self._task, self._kernels, part))
            else:
                self._replay(recording, part, len(parts) - 1 - index)
            recording.program.counted()
        return ratios

    def _replay(self, recording: Recording, part: Tensor, to_come: int) -> None:
        if recording.graph is None and recording.warm >= WARM_UP and to_come >= WORTH_IT:
            self._record(recording, part)
        if recording.graph is None or recording.part is None:
            self._warm_up(recording, part)
            return
        recording.part.copy_(part)
        recording.graph.replay()

    def _warm_up(self, recording: Recording, part: Tensor) -> None:
        """A step as usual, on a stream of its own as recording wants it."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            recording.program.step(*batch(self._task, self._kernels, part))
        torch.cuda.current_stream().wait_stream(self._stream)
        recording.warm += 1

    def _record(self, recording: Recording, part: Tensor) -> None:
        """Nothing is computed while a step is recorded."""
        graph, recording.part = torch.cuda.CUDAGraph(), part.clone()
        try:
            # The outer context brings the stream back where the end of a failed recording raises.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"),
            ):
                recording.program.step(*batch(self._task, self._kernels, recording.part))
        except RuntimeError:  # a module that runs row by row, or waits for the device
            recording.refused = True
            return
        recording.graph = graph
