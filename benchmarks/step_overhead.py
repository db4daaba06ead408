"""Environment steps per second of the reference engine, and where the time of a step goes.

`python benchmarks/step_overhead.py --preset micro` prints a Markdown table for 1 and 8 environments, with
WAIT and with random legal actions; CIFAR-10 is read from the cache. Results: `results/step_overhead_*.md`.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from esper_env import EsperVectorEnv
from esper_env.engine import evaluate, life
from esper_env.engine.evaluate import Measured

PARTS = ("train", "validate", "counterfactual", "harvest", "rules")


class Clock:
    """Seconds spent in each part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The same function, with its time added to this part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - began

        return timed

    def apart(self, measure: Callable[..., Measured]) -> Callable[..., Measured]:
        """The same function, with what it says of the counterfactuals taken from `validate`."""

        def timed(*args: Any) -> Measured:
            measured = self.around(measure, "validate")(*args)
            self.seconds["counterfactual"] += measured.counterfactual_seconds
            self.seconds["validate"] -= measured.counterfactual_seconds
            return measured

        return timed


def measure(preset: str, num_envs: int, random: bool, steps: int) -> tuple[float, dict[str, float]]:
    """Environment steps per second, and the share of each part."""
    env, clock, rng = EsperVectorEnv(num_envs, preset), Clock(), np.random.default_rng(0)
    engine = env._engine
    engine.epoch = clock.around(engine.epoch, "train")  # type: ignore[method-assign]
    engine.harvest = clock.around(engine.harvest, "harvest")  # type: ignore[method-assign]
    life.measure = clock.apart(evaluate.measure)
    env.reset(seed=0)
    wait = np.zeros((num_envs, 8), dtype=np.int64)
    env.step(wait)
    clock.seconds.clear()
    began = time.perf_counter()
    for _ in range(steps):
        env.step(env.sample_valid(rng) if random else wait)
    total = time.perf_counter() - began
    life.measure = evaluate.measure
    parts = {part: clock.seconds[part] for part in PARTS}
    parts["rules"] = total - sum(parts.values())
    return steps * num_envs / total, {part: seconds / total for part, seconds in parts.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=["cifar", "micro"], default="micro")
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.preset}, {args.steps} vector steps")
    print("| envs | actions | env steps / s | " + " | ".join(f"{part} %" for part in PARTS) + " |")
    print("|" + " --- |" * (3 + len(PARTS)))
    for num_envs in args.envs:
        for random in (False, True):
            rate, shares = measure(args.preset, num_envs, random, args.steps)
            cells = " | ".join(f"{100 * shares[part]:.1f}" for part in PARTS)
            print(
                f"| {num_envs} | {'random legal' if random else 'WAIT'} | {rate:.3g} | {cells} |", flush=True
            )


if __name__ == "__main__":
    main()
