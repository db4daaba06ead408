"""Measure what there is to win: static hosts, schedules, rules, chance, and the best that is found.

Everything is a job, so that it can be stopped, started again and shared. Schedules are tuned on the train
part, lives are searched on hosts of their own, and all are then played on fresh ones. The table says how long
that took; it is written when nothing is missing any more.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from board.admission import LIMITS, judged
from board.canonical import sealed
from board.cells import Cell
from board.entrants import ORACLE, AgentSpec, Entrant
from board.instances import Instance, environment_version, instances, refuse_absent
from board.larger import LargerJob
from board.oracle import ChoiceJob, SearchJob
from board.play import Job
from board.progress import duration
from board.records import TABLE_VERSION, Table, read
from board.run import add_grid, add_place, grid
from board.seeds import LOCAL_SECRET, commitment, public_seeds
from board.studio import IncompleteError, Size, Studio
from board.tuning import candidates, read_schedules, tune
from esper_agents import checkpoint
from esper_agents.baselines.schedule import ScheduleConfig

PUBLIC = commitment("public")
"""In place of a commitment, of jobs whose hosts everybody knows."""
BASELINES = {"static": "wait", "heuristic": "heuristic", "random": "random"}
"""Reference -> agent."""
JUDGED = {name for better, worse, _ in LIMITS.values() for name in (better, worse)}
"""References whose differences decide about admission."""
Key = tuple[str, str]
"""Ids of an instance and a cell."""


def measure(
    chosen: Sequence[Instance],
    cells: Sequence[Cell],
    train: Sequence[Instance],
    size: Size,
    studio: Studio,
    also: Sequence[ScheduleConfig] = (),
) -> dict[str, Any]:
    """Everything but the head of the table.

    Args:
        chosen: Instances of the rows.
        cells: Budgets of the rows.
        train: Instances that schedules are tuned on.
        size: How much is played.
        studio: Where.
        also: Schedules to choose from, beside those that are drawn.

    Raises:
        IncompleteError: jobs are left; what was played is kept.
    """
    pairs = [(instance, cell) for instance in chosen for cell in cells]
    agents = {name: AgentSpec(algo=algo) for name, algo in BASELINES.items()}
    specs: dict[Key, dict[str, AgentSpec]] = {_key(*pair): dict(agents) for pair in pairs}
    known = _played(pairs, specs, size, studio, "baselines")
    plans = {cell.id: _plan(cell, train, size, studio, also) for cell in cells}
    lives = _lives(chosen, cells, plans, size, studio)
    for instance, cell in pairs:
        plan: dict[str, Any] = {"schedule": plans[cell.id].model_dump(mode="json")}
        life: dict[str, Any] = {"life": lives[_key(instance, cell)]}
        specs[_key(instance, cell)] = {
            "schedule": AgentSpec(algo="schedule", config=plan),
            "oracle": AgentSpec(algo=ORACLE, config=life),
        }
    grown = _played(pairs, specs, size, studio, "schedules and lives")
    larger = _larger(pairs, grown, size, studio)
    rows = []
    for instance, cell in pairs:
        key = _key(instance, cell)
        found = known[key] | grown[key] | {"static_large": larger[key]}
        found["oracle"]["life"] = lives[key]
        head = {"instance": instance.id, "instance_hash": instance.hash, "cell": cell.model_dump(mode="json")}
        rows.append(head | judged(found) | {"references": found})
    return {"plans": {name: plan.model_dump(mode="json") for name, plan in plans.items()}, "rows": rows}


def _key(instance: Instance, cell: Cell) -> Key:
    return instance.id, cell.id


def _played(
    pairs: Sequence[tuple[Instance, Cell]],
    specs: Mapping[Key, Mapping[str, AgentSpec]],
    size: Size,
    studio: Studio,
    what: str,
) -> dict[Key, dict[str, dict[str, Any]]]:
    """Row -> reference -> figures on fresh hosts."""
    asked = [(*pair, name, spec) for pair in pairs for name, spec in specs[_key(*pair)].items()]
    cells = list(dict.fromkeys(cell for _, cell in pairs))
    todo = [
        Job(
            entrant=Entrant(entry=name, agent=spec),
            instance=instance,
            cell=_first_alike(cell, cells) if name == "static" else cell,
            seeds=tuple(public_seeds("reference", instance, size.seeds)[: _hosts(name, size)]),
            commitment=PUBLIC,
            device=studio.device,
        )
        for instance, cell, name, spec in asked
    ]
    found: dict[Key, dict[str, dict[str, Any]]] = {_key(*pair): {} for pair in pairs}
    for (instance, cell, name, _), record in zip(asked, studio.play(todo, what), strict=True):
        found[_key(instance, cell)][name] = _figures(record["episodes"])
    return found


def _hosts(name: str, size: Size) -> int:
    """How many hosts a reference plays: all where differences are paired, few where it is only shown."""
    return size.seeds if name in JUDGED else min(size.others, size.seeds)


def _first_alike(cell: Cell, cells: Sequence[Cell]) -> Cell:
    """The first cell in which a static host does the same: it spends its own cost, and has its own size."""
    ample = [each for each in cells if each.compute >= 1]
    return ample[0] if cell in ample else cell


def _figures(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the table holds of a reference: lists over hosts."""
    names = ("quality", "param_ratio", "flops_ratio", "params", "flops", "length")
    lists = {name: [episode[name] for episode in episodes] for name in names}
    last = [episode["val_quality"][-1] for episode in episodes]
    return {"seeds": [episode["seed"] for episode in episodes], **lists, "val_quality": last}


