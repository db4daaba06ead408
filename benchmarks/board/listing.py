"""List the instances, or write those that agents may train on as a file for `scripts/train_agent.py`."""

import argparse
import json
from pathlib import Path
from typing import Any

from board.cells import CELLS, Cell
from board.instances import environment_version, select
from esper_agents import checkpoint


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `instances`."""
    parser = subparsers.add_parser("instances", help=__doc__, description=__doc__)
    parser.add_argument("--tier", choices=list(CELLS), default="T1")
    parser.add_argument("--instances", nargs="+", metavar="NAME", default=["train"], help="parts or ids")
    parser.add_argument("--cells", nargs="+", metavar="PxC", help="such as 1.5x1 (default: all of the tier)")
    parser.add_argument("--out", type=Path, help="a JSON list, one entry for each instance and cell")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """List or write."""
    chosen = select(args.tier, args.instances)
    cells = CELLS[args.tier] if args.cells is None else tuple(Cell.of(name) for name in args.cells)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        played = [_entry(instance.environment(cell)) for instance in chosen for cell in cells]
        checkpoint.write_json(args.out, played)
        print(f"{len(played)} environments of {environment_version()}: {args.out}")
        return 0
    print(f"{environment_version()}; cells {', '.join(cell.id for cell in cells)}")
    for instance in chosen:
        print(f"{instance.id} {instance.hash[:12]} {instance.preset} {json.dumps(instance.overrides)}")
    return 0


def _entry(environment: dict[str, Any]) -> dict[str, Any]:
    """Where networks grow is for the run to say."""
    return {name: value for name, value in environment.items() if name != "device"}
