"""Claim: two cores give 235 environment steps a second of EsperMicro with WAIT, 78 with random legal actions.

At 64 environments, and 2.3 and 2.0 of EsperCifar, with the fused engine; the reference engine gives 22 to 27,
and 0.67 to 0.73, on one. Measured on an otherwise idle 2-core Xeon, 2026-11, with where the time of a step
goes.

`python benchmarks/step_overhead.py --preset micro` prints a Markdown table for 1 and 8 environments, with
WAIT and with random legal actions, most PRUNEs left out so that modules are live; CIFAR-10 is read from the
cache. The controller is everything but the engine: decoding, transitions, gates, masks, attribution,
governor, reward, observation, infos. `--engine null --envs 64` measures it alone and needs no data;
`--against FOLDER` does so in turns with another checkout. Results: `results/step_overhead_*.md`.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esper_env import EsperVectorEnv, Head, Op

PARTS = {
    "train": ("sync", "epoch"),
    "validate": (),
    "counterfactual": (),
    "harvest": ("harvest",),
    "begin and keep": ("begin", "keep", "restore"),
}
"""What an engine's methods are spent on; `evaluate` is divided into two of them."""
PRUNED = 0.1
"""Share of the random PRUNEs that are played."""


@dataclass(frozen=True)
class Measured:
    """Where the time went."""

    rate: float
    """Environment steps per second."""
    shares: dict[str, float]
    """Of the whole time, by part."""
    controller: float
    """Median over the vector steps of what they took outside of the engine, in milliseconds."""
    live: float
    """Share of the environments with a live module."""


class Clock:
    """Seconds spent in each part of an engine's work."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seconds = engine, defaultdict[str, float](float)
        for part, methods in PARTS.items():
            for method in methods:
                setattr(engine, method, self.around(getattr(engine, method), part))
        engine.evaluate = self.evaluate(engine.evaluate)

    def around(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The same function, with its time added to this part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - began

        return timed

    def evaluate(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, with what it says of the counterfactuals taken from `validate`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began, before = time.perf_counter(), self._counterfactual()
            result = function(*args, **kwargs)
            apart = self._counterfactual() - before
            self.seconds["counterfactual"] += apart
            self.seconds["validate"] += time.perf_counter() - began - apart
            return result

        return timed

    def _counterfactual(self) -> float:
        return float(self.engine.seconds()["counterfactual_seconds"].sum())

    def total(self) -> float:
        """Seconds spent in the engine."""
        return sum(self.seconds.values())


def lively(env: EsperVectorEnv, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Random legal actions, most PRUNEs replaced by WAIT."""
    actions = env.sample_valid(rng)
    kept = rng.random(env.num_envs) < PRUNED
    actions[(actions[:, Head.OP] == Op.PRUNE.value) & ~kept] = 0
    return actions


def measure(env: EsperVectorEnv, random: bool, steps: int) -> Measured:
    """Play that many vector steps after one that warms up."""
    rng, clock = np.random.default_rng(0), Clock(env._engine)
    wait = np.zeros((env.num_envs, len(Head)), dtype=np.int64)
    env.reset(seed=0)
    env.step(wait)
    clock.seconds.clear()
    total, outside, live = 0.0, [], []
    for _ in range(steps):
        actions, in_engine, began = lively(env, rng) if random else wait, clock.total(), time.perf_counter()
        env.step(actions)
        took = time.perf_counter() - began
        total += took
        outside.append(took - (clock.total() - in_engine))
        live.append(np.isfinite(env.attribution()["joint"]).mean())
    shares = {part: clock.seconds[part] / total for part in PARTS} | {"controller": sum(outside) / total}
    return Measured(
        steps * env.num_envs / total, shares, 1e3 * float(np.median(outside)), float(np.mean(live))
    )


def against(folder: Path, options: Sequence[str], rounds: int) -> None:
    """The controller's milliseconds of another checkout and of this one, in turns."""
    took: dict[Path, list[float]] = {folder: [], Path(__file__).parents[1]: []}
    for _ in range(rounds):
        for root, values in took.items():
            command = [sys.executable, __file__, *options, "--only-controller"]
            env = {**os.environ, "PYTHONPATH": str(root)}
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            values.append(float(done.stdout))
    (before, now), ratios = took.values(), np.divide(*took.values())
    print(f"controller, ms a vector step, median of {rounds} rounds: {np.median(before):.3f} there, ", end="")
    print(
        f"{np.median(now):.3f} here, ratio {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def parsed() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=["cifar", "micro"], default="micro")
    parser.add_argument("--engine", default="reference", help="any that EsperVectorEnv takes")
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--against", type=Path, help="root of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-controller", action="store_true", help="print its milliseconds, and no table")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = parsed()
    torch.set_num_threads(args.threads)
    if args.against:
        options = ["--preset", args.preset, "--engine", "null", "--envs", str(args.envs[0])]
        against(args.against, [*options, "--steps", str(args.steps), "--threads", "1"], args.rounds)
        return
    if args.only_controller:
        print(
            measure(
                EsperVectorEnv(args.envs[0], args.preset, engine=args.engine), True, args.steps
            ).controller
        )
        return
    print(
        f"torch {torch.__version__}, {args.threads} threads, {args.engine}, {args.preset}, {args.steps} steps"
    )
    parts = [*PARTS, "controller"]
    print("| envs | actions | live % | env steps / s | " + " | ".join(f"{part} %" for part in parts), end="")
    print(" | controller, ms a vector step |\n|" + " --- |" * (5 + len(parts)))
    for num_envs in args.envs:
        for random in (False, True):
            result = measure(EsperVectorEnv(num_envs, args.preset, engine=args.engine), random, args.steps)
            cells = " | ".join(f"{100 * result.shares[part]:.1f}" for part in parts)
            print(
                f"| {num_envs} | {'random legal' if random else 'WAIT'} | {100 * result.live:.0f} "
                f"| {result.rate:.3g} | {cells} | {result.controller:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
