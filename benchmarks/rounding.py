"""How far two networks end apart that were trained from the same seed and differ in rounding alone.

The leaderboard's references `static` and `schedule` are played again on their own public hosts, with torch's
kernels in place of the native ones: the same order of images, the same actions, other last bits. What the
test quality then differs by is luck, which no agent can do anything about: a share of episodes ends more than
a point below the static host though nothing was done, and who plays an entry again on another machine finds
another quality.

`python benchmarks/rounding.py --out runs/rounding --jobs 2` prints tables; stopped, it goes on.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from board import records
from board.cells import CELLS
from board.entrants import AgentSpec, make_agent
from board.entries import part_of
from board.instances import select
from board.on_instance import OnInstance
from board.quality import qualities
from board.score import HARM
from board.studio import Studio
from board.trace import world
from pydantic import Field
from stories_report import markdown

from esper_agents.evaluate import evaluate

PLAYED = {"static": CELLS["T1"][0], "schedule": CELLS["T1"][-1]}
"""Reference -> the budgets it is played under: a static host does the same under all."""


class RoundingJob(OnInstance):
    """A reference with torch's kernels."""

    KIND: ClassVar[str | None] = "rounding"
    RESULT: ClassVar[str] = "rounding.json"

    agent: AgentSpec
    seeds: tuple[int, ...] = Field(min_length=1)

    @property
    def steps(self) -> int:
        """See `Work`."""
        return len(self.seeds) * self.instance.horizon

    def work(self, results: Path) -> dict[str, Any]:
        """Test quality of every host."""
        changes = {"engine.kernels": "torch"}
        with closing(world(self.instance, self.cell, len(self.seeds), self.device, changes)) as envs:
            agent = make_agent(self.agent, envs, self.cell, results)
            episodes = evaluate(agent, envs, self.seeds).episodes
            return {"quality": qualities(episodes, envs.facts)}

    def __str__(self) -> str:
        """For people."""
        return f"{self.agent.algo} on {self.instance.id}, cell {self.cell.id}, torch's kernels"


def asked(table: records.Table, hosts: int) -> Iterator[tuple[str, RoundingJob, list[float]]]:
    """Reference, job, and test quality with the native kernels."""
    rows = {(row.instance, row.cell): row for row in table.rows}
    for instance in select("T1"):
        for name, cell in PLAYED.items():
            row = rows[instance.id, cell]
            plan = {"schedule": row.plan.model_dump(mode="json")} if row.plan else {}
            spec = AgentSpec(algo="schedule", config=plan) if name == "schedule" else AgentSpec(algo="wait")
            own = row.references[name]
            job = RoundingJob(instance=instance, cell=cell, agent=spec, seeds=tuple(own.seeds[:hosts]))
            yield name, job, own.quality[:hosts]


def tables(gaps: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """Markdown.

    Args:
        gaps: (reference, instance) -> test quality with torch's kernels less that with the native ones.
    """
    parts: dict[tuple[str, str], list[float]] = {}
    for (name, instance), of in gaps.items():
        own = part_of(instance)[1]
        for part in ("all", *["images"] * (own != "modality"), own):
            parts.setdefault((name, part), []).extend(of)
    header = ["reference", "instances", "hosts", "mean", "deviation", "more than a point lower"]
    return markdown(header, [[*key, *_figures(of)] for key, of in (*parts.items(), *gaps.items())])


def _figures(gaps: Sequence[float]) -> list[str]:
    of = np.array(gaps)
    below = np.mean(np.abs(of) > HARM) / 2  # either of the two may be called the first
    root = np.sqrt(np.mean(of**2))
    return [str(of.size), f"{100 * of.mean():+.2f}", f"{100 * root:.2f}", f"{100 * below:.0f}%"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Play what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rounding"))
    parser.add_argument("--hosts", type=int, default=8, help="of every instance, the first of the table")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--references", type=Path, nargs="+", default=records.TABLES)
    args = parser.parse_args(arguments)
    todo = list(asked(records.table(args.references), args.hosts))
    studio = Studio(args.out, args.jobs, None)
    results = studio.play([job for _, job, _ in todo], "references with other kernels")
    gaps = {
        (name, job.instance.id): [a - b for a, b in zip(result["quality"], known, strict=True)]
        for (name, job, known), result in zip(todo, results, strict=True)
    }
    print(tables(gaps))


if __name__ == "__main__":
    main()
