"""Programs of an engine, and on CUDA the recordings of their steps.

A step of small networks is hundreds of short kernels, which take longer to launch than to run. As a CUDA
graph they are launched at once (A. Gray, "Getting Started with CUDA Graphs", 2019). A recording serves a
topology, not an environment, and is kept from epoch to epoch; the least recently used one makes room.
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
"""Fewest steps expected for which one is recorded: that takes as long as some steps."""


@dataclass
class Recording:
    """A program, and once it has run often enough its step as a graph."""

    program: Program
    part: Tensor | None = None
    """Where a recorded step reads what samples to take."""
    graph: torch.cuda.CUDAGraph | None = None
    warm: int = 0
    """Steps done as usual that a recording could have done, in all epochs so far."""
    refused: bool = False
    """The step can't be recorded."""

    def pays(self, to_come: int) -> bool:
        """Whether to record the step now.

        How long a topology stays is up to agents. Expected are the steps of this epoch, or as many again as
        have been done: then a recording that is hardly used costs no more than doing without had, up to then.

        Args:
            to_come: steps of this epoch that a recording can still do.
        """
        return self.graph is None and self.warm >= WARM_UP and max(to_come, self.warm) >= WORTH_IT


def most_recordings(setup: Setup, device: torch.device) -> int:
    """Recordings that are kept. The last step of an epoch is done as usual, since more is measured in it."""
    recordable = device.type == "cuda" and setup.epoch_size > setup.config.batch_size
    return setup.config.cuda_graphs if recordable else 0


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
        self._limit = most_recordings(setup, self._task.device)
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
        if recording.pays(to_come):
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
