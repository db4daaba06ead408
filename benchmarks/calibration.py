"""Claim: conv_heavy everywhere ends 31 points above the static host on EsperMicro's images, and grown pays.

That is 31.0 points of validation accuracy (95% interval 19.8 to 42.2, 8 paired seeds); a schedule has a
return 8.3 above `wait` (2.1 to 14.5). Measured with the reference engine, float32, one thread, 2026-11.

`python benchmarks/calibration.py --preset micro --seeds 8` trains both as an environment would, the second
with its modules in the graph at alpha 1 from the first batch on, and prints the mean validation accuracy of
the last five epochs. Figures and conditions: `results/calibration_*.md`.
"""

import argparse

import numpy as np
import torch

from esper_agents.statistics import estimate
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState
from esper_env.engine.evaluate import summary
from esper_env.engine.life import Life
from esper_env.engine.setup import Setup, prepare
from esper_env.presets import resolve

LAST = 5


def fossils(setup: Setup, blueprint: str) -> SlotState:
    """The state of slots that all hold a fossil of this blueprint."""
    slots = SlotState.empty(1, setup.facts.num_slots)
    slots.stage[:], slots.alpha[:], slots.planting[:] = Stage.FOSSILIZED, 1.0, 1
    slots.blueprint[:] = setup.facts.blueprints.index(blueprint)
    return slots


def train(setup: Setup, seed: int, blueprint: str | None) -> float:
    """Percent of the validation split, mean over the last epochs."""
    life, task = Life(setup, seed), setup.loaded_task
    if blueprint:
        life.sync(fossils(setup, blueprint), 0)
    accuracies = []
    for _ in range(setup.horizon):
        life.train()
        accuracies.append(float(summary(life.model, task, task.validation)[1]))
    return 100 * float(np.mean(accuracies[-LAST:]))


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=["cifar", "micro"], default="micro")
    parser.add_argument("--data", default="procedural")
    parser.add_argument("--horizon", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = resolve(args.preset, {"data": args.data, "horizon": args.horizon, "device": "cpu"}, None)
    setup = prepare(config.host, config.task, config.engine, config.horizon)
    print(f"{args.preset}, {args.data}, {config.horizon} epochs of {setup.epoch_size}")
    runs = {name: [train(setup, s, name) for s in range(args.seeds)] for name in (None, "conv_heavy")}
    for name, values in runs.items():
        mean = estimate(values)
        print(
            f"{name or 'static'}: {mean.mean:.1f}% (sd {mean.std:.1f})",
            np.round(values, 1).tolist(),
            flush=True,
        )
    gain = estimate([grown - static for static, grown in zip(*runs.values(), strict=True)])
    print(f"difference, paired: {gain.mean:+.1f} points, 95% {gain.low:.1f} to {gain.high:.1f}")


if __name__ == "__main__":
    main()
