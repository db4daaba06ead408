"""The rule-based agent: it waits for a stable host, grows where that has come to a halt, keeps what helps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_agents.agent import Info
from esper_agents.baselines.moves import WAIT, Action, SpeedName, StyleName, TempoName, germinate, prune
from esper_agents.baselines.preference import ranks
from esper_agents.baselines.reading import Bools, Floats, Ints, Reader, Reading
from esper_env import EsperVectorEnv, Op, Stage, encode

MOST_EPOCHS = 4
"""Steps from one epoch to the next that the observation's history of five allows."""
WAITS_FOR_MORE = (Stage.GERMINATED, Stage.TRAINING, Stage.HOLDING)
"""Stages that a module leaves by showing something. In BLENDING it may only have to wait for its ramp."""


class HeuristicConfig(BaseModel):
    """Thresholds of the rules."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    stable_fall: float = Field(0.03, gt=0)
    """The host is stable once its validation loss falls by less than this share of itself an epoch."""
    stable_epochs: int = Field(3, ge=1, le=MOST_EPOCHS)
    """Epochs over which that is averaged."""
    plateau_gain: float = Field(2.0)
    """Quality has come to a halt when it has won less than so many points."""
    plateau_epochs: int = Field(2, ge=1, le=MOST_EPOCHS)
    """Epochs in which it has."""
    spacing: int = Field(3, ge=0)
    """Least epochs between one planting and the next."""
    least_left: int = Field(10, ge=0)
    """Least epochs that must be left of the episode for a planting."""
    harm_below: float = Field(0.0)
    """A module whose contribution in points is below this does harm."""
    harm_epochs: int = Field(3, ge=1)
    """Epochs running after which a module that does is pruned."""
    patience: int = Field(8, ge=1)
    """Epochs in a stage after which a module that can't go on, or be committed, is pruned."""
    commit_above: float = Field(0.5)
    """A module whose contribution in points is above this is fossilized."""
    penalty: float = Field(1.0, ge=0)
    """What a blueprint is charged with when a module of it is removed, by this agent or by a rollback."""
    forgiveness: float = Field(0.9, ge=0, le=1)
    """Share of the charges that is left after an epoch."""
    most_penalty: float = Field(0.5, gt=0)
    """Blueprints with this much or more are not planted."""
    preference: tuple[str, ...] | None = None
    """Names of blueprints to plant, the first among the least charged; None for all that the host takes,
    large convolutions and MLPs first."""
    style: StyleName = "LINEAR_ADD"
    """How a module joins the host."""
    tempo: TempoName = "FAST"
    """How long its blending takes."""
    prune_speed: SpeedName = "INSTANT"
    """How fast a module that is pruned is faded out: 0, 3, 5 or 8 epochs."""


@dataclass(frozen=True)
class Memory:
    """What the rules remember of an episode."""

    stable: Bools
    """(env,): the host has been stable."""
    planted: Floats
    """(env,): epoch of the last planting, minus infinity before the first."""
    grown: Ints
    """(env, slot): index of the blueprint seen there last, 0 for none."""
    harmful: Ints
    """(env, slot): epochs running in which the module was measured to do harm."""
    penalty: Floats
    """(env, blueprint): what it is charged with."""


