"""One environment's network in the reference engine: planted, trained and measured in the plainest way."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from time import perf_counter
from typing import Any

import torch
from torch import nn

from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import HAS_MODULE, Stage
from esper_env.contracts.state import Ramp, SlotState
from esper_env.contracts.streams import Stream, key
from esper_env.engine.engine import SECONDS
from esper_env.engine.evaluate import Measured, all_finite, measure, summary
from esper_env.engine.ledger import variant_flops
from esper_env.engine.measures import TRAINED_SLOTS
from esper_env.engine.objective import correct, mean_loss
from esper_env.engine.optimizer import (
    GradientMeter,
    OptimizerConfig,
    clip,
    host_optimizer,
    module_optimizer,
    set_lr,
    shares,
)
from esper_env.engine.planted import Planted, on_device, refuse_other_size, refuse_undescribed
from esper_env.engine.precision import precision, switches
from esper_env.engine.setup import Setup
from esper_env.slots.grown import Graft, GrownModel, build_branch, build_gate, drawing_from, probe, seeded
from esper_env.tasks.loader import train_batches

HOST = -1
"""Stands for the host where parts of a network are named by their slot."""

Part = tuple[nn.Module, list[torch.optim.Optimizer]]
"""Something that is trained, and its optimizers."""


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
        self.model = on_device(GrownModel(host, setup.slot_places), self._task)
        self.planted: dict[int, Planted] = {}
        self.epochs = 0
        self.seconds = dict.fromkeys(SECONDS, 0.0)
        """Wall-clock time by what it was spent on, harvest apart; on CUDA the time the host waited."""
        self._host_parameters = list(self.model.host.parameters())
        self._host_optimizer = host_optimizer(self._host_parameters, self._config.optimizer)

    @property
    def seed(self) -> int:
        """Episode seed."""
        return self._seed

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

    def remove_uncommitted(self) -> None:
        """Take out every module that is not fossilized."""
        for slot in self.planted.keys() - set(self.fossils):
            self.remove(slot)

    def _plant(self, slot: int, blueprint: int, planting: int, style: Style) -> Planted:
        kind, place = self._setup.blueprints[blueprint], self.model.place(slot)
        branch = build_branch(kind, place, key(self._seed, Stream.MODULE_INIT, slot, planting, 0))
        refuse_other_size(branch, self._setup.facts, slot, blueprint, "when built")
        graft = Graft(on_device(branch, self._task), style)
        passed = probe(branch, place)
        refuse_other_size(branch, self._setup.facts, slot, blueprint, "after its probe")
        planted = Planted(graft, planting, kind, passed, self._optimizers(branch))
        self.model.plant(slot, graft)
        self.planted[slot] = planted
        return planted

    def _optimizers(self, module: nn.Module) -> list[torch.optim.Optimizer]:
        parameters = list(module.parameters())
        return [module_optimizer(parameters, self._config.optimizer)] if parameters else []

    def _follow(self, slots: SlotState, env: int, slot: int) -> None:
        planted = self.planted.get(slot)
        if planted is None:
            blueprint, planting = int(slots.blueprint[env, slot]), int(slots.planting[env, slot])
            planted = self._plant(slot, blueprint, planting, Style(slots.style[env, slot]))
        stage, alpha = Stage(slots.stage[env, slot]), float(slots.alpha[env, slot])
        self._take_part(planted, slot, stage, alpha, bool(slots.ramp[env, slot] == Ramp.DOWN))

    def _take_part(self, planted: Planted, slot: int, stage: Stage, alpha: float, frozen: bool) -> None:
        """Let a module run, learn and count as its stage says; its gate is born on the way."""
        planted.stage, graft = stage, planted.graft
        graft.in_graph = stage >= Stage.TRAINING
        graft.isolated = stage <= Stage.TRAINING
        graft.detach_input = graft.isolated or self._config.isolation == "always"
        graft.alpha = alpha
        if graft.style == Style.GATED and not graft.isolated and graft.gate is None:
            self._add_gate(planted, slot)
        if frozen != planted.frozen:
            planted.freeze(frozen)

    def adopt(self, slot: int, described: Mapping[str, Any]) -> None:
        """Plant the module that `Planted.describe` speaks of, with the weights of its birth.

        Raises:
            ValueError: There is no such module.
        """
        refuse_undescribed(described)
        blueprint = self._setup.facts.blueprints.index(described["blueprint"])
        planted = self._plant(slot, blueprint, described["planting"], Style(described["style"]))
        planted.probe_passed = described["probe_passed"]
        stage, alpha, frozen = Stage(described["stage"]), described["alpha"], described["frozen"]
        self._take_part(planted, slot, stage, alpha, frozen)

    def parts(self) -> dict[int, Part]:
        """All that is trained, with its optimizers: the host under `HOST`, each module under its slot."""
        modules = {slot: (planted.graft, planted.optimizers) for slot, planted in self.planted.items()}
        return {HOST: (self.model.host, [self._host_optimizer]), **modules}

    @property
    def fossils(self) -> list[int]:
        """Slots whose modules are committed."""
        return [slot for slot, planted in self.planted.items() if planted.stage == Stage.FOSSILIZED]

    def _add_gate(self, planted: Planted, slot: int) -> None:
        init = key(self._seed, Stream.MODULE_INIT, slot, planted.planting, 1)
        gate = build_gate(self.model.place(slot), init)
        planted.graft.gate = on_device(gate, self._task)
        planted.optimizers += self._optimizers(gate)

    @contextmanager
    def drawing(self, training: bool = False) -> Iterator[None]:
        """Inside, what modules draw from torch's own generators is that of this life and epoch alone."""
        with drawing_from(key(self._seed, Stream.FORWARD, self.epochs, training), self._task.device):
            yield

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, the network computes as it does when it is validated."""
        with self.drawing(), self._precision(), self._switched():
            yield

    def _precision(self) -> AbstractContextManager[None]:
        return precision(self._config.precision, self._task.device)

    def _switched(self) -> AbstractContextManager[None]:
        return switches(self._config.tf32, self._config.deterministic, self._task.device)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = perf_counter()
        yield
        self.seconds[name] += perf_counter() - began

    def train(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One epoch.

        Returns:
            `TRAINED`, (measure,), and `TRAINED_SLOTS`, (measure, slot), on the device; NaN if not measured.
        """
        with self._timed("train_seconds"), self.drawing(training=True), self._switched():
            return self._train()

    def _train(self) -> tuple[torch.Tensor, torch.Tensor]:
        optimizer, epoch_size = self._config.optimizer, self._setup.epoch_size
        annealed = optimizer.factor(self.epochs, self._setup.horizon)
        learners = {slot: planted for slot, planted in sorted(self.planted.items()) if planted.trains}
        meters = {slot: GradientMeter(planted.parameters) for slot, planted in learners.items()}
        host_meter = GradientMeter(self._host_parameters)
        totals = torch.zeros(2, device=self._task.device, dtype=self._task.dtype)
        self.model.train()
        batch_size = self._config.batch_size
        steps = epoch_size // batch_size
        batches = train_batches(self._task, self._seed, self.epochs, epoch_size, batch_size)
        for index, (x, y) in enumerate(batches):
            self._set_lr(optimizer, annealed * optimizer.warmth(self.epochs * steps + index))
            with self._precision():
                logits = self.model(x, record=index == steps - 1)
                loss = mean_loss(logits, y)
            self.model.zero_grad(set_to_none=True)
            loss.backward()
            self._update(host_meter, [self._host_optimizer])
            for slot, planted in learners.items():
                self._update(meters[slot], planted.optimizers)
            with torch.no_grad():
                totals += torch.stack([loss * len(y), correct(logits, y).sum()])
        self.epochs += 1
        finite = self._finite((host_meter, *meters.values()))
        return torch.cat([totals / epoch_size, finite[None]]), self._slot_measures(host_meter, meters)

    def _set_lr(self, config: OptimizerConfig, factor: float) -> None:
        set_lr(self._host_optimizer, config.host_lr * factor)
        for planted in self.planted.values():
            for optimizer in planted.optimizers:
                set_lr(optimizer, config.module_lr * factor)

    def _update(self, meter: GradientMeter, optimizers: list[torch.optim.Optimizer]) -> None:
        clip(meter.parameters, meter.add(), self._config.optimizer.clip_norm)
        for optimizer in optimizers:
            optimizer.step()

    def _finite(self, meters: Iterable[GradientMeter]) -> torch.Tensor:
        """Whether the epoch's gradients, and the weights and norm statistics of what ran in it, are finite.

        A gradient whose squared norm overflows counts as not finite. A module that is not in the graph is not
        looked at: it can't do harm.
        """
        ran = [planted.graft for planted in self.planted.values() if planted.graft.in_graph]
        parts = [chain(part.parameters(), part.buffers()) for part in (self.model.host, *ran)]
        return all_finite([*chain(*parts), *(meter.rms() for meter in meters)])

    def _slot_measures(self, host_meter: GradientMeter, meters: dict[int, GradientMeter]) -> torch.Tensor:
        """Gradients of modules that can still be removed, and the delta ratio of all that ran."""
        assert self.model.delta_ratio is not None
        measures = self.model.delta_ratio.new_full((len(TRAINED_SLOTS), len(self.model.slots)), torch.nan)
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
        per_sample += sum(p.training_flops(self.model.place(slot)) for slot, p in self.planted.items())
        return float(per_sample) * self._setup.epoch_size

    def measure(self, subsets: list[int]) -> Measured:
        """Validate the network, and the variants that are asked for (`evaluate.measure`)."""
        with self._timed("validation_seconds"), self.measuring():
            measured = measure(self.model, self._task, self.live, subsets, self._config.counterfactual_size)
        self.seconds["counterfactual_seconds"] += measured.counterfactual_seconds
        self.seconds["validation_seconds"] -= measured.counterfactual_seconds
        return measured

    def harvest(self) -> torch.Tensor:
        """Remove what is not fossilized and measure the rest: loss and accuracy of validation, then of test.

        Returns:
            float64 (4,), on the device.
        """
        self.remove_uncommitted()
        with self.measuring():
            # Validated in the batches of every epoch, so that an unchanged network has the same quality.
            validation = measure(self.model, self._task, (), (), self._config.counterfactual_size).validation
            return torch.cat([validation, summary(self.model, self._task, self._task.test)])

    def measuring_flops(self, subsets: list[int]) -> tuple[float, float]:
        """FLOPs of validating the network as it is now, and of the variants beyond that."""
        active = {slot: planted for slot, planted in self.planted.items() if planted.graft.alpha > 0}
        modules = {slot: p.forward_flops(self.model.place(slot)) for slot, p in active.items()}
        network, slots = self._setup.segment_flops, self.model.slots
        mask = sum(1 << slot for slot in self.live)
        whole = variant_flops(network, slots, modules, self.live, [mask])
        wanted = {mask, *(subset for subset in subsets if subset >= 0)}
        variants = variant_flops(network, slots, modules, self.live, wanted)
        samples = self._task.validation.num_samples
        return float(whole * samples), float((variants - whole) * self._config.counterfactual_size)

    @property
    def live(self) -> list[int]:
        """Slots whose modules influence the host and can still be removed."""
        return [
            s for s, p in sorted(self.planted.items()) if p.graft.alpha > 0 and p.stage != Stage.FOSSILIZED
        ]
