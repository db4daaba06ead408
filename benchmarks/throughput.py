"""Claim: EsperMicro trains 3.8 to 8.0 times as fast as plain torch modules in turn, EsperCifar 2 to 3 times.

At 64 and 8 environments, image-updates and environment steps a second, against what one could put together
(the best other peer: 2.4 to 2.8 times on EsperMicro); two threads of a 2-core Xeon, native kernels, 2026-11.

`python benchmarks/throughput.py --out runs/throughput` on a CPU, with `--device cuda` on a GPU, where it ends
within `--budget-minutes`. All peers do the same work (`peers/work.py`), each with the options that are
fastest in a trial; they take turns, round by round, and the figures are medians over rounds. A peer whose
training losses are not those of the reference engine in float32 is refused. What does not fit into the time
is printed as skipped. `throughput.json` in the output folder has everything, `throughput.md` the tables;
`python benchmarks/throughput_report.py runs/throughput` draws them.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from contest import Row, measure
from machine import describe, peak
from peers.environments import (
    AsyncPeer,
    EagerOursPeer,
    OursPeer,
    ReferencePeer,
    SyncPeer,
    TorchOursPeer,
)
from peers.grouped import GroupedPeer
from peers.peer import Peer
from peers.vmapped import VmapPeer
from peers.work import WORKLOADS, Work
from throughput_report import tables

PEERS: tuple[type[Peer], ...] = (
    SyncPeer, OursPeer, TorchOursPeer, EagerOursPeer, ReferencePeer, GroupedPeer, AsyncPeer, VmapPeer,
)  # fmt: skip
"""In the order in which they get their time; what is left over when it is up is skipped."""
NUM_ENVS = {"cpu": [1, 4, 16, 64], "cuda": [1, 16, 64, 256, 1024]}
PRECISIONS = {"cpu": ["fp32"], "cuda": ["fp32", "tf32", "bf16"]}
MAIN = 64
"""Number of environments that is measured first, and in every precision."""
COST = {"W0": 1.0, "W1": 2.5, "W2": 3.0}
"""Rough cost of an image by workload, for sharing out the time."""
IMAGE_COST = {("cpu", "micro"): 1.0, ("cpu", "cifar"): 6.0, ("cuda", "micro"): 1.0, ("cuda", "cifar"): 1.5}
"""The same by device and preset."""
GROWTH = {"cpu": 0.5, "cuda": 0.25}
"""Power of the number of environments with which the time of a cell grows; the largest are capped."""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _parse(arguments)
    began = monotonic()
    threads = sorted({1, args.threads}) if args.device == "cpu" else [1]
    torch.backends.cudnn.benchmark = True
    peaks = [peak(args.device)]
    rows: list[Row] = []
    cells = _cells(args)
    for index, work in enumerate(cells):
        left = [_weight(cell) for cell in cells[index:]]
        share = (began + 60 * args.budget_minutes - monotonic()) * left[0] / sum(left)
        print(f"\n{work}: {max(share, 0):.0f} s", flush=True)
        rows += measure(work, _entered(args.peers, work), threads, args.rounds, monotonic() + share)
        _write(args, arguments, rows, [*map(asdict, peaks)], monotonic() - began)
    peaks.append(peak(args.device))
    print("\n" + _write(args, arguments, rows, [*map(asdict, peaks)], monotonic() - began))
    return rows


def _write(
    args: argparse.Namespace,
    arguments: Sequence[str] | None,
    rows: list[Row],
    peaks: list[dict[str, Any]],
    seconds: float,
) -> str:
    """Write what there is so far; returns the tables."""
    record = {
        "machine": describe(args.device),
        "command": shlex.join(["python", "benchmarks/throughput.py", *(arguments or sys.argv[1:])]),
        "peaks": peaks,
        "minutes": seconds / 60,
        "rows": [asdict(row) for row in rows],
    }
    text = tables(record)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "throughput.json").write_text(json.dumps(record))
    (args.out / "throughput.md").write_text(text)
    return text


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--env", choices=["micro", "cifar", "both"], default="both")
    parser.add_argument("--num-envs", type=int, nargs="+")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--precision", nargs="+", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--peers", nargs="+", choices=list("abcder"), default=list("abcde"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="training batches of an epoch")
    parser.add_argument(
        "--data", choices=["procedural", "cifar10"], default="procedural", help="EsperCifar's"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="most to be tried")
    parser.add_argument("--budget-minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/throughput"))
    args = parser.parse_args(arguments)
    args.num_envs = args.num_envs or NUM_ENVS[args.device]
    args.precision = args.precision or PRECISIONS[args.device]
    return args


def _cells(args: argparse.Namespace) -> list[Work]:
    """What is measured, the most telling first: time may run out."""
    presets = ["cifar", "micro"] if args.env == "both" else [args.env]
    works = [
        Work(preset, count, workload, args.device, precision, args.batches, data)
        for precision in args.precision
        for count in sorted(args.num_envs, key=lambda count: (abs(np.log2(count / MAIN)), count))
        for preset in presets
        for data in [args.data if preset == "cifar" else "procedural"]
        for workload in sorted(args.workloads, key="W1 W0 W2".index)
    ]
    return sorted(works, key=lambda work: work.num_envs != MAIN)


def _weight(work: Work) -> float:
    cost = COST[work.workload] * IMAGE_COST[work.device, work.preset]
    return float(cost * work.num_envs ** GROWTH[work.device])


def _entered(letters: Sequence[str], work: Work) -> list[type[Peer]]:
    """The peers of a cell: with one environment, the reference engine too."""
    wanted = {*letters, "r"} if work.num_envs == 1 else set(letters)
    out: set[type[Peer]] = {EagerOursPeer} if work.device == "cpu" else {TorchOursPeer}
    # On CUDA its 16 processes take half a minute to start: once is enough.
    if work.device == "cuda" and (work.num_envs, work.workload, work.precision) != (MAIN, "W1", "fp32"):
        out |= {AsyncPeer}
    return [peer for peer in PEERS if peer.letter in wanted and peer not in out]


if __name__ == "__main__":
    main()
