"""Results and references with known figures, as files."""

import json
from copy import deepcopy
from itertools import product

import numpy as np
from board.canonical import sealed
from board.instances import find
from board.seeds import commitment, evaluation_seeds

SECRET = "a secret"
VERSION = "0.1.0+1"
HARDWARE = {"cpu": "made up", "threads": 1, "torch": "2", "kernels": "native", "system": "none"}
CELLS = tuple({"params": p, "compute": c} for p in (1.5, 3.0) for c in (1.0, 2.0))
STATIC, ORACLE = 0.4, 0.6
HORIZON = 4


def luck(instance, seed):
    """What the host's own luck adds to every agent's quality."""
    return 0.02 * float(np.sin(seed + len(instance)))


def episode(seed, quality, **changes):
    values = {
        "seed": seed, "length": HORIZON, "total_reward": 30.0, "quality": quality,
        "val_quality": [quality * (n + 1) / HORIZON for n in range(HORIZON)],
        "epoch_flops": [(n + 1) / HORIZON for n in range(HORIZON)],
        "param_ratio": 1.25, "params": 1375, "most_params": 1375, "flops_ratio": 1.0, "flops": 1e9,
        "rollbacks": 0, "invalid": 1, "pruned": 0, "fossilized": 1,
        "actions": [[0] * 8] * HORIZON, "stages": [[0] * 3] * HORIZON,
        "chain": "0" * 64, "rules": "2" * 64, "state": "1" * 64,
    }  # fmt: skip
    return values | changes


def record(entry, instance, cell, quality, run=None, seeds=4, algo=None, **changes):
    """One job; `quality` is a function of (instance, cell, run, seed) or a gain above the static host."""
    played = evaluation_seeds(SECRET, find(instance), seeds)
    file = None if run is None else {"path": f"agents/{entry}-{run}.zip", "sha256": f"{run:064}"}
    reach = quality if callable(quality) else lambda i, c, r, s: STATIC + luck(i, s) + quality
    values = {
        "version": 1, "environment_version": VERSION, "entry": entry,
        "agent": {"algo": algo or entry, "config": None, "checkpoint": file}, "training_seed": run,
        "instance": instance, "instance_hash": find(instance).hash, "cell": cell,
        "commitment": commitment(SECRET), "hardware": HARDWARE, "seconds": 8.0,
        "episodes": [episode(seed, reach(instance, cell, run, seed)) for seed in played],
    }  # fmt: skip
    return sealed(deepcopy(values | changes))


def write(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "episodes.json").write_text(json.dumps(values))


def play(folder, entry, instances, quality, runs=(None,), cells=CELLS, **changes):
    """Everything of an entry."""
    for number, (instance, cell, run) in enumerate(product(instances, cells, runs)):
        write(folder / f"{entry}-{number}", record(entry, instance, cell, quality, run, **changes))


def reference(mean, seeds=(1, 2, 3, 4)):
    return {
        "seeds": list(seeds), "quality": [mean] * len(seeds), "val_quality": [mean] * len(seeds),
        "param_ratio": [1.0] * len(seeds), "flops_ratio": [1.0] * len(seeds),
    }  # fmt: skip


def references(path, instances, refused=(), cells=CELLS):
    """A table in which the oracle wins 20 points everywhere; the rows in `refused` are not admitted."""
    gaps = {
        "oracle_static": {"mean": ORACLE - STATIC, "error": 0.01, "sigma": 20.0},
        "oracle_schedule": {"mean": 0.1, "error": 0.02, "sigma": 5.0},
    }
    rows = [
        {
            "instance": instance, "instance_hash": find(instance).hash, "cell": cell,
            "admitted": (instance, cell["params"], cell["compute"]) not in refused,
            "differences": gaps,
            "references": {
                "static": reference(STATIC), "oracle": reference(ORACLE), "schedule": reference(0.5),
            },
        }
        for instance, cell in product(instances, cells)
    ]  # fmt: skip
    table = {
        "version": 1, "environment_version": VERSION, "commitment": commitment(SECRET),
        "hardware": HARDWARE, "seconds": 3600.0, "rows": rows,
    }  # fmt: skip
    path.write_text(json.dumps(sealed(table)))
    return path
