"""One epoch of training of many networks as one program: what it consists of, and its step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from esper_env.engine.draws import Draws
from esper_env.engine.junction import Assembly, Junction, Ratios
from esper_env.engine.kernels.kernels import Descent, Gradient, Kernels
from esper_env.engine.kinds import GATE, Kind, Kinds
from esper_env.engine.measures import TRAINED_SLOTS
from esper_env.engine.optimizer import shares
from esper_env.engine.precision import precision
from esper_env.engine.setup import Setup
from esper_env.engine.stacked import Run
from esper_env.engine.topology import Group, Ints, Joint, Modules


class Part:
    """Rows of one kind that are trained together, by themselves until the epoch is over.

    Args:
        kind: what they are.
        envs: int64 (row,), whose they are.
        at: int64 (row,), their positions in the program.
        learns: whether they are trained.
        gated: whether their gates are.
    """

    def __init__(self, kind: Kind, envs: Tensor, at: Tensor, learns: bool, gated: bool = True) -> None:
        self.kind, self.envs, self.at = kind, envs, at
        self.rows = kind.pool.take(envs)
        tensors = kind.pool.tensors
        self.counted = [i for i, name in enumerate(tensors.names) if gated or not name.startswith(GATE)]
        """Tensors whose gradients are looked at."""
        self.squares = self.rows.values.new_zeros(len(envs), len(tensors.names))
        self.views = tensors.views(self.rows.values)
        self.leaves: list[tuple[int, Tensor]] = []
        """What gets a gradient, with its number."""
        for i in self.counted if learns else ():
            if tensors.learns[i]:
                name = tensors.names[i]
                self.views[name] = self.views[name].detach().requires_grad_()
                self.leaves.append((i, self.views[name]))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return self.views | self.rows.buffers

    @property
    def num_params(self) -> int:
        """Numbers that are trained, of one row."""
        shapes = self.kind.pool.tensors.shapes
        return sum(shapes[i].numel() for i in self.counted)

    def update(
        self, kernels: Kernels, gradients: Sequence[Tensor | None], lr: Tensor, descent: Descent
    ) -> None:
        """A step of descent; the gradients are those of `leaves`, the learning rates the program's."""
        starts = self.kind.pool.tensors.starts
        own = [
            Gradient(i, starts[i], gradient)
            for (i, _), gradient in zip(self.leaves, gradients, strict=True)
            if gradient is not None
        ]
        if own:
            kernels.update(self.rows.values, self.rows.momenta, self.squares, own, lr[self.at], descent)

    def finite(self) -> Tensor:
        """Bool (row,): parameters, buffers and the gradients of the epoch are."""
        floats = [self.rows.values, self.squares, *self.rows.buffers.values()]
        return torch.stack([each.reshape(len(each), -1).isfinite().all(1) for each in floats]).all(0)

    def give_back(self) -> None:
        """Into the pool."""
        self.kind.pool.give(self.envs, self.rows)

    def rms(self, batches: int) -> Tensor:
        """(row, tensor): root of the mean squared gradient norm of each tensor that is looked at."""
        return (self.squares[:, self.counted] / batches).sqrt()


class Program:
    """An epoch of some environments; each step trains every one of them on a batch of its own.

    Args:
        kinds: where the parts come from, and go to when the epoch is over.
        kernels: what to compute with.
        modules: what the slots hold.
        envs: the environments, (row,), best in the order of `Modules.in_order`.
        factors: (row,): what learning rates are multiplied with.
        setup: optimizers and the places of the slots.
        draws: random numbers of modules that draw some.
    """

    def __init__(
        self,
        kinds: Kinds,
        kernels: Kernels,
        modules: Modules,
        envs: Ints,
        factors: NDArray[np.float64],
        setup: Setup,
        draws: Draws,
    ) -> None:
        self.envs, self._kinds, self._setup, self._modules = envs, kinds, setup, modules
        self._optimizer = setup.config.optimizer
        self._run = Run(kernels, training=True, drawing=draws.of)
        self.host = Part(kinds.host, self._sent(envs), self._sent(np.arange(len(envs))), learns=True)
        self._like = self.host.rows.values
        slots = range(len(setup.slot_places))
        self.groups = [group for slot in slots for group in modules.groups(envs, slot)]
        self.parts = [self._part(group) for group in self.groups]
        self._junctions = self._assemble()
        self._lr = self._sent(factors).to(self._like.dtype)
        self._totals = self._like.new_zeros(2, len(envs))
        self._steps = 0

    def _sent(self, values: Any) -> Tensor:
        return torch.as_tensor(values).to(self._kinds.device)

    def _part(self, group: Group) -> Part:
        kind = self._kinds.module(group.slot, group.blueprint)
        learns = not group.frozen and group.joint is not Joint.IDLE
        at = np.array(group.at)
        return Part(kind, self._sent(self.envs[at]), self._sent(at), learns, group.gated)

    def _assemble(self) -> dict[int, Junction]:
        assembly = Assembly(self._modules, self.envs, self._like, self._setup.config.isolation == "always")
        members = [
            (group, part.kind, part.tensors) for group, part in zip(self.groups, self.parts, strict=True)
        ]
        return {
            place: assembly.junction(self._run, slot, [each for each in members if each[0].slot == slot])
            for slot, place in enumerate(self._setup.slot_places)
        }

    def step(self, x: Tensor, y: Tensor, ratios: Ratios | None = None) -> None:
        """Train on one batch of each environment.

        Args:
            x: (row, sample, height, width, channel).
            y: int64 (row, sample).
            ratios: where delta ratios are put; None if they are not wanted.
        """
        with precision(self._setup.config.precision, x.device):
            logits = self._forward(x, ratios)
        each = F.cross_entropy(logits.flatten(0, 1).to(self._like.dtype), y.flatten(), reduction="none")
        losses = each.view_as(y).mean(dim=1)
        self._descend(losses.sum())
        with torch.no_grad():
            right = (logits.argmax(dim=2) == y).sum(dim=1)
            self._totals += torch.stack([losses * y.shape[1], right])
        self._steps += 1

    def _forward(self, x: Tensor, ratios: Ratios | None) -> Tensor:
        tensors = self.host.tensors
        for index, segment in enumerate(self.host.kind.forwards):
            x = segment(self._run, tensors, x)
            if index in self._junctions:
                x = self._junctions[index](x, ratios)
        return x

    def _descend(self, loss: Tensor) -> None:
        """The gradient of a row's loss reaches that row alone, so one sum serves all."""
        config, parts = self._optimizer, [self.host, *self.parts]
        leaves = [leaf for part in parts for _, leaf in part.leaves]
        gradients = list(torch.autograd.grad(loss, leaves, allow_unused=True))
        of_host = (
            self._lr * config.host_lr,
            Descent(config.host_momentum, config.host_weight_decay, config.clip_norm),
        )
        of_module = (
            self._lr * config.module_lr,
            Descent(config.module_momentum, config.module_weight_decay, config.clip_norm),
        )
        with torch.no_grad():
            for part in parts:
                own = [gradients.pop(0) for _ in part.leaves]
                part.update(self._run.kernels, own, *(of_host if part is self.host else of_module))

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
        shape = (len(self.envs), len(TRAINED_SLOTS), len(self._setup.slot_places))
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
        fossil = self._modules.fossil[self.envs]
        measures[:, :4].masked_fill_(self._sent(fossil)[:, None], torch.nan)
        for section, ratio in ratios:
            rows = slice(None) if section.rows is None else section.rows
            measures[rows, 4, section.slot] = ratio
        return measures
