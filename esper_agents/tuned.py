"""What a search of schedules came to, and the files that say so."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper_agents import checkpoint
from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.baselines.tuning import Entry, Rung
from esper_agents.environment import EnvironmentConfig, World
from esper_agents.evaluate import Evaluation
from esper_agents.statistics import estimate
from esper_agents.table import table

PLAN, RECORD, TABLES = "schedule.json", "tuning.json", "tuning.md"
"""Names of the files of a search."""
ELSEWHERE = {"device", "data_dir"}
"""Settings of an environment that say where it runs, not what is played."""


@dataclass(frozen=True)
class Tuned:
    """What a search came to."""

    folder: Path
    """Where it is written."""
    best: ScheduleConfig
    rungs: list[Rung]
    evaluations: list[Evaluation]
    """The best schedule and the first candidate, on episodes that decided nothing."""


def write(tuned: Tuned, config: EnvironmentConfig, world: World) -> None:
    """The plan as settings that the scripts accept, everything as JSON, and the rungs as tables.

    Args:
        tuned: What was found.
        config: The search.
        world: What was played.
    """
    played = set(EnvironmentConfig.model_fields) - ELSEWHERE
    settings = config.model_dump(mode="json", include=played, exclude_defaults=True)
    plan = {"env": config.env, **settings, "schedule": tuned.best.model_dump(mode="json")}
    checkpoint.write_json(tuned.folder / PLAN, plan)
    values = {
        "config": config.model_dump(mode="json"),
        "environment": world.envs.config.model_dump(mode="json"),
        "provenance": world.provenance,
        "rungs": [rung.as_dict() for rung in tuned.rungs],
        "evaluations": [evaluation.as_dict() for evaluation in tuned.evaluations],
    }
    checkpoint.write_json(tuned.folder / RECORD, values)
    checkpoint.write_atomic(tuned.folder / TABLES, ("\n".join(report(tuned)) + "\n").encode())


def report(tuned: Tuned) -> Iterator[str]:
    """The rungs as Markdown tables, and what the best schedule earns on episodes that decided nothing."""
    defaults = ScheduleConfig().model_dump()
    yield "# Schedules by mean return"
    for number, rung in enumerate(tuned.rungs, start=1):
        yield f"\n## Rung {number}: seeds {rung.seeds[0]} to {rung.seeds[-1]}, {rung.kept} kept\n"
        yield "| place | candidate | mean return | behind the first, paired | what differs from the default |"
        yield "| --- | --- | --- | --- | --- |"
        for place, entry in enumerate(rung.entries, start=1):
            changed = {k: v for k, v in entry.schedule.model_dump(mode="json").items() if v != defaults[k]}
            behind = _behind(entry, rung.entries[0])
            yield f"| {place} | {entry.number} | {entry.mean:.2f} | {behind} | `{json.dumps(changed)}` |"
    yield "\n## On other seeds\n\n```"
    yield from table(tuned.evaluations)
    yield "```"


def _behind(entry: Entry, first: Entry) -> str:
    """What it earned less than the first, with the 95% interval of that."""
    gap = estimate([best - mine for best, mine in zip(first.returns, entry.returns, strict=True)])
    return f"{gap.mean:.2f}" if gap.count == 1 else f"{gap.mean:.2f} ({gap.low:.2f} to {gap.high:.2f})"
