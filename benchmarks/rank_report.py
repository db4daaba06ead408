"""Tables and picture of the rank agreement."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from ranks import KEPT, KEPT_PRICES, MODES, Life, by_seed, halves, interval, of_means, places, priced

from esper_env import REWARD_MODES

Floats = NDArray[np.float64]
Row = Sequence[object]
FEW = 5
"""Fewest agents of a family whose order among themselves is looked at."""
OUTCOME_PRICES, CREDIT_PRICES = (20, 40, 60, 100), (0.0, 0.1, 0.25, 0.5, 1.0)
"""What else the economy could pay for quality at the end, and for a point of credit."""
NAMED, OUT_OF_PLACE = 8, 6
"""Most agents that are named in the picture, and by how many places return and yardstick must differ."""
LOOKS = {
    "static": ("*", "black"),
    "committed": ("o", "#2b6cb0"),
    "late commit": ("s", "#63b3ed"),
    "hasty": ("P", "#805ad5"),
    "too late": ("v", "#dd6b20"),
    "lazy": ("^", "#d69e2e"),
    "half alpha": ("D", "#38a169"),
    "churn": ("X", "#c53030"),
    "junk": ("d", "#718096"),
    "random": ("h", "#d53f8c"),
}
"""Family -> marker and color."""


@dataclass(frozen=True)
class Played:
    """All agents of a setting, over the same seeds."""

    names: list[str]
    families: NDArray[np.str_]
    lives: list[list[Life]]
    """By agent, then seed."""

    def figures(self, read: Callable[[Life], float | Sequence[float]]) -> Floats:
        """(agent, seed), or (agent, seed, figure): one or several figures of every life."""
        return np.array([[read(life) for life in lives] for lives in self.lives])

    def returns(self, mode: str, without: str | None = None) -> Floats:
        """(agent, seed): the return in a mode, one of its terms left out."""
        return self.figures(lambda life: sum(v for k, v in priced(life, mode).items() if k != without))

    @property
    def yardstick(self) -> Floats:
        """(agent, seed)."""
        return self.figures(lambda life: life.yardstick)


def load(out: Path) -> Played:
    """Everything that was played into a folder.

    Raises:
        ValueError: nothing, or agents that played different seeds.
    """
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    lives = [[Life(**life) for life in result["lives"]] for result in results]
    seeds = {tuple(life.seed for life in of) for of in lives}
    if len(seeds) != 1:
        raise ValueError(f"{out}: agents must have played the same seeds, found {sorted(seeds)}")
    return Played([r["agent"] for r in results], np.array([r["family"] for r in results]), lives)


def report(out: Path) -> str:
    """All tables as Markdown."""
    played = load(out)
    seeds = len(played.lives[0])
    parts = [
        f"{len(played.names)} agents, {seeds} seeds each.",
        _table(*_agreement(played)),
        _reliability(played),
        "Spearman with the yardstick when one term is left out of the return:",
        _table(*_left_out(played)),
        "Spearman with the yardstick at other prices of the economy's two large terms:",
        _table(*_prices(played)),
        "Spearman with the yardstick within a family, and with some agents left out:",
        _table(*_within(played)),
        "Every agent, mean over seeds; in brackets its place, 1 for the best:",
        _table(*_agents(played)),
    ]
    return "\n\n".join(part for part in parts if part)


def _reliability(played: Played) -> str:
    """How far noise alone keeps a ranking by these seeds from the true one."""
    if len(played.lives[0]) < 2:
        return ""
    figures = {"yardstick": played.yardstick, "dense return": played.returns("dense")}
    parts = [f"{name} {halves(values):.3f}" for name, values in figures.items()]
    return "Spearman of a figure with itself, every other seed against the rest: " + ", ".join(parts) + "."


def _table(head: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _agreement(played: Played) -> tuple[list[str], list[Row]]:
    worths = {"yardstick": played.yardstick, "accuracy": played.figures(lambda life: life.accuracy)}
    head = [f"{name}, {how}" for name in worths for how in ("means over seeds", "within a seed")]
    rows = [
        [mode] + [cell for worth in worths.values() for cell in _both(played.returns(mode), worth)]
        for mode in MODES
    ]
    return ["reward", *head], rows


def _both(returns: Floats, worth: Floats) -> list[str]:
    within = by_seed(returns, worth)
    estimates = (
        (of_means(returns, worth), *interval(returns, worth)),
        (within.mean, within.low, within.high),
    )
    return [
        f"{value:.3f}" + ("" if np.isnan(low) else f" ({max(low, -1):.3f} to {min(high, 1):.3f})")
        for value, low, high in estimates
    ]


def _left_out(played: Played) -> tuple[list[str], list[Row]]:
    terms = list(priced(played.lives[0][0], MODES[0]))
    left_out = {
        mode: [f"{of_means(played.returns(mode, term), played.yardstick):.3f}" for term in terms]
        for mode in MODES
    }
    whole = {mode: f"{of_means(played.returns(mode), played.yardstick):.3f}" for mode in MODES}
    return ["reward", "none", *terms], [[mode, whole[mode], *cells] for mode, cells in left_out.items()]


def _prices(played: Played) -> tuple[list[str], list[Row]]:
    """Rows: kind of credit and price of the outcome; columns: price of a point of credit that is kept."""
    rows: list[Row] = []
    for mode in ("economy", *KEPT):
        terms = played.figures(lambda life, mode=mode: [priced(life, mode)[t] for t in ("outcome", "credit")])
        rest = played.returns(mode) - terms.sum(axis=-1)
        prices = KEPT_PRICES if mode in KEPT else REWARD_MODES["economy"]
        unit, credits = (
            terms / [prices["outcome"], prices["credit"]],
            CREDIT_PRICES if mode in KEPT else (0.0,),
        )
        for price in OUTCOME_PRICES:
            cells = [f"{of_means(rest + unit @ [price, c], played.yardstick):.3f}" for c in credits]
            rows.append([mode, price, *cells, *[""] * (len(CREDIT_PRICES) - len(cells))])
    return ["reward", "outcome", *(f"credit {price}" for price in CREDIT_PRICES)], rows


def _within(played: Played) -> tuple[list[str], list[Row]]:
    groups = {f: played.families == f for f in LOOKS if (played.families == f).sum() >= FEW}
    bad = np.isin(played.families, ["junk", "churn"])
    groups |= {"all but junk and churn": ~bad, "all but junk": played.families != "junk"}
    returns, worth = {mode: played.returns(mode) for mode in MODES}, played.yardstick
    rows = [
        [name, of.sum(), *(f"{of_means(returns[mode][of], worth[of]):.3f}" for mode in MODES)]
        for name, of in groups.items()
    ]
    return ["agents", "number", *MODES], rows


def _agents(played: Played) -> tuple[list[str], list[Row]]:
    yardstick = played.yardstick.mean(axis=1)
    returns = {mode: played.returns(mode).mean(axis=1) for mode in MODES if mode != "sparse"}
    figures: Mapping[str, Callable[[Life], float]] = {
        "test %": lambda life: life.accuracy,
        "val % at harvest": lambda life: 100 * life.harvest_accuracy,
        "parameters": lambda life: life.param_ratio,
        "FLOPs": lambda life: life.flops_ratio,
        "fossils": lambda life: life.fossilized,
        "rollbacks": lambda life: -life.terms["rollback"] / REWARD_MODES["dense"]["rollback"],
    }
    columns = {name: played.figures(read).mean(axis=1) for name, read in figures.items()}
    ranked = {"yardstick": yardstick, **returns}
    cells = {
        name: [f"{v:.1f} ({p})" for v, p in zip(x, places(x), strict=True)] for name, x in ranked.items()
    }
    rows = [
        [played.families[i], played.names[i], *(f"{c[i]:.2f}" for c in columns.values())]
        + [column[i] for column in cells.values()]
        for i in np.argsort(-yardstick)
    ]
    return ["family", "agent", *columns, *cells], rows


def draw(out: Path, picture: Path, title: str) -> None:
    """Return against yardstick, one panel a mode; the agents whose places differ most are named."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    played = load(out)
    modes = [mode for mode in MODES if mode != "sparse"]
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 9.6))
    for mode, axes in zip(modes, grid.flat, strict=True):
        _panel(axes, played, mode)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False, fontsize=10)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)


