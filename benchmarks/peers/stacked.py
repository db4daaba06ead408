"""What the peers that train stacked networks have in common: data, optimizer, validation, CUDA graphs.

Environments whose slot holds the same blueprint form a group, which is gathered, run as one, and put back:
neither `torch.func.vmap` nor grouped convolutions can express different modules otherwise.
"""

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from esper_env.contracts.state import SlotState
from esper_env.tasks.loader import augmentation, crop_flip, order
from peers.peer import Options, Peer, cast
from peers.planted import SlotModules
from peers.stack import Row, Stack
from peers.work import Work, branch, host, seed, setup, slots, variants

Floats = NDArray[np.float64]
EVALUATED = 16_384
"""Activations of as many images are held at a time in evaluation."""
EAGER_BATCHES = 2
"""Batches that are trained before a step is captured as a CUDA graph."""


class StackedPeer(Peer):
    """See `Peer`. Activations are (batch, env, channels, height, width)."""

    def __init__(self, work: Work, options: Options) -> None:
        super().__init__(work, options)
        self._setup, self._task = setup(work), setup(work).loaded_task
        self._device = self._task.device
        hosts = [Row.fresh(host(work, env), self._device) for env in range(work.num_envs)]
        self._host = Stack(hosts, range(work.num_envs))
        self._slots: dict[int, SlotModules] = {}
        self._planting = np.zeros((work.num_envs, self._setup.facts.num_slots), dtype=np.int64)
        self._total = torch.zeros(work.num_envs, device=self._device)
        scale = self._task.std * 255
        self._shift, self._scale = (self._task.mean * 255).to(self._device), 1 / scale
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager_left = EAGER_BATCHES

    @classmethod
    def choices(cls, work: Work, threads: list[int]) -> list[Options]:
        """Both layouts; on CUDA also graphs, but where the modules change in every step."""
        graphs = [True, False] if work.device == "cuda" and work.workload != "W2" else [False]
        return [Options(t, last, graphs=on) for t in threads for last in (True, False) for on in graphs]

    @abstractmethod
    def _apply(
        self, module: nn.Module, stack: Stack, prefix: str, first: int, x: torch.Tensor
    ) -> torch.Tensor:
        """Run the rows of a stack from `first` on: see `planted.Apply`. One row of x is for all of them."""

    def _step(self, index: int) -> Floats:
        state = slots(self.work, index)
        self._follow(state)
        with cast(self.work, cache=not self.options.graphs):
            with self._training():
                self._epoch(index)
            with torch.no_grad():
                self._validate(state)
        losses: Floats = (self._total / self.work.batches).double().cpu().numpy()
        return losses

    def _follow(self, state: SlotState) -> None:
        """Replace the modules that are others than before; a slot with any is stacked anew."""
        for slot in np.flatnonzero((state.planting != self._planting).any(axis=0)).tolist():
            rows, gates = self._slots[slot].rows() if slot in self._slots else ({}, {})
            for env in np.flatnonzero(state.planting[:, slot] != self._planting[:, slot]).tolist():
                rows[env] = Row.fresh(branch(self.work, state, env, slot), self._device)
                if state.gate_params[env, slot]:
                    gates[env] = Row.fresh(branch(self.work, state, env, slot, gate=True), self._device)
            self._slots[slot] = SlotModules(state, slot, rows, gates, self._apply)
            self._graph, self._eager_left = None, EAGER_BATCHES
        self._planting = state.planting.copy()

    def _epoch(self, index: int) -> None:
        self._total.zero_()
        for part in self._plan(index).split(self._setup.config.batch_size, dim=2):
            if not self.options.graphs:
                self._train(part)
            elif self._graph is None and self._eager_left:
                self._aside(part)
            else:
                self._replay(part)

    def _aside(self, part: torch.Tensor) -> None:
        """Train a batch on a stream of its own, as a capture asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._train(part)
        torch.cuda.current_stream().wait_stream(stream)
        self._eager_left -= 1

    def _replay(self, part: torch.Tensor) -> None:
        if self._graph is None:
            self._part = part.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._train(self._part)
        self._part.copy_(part)
        self._graph.replay()

    def _plan(self, index: int) -> torch.Tensor:
        """Samples of the epoch, and where each is cropped and mirrored: int64 (what, env, entry)."""
        task, size = self._task, self._setup.epoch_size
        start, samples = index * size, task.train.num_samples
        rows = []
        for own in map(seed, range(self.work.num_envs)):
            crops = augmentation(own, start, size, samples, task.crop_padding, task.flip)
            rows.append(
                [order(own, start, size, samples), *(crops if task.crop_padding or task.flip else ())]
            )
        return torch.from_numpy(np.array(rows).swapaxes(0, 1).copy()).to(self._device)

    def _batch(self, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (batch, env, channels, height, width) and labels (batch, env)."""
        rows = part.transpose(1, 2).flatten(1)
        images = self._task.train.images.index_select(0, rows[0])
        if len(rows) > 1:
            images = crop_flip(images, self._task.crop_padding, rows[1], rows[2], rows[3])
        y = self._task.train.labels.index_select(0, rows[0])
        sizes = (-1, part.shape[1])
        return self._normalized(images).unflatten(0, sizes), y.unflatten(0, sizes)

    def _normalized(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().sub_(self._shift).mul_(self._scale).permute(0, 3, 1, 2)

    def _train(self, part: torch.Tensor) -> None:
        """One batch of every environment."""
        x, y = self._batch(part)
        logits = self._forward(x, None).float()
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y).mean(dim=0)
        stacks = [[self._host], *(modules.stacks for modules in self._slots.values())]
        flat = [stack for part in stacks for stack in part]
        given = iter(torch.autograd.grad(losses.sum(), [p for s in flat for p in s.params.values()]))
        with torch.no_grad():
            for part_stacks in stacks:
                self._update(part_stacks, [s.gradients([next(given) for _ in s.params]) for s in part_stacks])
            self._total += losses.detach()

    def _update(self, stacks: list[Stack], gradients: list[torch.Tensor]) -> None:
        """Clip the joint gradient of each environment's host or module with its gate, and descend."""
        rules, squares = self._setup.config.optimizer, torch.zeros_like(self._total)
        for stack, gradient in zip(stacks, gradients, strict=True):
            squares.index_add_(0, stack.envs, gradient.square().sum(dim=1))
        scale = (rules.clip_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for stack, gradient in zip(stacks, gradients, strict=True):
            host_rules = (rules.host_lr, rules.host_momentum, rules.host_weight_decay)
            own = (rules.module_lr, rules.module_momentum, rules.module_weight_decay)
            stack.update(gradient, scale[stack.envs], *(host_rules if stack is self._host else own))

    def _forward(self, x: torch.Tensor, on: torch.Tensor | None) -> torch.Tensor:
        """Logits (batch, env, classes); `on` (env, slot) says what runs in evaluation, None is training."""
        segments = self._host.module.get_submodule("segments")
        places = {place: slot for slot, place in enumerate(self._setup.slot_places)}
        for module in segments.children():
            module.train(on is None)
        for index, segment in enumerate(segments.children()):
            x = self._apply(segment, self._host, f"segments.{index}.", 0, x)
            slot = places.get(index)
            if slot in self._slots:
                x = self._slots[slot](x, None if on is None else on[:, slot])
        return x

    def _validate(self, state: SlotState) -> list[torch.Tensor]:
        """Share of images classified right, (env,): whole networks, then variants on the first samples."""
        size = self._setup.config.counterfactual_size
        masks = [variants(state, env) for env in range(self.work.num_envs)]
        shares = [self._right(np.ones(state.stage.shape), self._task.validation.num_samples)]
        for index in range(max(map(len, masks))):
            on = np.ones(state.stage.shape)
            for env, own in enumerate(masks):
                for slot in np.flatnonzero(state.live[env]) if index < len(own) else ():
                    on[env, slot] = own[index] >> slot & 1
            shares.append(self._right(on, size))
        return shares

    def _right(self, on: Floats, samples: int) -> torch.Tensor:
        running = torch.from_numpy(on).float().to(self._device)
        images, labels = self._task.validation
        size = max(1, EVALUATED // self.work.num_envs)
        right = torch.zeros_like(self._total)
        for x, y in zip(images[:samples].split(size), labels[:samples].split(size), strict=True):
            logits = self._forward(self._normalized(x)[:, None], running)
            right += (logits.argmax(dim=2) == y[:, None]).float().sum(dim=0)
        return right / samples

    def _laid_out(self, x: torch.Tensor) -> torch.Tensor:
        """Images (batch, env * channels, height, width) in the layout that was chosen."""
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout)
