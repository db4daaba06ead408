"""One environment's network in the reference engine: planted, trained and measured in the plainest way."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from esper_env.blueprints.catalogue import Blueprint
from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import HAS_MODULE, Stage
from esper_env.contracts.state import Ramp, SlotState
from esper_env.contracts.streams import Stream, key
from esper_env.engine.ledger import Cost, branch_cost, gate_cost
from esper_env.engine.optimizer import (
    GradientMeter,
    OptimizerConfig,
    clip,
    host_optimizer,
    module_optimizer,
    set_lr,
    shares,
)
from esper_env.engine.setup import Setup
from esper_env.slots.grown import Graft, GrownModel, build_branch, build_gate, probe, seeded
from esper_env.tasks.loader import train_batches

TRAINED = ("train_loss", "train_accuracy")
"""What an epoch's training shows of an environment, as `EpochStats` calls it."""
TRAINED_SLOTS = ("gradient_norm", "gradient_ratio", "vanishing_share", "exploding_share", "delta_ratio")
"""What it shows of each slot."""


M = TypeVar("M", bound=nn.Module)


def _on(module: M, device: torch.device) -> M:
    """Moved to the device, channels last in memory as the images are (see `tasks.loader`)."""
    return module.to(device).to(memory_format=torch.channels_last)


