"""A report as Markdown, from its plain values alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from stories_report import markdown

from board.figures import RIVALS, Figures
from board.score import HARM, HELD_OUT

MARGIN = 0.05
"""What a trained agent is asked to win above the schedule, as a score."""
MOST_HARM = 0.05
"""Share of episodes in which it may do harm."""
MISSING = "-"


def document(report: Figures) -> str:
    """The whole report."""
    return "\n".join([*_opening(report), *(line for group in report["groups"] for line in _group(group))])


ABOUT = """
Environment {version}; references `{references}`. Host seeds: committed to as `{commitment}`,
{revealed}; pledged before that: {pledged}. Of {pairs} pairs of instance
and budgets {refused} were refused, having too little to win or too uncertain a figure; they count nowhere.

Score: 0 is the static host, 1 the oracle, not clipped; interquartile mean (IQM) over instances, training
seeds and host seeds, with 95% interval. Harm: share of episodes that end more than {harm:g} point of test
quality below the static host from the same seed, every instance weighing the same. Worst tenth: points above
the static host, mean over the worst tenth of all episodes. Parameters (of the harvested network; most: at any
time) and FLOPs: multiples of the static host's. Target: half way from the static host's validation quality to
the oracle's; epochs and FLOPs to it are medians, in which those that never reach it are infinite.
"""


def _opening(report: Figures) -> Iterator[str]:
    yield "# Leaderboard"
    yield ABOUT.format(
        version=report["environment_version"],
        references=report["references"][:12],
        commitment=report["commitment"][:12],
        revealed="revealed and checked" if report["revealed"] else "not revealed yet",
        pledged=", ".join(report["pledged"]) or "nobody",
        pairs=len(report["room"]),
        refused=sum(not row["admitted"] for row in report["room"]),
        harm=100 * HARM,
    )
    if report["left_out"]:
        yield "**Left out:**\n"
        yield from (f"- {reason}" for reason in report["left_out"])
        yield ""


def _group(group: Figures) -> Iterator[str]:
    count = len(group["instances"])
    instances = f"{count} instance{'s' if count != 1 else ''}, {group['cells']} with budgets"
    yield f"## {group['tier']}, {group['part']} ({instances})\n"
    rows = group["entries"]
    if not rows:
        yield "Nobody has played all of it.\n"
    else:
        machines = sorted({machine for row in rows.values() for machine in row["hardware"]})
        names = sorted(rows, key=lambda name: -(rows[name]["iqm"][0]))
        lines = [
            [
                _named(name, rows),
                *(read(rows[name]) for read in COLUMNS.values()),
                _numbers(rows[name], machines),
            ]
            for name in names
        ]
        yield markdown(["agent", *COLUMNS, "machine"], lines) + "\n"
        yield from (f"Machine {number}: {machine}.\n" for number, machine in enumerate(machines, 1))
        if group["part"] == HELD_OUT:
            yield from _questions(group)
            yield from _each(group, names)
    for name, of in group["missing"].items():
        more = f" and {len(of) - 3} more" if len(of) > 3 else ""
        yield f"- {name} has not played all: {', '.join(of[:3])}{more} missing\n"


def _named(name: str, rows: dict[str, Figures]) -> str:
    """An entry, and what it is where its name does not say it."""
    algo = rows[name]["algo"]
    return name if name == algo else f"{name} ({algo})"


def _numbers(row: Figures, machines: Sequence[str]) -> str:
    return ", ".join(str(machines.index(machine) + 1) for machine in row["hardware"])


def _questions(group: Figures) -> Iterator[str]:
    """Whether learning pays, and where: for every entry with training seeds."""
    rows = group["entries"]
    learned = {name: row for name, row in rows.items() if row["runs"] > 1 and "schedule" in row["against"]}
    for name, row in learned.items():
        gap, harm = row["against"]["schedule"]["gap"], row["harm"]
        yield (
            f"- {name} less schedule: {interval(gap, '{:+.3f}')}; harm {100 * harm[0]:.1f}%. At least "
            f"{MARGIN:+g} with an interval above 0 and harm of at most {100 * MOST_HARM:g}%: "
            f"**{'yes' if _pays(gap, harm) else 'no'}**"
        )
    if learned:
        yield ""
    for name, row in learned.items():
        gaps, harms = row["against"]["schedule"]["gap_each"], row["each"]["harm"]
        each = list(zip(group["instances"], gaps, harms, strict=True))
        good = [instance for instance, gap, harm in each if _pays(gap, harm)]
        yield f"{name}, instance by instance; {len(good)} of {len(each)}: {', '.join(good) or 'none'}.\n"
        lines = [
            [instance, interval(gap, "{:+.2f}"), f"{100 * harm[0]:.0f}", "yes" if _pays(gap, harm) else "no"]
            for instance, gap, harm in each
        ]
        yield markdown(["instance", "less schedule", "harm %", "pays"], lines) + "\n"


def _pays(gap: Sequence[float | None], harm: Sequence[float | None]) -> bool:
    """Whether it wins what is asked for above the schedule, for sure, and does hardly any harm."""
    mean, low, _ = gap
    assert mean is not None, "a mean of figures that are there"
    assert harm[0] is not None, "likewise"
    return mean >= MARGIN and low is not None and low > 0 and harm[0] <= MOST_HARM


def _each(group: Figures, names: Sequence[str]) -> Iterator[str]:
    """Mean score on every instance."""
    scores = {name: np.array(group["entries"][name]["each"]["score"]) for name in names}
    lines = [
        [instance, *(f"{scores[name][number].mean():.2f}" for name in names)]
        for number, instance in enumerate(group["instances"])
    ]
    yield "Mean score on each instance:\n"
    yield markdown(["instance", *names], lines) + "\n"


def interval(values: Sequence[float | None], form: str) -> str:
    """A figure and its interval; the figure alone where there is none."""
    middle, low, high = values
    if middle is None:
        return MISSING
    if low is None or high is None:
        return form.format(middle)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def _percent(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in values]


def _rival(rival: str, figure: str, form: str) -> Callable[[Figures], str]:
    def read(row: Figures) -> str:
        found = row["against"].get(rival)
        return MISSING if found is None else interval(found[figure], form)

    return read


def _optional(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)


COLUMNS: dict[str, Callable[[Any], str]] = {
    "training seeds": lambda row: str(row["runs"]),
    "score, IQM": lambda row: interval(row["iqm"], "{:.3f}"),
    "score, mean": lambda row: interval(row["mean"], "{:.3f}"),
    "less schedule": _rival("schedule", "gap", "{:+.3f}"),
    **{f"better than {rival}": _rival(rival, "better", "{:.2f}") for rival in RIVALS},
    "harm %": lambda row: interval(_percent(row["harm"]), "{:.1f}"),
    "worst tenth": lambda row: f"{row['worst_decile']:+.1f}",
    "target reached %": lambda row: f"{100 * row['target']['reached']:.0f}",
    "epochs to it": lambda row: _optional(row["target"]["epochs"], "{:.1f}"),
    "FLOPs to it": lambda row: _optional(row["target"]["flops"], "{:.2f}"),
    "parameters": lambda row: f"{row['param_ratio']:.2f}",
    "most": lambda row: f"{row['most_ratio']:.2f}",
    "FLOPs": lambda row: f"{row['flops_ratio']:.2f}",
    "rollbacks": lambda row: f"{row['rollbacks']:.2f}",
    "illegal %": lambda row: f"{100 * row['invalid_share']:.1f}",
    "s an episode": lambda row: f"{row['seconds_an_episode']:.2f}",
}
