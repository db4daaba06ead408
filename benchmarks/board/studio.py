"""Where the jobs behind the references are played, how much there is of them, and how long they took."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from board import jobs
from board.jobs import W
from board.progress import JobProgress


class IncompleteError(RuntimeError):
    """Jobs that others wait for have failed, or are being played elsewhere."""


class Size(BaseModel):
    """How much is played."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: int = Field(24, ge=2)
    """Fresh hosts that the references play."""
    others: int = Field(8, ge=1)
    """Of these, the first ones: hosts of the references that are shown, and that admission does not ask."""
    plans: int = Field(27, ge=2)
    """Schedules to choose from."""
    search_steps: int = Field(4_000, ge=1)
    """Environment steps of each search; with 1,500 the life that it found had been played on one host or two,
    and often was worse than the schedule that it began with."""
    search_seeds: int = Field(12, ge=1)
    """Hosts of a search."""


class Studio:
    """Plays jobs, and holds how long they took.

    Args:
        out: Folder of the results.
        workers: Processes.
        part: Of many machines, as `i/n`; None for all.
        device: Where networks grow.
    """

    def __init__(self, out: Path, workers: int, part: str | None, device: str = "cpu") -> None:
        self.out, self.workers, self.part, self.device = out, workers, part, device
        self.seconds = 0.0
        self.hardware: dict[str, Any] = {}
        """Of the machine that played the last job which says so."""

    def play(self, todo: Sequence[W], what: str) -> list[dict[str, Any]]:
        """The results of jobs, of which those that are missing are played, equal ones once.

        Raises:
            IncompleteError: not all of them could be played here and now.
        """
        each = list({job.name: job for job in todo}.values())
        mine = [job for job in jobs.shard(each, self.part) if not jobs.done(job, self.out)]
        if mine:
            print(f"{what}: {len(mine)} jobs to play", flush=True)
            with JobProgress(len(mine), sum(job.steps for job in mine)) as progress:
                summary = jobs.run(mine, self.out, self.workers, progress.job)
            for job in summary.failed:
                print(f"FAILED: {job}\n  {self.out / job.name / jobs.ERROR}")
        missing = [job for job in each if not jobs.done(job, self.out)]
        if missing:
            raise IncompleteError(
                f"{what}: {len(missing)} of {len(each)} jobs are not played, the first is {missing[0]}; "
                f"start again when those of other machines are over, or what failed is mended"
            )
        found = {job.name: jobs.read(job, self.out) for job in each}
        for values in found.values():
            self.seconds += float(values["seconds"])
            self.hardware = values.get("hardware", self.hardware)
        return [found[job.name] for job in todo]