class HeuristicAgent:
    """Every step the first that applies: fossilize what helps, prune what harms, advance, give up, plant.

    See `Agent`. All it remembers was seen, so that it can advise another agent as well as play.

    Args:
        config: Thresholds.
        env: What it will play, for the names of its features and blueprints.

    Raises:
        ValueError: a blueprint that does not exist.
    """

    name = "heuristic"

    def __init__(self, config: HeuristicConfig, env: EsperVectorEnv) -> None:
        self.config, self._reader, self._horizon = config, Reader(env), env.config.horizon
        self._shape = env.facts.num_slots, env.facts.num_blueprints
        self._rank = _ranks(config.preference, env.facts.blueprints)

    def begin(self, seeds: Sequence[int]) -> Memory:
        """See `Agent`."""
        num_envs, (num_slots, num_blueprints) = len(seeds), self._shape
        return Memory(
            stable=np.zeros(num_envs, dtype=bool),
            planted=np.full(num_envs, -np.inf),
            grown=np.zeros((num_envs, num_slots), dtype=np.int64),
            harmful=np.zeros((num_envs, num_slots), dtype=np.int64),
            penalty=np.zeros((num_envs, num_blueprints)),
        )

    def act(self, obs: NDArray[np.float32], info: Info, memory: Memory) -> tuple[Ints, Memory]:
        """See `Agent`."""
        seen = self._reader.read(obs)
        memory = self._remember(seen, memory)
        wishes = self._wishes(seen, memory, info["op_slot_mask"] == 1)
        fits = (info["blueprint_slot_mask"] == 1) & self._grows(seen, memory)[:, None, None]
        actions = [
            self._choose([(op, where[env]) for op, where in wishes], fits[env], memory.penalty[env])
            for env in range(len(obs))
        ]
        return np.stack(actions), memory

    def _remember(self, seen: Reading, memory: Memory) -> Memory:
        """The memory with what is seen now; an episode that has just begun has none."""
        old = _where(seen.begun, self.begin(range(len(seen.begun))), memory)
        envs, slots = np.nonzero((old.grown > 0) & (seen.blueprint == 0))
        penalty = old.penalty * self.config.forgiveness
        np.add.at(penalty, (envs, old.grown[envs, slots]), self.config.penalty)
        harms = seen.fresh & (seen.contribution < self.config.harm_below)
        new = ((seen.blueprint > 0) & (old.grown == 0)).any(axis=1)
        return Memory(
            stable=old.stable | self._is_stable(seen.losses),
            planted=np.where(new, seen.epoch - 1, old.planted),
            grown=seen.blueprint,
            harmful=np.where(harms, old.harmful + 1, 0),
            penalty=penalty,
        )

    def _is_stable(self, losses: Floats) -> Bools:
        epochs = self.config.stable_epochs
        before = losses[:, epochs]
        return before - losses[:, 0] < self.config.stable_fall * epochs * before

    def _grows(self, seen: Reading, memory: Memory) -> Bools:
        """(env,): it is time to plant, if there is anything to plant."""
        config = self.config
        gain = seen.qualities[:, 0] - seen.qualities[:, config.plateau_epochs]
        spaced = seen.epoch - memory.planted >= config.spacing
        early = self._horizon - seen.epoch >= config.least_left
        return memory.stable & (gain < config.plateau_gain) & spaced & early

    def _wishes(self, seen: Reading, memory: Memory, legal: Bools) -> list[tuple[Op, Bools]]:
        """What is to be done with modules where, (env, slot), the most urgent op first."""
        helps = seen.contribution > self.config.commit_above
        harms = memory.harmful >= self.config.harm_epochs
        waited = seen.epochs_in_stage >= self.config.patience
        stuck = waited & np.isin(seen.stage, WAITS_FOR_MORE)
        return [
            (Op.FOSSILIZE, legal[:, Op.FOSSILIZE] & helps),
            (Op.PRUNE, legal[:, Op.PRUNE] & harms),
            (Op.ADVANCE, legal[:, Op.ADVANCE]),
            (Op.PRUNE, legal[:, Op.PRUNE] & stuck),
        ]

    def _choose(self, wishes: Sequence[tuple[Op, Bools]], fits: Bools, penalty: Floats) -> Action:
        for op, where in wishes:
            if where.any():
                slot = int(where.argmax())
                return prune(slot, self.config.prune_speed) if op == Op.PRUNE else encode(op, slot=slot)
        return self._plant(fits, penalty)

    def _plant(self, fits: Bools, penalty: Floats) -> Action:
        """In the first slot that is free, the least charged blueprint, the preferred one among equals."""
        fits = fits & np.isfinite(self._rank) & (penalty < self.config.most_penalty)
        if not fits.any():
            return WAIT
        slot = int(fits.any(axis=1).argmax())
        best = min(np.flatnonzero(fits[slot]).tolist(), key=lambda b: (penalty[b], self._rank[b]))
        return germinate(slot, best, self.config.style, self.config.tempo)


def _ranks(preference: Sequence[str] | None, blueprints: Sequence[str]) -> Floats:
    """As `ranks`, of names that are known."""
    unknown = [name for name in preference or () if name not in blueprints[1:]]
    if unknown:
        raise ValueError(f"heuristic.preference: {unknown} are not known, only {list(blueprints[1:])} are")
    return ranks(preference, blueprints)


def _where(envs: Bools, one: Memory, other: Memory) -> Memory:
    """`one` in the environments `envs`, `other` elsewhere."""
    fields: dict[str, Any] = {}
    for name, value in vars(other).items():
        axes = (len(envs),) + (1,) * (value.ndim - 1)
        fields[name] = np.where(envs.reshape(axes), getattr(one, name), value)
    return Memory(**fields)
