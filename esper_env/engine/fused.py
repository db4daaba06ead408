"""The fused engine: all environments' networks trained and measured as one program.

Hosts are stacked; a module is a row in the pool of its blueprint and slot. For an epoch, environments whose
modules are alike come to stand side by side, and every layer is one operation for a group of rows. The idea
of one program for many networks is that of S. Wang et al., "Horizontally Fused Training Array" (MLSys 2021);
here the networks differ, and change from epoch to epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.contracts.streams import Stream, key
from esper_env.engine import snapshot
from esper_env.engine.costs import Costs
from esper_env.engine.draws import Draws
from esper_env.engine.engine import SECONDS
from esper_env.engine.exchange import copy_of, write
from esper_env.engine.export import exported
from esper_env.engine.feed import batches
from esper_env.engine.junction import Ratios
from esper_env.engine.kernels.choice import choose
from esper_env.engine.kinds import Kinds
from esper_env.engine.life import HOST, Life
from esper_env.engine.measures import TRAINED, TRAINED_SLOTS
from esper_env.engine.memory import rows_at_once
from esper_env.engine.planted import DESCRIBED, refuse_other_size
from esper_env.engine.pool import Pool
from esper_env.engine.precision import switches
from esper_env.engine.program import Program
from esper_env.engine.setup import Setup
from esper_env.engine.stacked import Run
from esper_env.engine.state import mapping
from esper_env.engine.topology import Modules
from esper_env.engine.variants import Networks, measure, summary
from esper_env.slots.grown import Graft, build_branch, build_gate, probe, seeded

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class FusedEngine:
    """See `Engine`.

    Args:
        num_envs: number of environments.
        setup: what they share.
    """

    def __init__(self, num_envs: int, setup: Setup) -> None:
        self.facts, self.epoch_size, self.provenance = setup.facts, setup.epoch_size, setup.provenance
        self._setup, self._task, self._num_envs = setup, setup.loaded_task, num_envs
        config = setup.config
        self.kernels = choose(config.kernels, self._task.device, config.precision)
        self._kinds, self._costs = Kinds(setup, num_envs), Costs(setup)
        self._modules = Modules.none(num_envs, self.facts.num_slots)
        self._seeds: list[int | None] = [None] * num_envs
        self._epochs = np.zeros(num_envs, dtype=np.int64)
        self._seconds = {name: np.full(num_envs, np.nan) for name in SECONDS}
        self._kept_fossils = np.zeros((num_envs, self.facts.num_slots), dtype=bool)
        like = {"device": self._task.device, "dtype": self._task.dtype}
        self._trained = torch.full((num_envs, len(TRAINED)), torch.nan, **like)
        self._trained_slots = torch.full(
            (num_envs, len(TRAINED_SLOTS), self.facts.num_slots), torch.nan, **like
        )
        self._train_flops = np.zeros(num_envs)

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        """See `Engine`."""
        for env, seed in zip(envs.tolist(), seeds, strict=True):
            with seeded(key(seed, Stream.HOST_INIT)):
                host = self._setup.build_host()
            self._kinds.host.pool.plant(env, self._kinds.on_device(host))
            self._seeds[env] = seed
        self._epochs[envs] = 0
        self._clear(envs)
        for seconds in self._seconds.values():
            seconds[envs] = 0.0

    def _clear(self, envs: Ints) -> None:
        everything = np.zeros((self._num_envs, self.facts.num_slots), dtype=bool)
        everything[envs] = True
        self._modules.remove(everything)

    def sync(self, slots: SlotState, playing: Bools) -> None:
        """See `Engine`."""
        modules = self._modules
        modules.remove(modules.gone(slots, playing))
        for env, slot in np.argwhere(modules.new(slots, playing)).tolist():
            blueprint, planting = int(slots.blueprint[env, slot]), int(slots.planting[env, slot])
            self._plant(env, slot, blueprint, planting, int(slots.style[env, slot]))
        modules.follow(slots, playing)
        wants_gate = modules.here & (modules.style == Style.GATED) & ~modules.isolated & ~modules.has_gate
        for env, slot in np.argwhere(wants_gate).tolist():
            self._add_gate(env, slot)

    def _seed(self, env: int) -> int:
        seed = self._seeds[env]
        if seed is None:
            raise RuntimeError(f"environment {env} has no network: it was not reset, or it is closed")
        return seed

    def _plant(self, env: int, slot: int, blueprint: int, planting: int, style: int) -> None:
        kind, place = self._setup.blueprints[blueprint], self._kinds.places[slot]
        branch = build_branch(kind, place, key(self._seed(env), Stream.MODULE_INIT, slot, planting, 0))
        refuse_other_size(branch, self.facts, slot, blueprint, "when built")
        graft = self._kinds.on_device(Graft(branch, Style(style)))
        passed = probe(branch, place)
        refuse_other_size(branch, self.facts, slot, blueprint, "after its probe")
        self._kinds.module(slot, blueprint).pool.plant(env, graft)
        modules, at = self._modules, (env, slot)
        modules.blueprint[at], modules.planting[at], modules.style[at] = blueprint, planting, style
        modules.stage[at], modules.probe_passed[at] = Stage.GERMINATED, passed

    def _add_gate(self, env: int, slot: int) -> None:
        blueprint, planting = (
            int(each[env, slot]) for each in (self._modules.blueprint, self._modules.planting)
        )
        init = key(self._seed(env), Stream.MODULE_INIT, slot, planting, 1)
        graft = Graft(nn.Identity(), Style.GATED)
        graft.gate = build_gate(self._kinds.places[slot], init)
        self._kinds.module(slot, blueprint).pool.add(env, self._kinds.on_device(graft))
        self._modules.has_gate[env, slot] = True

    def epoch(self, playing: Bools) -> None:
        """See `Engine`."""
        self._train_flops = self._costs.training(self._modules)
        for envs in self._shards(playing):
            with self._timed("train_seconds", envs), self._switched():
                self._train(envs)
        self._epochs[playing] += 1

    def _train(self, envs: Ints) -> None:
        setup, config = self._setup, self._setup.config
        factors = [config.optimizer.factor(epoch, setup.horizon) for epoch in self._epochs[envs].tolist()]
        draws = self._draws(envs, training=True)
        program = Program(self._kinds, self.kernels, self._modules, envs, np.array(factors), setup, draws)
        seeds, epochs = [self._seed(env) for env in envs.tolist()], self._epochs[envs].tolist()
        ratios: Ratios = []
        last = self.epoch_size // config.batch_size - 1
        feed = batches(self._task, self.kernels, seeds, epochs, self.epoch_size, config.batch_size)
        for index, (x, y) in enumerate(feed):
            program.step(x, y, ratios if index == last else None)
        rows = torch.from_numpy(envs).to(self._task.device)
        trained, slots = program.finish(ratios)
        self._trained.index_copy_(0, rows, trained)
        self._trained_slots.index_copy_(0, rows, slots)

    def _draws(self, envs: Ints, training: bool) -> Draws:
        keys = {
            env: key(self._seed(env), Stream.FORWARD, int(self._epochs[env]), training)
            for env in envs.tolist()
        }
        return Draws(keys, self._task.device)

    def _shards(self, envs: Bools) -> Iterator[Ints]:
        """These environments in parts that are computed side by side."""
        chosen = self._modules.in_order(np.flatnonzero(envs))
        size = self._setup.config.rows_at_once or rows_at_once(self._setup)
        yield from np.split(chosen, range(size, len(chosen), size)) if len(chosen) else ()

    @contextmanager
    def _timed(self, name: str, envs: Ints) -> Iterator[None]:
        """Wall-clock time is shared evenly."""
        began = perf_counter()
        yield
        self._seconds[name][envs] += (perf_counter() - began) / len(envs)

    def _switched(self) -> Any:
        config = self._setup.config
        return switches(config.tf32, config.deterministic, self._task.device)

    def evaluate(self, playing: Bools, subsets: Ints) -> EpochStats:
        """See `Engine`."""
        stats = EpochStats.empty(self._num_envs, self.facts.num_slots, subsets.shape[1])
        measured = torch.full((self._num_envs, 2 + 2 * subsets.shape[1]), torch.nan, dtype=torch.float64)
        measured = measured.to(self._task.device)
        for envs in self._shards(playing):
            measured[torch.from_numpy(envs)] = self._measure(envs, subsets[envs]).flatten(1)
        self._fill(stats, playing, measured)
        envs = np.flatnonzero(playing)
        asked = [[subset for subset in row if subset >= 0] for row in subsets[envs].tolist()]
        validation, beyond = self._costs.measuring(self._modules, envs.tolist(), asked)
        stats.train_flops[envs] = self._train_flops[envs]
        stats.measure_flops[envs], stats.counterfactual_flops[envs] = validation + beyond, beyond
        stats.probe_passed[envs] = self._modules.probe_passed[envs]
        return stats

    def _measure(self, envs: Ints, subsets: Ints) -> Tensor:
        """float64 (row, 1 + subset, 2): loss and accuracy of networks, and of variants."""
        with self._timed("validation_seconds", envs), self._switched():
            measured = measure(self._networks(envs), subsets)
        spent = measured.counterfactual_seconds / len(envs)
        self._seconds["counterfactual_seconds"][envs] += spent
        self._seconds["validation_seconds"][envs] -= spent
        return torch.cat([measured.validation[:, None], measured.subsets], dim=1)

    def _networks(self, envs: Ints) -> Networks:
        run = Run(self.kernels, training=False, drawing=self._draws(envs, training=False).of)
        return Networks(self._kinds, run, self._modules, envs, self._setup)

    def _fill(self, stats: EpochStats, playing: Bools, measured: Tensor) -> None:
        """Everything that was trained and measured, in one copy from the device."""
        parts = (self._trained, self._trained_slots.flatten(1), measured)
        rows = torch.cat([part.double() for part in parts], dim=1).cpu().numpy()[playing]
        trained, slots, figures = np.split(rows, np.cumsum([part.shape[1] for part in parts[:2]]), axis=1)
        for column, name in enumerate(TRAINED):
            getattr(stats, name)[playing] = trained[:, column]
        slots = slots.reshape(len(rows), len(TRAINED_SLOTS), self.facts.num_slots)
        for column, name in enumerate(TRAINED_SLOTS):
            getattr(stats, name)[playing] = slots[:, column]
        stats.val_loss[playing], stats.val_accuracy[playing] = figures[:, 0], figures[:, 1]
        stats.subset_loss[playing], stats.subset_accuracy[playing] = figures[:, 2::2], figures[:, 3::2]

    def harvest(self, ending: Bools) -> HarvestStats:
        """See `Engine`."""
        self._modules.remove(ending[:, None] & ~self._modules.fossil)
        stats = HarvestStats.empty(self._num_envs)
        for envs in self._shards(ending):
            with self._switched():
                networks = self._networks(envs)
                validation = measure(networks, np.empty((len(envs), 0), dtype=np.int64)).validation
                figures = torch.cat([validation, summary(networks, self._task.test)], dim=1).cpu().numpy()
            stats.val_loss[envs], stats.val_accuracy[envs] = figures[:, 0], figures[:, 1]
            stats.test_loss[envs], stats.test_accuracy[envs] = figures[:, 2], figures[:, 3]
        return stats

    def keep(self, envs: Bools, fossils_only: Bools | None = None) -> None:
        """See `Engine`. What is kept stays on the device."""
        afresh = envs if fossils_only is None else envs & ~fossils_only
        self._kept_fossils[afresh] = False
        self._kinds.host.pool.keep(self._sent(np.flatnonzero(afresh)))
        new = self._modules.fossil & ~self._kept_fossils & envs[:, None]
        for pool, rows in self._by_pool(new):
            pool.keep(rows)
        self._kept_fossils |= new

    def restore(self, envs: Bools) -> EpochStats:
        """See `Engine`."""
        self._modules.remove(envs[:, None] & ~self._kept_fossils)
        self._kinds.host.pool.restore(self._sent(np.flatnonzero(envs)))
        for pool, rows in self._by_pool(self._kept_fossils & envs[:, None]):
            pool.restore(rows)
        stats = EpochStats.empty(self._num_envs, self.facts.num_slots)
        for rows in self._shards(envs):
            nothing = np.empty((len(rows), 0), dtype=np.int64)
            figures = self._measure(rows, nothing)[:, 0].cpu().numpy()
            stats.val_loss[rows], stats.val_accuracy[rows] = figures[:, 0], figures[:, 1]
        chosen = np.flatnonzero(envs).tolist()
        stats.measure_flops[envs] = self._costs.measuring(self._modules, chosen, [[]] * len(chosen))[0]
        return stats

    def _by_pool(self, where: Bools) -> Iterator[tuple[Pool, Tensor]]:
        """The pools of these modules, (env, slot), and the environments, int64 (row,), that have one there."""
        blueprints = np.where(where, self._modules.blueprint, -1)
        for slot, blueprint in sorted({(s, int(blueprints[e, s])) for e, s in np.argwhere(where).tolist()}):
            rows = np.flatnonzero(blueprints[:, slot] == blueprint)
            yield self._kinds.module(slot, blueprint).pool, self._sent(rows)

    def _sent(self, values: Ints) -> Tensor:
        return torch.from_numpy(values).to(self._task.device)

    def get_state(self, env: int) -> dict[str, Any]:
        """See `Engine`. The reference engine could go on with it, and the other way round."""
        modules, slots = self._modules, np.flatnonzero(self._modules.here[env]).tolist()
        described = {slot: self._describe(env, slot) for slot in slots}
        parts = {at: self._copy(env, at) for at in (HOST, *slots)}
        life = {
            "seed": self._seed(env),
            "epochs": int(self._epochs[env]),
            "modules": described,
            "parts": parts,
        }
        kept = (HOST, *np.flatnonzero(self._kept_fossils[env] & modules.here[env]).tolist())
        return {"life": life, "kept": {at: self._copy(env, at, kept=True) for at in kept}}

    def _describe(self, env: int, slot: int) -> dict[str, Any]:
        modules, at = self._modules, (env, slot)
        name = self.facts.blueprints[modules.blueprint[at]]
        numbers = (modules.style, modules.planting, modules.stage)
        values = (*(int(each[at]) for each in numbers), float(modules.alpha[at]))
        return dict(
            zip(
                DESCRIBED,
                (name, *values, bool(modules.frozen[at]), bool(modules.probe_passed[at])),
                strict=True,
            )
        )

    def _pool(self, env: int, at: int) -> Pool:
        """Where the host or the module of a slot is."""
        if at == HOST:
            return self._kinds.host.pool
        return self._kinds.module(at, int(self._modules.blueprint[env, at])).pool

    def _copy(self, env: int, at: int, kept: bool = False) -> snapshot.Copy:
        pool = self._pool(env, at)
        return copy_of(pool, pool.row(env, kept), at != HOST and bool(self._modules.has_gate[env, at]))

    def set_state(self, env: int, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        parts = mapping(state, "engine", ("life", "kept"))
        life = snapshot.from_state(self._setup, parts["life"])
        kept = snapshot.of_life(life, parts["kept"])
        self._clear(np.array([env]))
        self._seeds[env], self._epochs[env] = life.seed, life.epochs
        for slot, planted in life.planted.items():
            self._modules.adopt(env, slot, self.facts.blueprints.index(planted.blueprint.name), planted)
        for at, copy in snapshot.get_state(life)["parts"].items():
            pool = self._pool(env, at)
            write(pool, pool.row(env), copy)
        self._kept_fossils[env] = False
        for at, copy in kept.items():
            pool = self._pool(env, at)
            write(pool, pool.row(env, kept=True), copy)
            if at != HOST:
                self._kept_fossils[env, at] = True
        for seconds in self._seconds.values():
            seconds[env] = np.nan_to_num(seconds[env])

    def life(self, env: int) -> Life:
        """A copy of one environment's network, as the reference engine would have it.

        Raises:
            RuntimeError: it was never begun, or the engine is closed.
        """
        return snapshot.from_state(self._setup, self.get_state(env)["life"])

    def export(self, env: int) -> nn.Module:
        """See `Engine`, and `esper_env.engine.export`."""
        return exported(self.life(env), self._task)

    def seconds(self) -> dict[str, Floats]:
        """See `Engine`. The harvest is in none of them; NaN where there is no network."""
        return {name: each.copy() for name, each in self._seconds.items()}

    def close(self) -> None:
        """See `Engine`."""
        self._seeds = [None] * self._num_envs
        self._kinds = Kinds(self._setup, 0)
