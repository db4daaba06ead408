"""Many jobs, by many processes, on many machines: each is played once, whoever comes first.

A job's folder is named by the hash of what is played. Whoever works on it holds a lock on its file `lock`,
which the system takes back when the process ends, however it ends; where a file system knows no locks between
machines, two may play the same job, and both write the same. Results are written beside their place and
renamed, so what is there is whole, and a run that was stopped goes on where it was.
"""

import fcntl
import json
import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch

from esper_agents import checkpoint

DESCRIPTION, ERROR, LOCK = "job.json", "error.txt", "lock"
"""Names in a job's folder, beside its result."""
Outcome = Literal["played", "failed", "elsewhere"]
"""`elsewhere`: another process is at it."""


class Work(Protocol):
    """What can be a job: a frozen model of plain values."""

    @property
    def hash(self) -> str:
        """Of everything that decides the result, in hex."""

    @property
    def name(self) -> str:
        """Of its folder."""

    @property
    def result(self) -> str:
        """Name of the file with the result."""

    @property
    def steps(self) -> int:
        """Most environment steps that it takes, for estimates."""

    def work(self, results: Path) -> dict[str, Any]:
        """Do it: plain values, to which `seconds` are added. Results of all jobs stand in the folder."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Itself in plain values."""


W = TypeVar("W", bound=Work)


@dataclass
class Summary(Generic[W]):
    """What came of a run."""

    already: int = 0
    """Jobs that had been played before."""
    played: list[W] = field(default_factory=list)
    failed: list[W] = field(default_factory=list)
    elsewhere: list[W] = field(default_factory=list)


def shard(jobs: Sequence[W], part: str | None) -> list[W]:
    """The jobs of one machine among many: `1/3` for the first third, by their hashes.

    Raises:
        ValueError: another form, or a part that is not there.
    """
    if part is None:
        return list(jobs)
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"shard {part!r}: i/n is required, with i from 1 to n, such as '1/3'")
    return [job for job in jobs if int(job.hash, 16) % int(count) == int(number) - 1]


def done(job: Work, out: Path) -> bool:
    """Whether its result is there."""
    return (out / job.name / job.result).is_file()


def read(job: Work, out: Path) -> dict[str, Any]:
    """Its result.

    Raises:
        FileNotFoundError: it was not played.
    """
    values: dict[str, Any] = json.loads((out / job.name / job.result).read_text())
    return values


def perform(job: Work, out: Path) -> Outcome:
    """Play one job, if nobody else is at it, and write what came of it: the record, or the error."""
    folder = out / job.name
    folder.mkdir(parents=True, exist_ok=True)
    with _claimed(folder / LOCK) as mine:
        if not mine:
            return "elsewhere"
        if done(job, out):
            return "played"
        checkpoint.write_json(folder / DESCRIPTION, job.model_dump(mode="json"))
        began = time.perf_counter()
        try:
            record = job.work(out)
        except Exception:
            checkpoint.write_atomic(folder / ERROR, traceback.format_exc().encode())
            return "failed"
        record.setdefault("seconds", time.perf_counter() - began)
        checkpoint.write_atomic(folder / job.result, (json.dumps(record) + "\n").encode())
        (folder / ERROR).unlink(missing_ok=True)
        return "played"


@contextmanager
def _claimed(lock: Path) -> Iterator[bool]:
    """Whether this process holds the lock; while it does, the file says who, and after it died."""
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield True
        finally:
            file.truncate(0)


def run(jobs: Sequence[W], out: Path, workers: int, on_job: Callable[[W, Outcome], None]) -> Summary[W]:
    """Play what has not been played, `workers` processes of one thread each; how many changes no result.

    Args:
        jobs: What to play.
        out: Folder of the results.
        workers: Processes; 1 for this one alone.
        on_job: Called for every job that is over.
    """
    summary: Summary[W] = Summary()
    todo = [job for job in jobs if not done(job, out)]
    summary.already = len(jobs) - len(todo)

    def over(job: W, outcome: Outcome) -> None:
        getattr(summary, outcome).append(job)
        on_job(job, outcome)

    if workers == 1:
        _one_thread()
        for job in todo:
            over(job, perform(job, out))
        return summary
    while todo:
        todo = _in_processes(todo, out, workers, over)
    return summary


def _in_processes(todo: Sequence[W], out: Path, workers: int, over: Callable[[W, Outcome], None]) -> list[W]:
    """Play jobs in processes; those that are left if one of these dies, which takes its pool with it."""
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (os.getpid(),)) as pool:
        running = {pool.submit(perform, job, out): job for job in todo}
        left = list(todo)
        try:
            for future in as_completed(running):
                over(running[future], future.result())
                left.remove(running[future])
        except BrokenProcessPool:
            pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for job in [job for job in left if done(job, out)]:
        over(job, "played")
        left.remove(job)
    died = [job for job in left if _unfinished(job, out)]
    if len(died) > 1:  # one may have taken the others down: each again, by itself
        for job in died:
            _in_processes([job], out, 1, over)
        return [job for job in left if job not in died]
    for job in died if died else left:  # to try all again might go on for ever
        (out / job.name).mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(out / job.name / ERROR, b"The process died: killed, or out of memory.\n")
        over(job, "failed")
    return [job for job in left if died and job not in died]


def _unfinished(job: Work, out: Path) -> bool:
    """Whether a process took it up, did not come to put it away, and is gone."""
    lock = out / job.name / LOCK
    if not lock.is_file() or not lock.stat().st_size:
        return False
    with _claimed(lock) as free:
        return free


def _one_thread() -> None:
    torch.set_num_threads(1)


def _begin(parent: int) -> None:
    """In a process of the pool: it does not outlive who asked for it, however that one ends.

    Ctrl-C ends it at once: taken for the error of a job, the next one in line would be begun. Where it is
    ignored, as in the background of a shell, it stays so.
    """
    _one_thread()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
