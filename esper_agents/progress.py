"""What a run says while it goes: a live bar on a terminal, plain lines elsewhere."""

import itertools
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from esper_agents.episodes import Step

MIN_INTERVAL = 0.2
"""Seconds between two looks at the bar."""
SAY_EVERY = 10.0
"""Seconds between two lines about an evaluation."""


class Reporter(Protocol):
    """Shows how far a run is. A context manager."""

    def step(self, step: Step, done: int) -> None:
        """After a step of all environments, `done` environment steps into the run."""

    def round(self, number: int, done: int, tags: Mapping[str, float]) -> None:
        """After a round, with its tags."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End, however."""


def reporter(total: int, done: int = 0, stream: TextIO | None = None) -> Reporter:
    """A bar where `stream` (None: standard output) is a terminal, else one line a round.

    Args:
        total: Environment steps of the run.
        done: Those that an earlier process did.
        stream: Where to write.
    """
    stream = stream or sys.stdout
    return Bar(total, done, stream) if stream.isatty() else Lines(total, stream)


class Evaluating:
    """How far evaluations are: a bar on a terminal, elsewhere a line now and then. A context manager.

    Args:
        plays: How often an agent plays all episodes.
        stream: Where to write; None for standard output.
    """

    def __init__(self, plays: int, stream: TextIO | None = None) -> None:
        self._stream, self._plays, self._begun = stream or sys.stdout, plays, 0
        columns = (TextColumn("evaluation"), BarColumn(), TextColumn("{task.fields[of]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(file=self._stream))
        self._task = self._bar.add_task("", total=plays, of="")
        self._said = time.perf_counter()

    def play(self, name: str, steps: int) -> Callable[[Step], None]:
        """An agent begins to play.

        Args:
            name: Of the agent.
            steps: Of all environments together, at most.

        Returns:
            What is called after each of them.
        """
        self._begun += 1
        before, of = self._begun - 1, f"{self._begun}/{self._plays} {name}"
        count = itertools.count(1)
        self._bar.update(self._task, completed=before, of=of)

        def stepped(step: Step) -> None:
            now, done = time.perf_counter(), next(count)
            if self._stream.isatty():
                self._bar.update(self._task, completed=before + done / steps)
            elif now - self._said >= SAY_EVERY:
                self._said = now
                self._stream.write(f"evaluation {of}: {done}/{steps} steps\n")
                self._stream.flush()

        return stepped

    def __enter__(self) -> Self:
        """Show the bar, if there is a terminal."""
        if self._stream.isatty():
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Leave the bar; full, if nothing went wrong: episodes may end early."""
        if kind is None:
            self._bar.update(self._task, completed=self._plays)
        if self._stream.isatty():
            self._bar.stop()


class Lines:
    """One plain line a round. See `Reporter`."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._stream = total, stream

    def step(self, step: Step, done: int) -> None:
        """See `Reporter`: nothing is said."""

    def round(self, number: int, done: int, tags: Mapping[str, float]) -> None:
        """See `Reporter`."""
        self._stream.write(f"round {number}: {done}/{self._total} steps{_figures(tags)}\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        """See `Reporter`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """See `Reporter`."""


class Bar:
    """A bar with steps a second, host accuracy (or loss) and episode return. See `Reporter`."""

    def __init__(self, total: int, done: int, stream: TextIO) -> None:
        self._bar = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
            console=Console(file=stream),
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, completed=done, figures="")
        self._shown, self._figures = 0.0, ""
        self._began, self._done_before = time.perf_counter(), done

    def step(self, step: Step, done: int) -> None:
        """See `Reporter`."""
        now = time.perf_counter()
        if now - self._shown < MIN_INTERVAL:
            return
        self._shown = now
        rate = (done - self._done_before) / (now - self._began)
        text = f"{rate:.1f} steps/s{_host(step)}{self._figures}"
        self._bar.update(self._task, completed=done, figures=text)

    def round(self, number: int, done: int, tags: Mapping[str, float]) -> None:
        """See `Reporter`."""
        if "charts/episodic_return" in tags:
            self._figures = f"  return {tags['charts/episodic_return']:.2f}"
        self._bar.update(self._task, completed=done)

    def __enter__(self) -> Self:
        """See `Reporter`."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """See `Reporter`."""
        self._bar.stop()


def _host(step: Step) -> str:
    """How good the networks are, by the accuracy where there is one."""
    accuracy, loss = step.measured("val_accuracy").mean(), step.measured("val_loss").mean()
    return f"  host loss {loss:.3f}" if np.isnan(accuracy) else f"  host {accuracy:.1%}"


def _figures(tags: Mapping[str, float]) -> str:
    host = ("host/val_accuracy", "host {:.1%}")
    shown = (
        ("charts/episodic_return", "return {:.2f}"),
        host if host[0] in tags else ("host/val_loss", "host loss {:.3f}"),
        ("perf/env_steps_per_s", "{:.1f} steps/s"),
    )
    return "".join(f", {form.format(tags[tag])}" for tag, form in shown if tag in tags)
