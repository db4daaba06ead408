"""Recorded episodes played again: along their trace, with the agent that played them asked at every step."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from board.entrants import make_agent
from board.hardware import hardware
from board.instances import find
from board.records import Hardware, Record
from board.recount import Recount
from board.trace import Recorder, TraceAgent, world
from esper_agents.agent import Agent, Info
from esper_agents.episodes import Step
from esper_agents.evaluate import evaluate
from esper_env import READS, Head, Op


class Shadow:
    """Plays a trace, and notes where an agent would have done something else. See `Agent`.

    Where the agent always agrees, its memory is that of its own episode, and this is what it plays.

    Args:
        agent: Who is asked.
        actions: For every environment its recorded actions, step by step.
    """

    name = "trace"

    def __init__(self, agent: Agent, actions: Sequence[Sequence[Sequence[int]]]) -> None:
        self._agent, self._actions, self._trace = agent, actions, TraceAgent(actions)
        self.same: list[bool] = []
        """Of every step, whether the op was the same, and all heads that it reads."""
        self.acted: list[bool] = []
        """Of every step, whether the recorded op was more than to wait, or the agent's own is."""
        self.other: list[tuple[int, int]] = []
        """(environment, step) in which the agent would have played another action, in any head."""

    def begin(self, seeds: Sequence[int]) -> tuple[int, Any]:
        """See `Agent`."""
        return self._trace.begin(seeds), self._agent.begin(seeds)

    def act(
        self, obs: NDArray[np.float32], info: Info, memory: tuple[int, Any]
    ) -> tuple[NDArray[np.int64], tuple[int, Any]]:
        """See `Agent`."""
        step, own = memory
        advice, own = self._agent.act(obs, info, own)
        played, after = self._trace.act(obs, info, step)
        for env, steps in enumerate(self._actions):
            if step < len(steps):
                read = READS[played[env, Head.OP]]
                self.same.append(np.array_equal(advice[env, read], played[env, read]))
                self.acted.append({int(played[env, Head.OP]), int(advice[env, Head.OP])} != {int(Op.WAIT)})
                if not np.array_equal(advice[env], played[env]):
                    self.other.append((env, step))
        return played, (after, own)


@dataclass(frozen=True)
class Rerun:
    """What came of it."""

    episodes: list[dict[str, Any]]
    """In the form of the recorded ones."""
    hardware: Hardware
    params: NDArray[np.int64]
    """(episode,): counted anew, of the harvested networks."""
    most_params: NDArray[np.int64]
    """(episode,): counted anew, at any time."""
    flops: NDArray[np.float64]
    """(episode,): counted anew."""
    unseen: int
    """Epochs that the governor undid, whose FLOPs are the ledger's."""
    other: list[tuple[int, int]]
    """(episode, step) in which the agent would have done something else."""
    same: NDArray[np.bool_]
    """(steps of all episodes,): whether the agent chose the recorded op, and all heads that it reads."""
    acted: NDArray[np.bool_]
    """(steps of all episodes,): whether either of them did more than wait."""

    def gap(self, record: Record) -> float:
        """Mean test quality here, less what was reported."""
        here, there = ([each["quality"] for each in self.episodes], [e.quality for e in record.episodes])
        return float(np.mean(here) - np.mean(there))


def rerun(record: Record, results: Path, device: str = "cpu") -> Rerun:
    """Play all episodes of a job again, side by side as they were.

    Args:
        record: The job's.
        results: Folder that the checkpoint's path is relative to.
        device: Where networks grow.

    Raises:
        ValueError: an agent that can't be made, or does not fit.
    """
    torch.set_num_threads(1)
    instance, seeds = find(record.instance), [episode.seed for episode in record.episodes]
    with closing(world(instance, record.cell, len(seeds), device)) as envs:
        agent = make_agent(record.agent, envs, record.cell, results)
        shadow = Shadow(agent, [episode.actions for episode in record.episodes])
        recorder, count = Recorder(envs, instance, record.cell, seeds), Recount(envs)

        def watch(step: Step) -> None:
            recorder.step(step)
            count.step(step)

        episodes = recorder.records(evaluate(shadow, envs, seeds, watch).episodes)
        here = Hardware.model_validate(hardware(envs))
    return Rerun(
        episodes,
        here,
        count.params,
        count.most_params,
        count.flops,
        int(count.unseen.sum()),
        shadow.other,
        same=np.array(shadow.same),
        acted=np.array(shadow.acted),
    )


def differing(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Names of the fields that are not the same, or that only one of the two has."""
    names = [*recorded, *(name for name in again if name not in recorded)]
    missing = object()
    return [name for name in names if recorded.get(name, missing) != again.get(name, missing)]
