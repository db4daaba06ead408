"""Scripted agents of different quality: what is planted where and when, what is kept, what is thrown away."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Agent, Info
from esper_agents.baselines.random import RandomAgent
from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.baselines.wait import WaitAgent
from esper_env import EsperVectorEnv, Head, Op, Stage, encode

Ints = NDArray[np.int64]
Build = Callable[[EsperVectorEnv], Agent]
HALF, FULL = 0, 2
"""Indices of the alpha_target head."""
INSTANT, FAST = 0, 1
"""Indices of the alpha_speed head."""
ALWAYS = 10**6


@dataclass(frozen=True)
class Plan:
    """What happens to the modules of an agent that does not simply commit them. Times are epochs."""

    blueprint: str
    slots: tuple[int, ...] = (0, 1, 2)
    alpha_target: int = FULL
    """Index of the target of the first ramp."""
    full_from: int = ALWAYS
    """When an alpha that rests below 1 is sent there."""
    wavers: bool = False
    """Whether alpha is taken back to 0.5 whenever a module is held, until it is committed."""
    commit_from: int = ALWAYS
    """When what is held is fossilized."""
    prune_in: Stage | None = None
    """Stage in which a module is pruned."""
    patience: int = 0
    """Steps for which that is put off, once it is legal."""
    prune_speed: int = INSTANT
    prunes: int = ALWAYS
    """Modules of a slot that are pruned before one is let live."""
    plantings: int = ALWAYS
    """Modules that a slot is given one after another."""


class _View(NamedTuple):
    """What one environment shows, and what is remembered of its slots."""

    epoch: int
    stage: Ints
    legal: NDArray[np.int8]
    """(op, slot)."""
    plantable: NDArray[np.bool_]
    """(slot,)."""
    planted: Ints
    pruned: Ints
    delayed: Ints


class PlanAgent:
    """Follows a `Plan`, slot by slot: the first slot with something to do gets the step. See `Agent`.

    The memory is an int array (env, 3, slot): modules planted, modules pruned, steps a prune was put off.
    """

    def __init__(self, name: str, plan: Plan, env: EsperVectorEnv) -> None:
        self.name, self.plan = name, plan
        self._horizon, self._slots = env.config.horizon, env.facts.num_slots
        self._blueprint = env.facts.blueprints.index(plan.blueprint)
        self._epoch = env.features["epoch"].start
        self._stages = [env.features[f"slot{slot}.stage"] for slot in range(self._slots)]

    def begin(self, seeds: Sequence[int]) -> Ints:
        """See `Agent`."""
        return np.zeros((len(seeds), 3, self._slots), dtype=np.int64)

    def act(self, obs: NDArray[np.float32], info: Info, memory: Ints) -> tuple[Ints, Ints]:
        """See `Agent`."""
        memory = memory.copy()
        return np.stack([self._choose(self._view(obs, info, memory, e)) for e in range(len(obs))]), memory

    def _view(self, obs: NDArray[np.float32], info: Info, memory: Ints, env: int) -> _View:
        epoch = round(float(obs[env, self._epoch]) * self._horizon)
        one_hots = [obs[env, part] for part in self._stages]
        stage = np.array([1 + int(hot.argmax()) if hot.any() else int(Stage.DORMANT) for hot in one_hots])
        plantable = info["blueprint_slot_mask"][env, :, self._blueprint] == 1
        return _View(epoch, stage, info["op_slot_mask"][env], plantable, *memory[env])

    def _choose(self, view: _View) -> Ints:
        wishes = (self._wish(view, slot) for slot in self.plan.slots)
        return next((wish for wish in wishes if wish is not None), encode(Op.WAIT))

    def _wish(self, view: _View, slot: int) -> Ints | None:
        plan, legal = self.plan, view.legal[:, slot]
        if view.stage[slot] == plan.prune_in and view.pruned[slot] < plan.prunes:
            return self._prune(view, slot)
        if legal[Op.FOSSILIZE] and view.epoch >= plan.commit_from:
            return encode(Op.FOSSILIZE, slot=slot)
        if legal[Op.ADVANCE]:
            return encode(Op.ADVANCE, slot=slot)
        if legal[Op.SET_ALPHA_TARGET]:
            return self._move_alpha(view, slot)
        if view.plantable[slot] and view.planted[slot] < plan.plantings:
            view.planted[slot] += 1
            return encode(Op.GERMINATE, slot=slot, blueprint=self._blueprint, alpha_target=plan.alpha_target)
        return None

    def _prune(self, view: _View, slot: int) -> Ints | None:
        if not view.legal[Op.PRUNE, slot]:
            return None
        view.delayed[slot] += 1
        if view.delayed[slot] <= self.plan.patience:
            return None
        view.delayed[slot] = 0
        view.pruned[slot] += 1
        return encode(Op.PRUNE, slot=slot, alpha_speed=self.plan.prune_speed)

    def _move_alpha(self, view: _View, slot: int) -> Ints | None:
        if view.stage[slot] == Stage.BLENDING and view.epoch >= self.plan.full_from:
            return encode(Op.SET_ALPHA_TARGET, slot=slot, alpha_target=FULL, alpha_speed=FAST)
        if view.stage[slot] == Stage.HOLDING and self.plan.wavers:
            return encode(Op.SET_ALPHA_TARGET, slot=slot, alpha_target=HALF, alpha_speed=INSTANT)
        return None


class HesitantAgent(RandomAgent):
    """Random legal actions, but WAIT three times out of four. See `Agent`."""

    def _draw(
        self, op_slot: NDArray[np.int8], blueprint_slot: NDArray[np.int8], rng: np.random.Generator
    ) -> Ints:
        if rng.random() < 0.75:
            return np.zeros(len(Head), dtype=np.int64)
        return super()._draw(op_slot, blueprint_slot, rng)


@dataclass(frozen=True)
class Entry:
    """One agent of the roster."""

    family: str
    build: Build


def roster(horizon: int) -> dict[str, Entry]:
    """Name -> agent, for episodes of this length."""
    entries = {"wait": Entry("static", lambda env: WaitAgent())}
    entries |= {name: Entry(family, partial(_schedule, plan)) for name, family, plan in _schedules(horizon)}
    entries |= {name: Entry(family, partial(PlanAgent, name, plan)) for name, family, plan in _plans(horizon)}
    entries["random legal"] = Entry("random", lambda env: RandomAgent(env.layout))
    entries["random, mostly waiting"] = Entry("random", lambda env: HesitantAgent(env.layout))
    return entries


def _schedule(config: ScheduleConfig, env: EsperVectorEnv) -> ScheduleAgent:
    return ScheduleAgent.of(config, env)


def _schedules(horizon: int) -> list[tuple[str, str, ScheduleConfig]]:
    third, late = round(horizon / 3), round(0.6 * horizon)
    agents: dict[str, dict[str, dict[str, object]]] = {
        "committed": {
            "heavy x3": {},
            "heavy x3, spaced by 3": {"spacing": 3},
            "heavy x3 from 1/3": {"start": third},
            "heavy x3, slow ramp": {"tempo": "SLOW"},
            "heavy x3, gated": {"style": "GATED"},
            "heavy x3, multiply": {"style": "LINEAR_MULTIPLY"},
            "heavy x3, sigmoid": {"style": "SIGMOID_ADD", "tempo": "STANDARD"},
            "heavy in 0": {"slots": (0,)},
            "heavy in 1": {"slots": (1,)},
            "heavy in 2": {"slots": (2,)},
            "heavy in 0, 1": {"slots": (0, 1)},
            "heavy in 0 from 1/3": {"slots": (0,), "start": third},
            "light x3": {"blueprint": "conv_light"},
            "light x3 from 1/3": {"blueprint": "conv_light", "start": third},
            "light in 0": {"blueprint": "conv_light", "slots": (0,)},
            "light in 2 from 1/3": {"blueprint": "conv_light", "slots": (2,), "start": third},
            "bottleneck x3": {"blueprint": "bottleneck"},
            "bottleneck in 0": {"blueprint": "bottleneck", "slots": (0,)},
            "depthwise x3": {"blueprint": "depthwise"},
            "depthwise in 0": {"blueprint": "depthwise", "slots": (0,)},
            "small x3": {"blueprint": "conv_small"},
            "attention x3": {"blueprint": "attention"},
            "norm x3": {"blueprint": "norm"},
        },
        "too late": {
            "heavy x3 from 0.6": {"start": late},
            "light x3 from 0.6": {"blueprint": "conv_light", "start": late},
            "heavy in 0 from 0.6": {"slots": (0,), "start": late},
        },
        "lazy": {
            "heavy x3, never committed": {"fossilize": False},
            "light in 0, never committed": {"blueprint": "conv_light", "slots": (0,), "fossilize": False},
        },
        "junk": {
            "zero x3": {"blueprint": "junk_zero"},
            "zero in 2": {"blueprint": "junk_zero", "slots": (2,)},
            "noise x3": {"blueprint": "junk_noise"},
            "noise in 0": {"blueprint": "junk_noise", "slots": (0,)},
            "frozen x3": {"blueprint": "junk_frozen"},
            "frozen x3, never committed": {"blueprint": "junk_frozen", "fossilize": False},
        },
    }
    return [
        (name, family, ScheduleConfig(**plan)) for family, of in agents.items() for name, plan in of.items()
    ]


def _plans(horizon: int) -> list[tuple[str, str, Plan]]:
    half = horizon // 2
    agents = {
        "late commit": {
            "heavy x3, committed last": Plan("conv_heavy", commit_from=horizon - 3),
            "light in 0, committed last": Plan("conv_light", (0,), commit_from=horizon - 1),
            "heavy x3, wavering": Plan("conv_heavy", wavers=True, full_from=0, commit_from=horizon - 8),
        },
        "half alpha": {
            "heavy x3 at 0.5": Plan("conv_heavy", alpha_target=HALF),
            "heavy x3 at 0.5, full from 1/2": Plan(
                "conv_heavy", alpha_target=HALF, full_from=half, commit_from=0
            ),
            "light in 0 at 0.5": Plan("conv_light", (0,), alpha_target=HALF),
        },
        "churn": {
            "heavy x3, pruned when planted": Plan("conv_heavy", prune_in=Stage.GERMINATED),
            "heavy x3, pruned in training": Plan("conv_heavy", prune_in=Stage.TRAINING, patience=3),
            "heavy x3, pruned when blended": Plan("conv_heavy", prune_in=Stage.BLENDING),
            "light in 0, pruned when blended": Plan("conv_light", (0,), prune_in=Stage.BLENDING),
            "heavy x3, faded when held": Plan("conv_heavy", prune_in=Stage.HOLDING, prune_speed=FAST),
            "heavy x3, held once, pruned": Plan(
                "conv_heavy", prune_in=Stage.HOLDING, patience=2, plantings=1
            ),
        },
        "hasty": {
            "heavy x3, second planting kept": Plan(
                "conv_heavy", prune_in=Stage.TRAINING, prunes=1, commit_from=0
            ),
            "light x3, second planting kept": Plan(
                "conv_light", prune_in=Stage.TRAINING, prunes=1, commit_from=0
            ),
            "heavy in 0, blended twice": Plan(
                "conv_heavy", (0,), prune_in=Stage.BLENDING, prunes=1, commit_from=0
            ),
        },
    }
    return [(name, family, plan) for family, of in agents.items() for name, plan in of.items()]
