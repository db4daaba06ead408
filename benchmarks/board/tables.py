"""A report as Markdown, from its plain values alone."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from stories_report import markdown

from board.entries import part_of
from board.figures import Figures
from board.score import HARM, HELD_OUT

MARGIN = 0.05
"""What a trained agent is asked to win above the schedule, as a score."""
MOST_HARM = 0.05
"""Share of episodes in which it may do harm."""
ASKED = f"At least {MARGIN:+g}, interval and score above 0, harm of at most {100 * MOST_HARM:g}%"
MISSING = "-"


def document(report: Figures) -> str:
    """The whole report."""
    return "\n".join(
        [*_opening(report), *(line for group in report["groups"] for line in _group(group, report["rivals"]))]
    )


ABOUT = """
Environment {version}; references `{references}`. Host seeds: committed to as `{commitment}`,
{revealed}; as pledged: {pledged}. Of {pairs} pairs of instance
and budgets {refused} were refused, having too little to win or too uncertain a figure: scores and targets
leave them out, everything else does not.

Score: 0 is the static host, 1 the oracle, not clipped; interquartile mean (IQM) over instances, training
seeds and host seeds, with 95% interval; differences are those of means. Points: of test quality above the
static host from the same seed. Harm: share of episodes that end more than {harm:g} point below it. In all of
these every instance weighs the same. Worst tenth: points, mean over the worst tenth of all episodes.
Parameters (of the harvested network; most: at any time) and FLOPs: multiples of the static host's. Target:
half of what the oracle wins above the static host's last validation quality; epochs and FLOPs to it are
means, in which whoever never reaches it takes the whole horizon, and the whole budget.
"""


REVEALED = {
    (True, True): "revealed and checked",
    (False, True): "not revealed yet, checked by whoever made this report",
    (False, False): "not revealed yet",
}
"""By whether everybody knows the secret, and whether the host seeds were checked."""


def _opening(report: Figures) -> Iterator[str]:
    yield "# Leaderboard"
    yield ABOUT.format(
        version=report["environment_version"],
        references=report["references"][:12],
        commitment=report["commitment"][:12],
        revealed=REVEALED[report["revealed"], report["checked"]],
        pledged=", ".join(report["pledged"]) or "nobody",
        pairs=len(report["room"]),
        refused=sum(not row["admitted"] for row in report["room"]),
        harm=100 * HARM,
    )
    if report["left_out"]:
        yield "**Left out:**\n"
        yield from (f"- {reason}" for reason in report["left_out"])
        yield ""
    if report["not_as_pledged"]:
        yield "**Not as pledged**, and shown all the same:\n"
        yield from (f"- {problem}" for problem in report["not_as_pledged"])
        yield ""


def _group(group: Figures, rivals: Sequence[str]) -> Iterator[str]:
    count = len(group["instances"])
    instances = f"{count} instance{'s' if count != 1 else ''}, {group['cells']} with budgets"
    played = group["played"]
    whole = f"; {played['instances']} and {played['cells']} were played"
    more = whole if played["cells"] > group["cells"] else ""
    hosts = " or ".join(map(str, group["hosts"]))
    yield f"## {group['tier']}, {group['part']} ({instances}{more}; {hosts} hosts)\n"
    rows = group["entries"]
    if not rows:
        yield "Nobody has played all of it.\n"
    else:
        machines = sorted({machine for row in rows.values() for machine in row["hardware"]})
        columns = _columns(rivals)
        names = sorted(rows, key=lambda name: -(rows[name]["iqm"][0]))
        lines = [
            [
                _named(name, rows),
                *(read(rows[name]) for read in columns.values()),
                _numbers(rows[name], machines),
            ]
            for name in names
        ]
        yield markdown(["agent", *columns, "machine"], lines) + "\n"
        yield from (f"Machine {number}: {machine}.\n" for number, machine in enumerate(machines, 1))
        yield from _budgets(group, names)
        if group["part"] == HELD_OUT:
            yield from _questions(group)
            for name, rival in product(_learned(group), _subtracted(rivals)):
                yield from _consists(rows, name, rival)
            yield from _each(group, names)
    for name, of in group["missing"].items():
        more = f" and {len(of) - 3} more" if len(of) > 3 else ""
        yield f"- {name} has not played all: {', '.join(of[:3])}{more} missing\n"


def _budgets(group: Figures, names: Sequence[str]) -> Iterator[str]:
    """Every entry under every pair of budgets; instances weigh the same."""
    rows = [group["entries"][name]["each"] for name in names]
    lines = [
        [budgets, *(_under([of[budgets] for of in row.values() if budgets in of]) for row in rows)]
        for budgets in _budgets_of(rows[0])
    ]
    yield "Under each pair of budgets (parameters x FLOPs): mean score, points, harm:\n"
    yield markdown(["budgets", *names], lines) + "\n"


def _budgets_of(each: Figures) -> list[str]:
    return list(dict.fromkeys(budgets for of in each.values() for budgets in of))


def _under(figures: Sequence[Figures]) -> str:
    """Means; of scores over what was admitted."""
    scores = [each["score"] for each in figures if each["score"] is not None]
    gain, harm = (float(np.mean([each[name] for each in figures])) for name in ("gain", "harm"))
    score = f"{np.mean(scores):.2f}" if scores else MISSING
    return f"{score}, {gain:+.1f}, {100 * harm:.0f}%"


def _named(name: str, rows: dict[str, Figures]) -> str:
    """An entry, and what it is where its name does not say it."""
    algo = rows[name]["algo"]
    return name if name == algo else f"{name} ({algo})"


def _numbers(row: Figures, machines: Sequence[str]) -> str:
    return ", ".join(str(machines.index(machine) + 1) for machine in row["hardware"])


def _learned(group: Figures) -> dict[str, Figures]:
    """Entries with training seeds that can be compared with the schedule."""
    rows = group["entries"]
    return {name: row for name, row in rows.items() if row["runs"] > 1 and "schedule" in row["against"]}


def _questions(group: Figures) -> Iterator[str]:
    """Whether learning pays, and where: for every entry with training seeds."""
    learned = _learned(group)
    for name, row in learned.items():
        of, harm = row["against"]["schedule"], row["harm"]
        drawn = interval([of["gap"][0], *of["gap_drawn"]], "{:+.3f}").partition(" ")[2] or MISSING
        answer = "yes" if pays_off(row["mean"][0], of["gap"], harm) else "no"
        yield (
            f"- {name} less schedule: {interval(of['gap'], '{:+.3f}')}, over instances alone {drawn}; "
            f"harm {100 * harm[0]:.1f}%. {ASKED}: **{answer}**"
        )
    if learned:
        yield ""
    for name, row in learned.items():
        gaps = zip(group["instances"], row["against"]["schedule"]["gap_each"], strict=True)
        scores = np.array(row["scores"]).mean(axis=(1, 2))
        lines, good = [], []
        for (instance, gap), score in zip(gaps, scores, strict=True):
            harm = row["harm_each"][instance]
            pays = pays_off(score, gap, harm)
            good += [instance] if pays else []
            figures = [interval(gap, "{:+.2f}"), f"{score:.2f}", f"{100 * harm[0]:.0f}"]
            lines.append([instance, *figures, "yes" if pays else "no"])
        yield f"{name}, instance by instance; {len(good)} of {len(lines)}: {', '.join(good) or 'none'}.\n"
        yield markdown(["instance", "less schedule", "score", "harm %", "pays"], lines) + "\n"


def pays_off(score: float, gap: Sequence[float | None], harm: Sequence[float | None]) -> bool:
    """Whether it is above the static host, above the schedule by what is asked, and does hardly any harm."""
    mean, low, _ = gap
    assert mean is not None, "a mean of figures that are there"
    assert harm[0] is not None, "likewise"
    return score > 0 and mean >= MARGIN and low is not None and low > 0 and harm[0] <= MOST_HARM


def contributions(rows: Figures, name: str, rival: str) -> dict[str, dict[str, float]]:
    """Axis -> budgets -> what they contribute to the difference of two entries' mean scores: its summands.

    Args:
        rows: The entries of a group.
        name: One of them.
        rival: What is subtracted.
    """
    ours, theirs = rows[name]["each"], rows[rival]["each"]
    admitted = {
        instance: [budgets for budgets, figures in of.items() if figures["score"] is not None]
        for instance, of in ours.items()
    }
    admitted = {instance: under for instance, under in admitted.items() if under}
    found: dict[str, dict[str, float]] = {}
    for instance, under in admitted.items():
        of = found.setdefault(part_of(instance)[1], dict.fromkeys(_budgets_of(ours), 0.0))
        for budgets in under:
            gap = ours[instance][budgets]["score"] - theirs[instance][budgets]["score"]
            of[budgets] += gap / (len(under) * len(admitted))
    return found


def _consists(rows: Figures, name: str, rival: str) -> Iterator[str]:
    """From which axes and budgets a difference comes."""
    if rival not in rows[name]["against"]:
        return
    of = contributions(rows, name, rival)
    together = {
        budgets: sum(axis[budgets] for axis in of.values()) for budgets in _budgets_of(rows[name]["each"])
    }
    if len(of) == len(together) == 1:
        return
    lines = [
        [axis, *(f"{each:+.3f}" for each in (*under.values(), sum(under.values())))]
        for axis, under in (of | {"all": together}).items()
    ]
    yield f"What {name} less {rival} consists of, by what is new and by budgets:\n"
    yield markdown(["new", *together, "all"], lines) + "\n"


def _each(group: Figures, names: Sequence[str]) -> Iterator[str]:
    """Every entry on every instance that was played."""
    rows = [group["entries"][name]["each"] for name in names]
    lines = [[instance, *(_under(list(row[instance].values())) for row in rows)] for instance in rows[0]]
    yield "On each instance: mean score, where anything was admitted, points, harm:\n"
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


def _subtracted(rivals: Sequence[str]) -> list[str]:
    """Whom a difference is shown to: the heuristic, which most agents beat, is left out."""
    return [each for each in rivals if each != "heuristic"]


def _columns(rivals: Sequence[str]) -> dict[str, Callable[[Any], str]]:
    """What is shown of every entry, in order."""
    return {
        "training seeds": lambda row: str(row["runs"]),
        "score, IQM": lambda row: interval(row["iqm"], "{:.3f}"),
        "score, mean": lambda row: interval(row["mean"], "{:.3f}"),
        **{f"less {each}": _rival(each, "gap", "{:+.3f}") for each in _subtracted(rivals)},
        **{f"better than {each}": _rival(each, "better", "{:.2f}") for each in rivals},
        **COSTS,
    }


COSTS: dict[str, Callable[[Any], str]] = {
    "harm %": lambda row: interval(_percent(row["harm"]), "{:.1f}"),
    "points": lambda row: interval(row["gain"], "{:+.2f}"),
    "worst tenth": lambda row: f"{row['worst_decile']:+.1f}",
    "target reached %": lambda row: interval(_percent(row["target"]["reached"]), "{:.0f}"),
    "epochs to it": lambda row: interval(row["target"]["epochs"], "{:.1f}"),
    "FLOPs to it": lambda row: interval(row["target"]["flops"], "{:.2f}"),
    "parameters": lambda row: f"{row['param_ratio']:.2f}",
    "most": lambda row: f"{row['most_ratio']:.2f}",
    "FLOPs": lambda row: f"{row['flops_ratio']:.2f}",
    "rollbacks": lambda row: f"{row['rollbacks']:.2f}",
    "illegal %": lambda row: f"{100 * row['invalid_share']:.1f}",
    "s an episode": lambda row: f"{row['seconds_an_episode']:.2f}",
}