def _plan(
    cell: Cell, train: Sequence[Instance], size: Size, studio: Studio, also: Sequence[ScheduleConfig]
) -> ScheduleConfig:
    asked = list(dict.fromkeys([*also, *candidates(train[0], cell, size.plans)]))[: size.plans]
    found = tune(
        cell, train, asked, lambda todo: studio.play(todo, f"schedules for {cell.id}"), studio.device
    )
    return found[-1].entries[0].schedule


def _lives(
    chosen: Sequence[Instance],
    cells: Sequence[Cell],
    plans: Mapping[str, ScheduleConfig],
    size: Size,
    studio: Studio,
) -> dict[Key, dict[str, Any]]:
    """Row -> life: the best of what was found under these budgets and smaller ones, and of the schedule."""
    found = _found(chosen, cells, plans, size, studio)
    pairs = [(instance, cell) for instance in chosen for cell in cells]
    todo = [
        ChoiceJob(
            instance=instance,
            cell=cell,
            seeds=_hosts_of_search(instance, size),
            schedule=plans[cell.id],
            lives=tuple(found[_key(instance, each)] for each in [*_less(cells, cell), cell]),
            device=studio.device,
        )
        for instance, cell in pairs
    ]
    results = studio.play(todo, "last choices")
    return {_key(*pair): result["life"] for pair, result in zip(pairs, results, strict=True)}


def _found(
    chosen: Sequence[Instance],
    cells: Sequence[Cell],
    plans: Mapping[str, ScheduleConfig],
    size: Size,
    studio: Studio,
) -> dict[Key, dict[str, Any]]:
    """Row -> life; a search begins with what was found under smaller budgets on the same instance."""
    found: dict[Key, dict[str, Any]] = {}
    for wave in waves(cells):
        asked = [(instance, cell) for instance in chosen for cell in wave]
        todo = [
            SearchJob(
                instance=instance,
                cell=cell,
                seeds=_hosts_of_search(instance, size),
                settings={"objective": "quality", "steps": size.search_steps},
                schedule=plans[cell.id],
                lives=tuple(found[_key(instance, less)] for less in _less(cells, cell)),
                device=studio.device,
            )
            for instance, cell in asked
        ]
        results = studio.play(todo, f"searches for {', '.join(cell.id for cell in wave)}")
        found |= {_key(*pair): result["life"] for pair, result in zip(asked, results, strict=True)}
    return found


def _hosts_of_search(instance: Instance, size: Size) -> tuple[int, ...]:
    return tuple(public_seeds("search", instance, size.search_seeds))


