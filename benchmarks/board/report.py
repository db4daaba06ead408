"""`leaderboard.py report`: results of many entries as tables, pictures and plain values."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from board import figures, pledge, plots, records, tables
from board.entries import STATIC, Register, by_size, entries, part_of
from board.figures import RIVALS
from board.instances import find
from board.plans import plan_for
from board.records import TABLES, Record, RefusedError, Row, Table
from board.score import Grid
from board.seeds import commitment, evaluation_seeds, known
from esper_agents.baselines import BASELINES


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `report`."""
    parser = subparsers.add_parser("report", help=__doc__, description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="folders that `run` wrote, or others sent in")
    parser.add_argument("--references", type=Path, nargs="+", default=TABLES, help="tables of references")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/leaderboard/report"), help="folder of the report"
    )
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="ENTRY", help=f"to compare all with, beside {RIVALS}"
    )
    parser.add_argument("--pledges", type=Path, nargs="+", default=[], help="files of `pledge`")
    parser.add_argument("--secret", help="reveal what the host seeds follow from, and check that they do")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Write report.md, report.json and pictures; 1 where results were left out, or pledges are broken."""
    report = made(args.results, args.references, args.secret, args.pledges, args.against)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    pictures = plots.draw(report, args.out)
    links = "".join(f"![{path.stem.replace('_', ', ')}]({path.name})\n\n" for path in pictures)
    text = tables.document(report) + "\n" + links
    (args.out / "report.md").write_text(text.rstrip() + "\n")
    print(text)
    for reason in report["left_out"]:
        print(f"left out: {reason}", file=sys.stderr)
    for problem in report["not_as_pledged"]:
        print(f"not as pledged: {problem}", file=sys.stderr)
    return int(bool(report["left_out"] or report["not_as_pledged"]))


def made(
    folders: Sequence[Path],
    references: Sequence[Path],
    secret: str | None,
    pledges: Sequence[Path] = (),
    against: Sequence[str] = (),
) -> figures.Figures:
    """The plain values of a report.

    Raises:
        RefusedError: no results, a table or pledge that can't be trusted, a secret that is another's, or an
            entry to compare with that has played nothing.
    """
    pledged = pledge.several(pledges)
    table = records.table(references)
    secret = revealed(secret, table)
    good, left_out = sorted_out(folders, table, secret)
    broken = {each.entry: pledge.broken(each, good) for each in pledged}
    played = entries(good)
    tiers = {part_of(record.instance)[0] for record in good}
    table = table.model_copy(
        update={"rows": [row for row in table.rows if part_of(row.instance)[0] in tiers]}
    )
    absent = sorted({*against} - {*played})
    if absent:
        raise RefusedError(f"--against {absent}: there are results of {list(played)}")
    rivals = list(dict.fromkeys([*RIVALS, *against]))
    return {
        "version": 1,
        "environment_version": table.environment_version,
        "references": table.sha256,
        "commitment": table.commitment,
        "revealed": known(table.commitment) is not None,
        "checked": secret is not None,
        "pledged": sorted(name for name, problems in broken.items() if not problems),
        "not_as_pledged": [problem for problems in broken.values() for problem in problems],
        "left_out": left_out,
        "room": figures.room(table),
        "rivals": rivals,
        "groups": figures.collected(table, played, Grid(table, played.get(STATIC)), rivals),
    }


def revealed(secret: str | None, table: Table) -> str | None:
    """The secret that host seeds can be checked by; None while nobody knows it.

    Args:
        secret: As it is told; None for one that was revealed, if the table is committed to it.
        table: The references.

    Raises:
        RefusedError: the table is committed to another one.
    """
    if secret is None:
        return known(table.commitment)
    if commitment(secret) != table.commitment:
        raise RefusedError(f"the secret {secret!r} is not what was committed to, {table.commitment}")
    return secret


def sorted_out(folders: Sequence[Path], table: Table, secret: str | None) -> tuple[list[Record], list[str]]:
    """Results that count, each once, and why others do not.

    A name belongs to the first folder that has it, with the training runs that are there, and of several
    results of a job the first counts: in each folder that with the most host seeds.

    Raises:
        RefusedError: a folder without results.
    """
    register, left_out = Register(), []
    rows = {(row.instance, row.cell): row for row in table.rows}
    for folder in folders:
        whole, damaged = records.readable([folder])
        left_out += damaged
        for record in by_size(whole):
            try:
                refuse_foreign(record, table, rows.get((record.instance, record.cell)), secret)
                if not register.repeated(record):
                    register.add(record)
            except RefusedError as error:
                left_out.append(str(error))
        register.settle()
    return list(register.results.values()), left_out


def refuse_foreign(record: Record, table: Table, row: Row | None, secret: str | None) -> None:
    """Whether a result belongs to this table.

    Args:
        record: The result.
        table: The references.
        row: Of the result's instance and budgets; None where the table has none.
        secret: What the host seeds follow from, where it is revealed.

    Raises:
        RefusedError: another version of the environment, another instance, other host seeds, or a baseline
            with settings of its own under its old name.
    """
    if record.environment_version != table.environment_version:
        raise RefusedError(
            f"{record}: environment version {record.environment_version!r} is not known, "
            f"{table.environment_version!r} is"
        )
    if row is None:
        raise RefusedError(f"{record}: the references have no such instance and budgets")
    if record.instance_hash != row.instance_hash:
        raise RefusedError(
            f"{record}: another instance of that name, by its hash {record.instance_hash[:12]}"
        )
    if record.entry in BASELINES and not _as_measured(record, row):
        raise RefusedError(
            f"{record}: has other settings than the reference of that name: another name is required"
        )
    if record.commitment != table.commitment:
        raise RefusedError(
            f"{record}: host seeds by another secret, committed to as {record.commitment[:12]}"
        )
    if secret is not None:
        played = [episode.seed for episode in record.episodes]
        wanted = evaluation_seeds(secret, find(record.instance), len(played))
        if sorted(played) != sorted(wanted):
            raise RefusedError(f"{record}: host seeds {played}, by the secret they are {list(wanted)}")


def _as_measured(record: Record, row: Row) -> bool:
    """Whether an entry with the name of a baseline plays as that in the table does."""
    config = record.agent.config or {}
    if record.agent.algo != "schedule":
        return not config
    try:
        return row.plan in (None, plan_for(config, record.cell))
    except ValueError:
        return False
