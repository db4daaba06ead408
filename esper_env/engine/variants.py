"""Measuring many networks at once, and their variants without some modules on the way.

A row of the value is a network, or a variant of one. Where variants part, at a slot that one has on and the
other off, the row is doubled: what comes before is computed once, as in `GrownModel.variants`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from esper_env.engine.feed import evaluation
from esper_env.engine.junction import Assembly, Junction
from esper_env.engine.kinds import Kinds
from esper_env.engine.precision import precision
from esper_env.engine.score import Score
from esper_env.engine.setup import Setup
from esper_env.engine.stacked import Forward, Run, Tensors
from esper_env.engine.topology import Bools, Ints, Modules
from esper_env.tasks.task import Split
from esper_env.tasks.windows import TextSplit

SAMPLES = {"image": 128, "text": 32}
"""Samples at a time, by family. Always the same, so that sums are: figures don't depend on other networks."""


class Pass(NamedTuple):
    """Whose networks are measured, and how."""

    kinds: Kinds
    run: Run
    modules: Modules
    envs: Ints
    """(row,)."""
    setup: Setup


@dataclass(frozen=True)
class Row:
    """A network, or what several of its variants have in common so far."""

    at: int
    """Position of its environment."""
    subsets: tuple[int, ...]
    """The variants, bit masks of live slots that are on."""


@dataclass(frozen=True)
class Stage:
    """One segment of the host in every row, and the slot after it."""

    run: Run
    segment: Forward
    tensors: Tensors
    source: Tensor | None
    """int64 (row,): which rows the rows after the slot come from; None where each comes from itself."""
    junction: Junction | None


class Measuring:
    """A forward pass of some environments' networks and variants, in eval mode.

    Args:
        networks: which.
        subsets: by row, distinct bit masks of the live slots that are on.
    """

    def __init__(self, networks: Pass, subsets: Sequence[Sequence[int]]) -> None:
        self._kinds, self._run, self._modules, self._envs, self._setup = networks
        kinds, envs, setup = self._kinds, self._envs, self._setup
        self.task, self.kernels = setup.loaded_task, self._run.kernels
        self.rows = [Row(at, tuple(asked)) for at, asked in enumerate(subsets)]
        """Of the result."""
        rows = kinds.host.pool.take(self._sent(envs))
        self._host = kinds.host.pool.tensors.views(rows.values) | rows.buffers
        self._like = rows.values
        slot_at = {place: slot for slot, place in enumerate(setup.slot_places)}
        self._stages: list[Stage] = []
        index = 0
        while index < len(kinds.host.forwards):
            index = self._add_stage(index, slot_at) + 1
        self._last, self._end = self._of_host(index), self._drawing()

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """float64 (row, 2): sums of cross-entropy in nats and of correct answers, over the same samples.

        Args:
            x: (sample, ...), as a row of `Program.step`.
            y: int64 (sample, ...), likewise.
        """
        x, y = x.expand(len(self._envs), *x.shape), y.expand(len(self.rows), *y.shape)
        with precision(self._setup.config.precision, x.device):
            for stage in self._stages:
                x = stage.segment(stage.run, stage.tensors, x)
                if stage.source is not None:
                    x = self._run.kernels.select(x, stage.source)
                if stage.junction is not None:
                    x = stage.junction(x)
            return self._score.measure(self._end, self._last, x, y)

    @property
    def _score(self) -> Score:
        assert self._kinds.host.score is not None, "this is a host"
        return self._kinds.host.score

    def _sent(self, values: Sequence[int] | Ints) -> Tensor:
        return torch.as_tensor(values, device=self._kinds.device)

    def _add_stage(self, index: int, slot_at: Mapping[int, int]) -> int:
        """The stage of a segment, and of the next one where both are one; the last segment of it."""
        run, own = self._drawing(), self._of_host(index)
        source, junction = self._part(slot_at[index]) if index in slot_at else (None, None)
        segment, last = self._kinds.host.segment(index, bare=source is None and junction is None)
        if last > index and last in slot_at:
            source, junction = self._part(slot_at[last])
        self._stages.append(Stage(run, segment, own, source, junction))
        return last

    def _of_host(self, index: int) -> Tensors:
        """Parameters and buffers of a segment, a row for each row there is now."""
        at = [row.at for row in self.rows]
        every = self._kinds.host.pool.tensors.everywhere(self._host)
        own = {name: each for name, each in every.items() if name.startswith(f"segments.{index}.")}
        if at == list(range(len(self._envs))):
            return own
        return {name: each.index_select(0, self._sent(at)) for name, each in own.items()}

    def _drawing(self) -> Run:
        """How the rows are run that there are now."""
        envs, of_env = self._envs[[row.at for row in self.rows]], self._run.drawing
        return replace(self._run, drawing=lambda row: of_env(int(envs[row])))

    def _part(self, slot: int) -> tuple[Tensor | None, Junction | None]:
        """Double rows whose variants part in this slot, and put its modules into those that have it on."""
        on, off = [], []
        for source, row in enumerate(self.rows):
            live = bool(self._modules.live[self._envs[row.at], slot])
            with_it = tuple(subset for subset in row.subsets if not live or subset >> slot & 1)
            without = tuple(subset for subset in row.subsets if subset not in with_it)
            on += [(source, Row(row.at, with_it))] if with_it else []
            off += [(source, Row(row.at, without))] if without else []
        order = [source for source, _ in on + off]
        self.rows = [row for _, row in on + off]
        moved = order != list(range(len(order)))
        return self._sent(order) if moved else None, self._junction(slot, np.arange(len(order)) < len(on))

    def _junction(self, slot: int, among: Bools) -> Junction | None:
        envs = self._envs[[row.at for row in self.rows]]
        groups = self._modules.groups(envs, slot, among & self._modules.active[envs, slot])
        members = []
        for group in groups:
            kind = self._kinds.module(slot, group.blueprint)
            rows = kind.pool.take(self._sent(envs[list(group.at)]))
            tensors = kind.pool.tensors
            members.append((group, kind, tensors.everywhere(tensors.views(rows.values) | rows.buffers)))
        if not members:
            return None
        return Assembly(self._modules, envs, self._like, False).junction(self._drawing(), slot, members)


