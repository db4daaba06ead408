"""Tables and curves of episodes on language hosts, from what `stories_play.play` returned."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esper_agents.statistics import estimate

Result = Mapping[str, Any]


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def bits(loss: float, characters_per_token: float) -> float:
    """Bits per character of a loss in nats a token."""
    return loss / math.log(2) / characters_per_token


def with_interval(values: Sequence[float], form: str = "{:.3f}") -> str:
    """Mean and 95% interval; a single value stands alone."""
    found = estimate(values)
    mean = form.format(found.mean)
    return mean if found.count == 1 else f"{mean} ({form.format(found.low)} to {form.format(found.high)})"


COLUMNS: dict[str, Callable[[Result], float]] = {
    "parameters": lambda r: r["params"],
    "epochs": lambda r: len(r["curves"]["val_loss"]),
    "tokens, millions": lambda r: len(r["curves"]["val_loss"]) * r["tokens_an_epoch"] / 1e6,
    "training PFLOPs": lambda r: r["curves"]["flops"][-1] / 1e15,
    "validation loss": lambda r: r["harvest_loss"],
    "test loss": lambda r: r["test_loss"],
    "test perplexity": lambda r: math.exp(r["test_loss"]),
    "test bits/character": lambda r: bits(r["test_loss"], r["characters_per_token"]["test"]),
}
FORMS = {
    "parameters": "{:,.0f}",
    "epochs": "{:.0f}",
    "tokens, millions": "{:.2f}",
    "training PFLOPs": "{:.4f}",
}
OF_DESIGN = ("parameters", "epochs", "tokens, millions", "training PFLOPs")
PER_SEED = tuple(column for column in COLUMNS if column not in OF_DESIGN)
"""Columns that differ from seed to seed, losses and what is made of them: they get intervals."""


def arms(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Arm -> its results, by seed."""
    names = dict.fromkeys(r["job"]["arm"] for r in results)
    of = {name: [r for r in results if r["job"]["arm"] == name] for name in names}
    return {name: sorted(rows, key=lambda r: r["job"]["seed"]) for name, rows in of.items()}


def summary(results: Sequence[Result]) -> str:
    """One line an arm: sizes and costs, and losses with their 95% intervals over seeds."""
    rows = []
    for name, of in arms(results).items():
        cells = [name]
        for column, read in COLUMNS.items():
            values = [read(r) for r in of]
            form = FORMS.get(column, "{:.3f}")
            cells.append(with_interval(values) if column in PER_SEED else form.format(np.mean(values)))
        rows.append(cells)
    return markdown(["", *COLUMNS], rows)


def each(results: Sequence[Result]) -> str:
    """One line an episode."""
    rows = [
        [
            r["job"]["arm"],
            r["job"]["seed"],
            *(FORMS.get(c, "{:.3f}").format(read(r)) for c, read in COLUMNS.items()),
        ]
        for of in arms(results).values()
        for r in of
    ]
    return markdown(["", "seed", *COLUMNS], rows)


def paired(results: Sequence[Result], first: str) -> str:
    """Test loss of one arm less that of each of the others, on the same seeds."""
    of = arms(results)
    mine = {r["job"]["seed"]: r["test_loss"] for r in of[first]}
    lines = []
    for name, rows in of.items():
        gaps = [mine[r["job"]["seed"]] - r["test_loss"] for r in rows if r["job"]["seed"] in mine]
        if name != first and gaps:
            lines.append(f"- {first} - {name}, test loss, paired by seed: {with_interval(gaps)} nats")
    return "\n".join(lines)


def curve(results: Sequence[Result], points: int = 12) -> str:
    """Validation loss against tokens seen, at epochs that are evenly spaced in their logarithm."""
    of = arms(results)
    longest = max((rows[0] for rows in of.values()), key=lambda r: len(r["curves"]["val_loss"]))
    epochs = len(longest["curves"]["val_loss"])
    shown = sorted({round(epoch) for epoch in np.geomspace(1, epochs, points)})
    rows = []
    for epoch in shown:
        cells: list[object] = [epoch, f"{epoch * longest['tokens_an_epoch'] / 1e6:.2f}"]
        for runs in of.values():
            known = [
                r["curves"]["val_loss"][epoch - 1] for r in runs if epoch <= len(r["curves"]["val_loss"])
            ]
            cells.append(with_interval(known) if known else "")
        rows.append(cells)
    return markdown(["epoch", "tokens, millions", *(f"{name}, validation loss" for name in of)], rows)


def draw(results: Sequence[Result], path: Path, level: tuple[float, str] | None = None) -> None:
    """Validation loss (mean over seeds, least and most shaded) against tokens seen.

    Args:
        results: Of any arms.
        path: A picture.
        level: A loss to draw as a dashed line, and what it is.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, runs in arms(results).items():
        shortest = min(len(r["curves"]["val_loss"]) for r in runs)
        losses = np.array([r["curves"]["val_loss"][:shortest] for r in runs])
        tokens = (np.arange(losses.shape[1]) + 1) * runs[0]["tokens_an_epoch"] / 1e6
        [line] = axes.plot(tokens, losses.mean(axis=0), label=name)
        axes.fill_between(tokens, losses.min(axis=0), losses.max(axis=0), color=line.get_color(), alpha=0.2)
    if level is not None:
        axes.axhline(level[0], color="gray", linestyle="--", label=level[1])
    axes.set(xlabel="tokens seen, millions", ylabel="validation loss, nats a token", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