def _panel(axes: Axes, played: Played, mode: str) -> None:
    x, y = played.yardstick.mean(axis=1), played.returns(mode).mean(axis=1)
    for family, (marker, color) in LOOKS.items():
        of = played.families == family
        size = 140 if family == "static" else 42
        axes.scatter(x[of], y[of], marker=marker, color=color, s=size, alpha=0.85, label=family, linewidths=0)
    _name(axes, played, x, y)
    agreement = of_means(played.returns(mode), played.yardstick)
    name = "dense, sparse" if mode == "dense" else mode
    axes.set(title=f"{name}: Spearman {agreement:.2f}", xlabel="yardstick, points", ylabel="return")
    axes.grid(alpha=0.25)


def _name(axes: Axes, played: Played, x: Floats, y: Floats) -> None:
    """Write names beside the agents that are most out of place, where there is room."""
    width, height = np.ptp(x), np.ptp(y)
    off, written = np.abs(places(x) - places(y)), list[int]()
    for i in np.argsort(-off)[:NAMED]:
        if off[i] < OUT_OF_PLACE or any(abs(y[i] - y[j]) < 0.035 * height for j in written):
            continue
        written.append(i)
        left = x[i] > x.min() + 0.6 * width
        place = {"textcoords": "offset points", "xytext": (-6 if left else 6, -3), "fontsize": 8}
        axes.annotate(played.names[i], (x[i], y[i]), ha="right" if left else "left", **place)