class Measured(NamedTuple):
    """What a pass over the validation split showed."""

    validation: Tensor
    """float64 (row, 2): mean loss in nats and accuracy in [0, 1] on the whole split."""
    subsets: Tensor
    """float64 (row, subset, 2): the same of variants on the first samples; NaN where none was asked for."""
    counterfactual_seconds: float
    """Time spent on variants beyond the whole networks, by their share of the rows in a pass."""


@torch.no_grad()
def measure(networks: Pass, asked: Ints) -> Measured:
    """Validate networks, and variants of them on the way.

    Args:
        networks: which.
        asked: (row, subset): bit masks of the live slots that are on; negative ones ask for nothing.
    """
    setup, whole = networks.setup, whole_networks(networks)
    split, size = setup.loaded_task.validation, setup.config.counterfactual_size
    wanted = [
        list(dict.fromkeys([own, *(subset for subset in row if subset >= 0)]))
        for own, row in zip(whole, asked.tolist(), strict=True)
    ]
    began, variants = perf_counter(), Measuring(networks, wanted)
    sums = scores(variants, split, slice(0, size))
    spent = (perf_counter() - began) * (1 - len(whole) / len(variants.rows))
    at = {(row.at, subset): index for index, row in enumerate(variants.rows) for subset in row.subsets}
    own = [at[row, subset] for row, subset in enumerate(whole)]
    rest = scores(Measuring(networks, [[each] for each in whole]), split, slice(size, None))
    subsets = sums.new_full((*asked.shape, 2), torch.nan)
    places = [
        (row, column, at[row, subset])
        for row, subsets_of in enumerate(asked.tolist())
        for column, subset in enumerate(subsets_of)
        if subset >= 0
    ]
    if places:
        rows, columns, sources = torch.tensor(places, device=sums.device).T
        subsets[rows, columns] = sums[sources] / size
    return Measured((sums[own] + rest) / split.num_samples, subsets, spent)


@torch.no_grad()
def summary(networks: Pass, split: Split | TextSplit) -> Tensor:
    """Mean loss in nats and accuracy in [0, 1] on a whole split, float64 (row, 2)."""
    measuring = Measuring(networks, [[each] for each in whole_networks(networks)])
    return scores(measuring, split, slice(None)) / split.num_samples


def whole_networks(networks: Pass) -> list[int]:
    """(row,): the bit masks in which every live module is on."""
    live = networks.modules.live[networks.envs]
    return (live @ (1 << np.arange(live.shape[1]))).tolist()


def scores(measuring: Measuring, split: Split | TextSplit, samples: slice) -> Tensor:
    """Sums of cross-entropy in nats and of correct answers over these samples, float64 (row, 2)."""
    task, kernels = measuring.task, measuring.kernels
    sums = torch.zeros(len(measuring.rows), 2, dtype=torch.float64, device=task.device)
    index = torch.arange(split.num_samples, device=task.device)[samples]
    for chosen in index.split(SAMPLES[task.family]) if len(index) else ():
        sums += measuring(*evaluation(task, kernels, split, chosen))
    return sums
