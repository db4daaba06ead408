"""`leaderboard.py headroom`: how much there is to win on every instance, from the references alone."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stories_report import markdown

from board import figures, plots, records
from board.cells import Cell
from board.entries import part_of
from board.records import TABLES, Table
from board.tables import MISSING

ABOVE = ("static_large", "random", "heuristic", "schedule")
"""Of whom it is shown how far they are above the static host."""
QUARTILES = (0, 25, 50, 75, 100)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `headroom`."""
    parser = subparsers.add_parser("headroom", help=__doc__, description=__doc__)
    parser.add_argument("--references", type=Path, nargs="+", default=TABLES, help="tables of references")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/leaderboard/headroom.md"), help="Markdown file"
    )
    parser.add_argument("--picture", type=Path, help="not given: beside the Markdown, .png")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Write Markdown and a picture."""
    table = records.table(args.references)
    rows = figures.room(table)
    picture = args.picture or args.out.with_suffix(".png")
    plots.headroom(rows, picture)
    text = "\n".join([*document(table, rows), f"![head-room]({picture.name})"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text + "\n")
    print(text)
    return 0


def document(table: Table, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The distributions, then every row."""
    admitted = [row for row in rows if row["admitted"]]
    yield "# Head-room\n"
    yield f"Environment {table.environment_version}, references `{table.sha256[:12]}`, played on"
    yield f"{table.hardware} in {table.seconds / 3600:.1f} hours of processor time."
    yield "Test quality after the harvest; differences are paired by host seed, on seeds on which nothing was"
    yield "searched or tuned: mean +- standard error, in points. The large static host, random and heuristic"
    yield "are only shown, and played the first few of these seeds: theirs is less the static host on those."
    yield "Admitted: oracle - static >= 5 standard errors and oracle - schedule >= 2.\n"
    yield f"{len(admitted)} of {len(rows)} pairs of instance and budgets are admitted.\n"
    yield markdown(["points", "rows", *(f"{q}th percentile" for q in QUARTILES)], _distributions(rows)) + "\n"
    yield "Size, FLOPs: of the large static host, as multiples of the oracle's; both should be 1.\n"
    above = [f"{name} - static" for name in ABOVE]
    columns = ["instance", "budgets", "static", *above, *_NAMES.values(), "size, FLOPs", "admitted"]
    yield markdown(columns, map(_line, rows)) + "\n"


_NAMES = {"oracle_static": "oracle - static", "oracle_schedule": "oracle - schedule"}


def _distributions(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[object]]:
    parts = {"/".join(part_of(row["instance"])): None for row in rows}
    for key, title in _NAMES.items():
        for part in ("all", "admitted", *parts):
            gaps = [
                100 * row["differences"][key]["mean"]
                for row in rows
                if part in ("all", "/".join(part_of(row["instance"])))
                or (part == "admitted" and row["admitted"])
            ]
            if gaps:
                quantiles = np.percentile(gaps, QUARTILES)
                yield [f"{title}, {part}", len(gaps), *(f"{value:.1f}" for value in quantiles)]


def _line(row: Mapping[str, Any]) -> list[object]:
    above = [f"{100 * row['above'][name]:+.1f}" if name in row["above"] else MISSING for name in ABOVE]
    gaps = [_gap(row["differences"][key]) for key in _NAMES]
    head = row["instance"], Cell(**row["cell"]).id
    return [
        *head,
        f"{100 * row['quality']['static']:.1f}",
        *above,
        *gaps,
        _fairness(row),
        "yes" if row["admitted"] else "no",
    ]


def _fairness(row: Mapping[str, Any]) -> str:
    """How much larger and dearer the large static host was than what it is compared with."""
    if not {"static_large", "oracle"} <= row["quality"].keys():
        return MISSING
    ratios = (row[name]["static_large"] / row[name]["oracle"] for name in ("param_ratio", "flops_ratio"))
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def _gap(gap: Mapping[str, float | None]) -> str:
    mean, error, sigma = gap["mean"] or 0.0, gap["error"] or 0.0, gap["sigma"]
    certain = "" if sigma is None else f", {sigma:.1f} sigma"
    return f"{100 * mean:+.1f} +- {100 * error:.1f}{certain}"
