"""Claim: what learning agents reach in equal steps, next to agents that do not learn.

`python benchmarks/agents/grow.py train --out runs/micro` trains what is not there yet on EsperMicro-v0, one
process with one thread a run; `... baselines --plan runs/.../schedule.json` plays the same episodes with the
agents that do not learn, the plan being what `scripts/tune_schedule.py` found; `... report --picture FILE`
prints tables and draws the curves. With `--world cifar` all is on real CIFAR-10, at a size for CPUs.

An arm is an algorithm with its defaults. With `+faster` it takes larger steps; with `+null` it does so too,
after rounds under the rules without training (the null engine), whose steps are not counted; with `+micro` it
begins with what the same seed's `+null` had learned on EsperMicro, in the folder `--micro`. Agents that were
trained play twice in the end: with actions drawn, as in training, and the most probable ones.

Settings were chosen on training seeds from 100 and episodes from 30,000 on; these here were not looked at.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from grow_report import SURE, report

SMALL = {
    "host.name": "micro",
    "task.val_fraction": 0.04,
    "engine.epoch_size": 4096,
    "engine.batch_size": 64,
    "engine.counterfactual_size": 512,
    "engine.optimizer.host_lr": 0.05,
    "engine.optimizer.module_lr": 0.02,
}
"""EsperMicro's host and batches on CIFAR-10, eight times its images an epoch."""
WORLDS = {
    "micro": ["--env", "EsperMicro-v0"],
    "cifar": ["--env", "EsperCifar-v0", "--data", "cifar10", "--episode-length", "30"],
}
ARMS = {
    "micro": (
        "esper_ppo+null",
        "maskable_recurrent_ppo+null",
        "esper_ppo",
        "maskable_recurrent_ppo",
        "maskable_ppo",
        "recurrent_ppo",
    ),
    "cifar": ("esper_ppo+micro", "esper_ppo+null"),
}
EPISODES, EVAL_SEED = 64, 40_000
"""Of every evaluation, and the seed of the first."""
NULL = {"--num-envs": "32", "--rounds": "120", "--learning-rate": "1e-3"}
"""Of the rounds without training, three minutes."""
OWN_NULL = {"--entropy-floor": '{"op": 0.3, "blueprint": 0.95}', "--floor-weight": "1"}
"""Of esper_ppo there: which blueprint is best can't be learned from made-up statistics."""
FASTER = {"--learning-rate": "5e-4", "--ppo-epochs": "8", "--gae-lambda": "0.95"}
OWN_FASTER = {"--target-kl": "0.06", "--replicas": "4"}
"""Of esper_ppo besides."""


@dataclass(frozen=True)
class Run:
    """One to train."""

    world: str
    arm: str
    seed: int
    out: Path
    micro: Path
    steps: int

    @property
    def folder(self) -> Path:
        """Of this run alone."""
        return self.out / self.arm / str(self.seed)

    def train(self) -> None:
        """Unless it was."""
        if (self.folder / SURE).is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        algo, _, way = self.arm.partition("+")
        own = algo == "esper_ppo"
        begin = {"null": self.folder / "null", "micro": self.micro / f"{algo}+null" / str(self.seed)}
        began = perf_counter()
        if way == "null":
            self._run(algo, NULL | (OWN_NULL if own else {}) | {"--logdir": str(begin[way])}, null=True)
        rehearsed = perf_counter()
        real = {"--num-envs": "16", "--total-steps": str(self.steps), "--logdir": str(self.folder)}
        real |= FASTER | (OWN_FASTER if own else {}) if way else {}
        real |= {"--start-from": str(begin[way])} if way in begin else {}
        self._run(algo, real)
        trained = perf_counter()
        most_probable = ["--deterministic", "--agents", str(self.folder), "--out", str(self.folder / SURE)]
        self._call(["scripts/evaluate_agent.py", *played(self.world), *most_probable])
        seconds = {"null": rehearsed - began, "real": trained - rehearsed}
        (self.folder / "seconds.json").write_text(json.dumps(seconds))
        print(f"{self.folder} is done", flush=True)

    def _run(self, algo: str, options: dict[str, str], null: bool = False) -> None:
        command = ["scripts/train_agent.py", "--algo", algo, "--seed", str(self.seed)]
        command += [*place(self.world, null), "--compare", "wait"]
        command += ["--eval-seed", str(EVAL_SEED), "--eval-episodes", str(EPISODES)]
        self._call(command + [word for option in options.items() for word in option])

    def _call(self, command: list[str]) -> None:
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        with (self.folder / "log.txt").open("a") as log:
            subprocess.run([sys.executable, *command], env=alone, stdout=log, stderr=log, check=True)


def place(world: str, null: bool = False) -> list[str]:
    """Options that say where an agent plays."""
    overrides = (SMALL if world == "cifar" else {}) | ({"engine.name": "null"} if null else {})
    return [*WORLDS[world], "--overrides", json.dumps(overrides)]


def played(world: str) -> list[str]:
    """Options that say what is played in the end."""
    counts = ["--episodes", str(EPISODES), "--num-envs", str(EPISODES), "--seed", str(EVAL_SEED)]
    return [*place(world), *counts]


def baselines(world: str, out: Path, plan: Path | None) -> None:
    """The agents that do not learn, on the same episodes; `schedule` as it is and as it was tuned."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "scripts/evaluate_agent.py", *played(world)]
    names = ["wait", "random", "heuristic", "schedule"]
    subprocess.run([*command, "--agents", *names, "--out", str(out / "baselines.json")], check=True)
    if plan is not None:
        tuned = ["--agents", "schedule", "--config", str(plan), "--out", str(out / "tuned.json")]
        subprocess.run([*command, *tuned], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, train, play, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["train", "baselines", "report"])
    parser.add_argument("--world", choices=list(WORLDS), default="micro")
    parser.add_argument("--out", type=Path, default=Path("runs/micro"))
    parser.add_argument("--micro", type=Path, default=Path("runs/micro"))
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201, 202, 203, 204])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(arguments)
    if args.what == "train":
        arms = args.arms or ARMS[args.world]
        given = args.out, args.micro, args.steps
        jobs = [Run(args.world, arm, seed, *given) for seed in args.seeds for arm in arms]
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(Run.train, jobs))
    elif args.what == "baselines":
        baselines(args.world, args.out, args.plan)
    else:
        print(report(args.out, args.picture))


if __name__ == "__main__":
    main()