@dataclass
class Planted:
    """A module in a slot, and what is needed to train it."""

    graft: Graft
    planting: int
    """Which of the slot's modules it is, counted from 1."""
    blueprint: Blueprint
    probe_passed: bool
    """Gate G1."""
    optimizers: list[torch.optim.SGD]
    """The branch's, as new as the module, and the gate's once there is one."""
    stage: Stage = Stage.GERMINATED
    frozen: bool = False
    """Alpha ramps down: neither weights nor momentum move."""

    @property
    def trains(self) -> bool:
        """Its parameters are updated."""
        return self.graft.in_graph and not self.frozen

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of branch and gate."""
        return list(self.graft.parameters())

    def freeze(self, frozen: bool) -> None:
        """Stop learning, or go on with it."""
        self.frozen = frozen
        self.graft.requires_grad_(not frozen)

    def costs(self, model: GrownModel, slot: int) -> list[Cost]:
        """FLOPs of its parts."""
        parts = [branch_cost(self.blueprint, model.place(slot))]
        return parts + ([gate_cost(model.place(slot))] if self.graft.gate is not None else [])


class Life:
    """One episode's network, optimizers and data stream.

    Args:
        setup: what every episode of every environment has in common.
        seed: episode seed, which decides weights, data order and augmentation.
    """

    def __init__(self, setup: Setup, seed: int) -> None:
        self._setup, self._seed = setup, seed
        self._task, self._config = setup.loaded_task, setup.config
        with seeded(key(seed, Stream.HOST_INIT)):
            host = setup.build_host()
        self.model = _on(GrownModel(host, setup.slot_places), self._task.device)
        self.planted: dict[int, Planted] = {}
        self.epochs = 0
        self._host_parameters = list(self.model.host.parameters())
        self._host_optimizer = host_optimizer(self._host_parameters, self._config.optimizer)

    def sync(self, slots: SlotState, env: int) -> None:
        """Make the modules what row `env` of the slots says."""
        for slot in range(slots.stage.shape[1]):
            planted, here = self.planted.get(slot), bool(HAS_MODULE[slots.stage[env, slot]])
            if planted is not None and (not here or planted.planting != slots.planting[env, slot]):
                self.remove(slot)
            if here:
                self._follow(slots, env, slot)

    def remove(self, slot: int) -> None:
        """Take a module out for good."""
        self.model.remove(slot)
        del self.planted[slot]

    def _plant(self, slot: int, blueprint: Blueprint, planting: int, style: Style) -> Planted:
        place = self.model.place(slot)
        branch = build_branch(blueprint, place, key(self._seed, Stream.MODULE_INIT, slot, planting, 0))
        optimizer = module_optimizer(list(branch.parameters()), self._config.optimizer)
        planted = Planted(
            Graft(_on(branch, self._task.device), style),
            planting,
            blueprint,
            probe(branch, place),
            [optimizer],
        )
        self.model.plant(slot, planted.graft)
        self.planted[slot] = planted
        return planted

    def _follow(self, slots: SlotState, env: int, slot: int) -> None:
        planted = self.planted.get(slot)
        if planted is None:
            blueprint = self._setup.blueprints[slots.blueprint[env, slot]]
            planted = self._plant(
                slot, blueprint, int(slots.planting[env, slot]), Style(slots.style[env, slot])
            )
        planted.stage = Stage(slots.stage[env, slot])
        graft = planted.graft
        graft.in_graph = planted.stage >= Stage.TRAINING
        graft.isolated = planted.stage <= Stage.TRAINING
        graft.detach_input = graft.isolated or self._config.isolation == "always"
        graft.alpha = float(slots.alpha[env, slot])
        if graft.style == Style.GATED and not graft.isolated and graft.gate is None:
            self._add_gate(planted, slot)
        frozen = bool(slots.ramp[env, slot] == Ramp.DOWN)
        if frozen != planted.frozen:
            planted.freeze(frozen)

    def _add_gate(self, planted: Planted, slot: int) -> None:
        init = key(self._seed, Stream.MODULE_INIT, slot, planted.planting, 1)
        gate = build_gate(self.model.place(slot), init)
        planted.graft.gate = _on(gate, self._task.device)
        planted.optimizers.append(module_optimizer(list(gate.parameters()), self._config.optimizer))

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One epoch.

        Returns:
            `TRAINED`, (measure,), and `TRAINED_SLOTS`, (measure, slot), on the device; NaN if not measured.
        """
        optimizer, epoch_size = self._config.optimizer, self._setup.epoch_size
        self._set_lr(optimizer, optimizer.factor(self.epochs, self._setup.horizon))
        learners = {slot: planted for slot, planted in sorted(self.planted.items()) if planted.trains}
        meters = {slot: GradientMeter(planted.parameters) for slot, planted in learners.items()}
        host_meter = GradientMeter(self._host_parameters)
        totals = torch.zeros(2, device=self._task.device)
        self.model.train()
        batch_size = self._config.batch_size
        last = epoch_size // batch_size - 1
        batches = train_batches(self._task, self._seed, self.epochs, epoch_size, batch_size)
        for index, (x, y) in enumerate(batches):
            logits = self.model(x, record=index == last)
            loss = F.cross_entropy(logits, y)
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            self._update(host_meter, [self._host_optimizer])
            for slot, planted in learners.items():
                self._update(meters[slot], planted.optimizers)
            with torch.no_grad():
                totals += torch.stack([loss * len(y), (logits.argmax(dim=1) == y).sum()])
        self.epochs += 1
        return totals / epoch_size, self._slot_measures(host_meter, meters)

    def _set_lr(self, config: OptimizerConfig, factor: float) -> None:
        set_lr(self._host_optimizer, config.host_lr * factor)
        for planted in self.planted.values():
            for optimizer in planted.optimizers:
                set_lr(optimizer, config.module_lr * factor)

    def _update(self, meter: GradientMeter, optimizers: list[torch.optim.SGD]) -> None:
        clip(meter.parameters, meter.add(), self._config.optimizer.clip_norm)
        for optimizer in optimizers:
            optimizer.step()

    def _slot_measures(self, host_meter: GradientMeter, meters: dict[int, GradientMeter]) -> torch.Tensor:
        """Gradients of modules that can still be removed, and the delta ratio of all that ran."""
        assert self.model.delta_ratio is not None
        measures = torch.full(
            (len(TRAINED_SLOTS), len(self.model.slots)), torch.nan, device=self._task.device
        )
        host_norm = torch.linalg.vector_norm(host_meter.rms())
        for slot, meter in meters.items():
            if self.planted[slot].stage == Stage.FOSSILIZED:
                continue
            rms = meter.rms()
            norm = torch.linalg.vector_norm(rms)
            size = (host_meter.num_params / meter.num_params) ** 0.5
            measures[:4, slot] = torch.stack(
                [norm, norm / host_norm * size, *shares(rms, self._config.optimizer)]
            )
        measures[4] = self.model.delta_ratio
        return measures

    def training_flops(self) -> float:
        """FLOPs of an epoch of the network as it is now."""
        per_sample = self._setup.facts.host_flops
        for slot, planted in self.planted.items():
            for cost in planted.costs(self.model, slot):
                per_sample += self._cost(planted, cost)
        return float(per_sample) * self._setup.epoch_size

    def _cost(self, planted: Planted, cost: Cost) -> int:
        if not planted.graft.in_graph:
            return 0
        if planted.frozen:
            return cost.forward if planted.graft.detach_input else cost.frozen
        return cost.isolated if planted.graft.detach_input else cost.blended

    def measuring_flops(self) -> float:
        """FLOPs of validating the network as it is now, and once more without each live module."""
        active = {slot: planted for slot, planted in self.planted.items() if planted.graft.alpha > 0}
        own = {
            slot: sum(c.forward for c in planted.costs(self.model, slot)) for slot, planted in active.items()
        }
        whole = self._setup.host_forward_flops + sum(own.values())
        counterfactual = sum(whole - own[slot] for slot in self.live)
        return float(
            whole * self._task.validation.num_samples + counterfactual * self._config.counterfactual_size
        )

    @property
    def live(self) -> list[int]:
        """Slots whose modules influence the host and can still be removed."""
        return [
            s for s, p in sorted(self.planted.items()) if p.graft.alpha > 0 and p.stage != Stage.FOSSILIZED
        ]
