"""One job: an entrant on an instance under the budgets of a cell, and the record of its episodes."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from board.canonical import content_hash, sealed
from board.cells import Cell
from board.entrants import Entrant, make_agent
from board.hardware import hardware
from board.instances import Instance, environment_version
from board.trace import Recorder, world
from esper_agents.evaluate import evaluate

RECORD_VERSION = 1
"""Form of the record."""
EPISODES = "episodes.json"
"""Name of its file."""


class Job(BaseModel):
    """What is played; equal jobs have equal hashes, and one folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entrant: Entrant
    instance: Instance
    cell: Cell
    seeds: tuple[int, ...] = Field(min_length=1)
    """Of the hosts."""
    commitment: str
    """SHA-256 of the secret that the seeds follow from, in hex."""
    environment_version: str = Field(default_factory=environment_version)
    device: str = "cpu"
    """Where networks grow."""

    @property
    def hash(self) -> str:
        """Of everything that decides the result, in hex."""
        return content_hash(self.model_dump(mode="json") | {"instance": self.instance.hash})

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.hash[:16]

    @property
    def result(self) -> str:
        """Name of the file with the record."""
        return EPISODES

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
