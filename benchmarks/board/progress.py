"""A bar with an estimate of the time left, on a terminal; a line for every job elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from board.jobs import Outcome, Work

WORDS = {"played": "played", "failed": "FAILED", "elsewhere": "another process is at it"}


class JobProgress:
    """Counts jobs, and reckons the time left by the environment steps of those that are over.

    Args:
        jobs: How many jobs there are to play.
        steps: Environment steps of all of them.
        console: Where it is shown; None for standard error.
    """

    def __init__(self, jobs: int, steps: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._total, self._steps, self._done, self._over = jobs, steps, 0, 0
        self._began = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("jobs,"))
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self._console
        )
        self._task = self._bar.add_task("", total=jobs, left="")

    def __enter__(self) -> Self:
        """Show the bar, if there is a terminal."""
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def job(self, job: Work, outcome: Outcome) -> None:
        """Take in a job that is over."""
        left = self.count(job.steps)
        if outcome == "failed" or not self._console.is_terminal:
            self._console.print(f"{self._done}/{self._total} {job}: {WORDS[outcome]}, {left}", soft_wrap=True)

    def count(self, steps: int) -> str:
        """Take in a job of so many steps; the time that is left."""
        self._done, self._over = self._done + 1, self._over + steps
        left = self.left()
        self._bar.update(self._task, completed=self._done, left=left)
        return left

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._began

    def left(self) -> str:
        """The time that the rest will take, if its steps take as long as those before."""
        return f"about {duration(self.elapsed / max(self._over, 1) * (self._steps - self._over))} left"


def duration(seconds: float) -> str:
    """In hours, minutes and seconds, as far as they matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
