"""Claim: a step costs in proportion to environments, batches and live modules; the controller nearly nothing.

One EsperMicro environment more costs 6.1 ms, one EsperCifar environment 173 ms, the controller 0.02 ms for
each; two threads of an idle 2-core Xeon, native kernels, procedural images, 2026-11 (`results/scaling_*.md`).

`python benchmarks/scaling.py --env micro --out runs/scaling` steps environments of each size in turns, round
by round, and writes medians, slopes (least squares) and a picture. The controller is everything but training
and measuring: decoding, transitions, gates, masks, rewards, observations, infos.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from machine import describe
from peers.work import write

from esper_env import EsperVectorEnv
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState

PARTS = ("train", "validate", "counterfactual", "controller")
SECONDS = ("train_seconds", "validation_seconds", "counterfactual_seconds")
"""The first three, as the engine calls them."""
BLUEPRINT, ALPHA = "conv_light", 0.5
"""Of every module."""
SIZES = {"micro": [1, 2, 4, 8, 16, 32, 64], "cifar": [1, 2, 4, 8]}
BATCHES = [1, 2, 4, 8, 16]


@dataclass(frozen=True)
class Point:
    """One size of environment."""

    num_envs: int
    live: int
    """Live modules of each environment."""
    batches: int
    """Training batches of an epoch."""


@dataclass
class Sweep:
    """Points along one axis."""

    title: str
    unit: str
    """Of the axis, in the singular."""
    points: dict[float, Point]
    """By the value on the axis."""


class Running:
    """Environments of one size, stepped with WAIT.

    Args:
        preset: `micro` or `cifar`, with procedural images and the validation split of its own size.
        point: the size.
        engine: name of the engine.
    """

    def __init__(self, preset: str, point: Point, engine: str) -> None:
        size = point.batches * {"micro": 64, "cifar": 128}[preset]
        overrides = {"task.train_size": 4096, "task.test_size": 250, "engine.epoch_size": size}
        self.env = EsperVectorEnv(
            point.num_envs, preset, data="procedural", engine=engine, horizon=10_000, overrides=overrides
        )
        self.env.reset(seed=0)
        write(self.env._state.slots, self._slots(point), list(range(point.num_envs)))
        self._wait = np.zeros((point.num_envs, 8), dtype=np.int64)
        self.rounds: list[list[float]] = []
        """Seconds of each of `PARTS`, by round."""

    def _slots(self, point: Point) -> SlotState:
        facts = self.env.facts
        state, here = SlotState.empty(point.num_envs, facts.num_slots), slice(point.live)
        blueprint = facts.blueprints.index(BLUEPRINT)
        state.stage[:, here], state.planting[:, here] = Stage.BLENDING, 1
        state.blueprint[:, here] = blueprint
        state.module_params[:, here] = facts.module_params[here, blueprint]
        state.alpha[:, here] = state.alpha_target[:, here] = ALPHA
        state.quality_at_germination[:, here] = facts.chance_quality
        state.probe_passed[:, here] = True
        return state

    def step(self) -> None:
        """One step of all environments."""
        before, began = self._spent(), perf_counter()
        self.env.step(self._wait)
        total, parts = perf_counter() - began, self._spent() - before
        self.rounds.append([*parts, total - parts.sum()])

    def _spent(self) -> np.ndarray:
        spent = self.env._engine.seconds()
        return np.array([spent[name].sum() for name in SECONDS])

    def seconds(self) -> np.ndarray:
        """Median of each part over the rounds but the first, (part,)."""
        medians: np.ndarray = np.median(self.rounds[1:], axis=0)
        return medians


def sweeps(preset: str) -> list[Sweep]:
    """Along each axis, the others held."""
    most = SIZES[preset][-1] // 4
    return [
        Sweep("environments", "environment", {n: Point(n, 1, 4) for n in SIZES[preset]}),
        Sweep("live modules of each", "module", {k: Point(most, k, 4) for k in range(4)}),
        Sweep("training batches of an epoch", "batch", {b: Point(most, 1, b) for b in BATCHES}),
    ]


def measure(sweep: Sweep, preset: str, engine: str, rounds: int) -> np.ndarray:
    """Seconds of a step of all environments, (point, part)."""
    running = [Running(preset, point, engine) for point in sweep.points.values()]
    for _ in range(rounds + 1):
        for each in running:
            each.step()
    for each in running:
        each.env.close()
    return np.array([each.seconds() for each in running])


def slope(axis: Sequence[float], seconds: np.ndarray) -> tuple[float, float]:
    """Of the least-squares line: seconds more for one more on the axis, and seconds at 0."""
    rise, start = np.polyfit(axis, seconds, 1)
    return float(rise), float(start)


def table(sweep: Sweep, seconds: np.ndarray) -> str:
    """Milliseconds of a step, and the slopes, as Markdown."""
    head = [sweep.title, *PARTS, "whole step", "of it an environment"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for (value, point), parts in zip(sweep.points.items(), seconds, strict=True):
        figures = [*parts, parts.sum(), parts.sum() / point.num_envs]
        lines.append(f"| {value:g} | " + " | ".join(f"{1e3 * figure:.2f}" for figure in figures) + " |")
    axis = list(sweep.points)
    fits = [slope(axis, part) for part in (*seconds.T, seconds.sum(axis=1))]
    rises = " | ".join(f"{1e3 * rise:.3f}" for rise, _ in fits)
    starts = " | ".join(f"{1e3 * start:.2f}" for _, start in fits)
    return "\n".join(
        [*lines, f"| slope, ms for one {sweep.unit} more | {rises} | |", f"| ms at 0 | {starts} | |"]
    )


def draw(measured: Mapping[str, tuple[Sweep, np.ndarray]], path: Path) -> None:
    """A panel for each axis: what a step is spent on."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(measured), figsize=(13, 4))
    for axis, (title, (sweep, seconds)) in zip(axes, measured.items(), strict=True):
        axis.stackplot(list(sweep.points), 1e3 * seconds.T, labels=PARTS)
        axis.set(xlabel=title, ylabel="ms a step of all environments")
    axes[0].legend(loc="upper left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", choices=["micro", "cifar"], default="micro")
    parser.add_argument("--engine", choices=["fused", "reference"], default="fused")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    measured = {
        each.title: (each, measure(each, args.env, args.engine, args.rounds)) for each in sweeps(args.env)
    }
    head = f"{describe('cpu')}; {args.threads} threads, {args.engine} engine, {args.env}, ms a vector step."
    text = "\n\n".join([head, *(table(*each) for each in measured.values())])
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"scaling_{args.env}.md").write_text(text + "\n")
    record = {title: [list(each.points), seconds.tolist()] for title, (each, seconds) in measured.items()}
    (args.out / f"scaling_{args.env}.json").write_text(json.dumps(record))
    draw(measured, args.out / f"scaling_{args.env}.png")
    print(text)


if __name__ == "__main__":
    main()
