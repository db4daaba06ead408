"""Pictures of a report and of the head-room, from plain values alone."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl

from board.figures import Figures
from board.score import HELD_OUT

COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#c53030", "#319795", "#d53f8c", "#4a5568")


def colors(names: Sequence[str]) -> dict[str, str]:
    """One for each name, in its order."""
    return dict(zip(names, cycle(COLORS), strict=False))


def draw(report: Figures, folder: Path) -> list[Path]:
    """For every tier: scores with intervals, axis by axis, and performance profiles."""
    paths = []
    for tier in dict.fromkeys(group["tier"] for group in report["groups"]):
        groups = [group for group in report["groups"] if group["tier"] == tier and group["entries"]]
        if not groups:
            continue
        paths += [folder / f"scores_{tier}.png", folder / f"profile_{tier}.png"]
        first = next((group for group in groups if group["part"] == HELD_OUT), groups[0])
        _scores([first, *(each for each in groups if each["instances"] != first["instances"])], paths[-2])
        _profiles(first, paths[-1])
    return paths


def _scores(groups: Sequence[Figures], path: Path) -> None:
    """A panel for each group: interquartile means, with intervals."""
    names = sorted(
        {name for group in groups for name in group["entries"]}, key=lambda n: (_order(groups, n), n)
    )
    color = colors(sorted(names))
    figure, panels = _figure(
        1,
        len(groups),
        (3 + 2.1 * len(groups), 1.6 + 0.34 * len(names)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, group in zip(panels[0], groups, strict=True):
        for height, name in enumerate(names):
            if name in group["entries"]:
                _with_interval(axes, group["entries"][name]["iqm"], height, color[name])
        for level in (0, 1):
            axes.axvline(level, color="0.6", linewidth=0.8, linestyle="--")
        axes.set_title(f"{group['part']} ({len(group['instances'])})", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.margins(y=0.08)
    panels[0][0].set_yticks(range(len(names)), names)
    figure.supxlabel("score, interquartile mean and 95% interval (0: static host, 1: oracle)", fontsize=10)
    _save(figure, path)


def _order(groups: Sequence[Figures], name: str) -> float:
    """Its score on the first group that it has played."""
    return next(group["entries"][name]["iqm"][0] for group in groups if name in group["entries"])


def _with_interval(axes: Any, values: Sequence[float | None], height: float, color: str) -> None:
    middle, low, high = values
    axes.plot([middle], [height], "o", color=color, markersize=5)
    if low is not None and high is not None:
        axes.plot([low, high], [height, height], color=color, linewidth=2.5, solid_capstyle="butt", alpha=0.6)


def _profiles(group: Figures, path: Path) -> None:
    """Share of episodes above each score."""
    rows = group["entries"]
    color = colors(sorted(rows))
    figure, axes = _figure(1, 1, (8, 4.8))
    for name in sorted(rows, key=lambda name: -rows[name]["iqm"][0]):
        own = rows[name]["profile"]
        axes.plot(own["thresholds"], own["above"], color=color[name], label=name)
        if None not in own["low"]:
            axes.fill_between(own["thresholds"], own["low"], own["high"], color=color[name], alpha=0.15)
    for level in (0, 1):
        axes.axvline(level, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="score (0: static host, 1: oracle)",
        ylabel="share above",
        title=f"{group['tier']}, {group['part']} ({len(group['instances'])})",
        ylim=(-0.02, 1.02),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def headroom(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What the oracle reaches above the static host and above the schedule, for each instance and budget.

    Args:
        rows: Of `figures.room`.
        path: A picture.
    """
    names = {"oracle_static": "oracle - static host", "oracle_schedule": "oracle - tuned schedule"}
    instances = list(dict.fromkeys(row["instance"] for row in rows))
    budgets = list(dict.fromkeys(tuple(row["cell"].values()) for row in rows))
    color = dict(zip(budgets, cycle(COLORS), strict=False))
    figure, panels = _figure(1, 2, (11, 1.6 + 0.24 * len(instances)), sharey=True)
    for axes, (key, title) in zip(panels, names.items(), strict=True):
        for row in rows:
            budget = tuple(row["cell"].values())
            shift = 0.6 * (budgets.index(budget) / max(1, len(budgets) - 1) - 0.5) if len(budgets) > 1 else 0
            height, gap = instances.index(row["instance"]) + shift, row["differences"][key]
            style = {"markerfacecolor": color[budget] if row["admitted"] else "white", "color": color[budget]}
            error = 196 * gap["error"]
            axes.errorbar(100 * gap["mean"], height, xerr=error, fmt="o", markersize=4, linewidth=1, **style)
        axes.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
        axes.set(xlabel="points of test quality", title=title)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(instances)), instances, fontsize=8)
    panels[0].invert_yaxis()
    labels = [f"{params:g}x parameters, {compute:g}x FLOPs" for params, compute in budgets]
    marks = [mpl.lines.Line2D([], [], marker="o", linestyle="", color=color[budget]) for budget in budgets]
    marks.append(mpl.lines.Line2D([], [], marker="o", linestyle="", color="0.3", markerfacecolor="white"))
    labels.append("hollow: refused")
    figure.legend(marks, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    _save(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
