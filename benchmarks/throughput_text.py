"""Claim: 16 language hosts train 1.4 to 2.3 times as fast as single plain ones in turn, on two CPU cores.

In tokens a second of training; targets 1.5, and 5 on a GPU, where nothing was measured yet. Figures:
`results/throughput_text_*.md`. An environment step here is short: 2 batches on a CPU, 8 on a GPU, where
recorded steps are replayed from the second epoch on, and validation on the windows of one batch. So its "env
steps/s" compare peers and are not those of EsperTinyStories, which trains 8 batches of 32 and validates on up
to 512 windows.

`python benchmarks/throughput_text.py --out runs/throughput_text` on a CPU, with `--device cuda` on a GPU.
Both train the same hosts on the same windows (TinyStories, of which `ESPER_DATA_DIR` or a download has the
files), with the number of threads that is fastest in a trial, and take turns, round by round; figures are
medians over rounds, ratios those within a round. A peer whose training losses are not those of the reference
engine in float32 is refused. The share of the peak is that of a matrix product in the same precision,
measured in the same run. `throughput_text.json` in the output folder has everything, `throughput_text.md`
the table.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import TOLERANCE
from machine import Peak, describe, peak, spread
from peers.peer import Timing
from peers.text import CHECKED, PEERS, Cell, TextPeer, standard

NUM_ENVS = (1, 4, 16)
PRECISIONS = {"cpu": ["fp32"], "cuda": ["bf16", "fp32"]}
BATCHES = {"cpu": 2, "cuda": 8}
"""Of an epoch: few where every one is alike; the preset's where steps are recorded, in the second epoch."""
COMPARED = 4
"""Most environments whose losses are compared: they are the same in every batch."""
HEAD = (
    "host", "precision", "N", "peer", "threads", "tokens/s, training", "x (a)", "env steps/s", "x (a)",
    "GFLOP/s", "of the product's", "loss off by (median, max)",
)  # fmt: skip


@dataclass
class Row:
    """A peer in a cell."""

    peer: str
    cell: Cell
    threads: int
    tokens: int
    """Trained on in a step, by all environments."""
    flops: float
    """Of training, in a step."""
    deviation: tuple[float, float]
    """Median and largest difference of a loss from the reference, in nats."""
    timings: list[Timing] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _parse(arguments)
    before, rows = peak(args.device), []
    for precision, host, count in product(args.precision, args.hosts, args.num_envs):
        size = {"batches": args.batches, "batch_size": args.batch_size, "context": args.context}
        data = {"data": args.data, "vocabulary": args.vocabulary}
        cell = Cell(host, count, args.device, precision, **size, **data)
        print(cell, flush=True)
        rows += measure(cell, args.threads, args.rounds)
    command = shlex.join(["python", "benchmarks/throughput_text.py", *(arguments or sys.argv[1:])])
    text = _written(args.out, rows, [before, peak(args.device)], describe(args.device), command)
    print(text)
    return rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--hosts", nargs="+", default=["gpt_micro", "gpt_small"])
    parser.add_argument("--num-envs", type=int, nargs="+", default=NUM_ENVS)
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, help="training batches of an epoch; 2 on a CPU, 8 on a GPU")
    parser.add_argument("--batch-size", type=int, default=32, help="windows of a batch")
    parser.add_argument("--context", type=int, help="tokens of a window; the host's if not given")
    parser.add_argument("--data", choices=["tinystories", "procedural"], default="tinystories")
    parser.add_argument("--vocabulary", type=int, default=4096, help="of tinystories; 256 for bytes")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers that are tried; 1 and torch's")
    parser.add_argument("--out", type=Path, default=Path("runs/throughput_text"))
    args = parser.parse_args(arguments)
    args.precision = args.precision or PRECISIONS[args.device]
    args.batches = args.batches or BATCHES[args.device]
    args.threads = args.threads or sorted({1, torch.get_num_threads()})
    return args


def measure(
    cell: Cell, threads: Sequence[int], rounds: int, peers: Sequence[type[TextPeer]] = PEERS
) -> list[Row]:
    """The peers of a cell, in rounds.

    Raises:
        ValueError: a peer has other losses than the reference engine.
    """
    running = [_prepared(kind, cell, threads) for kind in peers]
    for _ in range(rounds):
        for row, each in running:
            row.timings.append(each.step())
    for _, each in running:
        each.close()
    return [row for row, _ in running]


def _prepared(kind: type[TextPeer], cell: Cell, threads: Sequence[int]) -> tuple[Row, TextPeer]:
    """A peer that is warm and does the right work."""
    chosen = _fastest(kind, cell, threads)
    each = kind(cell, chosen)
    for _ in range(CHECKED):
        each.step()
    losses, flops = standard(replace(cell, num_envs=min(cell.num_envs, COMPARED), precision="fp32"))
    off = np.abs(np.stack(each.losses)[:, : losses.shape[1]] - losses)
    typical, largest = float(np.median(off)), float(off.max())
    allowed = TOLERANCE[cell.precision]
    if not (typical <= allowed[0] and largest <= allowed[1]):
        raise ValueError(f"{kind.name} is refused, other losses: off by {typical:.2g}, at most {largest:.2g}")
    return Row(kind.name, cell, chosen, cell.tokens, flops * cell.windows, (typical, largest)), each


def _fastest(kind: type[TextPeer], cell: Cell, threads: Sequence[int]) -> int:
    if len(threads) == 1:
        return threads[0]
    tried = replace(cell, num_envs=min(cell.num_envs, COMPARED))
    seconds = {}
    for count in threads:
        each = kind(tried, count)
        seconds[count] = min(each.step().train for _ in range(CHECKED))
        each.close()
    return min(seconds, key=lambda count: seconds[count])


def _written(out: Path, rows: list[Row], peaks: list[Peak], machine: str, command: str) -> str:
    lines = [
        f"{machine}.", "", f"`{command}`", "", f"Peak before and after: {' / '.join(map(str, peaks))}.", "",
        "| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD),
    ]  # fmt: skip
    lines += ["| " + " | ".join(_cells(row, _base(row, rows), peaks)) + " |" for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "command": command, "peaks": [asdict(each) for each in peaks]}
    record["rows"] = [asdict(row) for row in rows]
    (out / "throughput_text.json").write_text(json.dumps(record))
    (out / "throughput_text.md").write_text("\n".join(lines))
    return "\n".join(lines)


def _base(row: Row, rows: list[Row]) -> Row:
    return next(each for each in rows if each.cell == row.cell)


def _cells(row: Row, base: Row, peaks: list[Peak]) -> list[str]:
    best = max(each.flops[row.cell.precision] for each in peaks)
    rate = row.flops / float(np.median(_seconds(row, "train")))
    counts = {"train": row.tokens, "step": row.cell.num_envs}
    figures: list[str] = []
    for part, count in counts.items():
        pairs = zip(_seconds(base, part), _seconds(row, part), strict=True)
        ratio = "{:.2f} ({:.2f}-{:.2f})".format(*spread([other / own for other, own in pairs]))
        figures += [f"{count / np.median(_seconds(row, part)):,.4g}", ratio]
    names = [row.cell.host, row.cell.precision, str(row.cell.num_envs), row.peer, str(row.threads)]
    off = "{:.1g}, {:.1g}".format(*row.deviation)
    return [*names, *figures, f"{rate / 1e9:,.1f}", f"{rate / best:.1%}", off]


def _seconds(row: Row, part: str) -> list[Any]:
    return [getattr(timing, part) for timing in row.timings]


if __name__ == "__main__":
    main()
