"""Tunes the schedules of the leaderboard's references on, with more steps than its agents learn from.

The board's esper_ppo is taught those schedules and then learns from 30,000 steps on networks that train. What
would 49,000 steps have been worth if the search for schedules had gone on? For every pair of budgets the
candidates are the schedules of all pairs, each in its first slots alone too, and new draws; they are judged
as the others were, on the train part.

`python benchmarks/agents/board_schedules.py --out runs/board_schedules` writes `schedules.json`; `python
benchmarks/leaderboard.py run --agents schedule --entry schedule_tuned_on --config
runs/board_schedules/schedules.json` plays it.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from agents.board_agents import teachers
from board import records
from board.cells import CELLS
from board.instances import instances
from board.studio import Studio
from board.tuning import candidates, tune

from esper_agents import checkpoint
from esper_agents.baselines.schedule import ScheduleConfig

CANDIDATES = 18
"""Of each pair of budgets: 8 hosts for all, 24 for the best 6, 72 for the best 2: 12,240 steps."""
SLOTS = (0, 1, 2)
"""Of the hosts of the train part."""
SEED = 1
"""Of the new draws; those of the references have 0."""


def shorter(plan: ScheduleConfig) -> list[ScheduleConfig]:
    """The plan in its first slot alone, in its first two, and so on, the whole last."""
    slots = plan.slots or SLOTS
    cuts = [
        {"slots": slots[:count]}
        | {
            name: each[:count]
            for name in ("blueprints", "epochs")
            if (each := getattr(plan, name)) is not None
        }
        for count in range(1, len(slots) + 1)
    ]
    return [plan.model_copy(update=cut) for cut in cuts]


def wider(plans: Sequence[ScheduleConfig], drawn: Sequence[ScheduleConfig]) -> list[ScheduleConfig]:
    """The candidates: the plans in all lengths, then as many draws as there is room for."""
    known = [each for plan in plans for each in shorter(plan)]
    return list(dict.fromkeys([*known, *drawn]))[:CANDIDATES]


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune, and write the best plan for every pair of budgets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/board_schedules"))
    parser.add_argument("--references", type=Path, nargs="+", default=records.TABLES, help="with schedules")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    args = parser.parse_args(arguments)
    plans = [ScheduleConfig.model_validate(plan) for plan in teachers(args.references)]
    train, studio, found = instances("T1", ["train"]), Studio(args.out, args.jobs, None), {}
    for cell in CELLS["T1"]:
        asked = wider(plans, candidates(train[0], cell, CANDIDATES, SEED))
        rungs = tune(cell, train, asked, partial(studio.play, what=f"schedules for {cell.id}"))
        best = rungs[-1].entries[0]
        found[cell.id] = best.schedule.model_dump(mode="json")
        print(
            f"{cell.id}: candidate {best.number} of {len(rungs[0].entries)}, gain {best.mean:.4f}", flush=True
        )
    checkpoint.write_json(args.out / "schedules.json", {"plans": found})
    print(f"{args.out / 'schedules.json'}: {studio.seconds / 60:.0f} minutes of work")


if __name__ == "__main__":
    main()
