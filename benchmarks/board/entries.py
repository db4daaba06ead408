"""Who plays under which name: an entry is one agent, and every training run of it one checkpoint."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from board.cells import Cell
from board.entrants import CheckpointFile
from board.records import Episode, Record, RefusedError
from esper_agents.baselines import BASELINES

STATIC = "wait"
"""The agent that leaves a host static, and the name of its entry."""
Key = tuple[str, str, Cell, int | None]
"""Entry, instance, budgets, training seed: what there is one result of."""


def part_of(instance: str) -> tuple[str, str]:
    """Tier and part of an instance's id, such as ("T1", "data") of "T1-data-03"."""
    tier, _, rest = instance.partition("-")
    part, _, number = rest.rpartition("-")
    if not (tier and part and number.isdecimal()):
        raise RefusedError(f"instance {instance!r} has no id of the form T1-data-03")
    return tier, part


@dataclass(frozen=True)
class Entry:
    """All that an agent played, over its training seeds."""

    name: str
    records: list[Record]

    def within(self, tier: str) -> "Entry":
        """What it played of a tier: in each an entry may have training runs of its own."""
        return Entry(self.name, [each for each in self.records if part_of(each.instance)[0] == tier])

    @cached_property
    def episodes(self) -> dict[tuple[str, Cell, int | None, int], Episode]:
        """(instance, cell, training seed, host seed) -> episode."""
        return {
            (record.instance, record.cell, record.training_seed, episode.seed): episode
            for record in self.records
            for episode in record.episodes
        }

    @cached_property
    def runs(self) -> list[int | None]:
        """Its training seeds; [None] of an agent that does not learn."""
        return sorted({record.training_seed for record in self.records}, key=lambda run: (run is None, run))


def by_size(records: Iterable[Record]) -> list[Record]:
    """Those with the most host seeds first."""
    return sorted(records, key=lambda each: -len(each.episodes))


class Register:
    """Takes records one by one; whoever comes first under a name, in a tier, has it."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], Record] = {}
        self._settled: set[tuple[str, str]] = set()
        self._checkpoints: dict[tuple[str, str, int | None], CheckpointFile | None] = {}
        self._seeds: dict[tuple[str, str, CheckpointFile], int | None] = {}
        self.results: dict[Key, Record] = {}
        """What was taken."""

    def add(self, record: Record) -> None:
        """Take in a record.

        Raises:
            RefusedError: another agent than the first one of that name, or one with other settings; another
                checkpoint in a training run, or none; a new training run after `settle`; the name of a
                baseline; what was there already.
        """
        agent, run = record.agent, record.training_seed
        name = record.entry, part_of(record.instance)[0]
        _refuse_lent(record)
        self._refuse_another(record, name)
        key = record.entry, record.instance, record.cell, run
        if key in self.results:
            raise RefusedError(f"{record}: was played twice, one result of each is required")
        self._first.setdefault(name, record)
        self._checkpoints[*name, run] = agent.checkpoint
        if agent.checkpoint is not None:
            self._seeds[*name, agent.checkpoint] = run
        self.results[key] = record

    def _refuse_another(self, record: Record, name: tuple[str, str]) -> None:
        """Whether the agent, or its training run, is another one than before."""
        agent, run = record.agent, record.training_seed
        first = self._first.get(name, record).agent
        if (agent.algo, agent.config) != (first.algo, first.config):
            was, now = (f"{each.algo} with {each.config}" for each in (first, agent))
            raise RefusedError(f"{record}: an entry is one agent, and this one is {was}, here {now}")
        if name in self._settled and (*name, run) not in self._checkpoints:
            raise RefusedError(f"{record}: a folder before this one has that name, without this training run")
        if self._checkpoints.get((*name, run), agent.checkpoint) != agent.checkpoint:
            raise RefusedError(f"{record}: a training run has one checkpoint, which plays everything")
        if agent.checkpoint is not None and self._seeds.get((*name, agent.checkpoint), run) != run:
            raise RefusedError(f"{record}: the checkpoint of another training seed")

    def settle(self) -> None:
        """The names so far are taken: from now on they get no other training runs."""
        self._settled = set(self._first)

    def repeated(self, record: Record) -> bool:
        """Whether this agent's result of the same job is there already, from here or from another machine.

        Raises:
            RefusedError: it is, from a machine of the same kind, and is another one.
        """
        before = self.results.get((record.entry, record.instance, record.cell, record.training_seed))
        if before is None or before.agent != record.agent:
            return False
        known = {episode.seed: episode for episode in before.episodes}
        other = [each.seed for each in record.episodes if known.get(each.seed, each) != each]
        if other and before.hardware.same_bits(record.hardware):
            raise RefusedError(f"{record}: two results of one job differ, on host seeds {other}")
        return True


def _refuse_lent(record: Record) -> None:
    """Whether a baseline's name is used by something else, or a rule is said to be trained."""
    agent, run = record.agent, record.training_seed
    if record.entry in BASELINES and agent.algo != record.entry:
        raise RefusedError(f"{record}: the name of a baseline, lent to {agent.algo!r}")
    if (agent.checkpoint is None) != (run is None):
        there = "a training seed without a" if agent.checkpoint is None else "no training seed, and a"
        raise RefusedError(f"{record}: {there} checkpoint: what is trained has both, a rule neither")


def entries(records: Iterable[Record]) -> dict[str, Entry]:
    """Records by the name of their entry, the static host first; of each job that with the most host seeds.

    Raises:
        RefusedError: see `Register.add` and `Register.repeated`.
    """
    register = Register()
    for record in by_size(records):
        if not register.repeated(record):
            register.add(record)
    named: dict[str, list[Record]] = {}
    for record in register.results.values():
        named.setdefault(record.entry, []).append(record)
    return {name: Entry(name, named[name]) for name in sorted(named, key=lambda name: (name != STATIC, name))}
