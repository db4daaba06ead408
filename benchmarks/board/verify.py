"""`leaderboard.py verify`: whether an entry's results are what its agent reaches; fails closed.

Every file is checked: form, digest, versions, instance, commitment, budgets, checkpoint. A share of the jobs
is played again along its traces, with the agent asked at every step, and parameters and FLOPs are counted
anew. On the same CPU model, threads, torch and kernels all must be equal to the last bit, the agent's choices
too. That is asked for elsewhere, and marked "not bit-verified": the same length, masks, stages and costs, but
for few episodes in which a gate decides otherwise by what it measures there; quality of a job, and of all,
within what rounding explains; of the recorded actions the agent's choice in seven of ten in every job, and in
nine of ten in all of them, if they are six or more or all there are, also where that is more than to wait.
"""

import argparse
import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from board import checks, pledge, records, submit
from board.entries import entries, part_of
from board.instances import find, refuse_absent
from board.progress import JobProgress
from board.records import EPISODES, TABLES, Record, RefusedError, Table
from board.report import revealed
from board.rerun import Rerun, rerun


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `verify`."""
    parser = subparsers.add_parser("verify", help=__doc__.partition("\n")[0], description=__doc__)
    parser.add_argument("results", type=Path, help="folder that `run` wrote, or file that `submit` packed")
    parser.add_argument("--entry", help="only this one (default: all that are there)")
    parser.add_argument("--references", type=Path, nargs="+", default=TABLES, help="tables of references")
    parser.add_argument("--share", type=float, default=0.1, help="of the jobs to play again (default: 0.1)")
    parser.add_argument("--draw", type=int, help="decides which; not given: at random, and printed")
    parser.add_argument("--secret", help="what the host seeds follow from, where it is revealed")
    parser.add_argument("--pledge", type=Path, help="file of `pledge`: only these agents are taken")
    parser.add_argument(
        "--seeds-unchecked", action="store_true", help="verify the rest before the secret is revealed"
    )
    parser.add_argument(
        "--partial", action="store_true", help="allow entries that have not played everything"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where networks grow")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Check, play again, say what was found; 1 if anything is wrong."""
    if not 0 < args.share <= 1:
        raise ValueError(f"--share {args.share}: above 0 and at most 1 is required")
    draw = secrets.randbelow(2**32) if args.draw is None else args.draw
    print(f"--draw {draw} plays the same jobs again")
    table, wrong = records.table(args.references), 0
    secret = revealed(args.secret, table)
    pledged = None if args.pledge is None else pledge.read(args.pledge)
    if secret is None and not args.seeds_unchecked:
        raise ValueError(
            "host seeds can't be checked before the secret that they follow from is revealed (--secret): "
            "--seeds-unchecked verifies the rest"
        )
    again = Replayed()
    with opened(args.results, table) as folder:
        good, problems = read(folder, args.entry)
        problems += missing(good, table, args.partial)
        if pledged is not None:
            problems += pledge.broken(pledged, good) + pledge.foreign(pledged, good)
        for record in good:
            found = checks.of_file(record, table, folder, secret)
            problems += [f"{record}: {problem}" for problem in found]
        problems += [] if problems else checks.trained_apart(good, folder)
        for problem in problems:
            print(f"WRONG: {problem}")
        wrong += len(problems)
        if not wrong:
            picked = chosen(good, args.share, draw)
            refuse_absent(find(record.instance) for record in picked)
            again = replayed(picked, folder, table, args.device, args.share == 1)
            wrong += again.wrong
    seeds = "" if secret is not None else ", but for the host seeds"
    verdict = "REFUSED" if wrong else f"verified{seeds}{again.how}"
    print(f"{len(good)} results, {wrong} things wrong, {again.jobs} played again: {verdict}")
    return int(wrong > 0)


@dataclass
class Replayed:
    """What came of playing again."""

    jobs: int = 0
    to_the_bit: int = 0
    wrong: int = 0

    @property
    def how(self) -> str:
        """What is not to the last bit, in words."""
        rest = self.jobs - self.to_the_bit
        return f", {rest} of {self.jobs} not bit-verified" if rest else ", to the last bit"


@contextmanager
def opened(results: Path, table: Table) -> Iterator[Path]:
    """The folder of the results, unpacked where they are packed."""
    if results.is_dir():
        yield results
    else:
        with submit.unpacked(results, table) as folder:
            yield folder


def read(folder: Path, entry: str | None) -> tuple[list[Record], list[str]]:
    """The results of an entry or of all, and what can't be read.

    Raises:
        RefusedError: there are none.
    """
    good, problems = records.readable([folder])
    good = [record for record in good if entry in (None, record.entry)]
    if not good and not problems:
        raise RefusedError(f"{folder} holds no {EPISODES} of {entry!r}")
    return good, problems


def missing(good: Sequence[Record], table: Table, partial: bool) -> list[str]:
    """Entries that are not one agent, and, unless that is allowed, what entries have not played."""
    try:
        named = entries(good)
    except RefusedError as error:
        return [str(error)]
    return [
        f"{name}: {each}"
        for name, entry in named.items()
        for each in (() if partial else checks.absent(entry.records, table))
    ]


def chosen(good: Sequence[Record], share: float, draw: int) -> list[Record]:
    """So many of each entry's results, at least one."""
    found = []
    for number, entry in enumerate(entries(good).values()):
        ordered = sorted(entry.records, key=lambda record: record.sha256)
        count = math.ceil(share * len(ordered))
        picks = np.random.default_rng([draw, number]).choice(len(ordered), count, replace=False)
        found += [ordered[pick] for pick in sorted(picks)]
    return found


def replayed(records: Sequence[Record], folder: Path, table: Table, device: str, all_of_it: bool) -> Replayed:
    """Play results again, `all_of_it` or a share, and say what is wrong with each."""
    found, elsewhere = Replayed(), dict[tuple[str, str], list[tuple[Record, Rerun]]]()
    steps = [sum(episode.length for episode in record.episodes) for record in records]
    with JobProgress(len(records), sum(steps)) as progress:
        for record, own in zip(records, steps, strict=True):
            try:
                again = rerun(record, folder, device)
            except Exception as error:  # of values that nobody foresaw: whatever can't be played is refused
                print(f"WRONG: {record}: can't be played again: {type(error).__name__}: {error}")
                found.wrong += 1
                progress.count(own)
                continue
            problems, bits = checks.of_rerun(record, again)
            _say(record, again, problems, bits, progress.count(own))
            found.jobs, found.to_the_bit = found.jobs + 1, found.to_the_bit + bits
            found.wrong += len(problems)
            if not bits:
                elsewhere.setdefault((record.entry, part_of(record.instance)[0]), []).append((record, again))
    for (entry, tier), of_entry in elsewhere.items():
        for problem in checks.together(of_entry, table, all_of_it):
            print(f"WRONG: {entry} on {tier}: {problem}")
            found.wrong += 1
    return found


def _say(record: Record, again: Rerun, problems: Sequence[str], bits: bool, left: str) -> None:
    for problem in problems:
        print(f"WRONG: {record}: {problem}")
    if not problems:
        machines = f"{record.hardware} there, {again.hardware} here"
        elsewhere = f"not bit-verified: {machines}, quality {again.gap(record):+.4f}"
        how = "to the last bit" if bits else elsewhere
        unseen = f"; {again.unseen} epochs undone by the governor not recounted" if again.unseen else ""
        print(f"ok: {record}, {len(record.episodes)} episodes, {how}{unseen}; {left}", flush=True)