def waves(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells in an order in which all that lie within a cell come before it."""
    ranks = [len(_less(cells, cell)) for cell in cells]
    return [
        [cell for cell, rank in zip(cells, ranks, strict=True) if rank == wave] for wave in sorted({*ranks})
    ]


def _less(cells: Sequence[Cell], cell: Cell) -> list[Cell]:
    """The cells that lie within another one."""
    return [
        less for less in cells if less != cell and less.params <= cell.params and less.compute <= cell.compute
    ]


def _larger(
    pairs: Sequence[tuple[Instance, Cell]],
    grown: Mapping[Key, Mapping[str, Mapping[str, Any]]],
    size: Size,
    studio: Studio,
) -> dict[Key, dict[str, Any]]:
    """Row -> figures of a static host of the oracle's size and cost, each its mean over the hosts."""
    todo = []
    for instance, cell in pairs:
        oracle = grown[_key(instance, cell)]["oracle"]
        count = len(oracle["seeds"])
        params, flops = round(sum(oracle["params"]) / count), sum(oracle["flops"]) / count
        seeds = tuple(oracle["seeds"][: size.others])
        wanted = {"seeds": seeds, "params": params, "flops": flops, "device": studio.device}
        todo.append(LargerJob(instance=instance, cell=cell, **wanted))
    results = studio.play(todo, "static hosts as large")
    return {_key(*pair): result for pair, result in zip(pairs, results, strict=True)}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `references`."""
    parser = subparsers.add_parser("references", help=__doc__.partition(":")[0], description=__doc__)
    add_grid(parser)
    for name, field in Size.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=field.default)
    parser.add_argument("--table", type=Path, help="file to write (default: table.json among the results)")
    parser.add_argument(
        "--also", type=Path, help="schedules to choose from, beside drawn ones: file of board_schedules.py"
    )
    parser.add_argument(
        "--commitment", default=commitment(LOCAL_SECRET), help="SHA-256 of the secret of evaluations to come"
    )
    add_place(parser, Path("runs/references"))
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Play what is missing and write the table; 1 while jobs are left.

    Raises:
        ValueError: a commitment that is no SHA-256: the secret itself would be published; or a table in the
            place of the new one that is of something else.
    """
    if not re.fullmatch("[0-9a-f]{64}", args.commitment):
        raise ValueError("--commitment: the SHA-256 of the secret is required, 64 hex digits")
    chosen, cells = grid(args)
    train = instances(args.tier, ["train"])
    refuse_absent(train)
    path = args.table or args.out / "table.json"
    _refuse_to_replace(path, args.commitment, [(each.id, cell.id) for each in chosen for cell in cells])
    size = Size(**{name: getattr(args, name) for name in Size.model_fields})
    also = list(read_schedules(args.also).values()) if args.also else []
    studio = Studio(args.out, args.jobs, args.shard, args.device)
    try:
        found = measure(chosen, cells, train, size, studio, also)
    except IncompleteError as error:
        print(error)
        return 1
    head = {"version": TABLE_VERSION, "environment_version": environment_version(), "tier": args.tier}
    head |= {"commitment": args.commitment, "hardware": studio.hardware, "seconds": studio.seconds}
    checkpoint.write_json(path, sealed(head | {"size": size.model_dump()} | found))
    admitted = sum(row["admitted"] for row in found["rows"])
    work = duration(studio.seconds)
    print(f"{admitted} of {len(found['rows'])} rows are admitted, {work} of work: {path}")
    return 0


def _refuse_to_replace(path: Path, committed: str, asked: Sequence[tuple[str, str]]) -> None:
    """Refuse to write over a table with other rows, or one that evaluations have been committed to.

    Raises:
        ValueError: there is one.
    """
    if not path.is_file():
        return
    old = read(path, Table)
    if (old.commitment, {(row.instance, row.cell.id) for row in old.rows}) != (committed, {*asked}):
        raise ValueError(
            f"{path} has other rows, or is committed to another secret: another --table is required"
        )
