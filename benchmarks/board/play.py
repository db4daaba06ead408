"""One job: an entrant on an instance under the budgets of a cell, and the record of its episodes."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from board.canonical import sealed
from board.entrants import Entrant, make_agent
from board.hardware import hardware
from board.instances import environment_version
from board.on_instance import OnInstance
from board.trace import Recorder, world
from esper_agents.evaluate import evaluate

RECORD_VERSION = 1
"""Form of the record."""
EPISODES = "episodes.json"
"""Name of its file."""


class Job(OnInstance):
    """What is played; equal jobs have equal hashes, and one folder."""

    RESULT: ClassVar[str] = EPISODES

    entrant: Entrant
    seeds: tuple[int, ...] = Field(min_length=1)
    """Of the hosts."""
    commitment: str
    """SHA-256 of the secret that the seeds follow from, in hex."""

    @property
    def steps(self) -> int:
        """Most environment steps that it takes, for estimates."""
        return len(self.seeds) * self.instance.horizon

    def work(self, results: Path) -> dict[str, Any]:
        """See `play`."""
        return play(self, results)

    def __str__(self) -> str:
        """For people."""
        seed = self.entrant.training_seed
        run = "" if seed is None else f" (training seed {seed})"
        return f"{self.entrant.entry}{run} on {self.instance.id}, cell {self.cell.id}"


def play(job: Job, results: Path) -> dict[str, Any]:
    """Play the episodes of a job side by side, one thread, and describe them.

    Args:
        job: Of this version of the environment.
        results: Folder in which checkpoints are kept.

    Returns:
        The record, plain values, sealed with its own hash.

    Raises:
        ValueError: a job of another version, or an agent that does not fit.
    """
    if job.environment_version != environment_version():
        raise ValueError(f"{job} is for {job.environment_version!r}, this is {environment_version()!r}")
    torch.set_num_threads(1)
    began = time.perf_counter()
    with closing(world(job.instance, job.cell, len(job.seeds), job.device)) as envs:
        agent = make_agent(job.entrant.agent, envs, job.cell, results)
        recorder = Recorder(envs, job.instance, job.cell, job.seeds)
        episodes = recorder.records(evaluate(agent, envs, job.seeds, recorder.step).episodes)
        on = hardware(envs)
    return sealed(
        {
            "version": RECORD_VERSION,
            "environment_version": job.environment_version,
            "entry": job.entrant.entry,
            "agent": job.entrant.agent.model_dump(mode="json"),
            "training_seed": job.entrant.training_seed,
            "instance": job.instance.id,
            "instance_hash": job.instance.hash,
            "cell": job.cell.model_dump(mode="json"),
            "commitment": job.commitment,
            "hardware": on,
            "seconds": time.perf_counter() - began,
            "episodes": episodes,
        }
    )
