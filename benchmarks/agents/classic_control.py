"""Claim: our PPO solves CartPole-v1, with memory also without velocities, and repeats what it saw before.

`python benchmarks/agents/classic_control.py --task cartpole --seeds 0 1 2 --out runs/classic` trains and
evaluates (100 episodes drawn from the policy). Tasks: `cartpole`; `masked_cartpole`, no velocities, where
`--core mlp` must fail; `repeat_previous`, whose best mean is 1.0 and guessing 0.25. Every policy is evaluated
once more with its memory emptied before every step.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from classic import RepeatPrevious, cartpole, masked_cartpole
from training import discrete, evaluated, learner, train

from esper_agents.ppo_config import OwnPpoConfig


@dataclass(frozen=True)
class Task:
    """What is learned, and with which settings."""

    make: Callable[[], gym.Env[Any, Any]]
    values: int
    """Of the one head."""
    total: int
    """Environment steps."""
    steps: int
    """Of each environment between updates."""
    gamma: float
    settings: dict[str, Any]


CONTROL = {"hidden_size": 64, "memory_size": 64, "learning_rate": 1e-3, "gae_lambda": 0.95, "ppo_epochs": 8}
TASKS = {
    "cartpole": Task(cartpole, 2, 200_000, 128, 0.99, CONTROL | {"entropy": 0.0, "learning_rate": 3e-4}),
    "masked_cartpole": Task(masked_cartpole, 2, 300_000, 256, 0.99, CONTROL | {"entropy": 0.0}),
    "repeat_previous": Task(
        RepeatPrevious, 4, 150_000, 64, 0.0, CONTROL | {"entropy": 0.005, "gae_lambda": 0.0}
    ),
}
NUM_ENVS, EPISODES = 16, 100


def play(task: Task, core: str, seed: int, total: int | None) -> dict[str, Any]:
    """Train with one seed: figures by name."""
    config = OwnPpoConfig(core=core, **task.settings)
    own = learner(task.make, discrete(task.values), config, task.gamma, NUM_ENVS, task.steps, seed)
    result = train(own, total or task.total, print)
    returns = evaluated(own, task.make, EPISODES, seed=1000 + seed)
    empty = evaluated(own, task.make, EPISODES, seed=1000 + seed, forget=True)
    return {
        "seed": seed,
        "return": float(np.mean(returns)),
        "without memory": float(np.mean(empty)),
        "steps": result.curve[-1][0],
        "seconds": result.seconds,
        "curve": result.curve,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), default="cartpole")
    parser.add_argument("--core", choices=["lstm", "mlp"], default="lstm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--total", type=int, help="environment steps; not given: the task's own")
    parser.add_argument("--out", type=Path, default=Path("runs/classic"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [play(TASKS[args.task], args.core, seed, args.total) for seed in args.seeds]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.task}_{args.core}.json").write_text(json.dumps(rows))
    print("| seed | steps | return | without memory | seconds |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        figures = f"{row['return']:.2f} | {row['without memory']:.2f} | {row['seconds']:.0f}"
        print(f"| {row['seed']} | {row['steps']} | {figures} |")


if __name__ == "__main__":
    main()
