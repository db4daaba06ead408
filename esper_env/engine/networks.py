"""The networks of a fused engine: what every environment has, planted, remembered and exchanged."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState
from esper_env.contracts.streams import Stream, key
from esper_env.engine import snapshot
from esper_env.engine.draws import Draws
from esper_env.engine.exchange import copy_of, write
from esper_env.engine.kinds import Kinds
from esper_env.engine.life import HOST, Life
from esper_env.engine.planted import DESCRIBED, refuse_other_size
from esper_env.engine.pool import Pool
from esper_env.engine.setup import Setup
from esper_env.engine.state import mapping
from esper_env.engine.topology import Modules
from esper_env.slots.grown import Graft, build_branch, build_gate, probe, seeded

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Networks:
    """Host and modules of every environment, a row each in the pools of their kinds.

    Args:
        num_envs: number of environments.
        setup: what they share.
    """

    def __init__(self, num_envs: int, setup: Setup) -> None:
        self.setup, self._num_envs, self._facts = setup, num_envs, setup.facts
        self.kinds = Kinds(setup, num_envs)
        self.modules = Modules.none(num_envs, self._facts.num_slots)
        self.epochs = np.zeros(num_envs, dtype=np.int64)
        """(env,): epochs trained so far."""
        self._seeds: list[int | None] = [None] * num_envs
        self._kept_fossils = np.zeros((num_envs, self._facts.num_slots), dtype=bool)

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        """See `Engine`."""
        for env, seed in zip(envs.tolist(), seeds, strict=True):
            with seeded(key(seed, Stream.HOST_INIT)):
                host = self.setup.build_host()
            self.kinds.host.pool.plant(env, self.kinds.on_device(host))
            self._seeds[env] = seed
        self.epochs[envs] = 0
        self._clear(envs)

    def _clear(self, envs: Ints) -> None:
        everything = np.zeros((self._num_envs, self._facts.num_slots), dtype=bool)
        everything[envs] = True
        self.modules.remove(everything)

    def sync(self, slots: SlotState, playing: Bools) -> None:
        """See `Engine`."""
        modules = self.modules
        modules.remove(modules.gone(slots, playing))
        for env, slot in np.argwhere(modules.new(slots, playing)).tolist():
            blueprint, planting = int(slots.blueprint[env, slot]), int(slots.planting[env, slot])
            self._plant(env, slot, blueprint, planting, int(slots.style[env, slot]))
        modules.follow(slots, playing)
        wants_gate = modules.here & (modules.style == Style.GATED) & ~modules.isolated & ~modules.has_gate
        for env, slot in np.argwhere(wants_gate).tolist():
            self._add_gate(env, slot)

    def seed(self, env: int) -> int:
        """Episode seed.

        Raises:
            RuntimeError: the environment was never begun, or the engine is closed.
        """
        seed = self._seeds[env]
        if seed is None:
            raise RuntimeError(f"environment {env} has no network: it was not reset, or it is closed")
        return seed

    def _plant(self, env: int, slot: int, blueprint: int, planting: int, style: int) -> None:
        kind, place = self.setup.blueprints[blueprint], self.kinds.places[slot]
        branch = build_branch(kind, place, key(self.seed(env), Stream.MODULE_INIT, slot, planting, 0))
        refuse_other_size(branch, self._facts, slot, blueprint, "when built")
        graft = self.kinds.on_device(Graft(branch, Style(style)))
        passed = probe(branch, place)
        refuse_other_size(branch, self._facts, slot, blueprint, "after its probe")
        self.kinds.module(slot, blueprint).pool.plant(env, graft)
        modules, at = self.modules, (env, slot)
        modules.blueprint[at], modules.planting[at], modules.style[at] = blueprint, planting, style
        modules.stage[at], modules.probe_passed[at] = Stage.GERMINATED, passed

    def _add_gate(self, env: int, slot: int) -> None:
        blueprint, planting = (
            int(each[env, slot]) for each in (self.modules.blueprint, self.modules.planting)
        )
        init = key(self.seed(env), Stream.MODULE_INIT, slot, planting, 1)
        graft = Graft(nn.Identity(), Style.GATED)
        graft.gate = build_gate(self.kinds.places[slot], init)
        self.kinds.module(slot, blueprint).pool.add(env, self.kinds.on_device(graft))
        self.modules.has_gate[env, slot] = True

    def draws(self, envs: Ints, training: bool) -> Draws:
        """What their modules draw in an epoch."""
        keys = {
            env: key(self.seed(env), Stream.FORWARD, int(self.epochs[env]), training) for env in envs.tolist()
        }
        return Draws(keys, self.kinds.device)

    def close(self) -> None:
        """Forget all networks."""
        self._seeds = [None] * self._num_envs
        self.kinds = Kinds(self.setup, 0)

    def keep(self, envs: Bools, fossils_only: Bools | None = None) -> None:
        """See `Engine`. What is kept stays on the device."""
        afresh = envs if fossils_only is None else envs & ~fossils_only
        self._kept_fossils[afresh] = False
        self.kinds.host.pool.keep(self._sent(np.flatnonzero(afresh)))
        new = self.modules.fossil & ~self._kept_fossils & envs[:, None]
        for pool, rows in self._by_pool(new):
            pool.keep(rows)
        self._kept_fossils |= new

    def restore(self, envs: Bools) -> None:
        """See `Engine`; nothing is measured."""
        self.modules.remove(envs[:, None] & ~self._kept_fossils)
        self.kinds.host.pool.restore(self._sent(np.flatnonzero(envs)))
        for pool, rows in self._by_pool(self._kept_fossils & envs[:, None]):
            pool.restore(rows)

    def get_state(self, env: int) -> dict[str, Any]:
        """See `Engine`. The reference engine could go on with it, and the other way round."""
        seed, modules = self.seed(env), self.modules
        slots = np.flatnonzero(modules.here[env]).tolist()
        described = {slot: self._describe(env, slot) for slot in slots}
        parts = {at: self._copy(env, at) for at in (HOST, *slots)}
        life = {
            "seed": seed,
            "epochs": int(self.epochs[env]),
            "modules": described,
            "parts": parts,
        }
        kept = (HOST, *np.flatnonzero(self._kept_fossils[env] & modules.here[env]).tolist())
        return {"life": life, "kept": {at: self._copy(env, at, kept=True) for at in kept}}

    def _describe(self, env: int, slot: int) -> dict[str, Any]:
        modules, at = self.modules, (env, slot)
        name = self._facts.blueprints[modules.blueprint[at]]
        numbers = (modules.style, modules.planting, modules.stage)
        values = (*(int(each[at]) for each in numbers), float(modules.alpha[at]))
        flags = (bool(modules.frozen[at]), bool(modules.probe_passed[at]))
        return dict(zip(DESCRIBED, (name, *values, *flags), strict=True))

    def _pool(self, env: int, at: int) -> Pool:
        """Where the host or the module of a slot is."""
        if at == HOST:
            return self.kinds.host.pool
        return self.kinds.module(at, int(self.modules.blueprint[env, at])).pool

    def _copy(self, env: int, at: int, kept: bool = False) -> snapshot.Copy:
        pool, optimizer = self._pool(env, at), self.setup.config.optimizer
        has_gate = at != HOST and bool(self.modules.has_gate[env, at])
        return copy_of(pool, pool.row(env, kept), has_gate, optimizer.remembers(host=at == HOST))

    def set_state(self, env: int, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        parts = mapping(state, "engine", ("life", "kept"))
        life = snapshot.from_state(self.setup, parts["life"])
        kept = snapshot.of_life(life, parts["kept"])
        self._clear(np.array([env]))
        self._seeds[env], self.epochs[env] = life.seed, life.epochs
        for slot, planted in life.planted.items():
            self.modules.adopt(env, slot, self._facts.blueprints.index(planted.blueprint.name), planted)
        for at, copy in snapshot.get_state(life)["parts"].items():
            pool = self._pool(env, at)
            write(pool, pool.row(env), copy)
        self._kept_fossils[env] = False
        for at, copy in kept.items():
            pool = self._pool(env, at)
            write(pool, pool.row(env, kept=True), copy)
            if at != HOST:
                self._kept_fossils[env, at] = True

    def life(self, env: int) -> Life:
        """A copy of one environment's network, as the reference engine would have it."""
        return snapshot.from_state(self.setup, self.get_state(env)["life"])

    def _by_pool(self, where: Bools) -> Iterator[tuple[Pool, Tensor]]:
        """The pools of these modules, (env, slot), and int64 (row,) the environments that have one there."""
        blueprints = np.where(where, self.modules.blueprint, -1)
        for slot, blueprint in sorted({(s, int(blueprints[e, s])) for e, s in np.argwhere(where).tolist()}):
            rows = np.flatnonzero(blueprints[:, slot] == blueprint)
            yield self.kinds.module(slot, blueprint).pool, self._sent(rows)

    def _sent(self, values: Ints) -> Tensor:
        return torch.from_numpy(values).to(self.kinds.device)
