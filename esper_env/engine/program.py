"""One epoch of training of many networks as one program: what it consists of, and its step."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_env.contracts.action import Style
from esper_env.engine.draws import Draws, RowDraws
from esper_env.engine.junction import Assembly, Junction, Ratios
from esper_env.engine.kernels.kernels import AdamW, Descent, Kernels
from esper_env.engine.kinds import Kinds
from esper_env.engine.measures import TRAINED_SLOTS
from esper_env.engine.optimizer import OptimizerConfig, shares
from esper_env.engine.part import Part, Trained
from esper_env.engine.precision import precision
from esper_env.engine.setup import Setup
from esper_env.engine.stacked import Run
from esper_env.engine.topology import Group, Ints, Joint, Modules


def topology(modules: Modules, envs: Ints) -> Hashable:
    """What a program is made for: it serves all lists of environments of which this is the same."""
    slots = range(modules.blueprint.shape[1])
    styles = (modules.style == Style.LINEAR_MULTIPLY)[envs] & modules.active[envs]
    groups = tuple(group for slot in slots for group in modules.groups(envs, slot))
    return len(envs), groups, styles.tobytes()


class Program:
    """Trains some environments side by side; each step takes a batch of every one of them.

    Its tensors are made once: `load` fills them for an epoch, `finish` gives the results back.

    Args:
        kinds: where the parts come from, and go to when an epoch is over.
        kernels: what to compute with.
        modules: what the slots hold.
        envs: environments, (row,), best in the order of `Modules.in_order`.
        setup: optimizers and the places of the slots.
    """

    def __init__(self, kinds: Kinds, kernels: Kernels, modules: Modules, envs: Ints, setup: Setup) -> None:
        self._kinds, self._setup, self._optimizer = kinds, setup, setup.config.optimizer
        self._rows = RowDraws()
        self._run = Run(kernels, training=True, drawing=self._rows.of)
        at = torch.arange(len(envs), device=kinds.device)
        self.host = Part(kinds.host, at, host_descent(self._optimizer), gated=False)
        self._like = self.host.rows.values
        slots = range(len(setup.slot_places))
        self.groups = [group for slot in slots for group in modules.groups(envs, slot)]
        self.parts = [self._part(group) for group in self.groups]
        self._junctions = self._assemble(modules, envs)
        self._totals = self._like.new_zeros(2, len(envs))
        self._batches = self._like.new_zeros(len(envs))
        self._steps = 0

    def _part(self, group: Group) -> Part:
        at = torch.tensor(group.at, device=self._kinds.device)
        learns = not group.frozen and group.joint is not Joint.IDLE
        descent = module_descent(self._optimizer) if learns else None
        return Part(self._kinds.module(group.slot, group.blueprint), at, descent, group.gated)

    def _assemble(self, modules: Modules, envs: Ints) -> dict[int, Junction]:
        assembly = Assembly(modules, envs, self._like, self._setup.config.isolation == "always")
        members = [
            (group, part.kind, part.tensors) for group, part in zip(self.groups, self.parts, strict=True)
        ]
        return {
            place: assembly.junction(self._run, slot, [each for each in members if each[0].slot == slot])
            for slot, place in enumerate(self._setup.slot_places)
        }

    def load(
        self, modules: Modules, envs: Ints, batches: Ints, factors: NDArray[np.float64], draws: Draws
    ) -> None:
        """Begin an epoch.

        Args:
            modules: what the slots hold.
            envs: (row,), environments of the program's topology.
            batches: (row,): how many each has been trained on since its reset.
            factors: (row,): what learning rates are multiplied with.
            draws: random numbers of modules that draw some.
        """
        self._modules, self._envs = modules, envs
        self._rows.load(draws, envs)
        rows, lr = self._sent(envs), self._sent(factors).to(self._like.dtype)
        for part in (self.host, *self.parts):
            part.load(rows, lr)
        self._batches.copy_(self._sent(batches))
        alphas = self._sent(modules.alpha[envs]).to(self._like.dtype)
        for slot, place in enumerate(self._setup.slot_places):
            self._junctions[place].load(alphas[:, slot])
        self._totals.zero_()
        self._steps = 0

    def _sent(self, values: Any) -> Tensor:
        return torch.as_tensor(values).to(self._kinds.device)

    def step(self, x: Tensor, y: Tensor, ratios: Ratios | None = None) -> None:
        """Train on one batch of each environment.

        Args:
            x: (row, sample, height, width, channel), or int64 (row, sample, token).
            y: int64 (row, sample), or (row, sample, token).
            ratios: where delta ratios are put; None if they are not wanted.
        """
        with precision(self._setup.config.precision, x.device):
            losses, right = self._scored(x, y, ratios)
        self._descend(losses.sum())
        with torch.no_grad():
            self._totals += torch.stack([losses * y.shape[1], right])

    def counted(self) -> None:
        """One more step has been done, by `step` or by a recording of it."""
        self._steps += 1

    def _scored(self, x: Tensor, y: Tensor, ratios: Ratios | None) -> tuple[Tensor, Tensor]:
        """Mean losses and numbers of right answers, (row,) each."""
        tensors, kind, index = self.host.tensors, self.host.kind, 0
        assert kind.score is not None, "this is a host"
        while index < len(kind.forwards):
            junction = self._junctions.get(index)
            segment, index = kind.segment(index, bare=junction is None or junction.bare)
            x = segment(self._run, tensors, x)
            if index in self._junctions:
                x = self._junctions[index](x, ratios)
            index += 1
        return kind.score.train(self._run, tensors, x, y)

    def _descend(self, loss: Tensor) -> None:
        """The gradient of a row's loss reaches that row alone, so one sum serves all."""
        parts = [self.host, *self.parts]
        leaves = [leaf for part in parts for _, leaf in part.leaves]
        gradients = list(torch.autograd.grad(loss, leaves, allow_unused=True))
        with torch.no_grad():
            warmth = self._warmth()
            for part in parts:
                part.update(self._run.kernels, [gradients.pop(0) for _ in part.leaves], warmth)

    def _warmth(self) -> Tensor | None:
        """(row,): `OptimizerConfig.warmth` of this batch, as every row has had its own number of them."""
        if not self._optimizer.warmup_steps:
            return None
        self._batches += 1
        return (self._batches / self._optimizer.warmup_steps).clamp(max=1.0)

    def finish(self, ratios: Ratios) -> tuple[Tensor, Tensor]:
        """Give everything back.

        Args:
            ratios: of the last step.

        Returns:
            `TRAINED`, (row, measure), and `TRAINED_SLOTS`, (row, measure, slot); NaN if not measured.
        """
        for part in (self.host, *self.parts):
            part.give_back()
        size = self._steps * self._setup.config.batch_size
        trained = torch.stack([*self._totals / size, self._finite().to(self._like.dtype)], dim=1)
        return trained, self._slot_measures(ratios)

    def _finite(self) -> Tensor:
        finite = self.host.finite()
        for part in self.parts:
            finite[part.at] &= part.finite()
        return finite

    def _slot_measures(self, ratios: Ratios) -> Tensor:
        """Gradients of modules that can still be removed, and the delta ratio of all that ran."""
        shape = (len(self._envs), len(TRAINED_SLOTS), len(self._setup.slot_places))
        measures = self._like.new_full(shape, torch.nan)
        host_norm = torch.linalg.vector_norm(self.host.rms(self._steps), dim=1)
        for group, part in zip(self.groups, self.parts, strict=True):
            if group.frozen or not part.counted:
                continue
            rms = part.rms(self._steps)
            norm = torch.linalg.vector_norm(rms, dim=1)
            size = (self.host.num_params / part.num_params) ** 0.5
            values = [norm, norm / host_norm[part.at] * size, *shares(rms, self._optimizer)]
            measures[part.at, :4, group.slot] = torch.stack(values, dim=1)
        fossil = self._modules.fossil[self._envs]
        measures[:, :4].masked_fill_(self._sent(fossil)[:, None], torch.nan)
        for branches, ratio in ratios:
            measures[branches.rows.index, 4, branches.slot] = ratio.to(measures.dtype)
        return measures


def host_descent(config: OptimizerConfig) -> Trained:
    """How a host is trained."""
    decay = config.host_weight_decay
    if config.host_optimizer == "adamw":
        return config.host_lr, _adamw(config, decay)
    return config.host_lr, Descent(config.host_momentum, decay, config.clip_norm)


def module_descent(config: OptimizerConfig) -> Trained:
    """How a module with its gate is."""
    decay = config.module_weight_decay
    if config.module_optimizer == "adamw":
        return config.module_lr, _adamw(config, decay)
    return config.module_lr, Descent(config.module_momentum, decay, config.clip_norm)


def _adamw(config: OptimizerConfig, decay: float) -> AdamW:
    return AdamW(config.adam_beta1, config.adam_beta2, config.adam_eps, decay, config.clip_norm)
