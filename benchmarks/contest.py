"""One cell of the throughput benchmark: peers are tuned, checked for doing the same work, and take turns."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from time import monotonic

import numpy as np
import torch
from peers.environments import ReferencePeer
from peers.peer import Floats, Options, Peer, Timing
from peers.work import Work

CHECKED = 2
"""Steps whose losses are compared; they also warm up."""
COMPARED = 16
"""Most environments whose losses are compared: they are the same in every batch."""
TOLERANCE = {"fp32": (1e-4, 1e-2), "tf32": (5e-3, 0.1), "bf16": (2e-2, 0.2)}
"""Largest median and largest difference of a training loss from the reference's, in nats, over environments
and the first two epochs. The largest is loose, since rounding grows fast in a few networks."""
FEWEST_ROUNDS = 3
"""Rounds after which a cell that is out of time may stop."""
HOPELESS = 3.0
"""How many times as slow as the best options others may be and still get a second try."""
LEAST_BUDGET = 2.0
"""Seconds that a peer gets in any cell."""


@dataclass
class Row:
    """A peer in a cell."""

    peer: str
    letter: str
    work: Work
    measured_on: int = 0
    """Environments it was measured with, fewer than asked for where the rate no longer depends on them."""
    options: str = ""
    timings: list[Timing] = field(default_factory=list)
    images: int = 0
    """Image-updates of a step."""
    deviation: tuple[float, float] = (np.nan, np.nan)
    """Median and largest difference of a loss from the reference, in nats."""
    flops_per_image: float = np.nan
    """Of training."""
    skipped: str = ""
    """Why there are no figures."""


def measure(
    work: Work, peers: Sequence[type[Peer]], threads: list[int], rounds: int, deadline: float
) -> list[Row]:
    """All peers of one cell, in rounds; after the deadline (of `monotonic`) no peer and no round begins."""
    rows, running = [], []
    for number, kind in enumerate(peers):
        row = Row(kind.name, kind.letter, work)
        rows.append(row)
        seconds = (deadline - monotonic()) / (len(peers) - number)
        try:
            running.append((row, _prepared(row, kind, threads, rounds, seconds)))
        except (ValueError, torch.OutOfMemoryError) as error:
            row.skipped = str(error).splitlines()[0]
            torch.cuda.empty_cache()
            print(f"  {row.peer}: skipped: {row.skipped}", flush=True)
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and monotonic() > deadline:
            break
        for row, peer in running:
            row.timings.append(peer.step())
    for row, peer in running:
        peer.close()
        rate = row.images / np.median([timing.train for timing in row.timings])
        print(f"  {row.peer} ({row.options}): {rate:,.0f} image-updates/s in training", flush=True)
    return sorted(rows, key=lambda row: row.letter)


def _prepared(row: Row, kind: type[Peer], threads: list[int], rounds: int, budget: float) -> Peer:
    """A peer that is warm and does the right work.

    Raises:
        ValueError: there is no such peer here, it does other work, or it would take too long.
    """
    if budget <= 0:
        raise ValueError("no time left")
    most = kind.most.get(row.work.device, row.work.num_envs)
    work = replace(row.work, num_envs=min(row.work.num_envs, most))
    options, seconds = tuned(kind, replace(work, num_envs=min(work.num_envs, kind.tuned_on)), tuple(threads))
    expected = seconds * work.num_envs * (CHECKED + min(rounds, FEWEST_ROUNDS))
    if expected > max(budget, LEAST_BUDGET):
        raise ValueError(f"would take up to {expected:.0f} s")
    compared = replace(work, num_envs=min(work.num_envs, COMPARED), precision="fp32")
    losses, row.flops_per_image = standard(compared)
    peer = kind(work, options)
    for _ in range(CHECKED):
        peer.step()
    row.options, row.images, row.measured_on = str(options), work.images, work.num_envs
    off = np.abs(np.stack(peer.losses)[:, :COMPARED] - losses)
    row.deviation = typical, largest = float(np.median(off)), float(off.max())
    if not (typical <= TOLERANCE[work.precision][0] and largest <= TOLERANCE[work.precision][1]):
        peer.close()
        raise ValueError(f"refused, other losses: off by {typical:.2g}, at most {largest:.2g}")
    return peer


@cache
def tuned(kind: type[Peer], work: Work, threads: tuple[int, ...]) -> tuple[Options, float]:
    """The fastest options of a peer in a trial, and the seconds of a step of one environment.

    Where there is nothing to choose, nothing is tried, and the seconds are 0.
    """
    choices = kind.choices(work, list(threads))
    if len(choices) == 1:
        return choices[0], 0.0
    trials: list[tuple[float, Options]] = []
    for options in choices:
        peer = kind(work, options)
        _, *timings = [peer.step().step for _ in range(CHECKED)]
        if not trials or timings[0] < HOPELESS * min(seconds for seconds, _ in trials):
            timings.append(peer.step().step)
        peer.close()
        trials.append((min(timings), options))
        print(f"    {kind.name}, {options}: {trials[-1][0]:.3f} s a step of {work.num_envs}", flush=True)
    seconds, best = min(trials, key=lambda trial: trial[0])
    return best, seconds / work.num_envs


@cache
def standard(work: Work) -> tuple[Floats, float]:
    """Losses (step, env) of the reference engine, and FLOPs of training an image."""
    peer = ReferencePeer(work, Options())
    for _ in range(CHECKED):
        peer.step()
    flops = peer.train_flops() / (CHECKED * work.images)
    peer.close()
    return np.stack(peer.losses), flops
