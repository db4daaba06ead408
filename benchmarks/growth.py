"""Claim: a scheduled grower ends 12.1 points of test accuracy above the static baseline host on CIFAR-10.

95% interval 11.1 to 13.0, 3 paired seeds, at 4.8 times its parameters and 5.6 times its training FLOPs; 100
epochs of 8,192, real images, reference engine, float32, one thread a run on 2 cores, 2026-11.

`python benchmarks/growth.py play --out runs/growth --seeds 0 1 2` plays what is not there yet, a process with
one thread for each job; `python benchmarks/growth.py report --out runs/growth` prints the tables as Markdown.
The published figures and the conditions they were measured under are in `results/growth_*.md`.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.baselines.wait import WaitAgent
from esper_agents.episodes import Step
from esper_agents.evaluate import evaluate
from esper_agents.statistics import estimate
from esper_env import EsperVectorEnv

LAST = 5
"""Epochs whose mean validation accuracy is compared."""
STEADY = 20
"""Last epochs over which the spread from epoch to epoch is taken."""


@dataclass(frozen=True)
class Job:
    """One episode on CIFAR-10."""

    agent: str
    host: str
    blueprint: str
    seed: int
    horizon: int
    epoch_size: int
    lr_schedule: str

    @property
    def name(self) -> str:
        """Of its file."""
        return "_".join(str(value) for value in asdict(self).values()) + ".json"


def play(job: Job) -> dict[str, Any]:
    """Play one episode; its figures, and the validation accuracy of every epoch."""
    torch.set_num_threads(1)
    env = EsperVectorEnv(
        1,
        "cifar",
        host=job.host,
        horizon=job.horizon,
        epoch_size=job.epoch_size,
        overrides={"engine.optimizer.lr_schedule": job.lr_schedule},
    )
    schedule = ScheduleConfig(blueprint=job.blueprint, spacing=2)
    agent = WaitAgent() if job.agent == "wait" else ScheduleAgent.of(schedule, env)
    curve: list[float] = []

    def watch(step: Step) -> None:
        curve.append(float(step.measured("val_accuracy")[0]))

    began = time.perf_counter()
    episode = evaluate(agent, env, [job.seed], watch).episodes[0]
    seconds = time.perf_counter() - began
    return {"job": asdict(job), "data": env.provenance.split(",")[0], "seconds": seconds, "curve": curve} | {
        "total_reward": episode.total_reward,
        "params": episode.measured["param_ratio"] * env.facts.host_params,
        **episode.measured,
    }


def jobs(seeds: list[int], horizon: int, epoch_size: int, lr_schedule: str) -> list[Job]:
    """The baseline host over all seeds, and the other hosts with one seed and 20 epochs of 2,048."""
    main = [("wait", "none"), ("schedule", "conv_heavy")]
    all_jobs = [Job(a, "baseline", b, s, horizon, epoch_size, lr_schedule) for s in seeds for a, b in main]
    others = {"deep": "conv_light", "impaired": "conv_light", "minimal": "conv_light", "blind": "depthwise"}
    for host, blueprint in others.items():
        all_jobs += [
            Job(a, host, b, 0, 20, 2048, lr_schedule) for a, b in (("wait", "none"), ("schedule", blueprint))
        ]
    return all_jobs


def run(out: Path, todo: list[Job], workers: int) -> None:
    """Play all jobs that have no file yet, the longest first."""
    out.mkdir(parents=True, exist_ok=True)
    missing = sorted(
        (j for j in todo if not (out / j.name).exists()), key=lambda j: -j.horizon * j.epoch_size
    )
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(play, job): job for job in missing}
        for done in as_completed(running):
            result = done.result()
            (out / running[done].name).write_text(json.dumps(result))
            print(
                f"{running[done].name}: test {result['test_accuracy']:.4f} in {result['seconds']:.0f} s",
                flush=True,
            )


def spread(curve: list[float]) -> float:
    """Standard deviation from one epoch to the next over the last epochs, in points, free of the trend."""
    return float(np.std(np.diff(curve[-STEADY:])) / np.sqrt(2) * 100)


COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "host": lambda r: r["job"]["host"],
    "lr": lambda r: r["job"]["lr_schedule"],
    "agent": lambda r: r["job"]["agent"],
    "blueprint": lambda r: r["job"]["blueprint"],
    "seed": lambda r: r["job"]["seed"],
    "epochs x size": lambda r: f"{r['job']['horizon']} x {r['job']['epoch_size']}",
    "test %": lambda r: f"{test(r):.2f}",
    "val %, last 5": lambda r: f"{last(r):.2f}",
    "spread, points": lambda r: f"{spread(r['curve']):.2f}",
    "parameters": lambda r: f"{r['params']:.0f}",
    "FLOPs / static": lambda r: f"{r['flops_ratio']:.2f}",
    "return": lambda r: f"{r['total_reward']:.1f}",
    "s": lambda r: f"{r['seconds']:.0f}",
}


def test(result: dict[str, Any]) -> float:
    """Test accuracy of the harvested model, percent."""
    return 100 * result["test_accuracy"]


def last(result: dict[str, Any]) -> float:
    """Mean validation accuracy of the last epochs, percent."""
    return 100 * float(np.mean(result["curve"][-LAST:]))


def report(out: Path) -> str:
    """Markdown tables of everything that was played."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    results.sort(key=lambda r: [str(r["job"][key]) for key in ("host", "lr_schedule", "agent", "seed")])
    rows = [[str(read(result)) for read in COLUMNS.values()] for result in results]
    table = ["| " + " | ".join(row) + " |" for row in [list(COLUMNS), ["---"] * len(COLUMNS), *rows]]
    return "\n".join([*table, "", *paired(results)])


def paired(results: list[dict[str, Any]]) -> list[str]:
    """Grown less static on the baseline host, by seed, with a 95% interval."""
    lines = []
    baseline = [r for r in results if r["job"]["host"] == "baseline"]
    for lr in sorted({r["job"]["lr_schedule"] for r in baseline}):
        of = {(r["job"]["agent"], r["job"]["seed"]): r for r in baseline if r["job"]["lr_schedule"] == lr}
        seeds = [s for agent, s in sorted(of) if agent == "wait" and ("schedule", s) in of]
        for name, read in (("test", test), (f"validation, last {LAST} epochs", last)):
            if seeds:
                gain = estimate([read(of["schedule", s]) - read(of["wait", s]) for s in seeds])
                interval = f"95% {gain.low:.2f} to {gain.high:.2f}, {len(seeds)} seeds"
                lines.append(f"- {lr}, grown - static, {name}: {gain.mean:.2f} points, {interval}")
    return lines


def main() -> None:
    """Parse, play, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["play", "report"])
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--epoch-size", type=int, default=8192)
    parser.add_argument("--lr-schedule", choices=["constant", "cosine"], default="cosine")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.what == "play":
        run(args.out, jobs(args.seeds, args.horizon, args.epoch_size, args.lr_schedule), args.workers)
    print(report(args.out))


if __name__ == "__main__":
    main()
