"""Play the instances of the leaderboard with any agents: baselines, or trained ones by their checkpoints."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from board import jobs, records
from board.cells import CELLS, Cell
from board.entrants import Entrant, entrants
from board.entries import STATIC, part_of
from board.instances import Instance, refuse_absent, select
from board.play import Job
from board.progress import JobProgress, duration
from board.records import TABLES, Table
from board.seeds import HOSTS, LOCAL_SECRET, commitment, evaluation_seeds, known
from esper_agents import config_file
from esper_agents.config import TrainConfig

SETTINGS = ("schedule", "plans", "heuristic")
"""What of a --config file concerns the agents; whatever else a training run has is passed over."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `run`."""
    parser = subparsers.add_parser("run", help=__doc__, description=__doc__)
    parser.add_argument(
        "--agents",
        nargs="+",
        required=True,
        metavar="AGENT",
        help="wait, random, schedule, heuristic; checkpoints, runs, or folders of runs of several seeds",
    )
    parser.add_argument("--entry", help="what tables call these agents (default: each by its algorithm)")
    parser.add_argument("--config", type=Path, help=f".json or .toml with settings of agents: {SETTINGS}")
    parser.add_argument("--deterministic", action="store_true", help="checkpoints play what is likeliest")
    parser.add_argument("--without-wait", action="store_true", help="leave out what all are paired with")
    add_grid(parser)
    parser.add_argument("--seeds", type=int, default=HOSTS, help=f"hosts of every job (the board's: {HOSTS})")
    parser.add_argument("--secret", help="what host seeds follow from (default: the references' own)")
    add_place(parser, Path("runs/board"))
    parser.add_argument("--references", type=Path, nargs="+", default=TABLES, help="tables of references")
    parser.set_defaults(main=main)


def add_grid(parser: argparse.ArgumentParser) -> None:
    """Options that say what is played."""
    parser.add_argument("--tier", choices=list(CELLS), default="T1")
    parser.add_argument(
        "--instances", nargs="+", metavar="NAME", help="parts or ids (default: held-out, all but train)"
    )
    parser.add_argument("--cells", nargs="+", metavar="PxC", help="such as 1.5x1 (default: all of the tier)")


def add_place(parser: argparse.ArgumentParser, out: Path) -> None:
    """Options that say where and by how many."""
    parser.add_argument("--out", type=Path, default=out, help=f"folder of the results (default: {out})")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each (default: 1)")
    parser.add_argument("--shard", metavar="i/n", help="play the i-th of n parts, for one of n machines")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where networks grow")


def grid(args: argparse.Namespace) -> tuple[tuple[Instance, ...], tuple[Cell, ...]]:
    """The instances and cells that the options name; their data are there.

    Raises:
        ValueError: an unknown name, or a number below 1.
        FileNotFoundError: data are missing.
    """
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: at least 1 is required")
    chosen = select(args.tier, args.instances)
    cells = CELLS[args.tier] if args.cells is None else tuple(Cell.of(name) for name in args.cells)
    refuse_absent(chosen)
    return chosen, cells


def all_jobs(
    who: Sequence[Entrant],
    chosen: Sequence[Instance],
    cells: Sequence[Cell],
    count: int,
    secret: str,
    device: str,
) -> list[Job]:
    """Every entrant on every instance under every budget, all entrants on one before the next begins."""
    return [
        Job(
            entrant=entrant,
            instance=instance,
            cell=cell,
            seeds=tuple(evaluation_seeds(secret, instance, count)),
            commitment=commitment(secret),
            device=device,
        )
        for instance in chosen
        for cell in cells
        for entrant in who
    ]


def main(args: argparse.Namespace) -> int:
    """Play; 0 if all went well, 1 if a job failed or is being played elsewhere."""
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: at least 1 is required")
    chosen, cells = grid(args)
    names = list(args.agents)
    table = _table(args.references)
    given, secret = settings(args, table), _secret(args.secret, table)
    who = entrants(names, args.out, given, args.entry)
    if not args.without_wait and STATIC not in [each.entry for each in who]:
        who += entrants([STATIC], args.out, given, None)
    _refuse_another(who, args.tier, args.out)
    return perform(all_jobs(who, chosen, cells, args.seeds, secret, args.device), args)


def _refuse_another(who: Sequence[Entrant], tier: str, out: Path) -> None:
    """Refuse to mix agents under one name, of which a report would take only one.

    Raises:
        ValueError: there are results of another agent.
    """
    now = {(each.entry, each.training_seed): each.agent for each in who}
    settings = {each.entry: (each.agent.algo, each.agent.config) for each in who}
    for path in sorted(out.glob(f"*/{jobs.DESCRIPTION}")):
        job = json.loads(path.read_text())
        if "entrant" not in job or job["instance"]["tier"] != tier:
            continue
        was = Entrant.model_validate(job["entrant"])
        named, how = (was.entry, was.training_seed), (was.agent.algo, was.agent.config)
        if now.get(named, was.agent) != was.agent or settings.get(was.entry, how) != how:
            raise ValueError(
                f"{path.parent} was played by another agent named {was.entry!r}: another --entry or --out is "
                f"required, or that folder deleted"
            )


def perform(todo: Sequence[Job], args: argparse.Namespace) -> int:
    """Play jobs as the options say, show how it goes, and say what came of it."""
    mine = jobs.shard(todo, args.shard)
    open_ = [job for job in mine if not jobs.done(job, args.out)]
    print(
        f"{len(mine)} jobs, {len(mine) - len(open_)} of them played before; results in {args.out}", flush=True
    )
    with JobProgress(len(open_), sum(job.steps for job in open_)) as progress:
        summary = jobs.run(open_, args.out, args.jobs, progress.job)
        elapsed = progress.elapsed
    print(f"{len(summary.played)} played in {duration(elapsed)}")
    if summary.elsewhere:
        print(
            f"{len(summary.elsewhere)} are being played by other processes: start again when those are over"
        )
    for job in summary.failed:
        path = args.out / job.name / jobs.ERROR
        print(f"FAILED: {job}\n  {path}: {path.read_text().strip().splitlines()[-1]}")
    return 1 if summary.failed or summary.elsewhere else 0


def _table(paths: Sequence[Path]) -> Table | None:
    """The references; None where there are none yet, as before they are measured."""
    return records.table(paths) if paths else None


def _secret(told: str | None, table: Table | None) -> str:
    """What the host seeds follow from: what is told, or what the references are committed to, or `local`."""
    secret = told or (known(table.commitment) if table else None) or LOCAL_SECRET
    if table and commitment(secret) != table.commitment:
        print("The references are committed to another --secret: a report with them leaves these results out")
    return secret


def settings(args: argparse.Namespace, table: Table | None) -> dict[str, Any]:
    """Settings of agents, of --config and --deterministic; of the schedule else those of the references.

    Raises:
        ValueError: settings that no agent has.
    """
    values = config_file.read(args.config) if args.config else {}
    unknown = sorted(values.keys() - {*SETTINGS, *TrainConfig.model_fields})
    if unknown:
        raise ValueError(f"{args.config} has {unknown}: of agents {list(SETTINGS)} are known")
    if table and not values.keys() & {"schedule", "plans"}:
        plans = {row.cell.id: row.plan for row in table.rows if part_of(row.instance)[0] == args.tier}
        values |= {"plans": {cell: plan.model_dump(mode="json") for cell, plan in plans.items() if plan}}
    return {key: values[key] for key in SETTINGS if key in values} | {"deterministic": args.deterministic}
