"""Claim: what learning agents reach on EsperMicro-v0 in equal steps, next to agents that do not learn.

`python benchmarks/agents/micro.py train --out runs/micro` trains what is not there yet, one process with one
thread a run; `... baselines --plan runs/.../schedule.json` plays the same episodes with the agents that do
not learn, the plan being what `scripts/tune_schedule.py` found; `... report --picture FILE` prints tables and
draws the curves. An arm is an algorithm with its defaults; with `+faster` it takes larger steps; with `+null`
it does so too, after rounds under the rules without training (the null engine), whose steps are not counted.

Settings were chosen on training seeds from 100 and episodes from 30,000 on; these here were not looked at.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from micro_report import report

ARMS = (
    "esper_ppo+null",
    "maskable_recurrent_ppo+null",
    "esper_ppo+faster",
    "esper_ppo",
    "maskable_recurrent_ppo",
    "maskable_ppo",
    "recurrent_ppo",
)
EPISODES, EVAL_SEED = 64, 40_000
"""Of every evaluation, and the seed of the first."""
NULL = ["--overrides", '{"engine.name": "null"}', "--num-envs", "32", "--rounds", "120"]
"""Of the rounds without training, half a minute."""
OWN_NULL = ["--entropy-floor", '{"op": 0.3, "blueprint": 0.95}', "--floor-weight", "1"]
"""Of esper_ppo there: which blueprint is best can't be learned from made-up statistics."""
FASTER = ["--learning-rate", "5e-4", "--ppo-epochs", "8", "--gae-lambda", "0.95"]
OWN_FASTER = ["--target-kl", "0.06", "--replicas", "4"]
"""Of esper_ppo besides."""


def train(folder: Path, arm: str, seed: int, steps: int) -> None:
    """One run, unless it is there."""
    if list(folder.glob("*/evaluation.json")):
        return
    folder.mkdir(parents=True, exist_ok=True)
    algo, _, way = arm.partition("+")
    own = algo == "esper_ppo"
    common = ["--algo", algo, "--env", "EsperMicro-v0", "--seed", str(seed), "--compare", "wait"]
    common += ["--eval-seed", str(EVAL_SEED), "--eval-episodes", str(EPISODES)]
    real = ["--num-envs", "8", "--total-steps", str(steps), "--logdir", str(folder)]
    real += [*FASTER, *(OWN_FASTER if own else [])] if way else []
    began = perf_counter()
    if way == "null":
        null = ["--learning-rate", "1e-3", "--logdir", str(folder / "null")]
        _run(folder, [*common, *NULL, *null, *(OWN_NULL if own else [])])
        real += ["--start-from", str(folder / "null")]
    rehearsed = perf_counter()
    _run(folder, [*common, *real])
    seconds = {"null": rehearsed - began, "real": perf_counter() - rehearsed}
    (folder / "seconds.json").write_text(json.dumps(seconds))
    print(f"{folder} is done", flush=True)


def _run(folder: Path, arguments: list[str]) -> None:
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, "scripts/train_agent.py", *arguments]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=True)


def baselines(out: Path, plan: Path | None) -> None:
    """The agents that do not learn, on the same episodes; `schedule` as it is and as it was tuned."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "scripts/evaluate_agent.py", "--env", "EsperMicro-v0"]
    command += ["--episodes", str(EPISODES), "--num-envs", str(EPISODES), "--seed", str(EVAL_SEED)]
    names = ["wait", "random", "heuristic", "schedule"]
    subprocess.run([*command, "--agents", *names, "--out", str(out / "baselines.json")], check=True)
    if plan is not None:
        tuned = ["--agents", "schedule", "--config", str(plan), "--out", str(out / "tuned.json")]
        subprocess.run([*command, *tuned], check=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, train, play, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["train", "baselines", "report"])
    parser.add_argument("--out", type=Path, default=Path("runs/micro"))
    parser.add_argument("--arms", nargs="+", default=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201, 202, 203, 204])
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(arguments)
    if args.what == "train":
        jobs = [
            (args.out / arm / str(seed), arm, seed, args.steps) for seed in args.seeds for arm in args.arms
        ]
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(lambda job: train(*job), jobs))
    elif args.what == "baselines":
        baselines(args.out, args.plan)
    else:
        print(report(args.out, args.picture))


if __name__ == "__main__":
    main()
