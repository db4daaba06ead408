"""Trains the agents of the leaderboard, on its train part alone: every instance under every budget.

`python benchmarks/agents/board_agents.py --out runs/board_agents` trains what is not there yet, one process
with one thread a run, into a folder an algorithm; `python benchmarks/leaderboard.py run --agents
runs/board_agents/esper_ppo --deterministic` then plays the held-out part with all runs of an algorithm.

All begin with rounds under the rules without training (the null engine), whose steps are not counted: there
esper_ppo imitates the tuned schedules of the references, one for each pair of budgets, the others learn how a
life is completed. The reward is for quality, and size costs nothing: budgets are what limits it here.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from board import records
from board.cells import CELLS
from board.entries import part_of
from board.instances import instances
from board.tuning import read_schedules

from esper_agents import checkpoint

ENV = "EsperMicro-v0"
PRICES = {"quality": 100, "harvest": 100, "op_cost": 1, "churn": 0.2, "shaping": 0.3, "rollback": 10}
"""Those of the mode `dense` without rent: the score asks for test quality within budgets."""
ALL: dict[str, Any] = {"eval_seed": 50_000, "eval_episodes": 4, "compare": []}
"""Of every run; the leaderboard evaluates them."""
NULL: dict[str, Any] = {"num_envs": 32, "learning_rate": 1e-3}
"""Of the rounds without training."""
REAL: dict[str, Any] = {"num_envs": 16, "learning_rate": 5e-4, "ppo_epochs": 8, "gae_lambda": 0.95}
SHAPE: dict[str, Any] = {"memory_size": 64, "own_weights": {"host_compute_share": [0.75]}}
"""Of esper_ppo's policy: it has weights of its own for small and large compute budgets."""
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "esper_ppo": {
        "null": SHAPE
        | {
            "rounds": 128,
            "policy_weight": 0,
            "imitation": 1,
            "target_kl": None,
            "entropy": 0,
            "entropy_floor": {"blueprint": 0.4, "op": 0.05},
            "floor_weight": 0.3,
        },
        "real": SHAPE
        | {
            "target_kl": 0.06,
            "replicas": 4,
            "rounds_per_update": 4,
            "entropy": 0,
            "entropy_floor": {"blueprint": 0.4},
            "floor_weight": 0.3,
            "value_weight": 0.05,
            "average": 0.6,
        },
    },
}
"""Algorithm -> what it has besides. Floors keep it trying other blueprints than its teachers'."""
LIBRARY: dict[str, dict[str, Any]] = {"null": {"rounds": 160, "entropy": 0.1}, "real": {}}
"""The same of the libraries' algorithms, which need more rounds, and with less entropy learn to wait."""
ALGOS = ("esper_ppo", "maskable_ppo", "maskable_recurrent_ppo", "recurrent_ppo")


def environments(changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The train part of T1, a block of environments under each pair of budgets, for `instances` of a run."""
    budgets = [cell.overrides() for cell in CELLS["T1"]]
    also = {
        "reward.mode": PRICES,
        **{path: [each[path] for each in budgets] for path in budgets[0]},
        **changes,
    }
    found = [each.environment(None) for each in instances("T1", ["train"])]
    return [each | {"overrides": each["overrides"] | also} for each in found]


def teachers(tables: Sequence[Path], file: Path | None = None) -> list[dict[str, Any]]:
    """The schedules that were tuned on the train part, one for each block of `environments`.

    Args:
        tables: References.
        file: Written by `board_schedules.py`, in place of them.

    Raises:
        ValueError: there is none for some budgets.
    """
    if file is not None:
        plans = read_schedules(file)
    else:
        rows = [row for row in records.table(tables).rows if part_of(row.instance)[0] == "T1"]
        plans = {row.cell.id: row.plan for row in rows if row.plan}
    missing = [cell.id for cell in CELLS["T1"] if cell.id not in plans]
    if missing:
        source = file or "the references"
        raise ValueError(f"there is no schedule for {missing} in {source}, only for {sorted(plans)}")
    return [plans[cell.id].model_dump(mode="json") for cell in CELLS["T1"]]


def train(algo: str, seed: int, out: Path, steps: int, plans: Sequence[Mapping[str, Any]]) -> None:
    """One run, unless it is done; what was stopped goes on."""
    own = OWN.get(algo, LIBRARY)
    taught = {"teachers": plans} if own["null"].get("imitation") else {}
    common = ALL | {"env": ENV, "algo": algo, "seed": seed}
    name = f"{ENV}-{algo}-seed{seed}-1"
    null = {"logdir": str(out / "null" / algo), "instances": environments({"engine.name": "null"})}
    _run(common | NULL | own["null"] | taught | null, name)
    begin = {"total_steps": steps, "start_from": f"{null['logdir']}/{name}"}
    real = {"logdir": str(out / algo), "instances": environments({})}
    _run(common | REAL | own["real"] | real | begin, name)


def _run(values: Mapping[str, Any], name: str) -> None:
    logdir = Path(values["logdir"])
    folder, config = logdir / name, logdir / f"{name}.json"
    written = json.dumps(values)
    if config.is_file() and config.read_text() != written:
        raise ValueError(f"{config} is of a run with other settings: another --out is required")
    if (folder / "evaluation.json").is_file():
        return
    logdir.mkdir(parents=True, exist_ok=True)
    config.write_text(written)
    command = [sys.executable, "scripts/train_agent.py"]
    begun = (folder / checkpoint.CHECKPOINT).is_file()
    if folder.exists() and not begun:
        shutil.rmtree(folder)  # stopped before there was anything to go on from; the name is needed
    command += ["--resume", str(folder)] if begun else ["--config", str(config)]
    began = perf_counter()
    with config.with_suffix(".log").open("a") as log:
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=alone, stdout=log, stderr=log, check=True)
    print(f"{folder} is done, {perf_counter() - began:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/board_agents"))
    parser.add_argument("--algos", nargs="+", choices=ALGOS, default=ALGOS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 310)))
    parser.add_argument("--steps", type=int, default=30_000, help="on networks that train, of each run")
    parser.add_argument("--references", type=Path, nargs="+", default=records.TABLES, help="with schedules")
    parser.add_argument("--plans", type=Path, help="to be taught in their place: file of board_schedules.py")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(arguments)
    plans = teachers(args.references, args.plans) if "esper_ppo" in args.algos else []
    jobs = [(algo, seed, args.out, args.steps, plans) for seed in args.seeds for algo in args.algos]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda job: train(*job), jobs))


if __name__ == "__main__":
    main()
