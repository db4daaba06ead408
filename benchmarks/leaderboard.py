"""The leaderboard: play its instances, measure their references, report, check and pack entries.

`python benchmarks/leaderboard.py run --agents heuristic runs/my_agent --out runs/board` plays all held-out
instances of T1 under all budgets, and can be stopped and started again at any time; `--jobs 2` uses two
processes, `--shard 1/3` plays a third, for one of three machines. `... instances --instances train --out
FILE` writes what agents may train on, for `scripts/train_agent.py --instances`.

How it is meant, rules and figures: `docs/leaderboard.md`.
"""

import argparse
import sys
from collections.abc import Sequence

from board import headroom, listing, pledge, references, report, run, submit, verify

COMMANDS = (run, references, headroom, report, verify, submit, pledge, listing)
"""Modules whose `add_parser(subparsers)` sets `main`, a function of the parsed arguments to a status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and call; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(arguments)
    try:
        return int(args.main(args))
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
