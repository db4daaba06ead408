"""A single environment as one would write it by hand: plain modules, SGD, and no bookkeeping."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import Stage
from esper_env.slots.grown import Graft, GrownModel
from esper_env.tasks.loader import evaluation_batches, train_batches
from peers.peer import Options, cast, synchronize
from peers.work import Work, branch, host, seed, setup, slots, variants

Floats = NDArray[np.float32]


class PlainEnv(gym.Env[Floats, np.int64]):
    """Trains one network for an epoch a step; what is planted is written in the work, not chosen.

    Args:
        work: what is done.
        env: which of its environments this is.
        options: how.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(1)

    def __init__(self, work: Work, env: int, options: Options) -> None:
        self._work, self._env, self._options = work, env, options
        self._setup, self._task = setup(work), setup(work).loaded_task
        self._seconds = np.zeros(2)

    def clock(self) -> NDArray[np.float64]:
        """Seconds of training and of steps so far, (2,)."""
        return self._seconds.copy()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Floats, dict[str, Any]]:
        """A fresh network."""
        super().reset(seed=seed)
        self._model = GrownModel(self._placed(host(self._work, self._env)), self._setup.slot_places)  # type: ignore[arg-type]
        self._parts = {-1: list(self._model.host.parameters())}
        rules = self._setup.config.optimizer
        self._optimizer = torch.optim.SGD(
            self._parts[-1],
            rules.host_lr,
            rules.host_momentum,
            weight_decay=rules.host_weight_decay,
            fused=True,
        )
        self._planted: dict[int, int] = {}
        self._steps = 0
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Plant, train, validate, and measure every variant of the network."""
        began = perf_counter()
        state = slots(self._work, self._steps)
        self._follow(state)
        with cast(self._work):
            self._model.train()
            loss = self._timed_training()
            self._model.eval()
            with torch.no_grad():
                figures = [self._measure(None, frozenset()), *self._variants(state)]
        loss, *measured = torch.stack([loss, *figures]).tolist()
        self._steps += 1
        self._seconds[1] += perf_counter() - began
        return (
            np.array(measured[:1] * 2, dtype=np.float32),
            float(measured[0]),
            False,
            False,
            {"train_loss": loss},
        )

    def _placed(self, module: nn.Module) -> nn.Module:
        layout = torch.channels_last if self._options.channels_last else torch.contiguous_format
        return module.to(self._task.device).to(memory_format=layout)

    def _follow(self, state: Any) -> None:
        for slot in range(len(self._setup.slot_places)):
            planting = int(state.planting[self._env, slot])
            if planting != self._planted.get(slot, 0):
                self._uproot(slot)
                self._plant(state, slot)
                self._planted[slot] = planting

    def _uproot(self, slot: int) -> None:
        for parameter in self._parts.pop(slot, []):
            self._optimizer.state.pop(parameter, None)
        self._optimizer.param_groups = [g for g in self._optimizer.param_groups if g.get("slot") != slot]
        self._model.remove(slot)

    def _plant(self, state: Any, slot: int) -> None:
        stage = Stage(state.stage[self._env, slot])
        graft = Graft(
            self._placed(branch(self._work, state, self._env, slot)), Style(state.style[self._env, slot])
        )
        graft.in_graph, graft.alpha = True, float(state.alpha[self._env, slot])
        graft.isolated = graft.detach_input = stage == Stage.TRAINING
        if state.gate_params[self._env, slot]:
            graft.gate = self._placed(branch(self._work, state, self._env, slot, gate=True))
        self._model.plant(slot, graft)
        self._parts[slot] = list(graft.parameters())
        rules = self._setup.config.optimizer
        group = {"params": self._parts[slot], "slot": slot, "lr": rules.module_lr, "weight_decay": 0.0}
        self._optimizer.add_param_group({**group, "momentum": rules.module_momentum})

    def _timed_training(self) -> torch.Tensor:
        synchronize(self._work.device)
        began = perf_counter()
        loss = self._train()
        synchronize(self._work.device)
        self._seconds[0] += perf_counter() - began
        return loss

    def _train(self) -> torch.Tensor:
        total, largest = torch.zeros((), device=self._task.device), self._setup.config.optimizer.clip_norm
        size = self._setup.config.batch_size
        for x, y in train_batches(self._task, seed(self._env), self._steps, self._setup.epoch_size, size):
            x = x if self._options.channels_last else x.contiguous()
            loss = F.cross_entropy(self._model(x).float(), y)
            self._optimizer.zero_grad()
            loss.backward()
            for parameters in self._parts.values():
                nn.utils.clip_grad_norm_(parameters, largest)
            self._optimizer.step()
            total += loss.detach()
        return total / (self._setup.epoch_size // size)

    def _variants(self, state: Any) -> Iterator[torch.Tensor]:
        live = {slot for slot in self._planted if state.live[self._env, slot]}
        for subset in variants(state, self._env):
            without = frozenset(slot for slot in live if not subset >> slot & 1)
            yield self._measure(self._setup.config.counterfactual_size, without)

    def _measure(self, limit: int | None, without: frozenset[int]) -> torch.Tensor:
        """Share of the first `limit` validation samples that are classified right."""
        batches = evaluation_batches(self._task, self._task.validation, limit)
        right = [(self._model(x, without=without).argmax(dim=1) == y).float() for x, y in batches]
        return torch.cat(right).mean()
