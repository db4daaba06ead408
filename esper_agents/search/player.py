"""Plays lives: every step the op that is longest overdue among those that are legal."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Info
from esper_agents.baselines.moves import WAIT, Action, germinate, prune, raise_alpha
from esper_agents.baselines.reading import Reader, Reading
from esper_agents.search.life import Life, Planting
from esper_env import EsperVectorEnv, Head, HostFacts, Op, Stage, encode

Ints = NDArray[np.int64]
MODULE = (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING)
"""Stages of a module that can still be removed."""
FIRST = (Op.GERMINATE, Op.ADVANCE, Op.SET_ALPHA_TARGET, Op.FOSSILIZE, Op.PRUNE)
"""Which op goes first of those that are equally overdue."""


@dataclass(frozen=True)
class Sight:
    """What one environment shows."""

    epoch: int
    stage: Ints
    """(slot,)."""
    waited: Ints
    """(slot,): epochs in that stage."""
    op_slot: NDArray[np.int8]
    """(op, slot): what is legal."""
    fits: NDArray[np.int8]
    """(slot, blueprint): what may be planted."""

    @classmethod
    def of(cls, seen: Reading, info: Info, env: int) -> "Sight":
        """What a batch shows of one of its environments."""
        masks = info["op_slot_mask"][env], info["blueprint_slot_mask"][env]
        return cls(int(seen.epoch[env]), seen.stage[env], seen.epochs_in_stage[env], *masks)


@dataclass(frozen=True)
class Wish:
    """An op that is due and legal."""

    overdue: int
    """Epochs since it could have been asked for."""
    op: Op
    number: int
    """Of the planting."""
    action: Action

    @property
    def urgency(self) -> tuple[int, int, int]:
        """Larger goes first."""
        return self.overdue, -FIRST.index(self.op), -self.number


class Follower:
    """A life under way in one environment.

    Args:
        life: What to do.
        facts: Of the host, for the numbers of its blueprints.
    """

    def __init__(self, life: Life, facts: HostFacts) -> None:
        self._plantings = life.plantings
        self._kinds = [facts.blueprints.index(each.blueprint) for each in life.plantings]
        self._planted: dict[int, int] = {}
        """Number of a planting -> epoch in which it was done."""
        self._living: dict[int, int] = {}
        """Slot -> number of the planting whose module is there."""
        self._rested = [0] * len(self._kinds)
        self._raised: set[int] = set()

    def copy(self) -> "Follower":
        """Another one, as far as this one is."""
        other = copy(self)
        other._kinds, other._rested = list(self._kinds), list(self._rested)
        other._planted, other._raised = dict(self._planted), set(self._raised)
        return other

    def grown(self, planting: Planting, facts: HostFacts) -> "Follower":
        """A copy that will do one more planting."""
        other = self.copy()
        other._plantings = (*self._plantings, planting)
        other._kinds.append(facts.blueprints.index(planting.blueprint))
        other._rested.append(0)
        return other

    def act(self, sight: Sight) -> Action:
        """The next action."""
        self._living = {slot: n for slot, n in self._living.items() if sight.stage[slot] in MODULE}
        wishes = [*self._to_plant(sight), *self._to_tend(sight)]
        if not wishes:
            return WAIT
        wish = max(wishes, key=lambda each: each.urgency)
        slot = self._plantings[wish.number].slot
        if wish.op == Op.GERMINATE:
            self._planted[wish.number], self._living[slot] = sight.epoch, wish.number
        if wish.op == Op.SET_ALPHA_TARGET:
            self._raised.add(wish.number)
        return wish.action

    def _to_plant(self, sight: Sight) -> Iterator[Wish]:
        for number, (planting, kind) in enumerate(zip(self._plantings, self._kinds, strict=True)):
            overdue = sight.epoch - planting.epoch
            if number not in self._planted and overdue >= 0 and sight.fits[planting.slot, kind]:
                how = planting.style, planting.tempo, planting.alpha_target
                yield Wish(overdue, Op.GERMINATE, number, germinate(planting.slot, kind, *how))

    def _to_tend(self, sight: Sight) -> Iterator[Wish]:
        for slot, number in self._living.items():
            planting, legal = self._plantings[number], sight.op_slot[:, slot] == 1
            for op, overdue in self._due(planting, number, sight, legal):
                if overdue >= 0 and legal[op]:
                    yield Wish(overdue, op, number, _action(op, planting))

    def _due(
        self, planting: Planting, number: int, sight: Sight, legal: NDArray[np.bool_]
    ) -> Iterator[tuple[Op, int]]:
        """Ops that this module is waiting for, and how long they are overdue."""
        stage, waited = sight.stage[planting.slot], int(sight.waited[planting.slot])
        yield Op.ADVANCE, waited - (planting.train if stage == Stage.TRAINING else 0)
        rests = stage == Stage.BLENDING and planting.alpha_target != "FULL" and number not in self._raised
        if rests and legal[Op.SET_ALPHA_TARGET]:
            yield Op.SET_ALPHA_TARGET, self._rested[number] - planting.rest
            self._rested[number] += 1
        if planting.commit is not None:
            yield Op.FOSSILIZE, waited - planting.commit
        if planting.remove is not None:
            yield Op.PRUNE, sight.epoch - self._planted[number] - planting.remove


def _action(op: Op, planting: Planting) -> Action:
    if op == Op.SET_ALPHA_TARGET:
        return raise_alpha(planting.slot, planting.speed, planting.curve)
    return prune(planting.slot, "INSTANT") if op == Op.PRUNE else encode(op, slot=planting.slot)


class LifeAgent:
    """Leads the same life in every environment. It never plays what is not legal. See `Agent`.

    Args:
        life: What to do.
        env: What it will play.
        name: How tables call it.

    Raises:
        ValueError: a life that does not fit the host.
    """

    def __init__(self, life: Life, env: EsperVectorEnv, name: str = "search") -> None:
        life.check(env.facts)
        self.life, self.name, self._reader, self._facts = life, name, Reader(env), env.facts

    def begin(self, seeds: Sequence[int]) -> list[Follower]:
        """See `Agent`."""
        return [Follower(self.life, self._facts) for _ in seeds]

    def act(
        self, obs: NDArray[np.float32], info: Info, memory: list[Follower]
    ) -> tuple[Ints, list[Follower]]:
        """See `Agent`."""
        return follow(memory, self._reader.read(obs), info), memory


def follow(followers: Sequence[Follower | None], seen: Reading, info: Info) -> Ints:
    """One action an environment, WAIT where nobody plays."""
    actions = np.zeros((len(followers), len(Head)), dtype=np.int64)
    for env, follower in enumerate(followers):
        if follower is not None:
            actions[env] = follower.act(Sight.of(seen, info, env))
    return actions
