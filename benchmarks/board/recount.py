"""Parameters and FLOPs counted anew, apart from the environment's ledger, while a trace is played again.

Parameters: of the network that `export` hands over at the end of an episode, tensor by tensor, and the most
after any step, of branches and gates built anew. FLOPs: of every epoch, by torch's own counter
(`torch.utils.flop_counter`) over a real forward and backward pass of a network of the same form on two
samples. Which form an epoch had is read from the observation: stage, blueprint, style and direction of the
ramp of every slot. Where the governor went back, the modules that trained are no longer seen: what the ledger
says of such an epoch is taken over, and `unseen` counts them.

torch's counter takes the weight gradient of a grouped convolution for a dense one, so that formula is
replaced; attention runs in plain products, because it does not know the kernels of a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper_agents.episodes import Step
from esper_env import EsperVectorEnv, Stage, Style
from esper_env.engine.setup import Setup, prepare
from esper_env.slots.grown import Graft, GrownModel, build_branch, build_gate, seeded

_BATCH = 2
"""Samples of a counting pass: batch norm refuses a single one."""
_DOWN = 2
"""Position of "going down" in the one-hot direction of a ramp."""


@dataclass(frozen=True)
class Held:
    """A module in a slot during an epoch."""

    blueprint: int
    style: int
    stage: int
    frozen: bool

    @property
    def gated(self) -> bool:
        """Whether it has a gate, which blending begins with."""
        return self.style == Style.GATED and self.stage > Stage.TRAINING


Form = tuple[Held | None, ...]
"""By slot; None for an empty one."""


class Recount:
    """Counts episodes while they are played; its `step` is for `evaluate`.

    Args:
        envs: What is played, new or about to be reset.
    """

    def __init__(self, envs: EsperVectorEnv) -> None:
        self._envs, config = envs, envs.config
        engine = config.engine.model_copy(update={"name": "null"})
        self._setup = prepare(config.host, config.task, engine, config.horizon)
        self._cost = lru_cache(maxsize=None)(lambda form: training_flops(self._setup, form))
        self._size = lru_cache(maxsize=None)(lambda form: parameters(self._setup, form))
        self._ledger, self._panics = np.zeros(envs.num_envs), np.ones(envs.num_envs)
        self._ended: set[int] = set()
        self.flops = np.zeros(envs.num_envs)
        """(env,): on training, from the first epoch to the last."""
        self.params = np.zeros(envs.num_envs, dtype=np.int64)
        """(env,): of the harvested network; 0 until an episode has ended."""
        self.most_params = np.zeros(envs.num_envs, dtype=np.int64)
        """(env,): after any step, modules on trial and gates included."""
        self.unseen = np.zeros(envs.num_envs, dtype=np.int64)
        """(env,): epochs that the governor undid."""

    def step(self, step: Step) -> None:
        """Take in a step; what is played after an episode's end is not looked at."""
        ledger = self._envs.ledger()["train_flops"]
        panics = step.obs[:, self._envs.features["panics_left"]][:, 0]
        for env in set(range(self._envs.num_envs)) - self._ended:
            form = self._form(step.obs[env])
            self.most_params[env] = max(self.most_params[env], self._size(form))
            if panics[env] < self._panics[env]:
                self.unseen[env] += 1
                self.flops[env] += ledger[env] - self._ledger[env]
            else:
                self.flops[env] += self._cost(form) * self._setup.epoch_size
            if step.ended[env]:
                self._ended.add(env)
                network = self._envs.export(env)
                self.params[env] = sum(parameter.numel() for parameter in network.parameters())
        self._ledger, self._panics = ledger, panics

    def _form(self, obs: np.ndarray[Any, np.dtype[np.float32]]) -> Form:
        """What was there in the epoch after which this was seen."""
        return tuple(self._held(obs, f"slot{slot}.") for slot in range(self._envs.facts.num_slots))

    def _held(self, obs: np.ndarray[Any, np.dtype[np.float32]], slot: str) -> Held | None:
        stage, blueprint, style, ramp = (
            obs[self._envs.features[slot + name]] for name in ("stage", "blueprint", "style", "ramp")
        )
        now = int(stage.argmax()) + Stage.GERMINATED if stage.any() else Stage.DORMANT
        if not Stage.GERMINATED <= now <= Stage.FOSSILIZED:
            return None
        return Held(int(blueprint.argmax()), int(style.argmax()), now, frozen=bool(ramp[_DOWN]))


def parameters(setup: Setup, form: Form) -> int:
    """Of a network of this form: its tensors are made, and counted."""
    with seeded(0):
        parts: list[torch.nn.Module] = [setup.build_host()]
    for slot, held in enumerate(form):
        if held is not None:
            place = setup.facts.places[slot]
            parts.append(build_branch(setup.blueprints[held.blueprint], place, key=0))
            parts += [build_gate(place, key=0)] if held.gated else []
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def training_flops(setup: Setup, form: Form) -> float:
    """FLOPs of training a network of this form on one sample, counted by torch as they happen."""
    with seeded(0):
        host = setup.build_host()
    model = GrownModel(host, setup.slot_places)
    for slot, held in enumerate(form):
        if held is not None and held.stage > Stage.GERMINATED:
            model.plant(slot, _graft(setup, slot, held))
    meta = host.sample(_BATCH)
    x = torch.ones(meta.shape) if meta.is_floating_point() else torch.zeros(meta.shape, dtype=meta.dtype)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward})
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), counter:
        model(x).sum().backward()
    return float(counter.get_total_flops()) / _BATCH


def _graft(setup: Setup, slot: int, held: Held) -> Graft:
    place = setup.facts.places[slot]
    graft = Graft(build_branch(setup.blueprints[held.blueprint], place, key=0), Style(held.style))
    isolated = held.stage == Stage.TRAINING
    graft.in_graph, graft.isolated, graft.detach_input, graft.alpha = True, isolated, isolated, 0.5
    if held.gated:
        graft.gate = build_gate(place, key=0)
    return graft.requires_grad_(not held.frozen)


def _backward(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **named: Any
) -> int:
    """A convolution's gradients cost as much as its forward pass each, whatever its groups."""
    of_input, of_weight, _ = rest[7]
    return 2 * prod(gradient) * prod(weight[1:]) * (bool(of_input) + bool(of_weight))
