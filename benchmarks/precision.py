"""Claim: bfloat16 moves the mean of no learning curve, and spreads lives more than float32's rounding does.

`python benchmarks/precision.py --out runs/precision` plays the same lives of EsperMicro, by seed, with the
scheduled grower: in float32 with the default kernels, in float32 with torch's kernels, which round otherwise,
and in bfloat16. Printed are differences from the first, paired by seed, with 95% intervals. A life amplifies
rounding until it is another draw; what matters is whether the mean moves, and whether the spread is that of
the two float32 runs. `--env cifar --data cifar10` plays EsperCifar on cached images, cut short.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from machine import describe

from esper_agents.baselines import baseline
from esper_agents.episodes import Step
from esper_agents.evaluate import evaluate
from esper_agents.statistics import estimate
from esper_env import EsperVectorEnv

RUNS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, torch kernels": {"engine.kernels": "torch"},
    "bfloat16": {"engine.precision": "bfloat16"},
}
"""Name -> what it differs in."""
SHORT: dict[str, dict[str, Any]] = {"micro": {}, "cifar": {"engine.epoch_size": 2048, "horizon": 30}}
EPOCHS = (1, 5, 10, 20, 30)
"""Whose validation accuracies are printed."""


def lives(preset: str, data: str, seeds: Sequence[int], changes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Figures by name, (seed,): validation accuracies, test accuracy and return."""
    env = EsperVectorEnv(
        len(seeds),
        preset,
        data=data,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        overrides=SHORT[preset] | changes,
    )
    curve: list[np.ndarray] = []

    def heard(step: Step) -> None:
        curve.append(step.measured("val_accuracy"))

    played = evaluate(baseline("schedule", env), env, seeds, heard)
    env.close()
    figures = {f"validation, epoch {n}": 100 * curve[n - 1] for n in EPOCHS if n <= len(curve)}
    figures["test, harvested"] = 100 * np.array(played.values("test_accuracy"))
    return figures | {"return": np.array(played.values("total_reward"))}


def table(runs: dict[str, dict[str, np.ndarray]]) -> str:
    """Means of the first run and differences of the others from it, as Markdown."""
    (first, base), *others = runs.items()
    lines = ["| | " + " | ".join([first, *(f"{name} - {first}" for name, _ in others)]) + " |"]
    lines.append("|" + " --- |" * (2 + len(others)))
    for figure, values in base.items():
        cells = [f"{values.mean():.2f}"]
        for _, other in others:
            found = estimate((other[figure] - values).tolist())
            cells.append(f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f}), spread {found.std:.2f}")
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", choices=sorted(SHORT), default="micro")
    parser.add_argument("--data", default="procedural")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    args = parser.parse_args(arguments)
    seeds = list(range(args.seeds))
    runs = {name: lives(args.env, args.data, seeds, changes) for name, changes in RUNS.items()}
    text = f"{describe('cpu')}; {args.env}, {args.data}, {args.seeds} seeds, points.\n\n{table(runs)}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"precision_{args.env}.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
