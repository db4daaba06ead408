"""Tables and pictures of what `throughput.py` measured: `python benchmarks/throughput_report.py FOLDER`."""

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from machine import Peak, spread
from peers.work import Work, host

Record = dict[str, Any]
HEAD = (
    "N", "workload", "peer", "options", "image-updates/s, training", "x (a)", "env steps/s", "x (a)",
    "loss off by (median, max)",
)  # fmt: skip
PASSES = 5.6
"""Least bytes of a training step, as passes over the outputs of the host's convolutions: normalization and
activation on load, statistics on store, nothing kept twice."""


def tables(record: Record) -> str:
    """All figures as Markdown."""
    peaks = [Peak(**part) for part in record["peaks"]]
    lines = [
        f"{record['machine']}.", "",
        f"`{record['command']}`, {record['minutes']:.1f} minutes.", "",
        f"Peak before and after: {' / '.join(map(str, peaks))}.", "",
        "Medians of rounds in which all peers of a cell took turns; ratios are medians (least-most) of those",
        "within a round. *: measured on so many environments; the rate no longer depends on how many.", "",
    ]  # fmt: skip
    for names, rows in _grouped(record["rows"], lambda row: _named(row, "preset", "precision")):
        title = f"### Esper{names[0].capitalize()}, {names[1]}"
        lines += [title, "", _table(rows), "", *shares(rows, peaks), ""]
    return "\n".join(lines)


def _named(row: Record, *names: str) -> tuple[Any, ...]:
    return tuple(row["work"][name] for name in names)


def _grouped(rows: list[Record], key: Any) -> list[tuple[Any, list[Record]]]:
    return [(value, list(part)) for value, part in groupby(sorted(rows, key=key), key)]


def _table(rows: list[Record]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for _, cell in _grouped(rows, lambda row: _named(row, "num_envs", "workload")):
        base = next((row for row in cell if row["letter"] == "a" and not row["skipped"]), None)
        lines += ["| " + " | ".join(_cells(row, base)) + " |" for row in cell]
    return "\n".join(lines)


def _cells(row: Record, base: Record | None) -> list[str]:
    work = row["work"]
    first = [str(work["num_envs"]), work["workload"], f"({row['letter']}) {row['peer']}"]
    if row["skipped"]:
        return [*first, f"skipped: {row['skipped']}", "", "", "", "", ""]
    fewer = f" *{row['measured_on']}" if row["measured_on"] != work["num_envs"] else ""
    rounds = f", {len(row['timings'])} rounds" if len(row["timings"]) < 5 else ""
    off = "{:.1g}, {:.1g}".format(*row["deviation"])
    figures = [f"{np.median(rates(row, 'train')):,.0f}{fewer}", ratio(row, base, "train")]
    steps = [f"{np.median(rates(row, 'step')):,.3g}", ratio(row, base, "step")]
    return [*first, row["options"] + rounds, *figures, *steps, off]


def rates(row: Record, part: str) -> list[float]:
    """By round: image-updates a second in training (`train`), or environment steps a second (`step`)."""
    count = row["images"] if part == "train" else row["measured_on"]
    return [count / timing[part] for timing in row["timings"]]


def ratio(row: Record, base: Record | None, part: str) -> str:
    """How many times as fast as another peer."""
    if base is None:
        return ""
    pairs = zip(rates(row, part), rates(base, part), strict=False)
    return "{:.2f} ({:.2f}-{:.2f})".format(*spread([own / other for own, other in pairs]))


def shares(rows: list[Record], peaks: list[Peak]) -> list[str]:
    """What ours and the plain peer reach of the machine's peak, a line each."""
    lines = []
    for row in rows:
        if row["skipped"] or row["letter"] not in "ae":
            continue
        work, speed = Work(**row["work"]), float(np.median(rates(row, "train")))
        flops = speed * row["flops_per_image"]
        best = max(peak.flops[work.precision] for peak in peaks)
        line = f"{flops / 1e9:,.1f} GFLOP/s, {flops / best:.1%} of the {work.precision} product's"
        if work.workload == "W0":
            traffic = speed * least_bytes(work)
            share = traffic / max(peak.copy for peak in peaks)
            line += f"; {share:.1%} of the copy's bytes/s if it moved no more than it must"
        lines.append(f"- N = {work.num_envs}, {work.workload}, {row['peer']}: {line}.")
    return lines


def least_bytes(work: Work) -> float:
    """Bytes that training the host on an image moves at the least, by `PASSES`."""
    places = [place for place in host(work, 0).places if place.name.endswith(".relu")]  # type: ignore[union-attr]
    size = 2 if work.precision == "bf16" else 4
    return PASSES * size * sum(place.channels * place.positions for place in places)


def draw(record: Record, path: Path) -> None:
    """Training rate against the number of environments, a panel for each preset, precision and workload."""
    import matplotlib.pyplot as plt

    rows = [row for row in record["rows"] if not row["skipped"]]
    panels = _grouped(rows, lambda row: _named(row, "preset", "precision", "workload"))
    lines = -(-len(panels) // 3)
    figure, axes = plt.subplots(lines, 3, figsize=(13, 3.6 * lines), squeeze=False)
    for axis, (title, cells) in zip(axes.flat, panels, strict=False):
        for peer, line in _grouped(cells, lambda r: f"({r['letter']}) {r['peer']}"):
            line.sort(key=lambda r: r["work"]["num_envs"])
            counts = [row["work"]["num_envs"] for row in line]
            axis.loglog(counts, [np.median(rates(row, "train")) for row in line], "o-", label=peer)
        axis.set(title=", ".join(title), xlabel="environments", ylabel="image-updates/s, training")
        axis.grid(True, which="both", alpha=0.2)
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    measured = json.loads((folder / "throughput.json").read_text())
    (folder / "throughput.md").write_text(tables(measured))
    draw(measured, folder / "throughput.png")
