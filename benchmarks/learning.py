"""Learning curves of RecurrentPPO and MaskablePPO on EsperMicro-v0, against wait, random and a schedule.

`python benchmarks/learning.py train --out runs/learning` trains what is not there yet, one process with one
thread a run; `python benchmarks/learning.py report --out runs/learning --picture FILE` prints a table and
draws the curves. Figures and conditions: `results/learning_*.md`.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper_agents.statistics import estimate

ALGOS = {"recurrent_ppo": "#2b6cb0", "maskable_ppo": "#c05621"}
RETURN = "charts/episodic_return"


def train(folder: Path, algo: str, seed: int, rounds: int) -> None:
    """One run, unless it is there."""
    if list(folder.glob("**/evaluation.json")):
        return
    command = [sys.executable, "scripts/train_agent.py", "--algo", algo, "--env", "EsperMicro-v0"]
    command += [
        "--rounds",
        str(rounds),
        "--seed",
        str(seed),
        "--logdir",
        str(folder),
        "--eval-episodes",
        "16",
    ]
    command += ["--compare", "wait", "random", "schedule"] if seed == 0 else ["--compare", "wait"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=True)
    print(f"{folder} is done", flush=True)


def curve(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Environment steps, and the mean return of the episodes of each round."""
    events = EventAccumulator(str(next(folder.glob("**/events*")).parent)).Reload().Scalars(RETURN)
    return np.array([e.step for e in events], float), np.array([e.value for e in events])


def evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    """Agent -> its evaluation at the end of a run."""
    values = json.loads(next(folder.glob("**/evaluation.json")).read_text())
    return {e["agent"]: e for e in values["agents"]}


def returns(evaluation: dict[str, Any]) -> list[float]:
    """The return of every episode."""
    return [episode["total_reward"] for episode in evaluation["episodes"]]


def report(out: Path, picture: Path | None) -> str:
    """A Markdown table of the end of all runs; the curves as a picture."""
    runs = {
        (p.parent.name, int(p.name)): p for p in sorted(out.glob("*/*")) if list(p.glob("**/evaluation.json"))
    }
    first = evaluations(next(p for (_, seed), p in runs.items() if seed == 0))
    rows = [
        "| agent | seed | mean return | 95% | test % | invalid % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    played = [(name, "", first[name]) for name in ("wait", "random", "schedule")]
    played += [(algo, seed, evaluations(path)[algo]) for (algo, seed), path in runs.items()]
    for name, seed, e in played:
        mean, tests = estimate(returns(e)), [x["measured"]["test_accuracy"] for x in e["episodes"]]
        invalid = np.mean([x["invalid_share"] for x in e["episodes"]])
        cells = [name, seed, f"{mean.mean:.1f}", f"{mean.low:.1f} to {mean.high:.1f}"]
        cells += [f"{100 * np.mean(tests):.1f}", f"{100 * invalid:.1f}"]
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    if picture:
        draw(
            runs,
            {name: float(np.mean(returns(first[name]))) for name in ("wait", "random", "schedule")},
            picture,
        )
    return "\n".join(rows)


def draw(runs: dict[tuple[str, int], Path], lines: dict[str, float], picture: Path) -> None:
    """Thin: a seed. Thick: their mean. Dashed: agents that do not learn."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for algo, color in ALGOS.items():
        curves = [curve(path) for (name, _), path in runs.items() if name == algo]
        for steps, values in curves:
            axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.8)
        if curves:
            shortest = min(len(steps) for steps, _ in curves)
            mean = np.mean([values[:shortest] for _, values in curves], axis=0)
            axes.plot(curves[0][0][:shortest], mean, color=color, linewidth=2.2, label=algo)
    for name, value in lines.items():
        axes.axhline(value, color="0.4", linestyle="--", linewidth=0.9)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(name, (1.0, value), xytext=(4, -3), **place)
    axes.set(xlabel="environment steps", ylabel="return", title="EsperMicro-v0")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(picture, dpi=120)


def main() -> None:
    """Parse, train, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "report"])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--picture", type=Path, default=None)
    args = parser.parse_args()
    if args.what == "train":
        todo = [
            (args.out / algo / str(seed), algo, seed, args.rounds) for seed in args.seeds for algo in ALGOS
        ]
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(lambda job: train(*job), todo))
    print(report(args.out, args.picture))


if __name__ == "__main__":
    main()
