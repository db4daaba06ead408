"""Claim: every subset of 1, 2 and 3 live modules is measured in 4, 8 and 11% of EsperMicro's training time.

And in 1.4, 3.0 and 4.3% of EsperCifar's, where one full pass for each would take 1.8 to 5.8 times as long.
Measured with the reference engine on one thread of a busy 2-core Xeon, 2026-11 (`results/attribution_*.md`).

`python benchmarks/attribution.py --env micro` prints a Markdown table; CIFAR-10 comes from the cache. Modules
are conv_light at alpha 1 in the first slots. Both ways are measured in the same run, in turns, and must agree
on every loss to the last bit.
"""

import argparse
import time
from itertools import combinations
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from esper_env import EsperVectorEnv, Stage
from esper_env.contracts.state import SlotState
from esper_env.engine.evaluate import predict
from esper_env.engine.ledger import variant_flops
from esper_env.engine.life import Life

BLUEPRINT = "conv_light"
COLUMNS = (
    "live modules",
    "variants",
    "train s",
    "validate s",
    "variants s",
    "variants / train, time",
    "variants / train, FLOPs",
    "one pass each s",
    "one pass each / shared, time",
    "one pass each / shared, FLOPs",
)


class Row(NamedTuple):
    """Seconds and FLOPs of one epoch."""

    train: float
    validate: float
    shared: float
    plain: float
    train_flops: float
    shared_flops: float
    plain_flops: float

    def cells(self, live: int) -> list[str]:
        """As the table shows it."""
        ratios = (self.shared / self.train, self.shared_flops / self.train_flops)
        gains = (self.plain / self.shared, self.plain_flops / self.shared_flops)
        return [
            str(live),
            str(2**live - 1),
            *(f"{seconds:.4f}" for seconds in (self.train, self.validate, self.shared)),
            *(f"{100 * ratio:.1f}%" for ratio in ratios),
            f"{self.plain:.4f}",
            *(f"{gain:.2f}" for gain in gains),
        ]


def lattice(live: list[int]) -> list[int]:
    """Every subset as a bit mask, the whole first."""
    sizes = range(len(live), -1, -1)
    return [sum(1 << slot for slot in part) for size in sizes for part in combinations(live, size)]


def plant(env: EsperVectorEnv, num_live: int) -> Life:
    """The network of the environment, with modules at alpha 1 in its first slots."""
    env.reset(seed=0)
    slots, here = SlotState.empty(1, env.facts.num_slots), slice(num_live)
    slots.stage[0, here], slots.alpha[0, here], slots.planting[0, here] = Stage.HOLDING, 1.0, 1
    slots.blueprint[0, here] = env.facts.blueprints.index(BLUEPRINT)
    life = env._engine.life(0)
    life.sync(slots, 0)
    return life


def one_pass_each(life: Life, subsets: list[int], size: int) -> tuple[float, list[float]]:
    """Seconds of the plain way, and the mean loss of each variant."""
    task, live, losses = life._task, life.live, []
    began = time.perf_counter()
    for subset in subsets:
        off = frozenset(slot for slot in live if not subset >> slot & 1)
        losses.append(predict(life.model, task, task.validation, size, off)[0])
    return time.perf_counter() - began, [float(loss.double().mean()) for loss in losses]


def flops(life: Life, subsets: list[int], size: int) -> tuple[float, float, float]:
    """Of training, of the variants beyond the whole network's pass, and of the plain way for the same."""
    modules = {slot: p.forward_flops(life.model.place(slot)) for slot, p in life.planted.items()}
    network, places = life._setup.segment_flops, life.model.slots
    each = [variant_flops(network, places, modules, life.live, [subset]) for subset in subsets[1:]]
    return life.training_flops(), life.measuring_flops(subsets)[1], float(size * sum(each))


def measure(preset: str, num_live: int, epochs: int) -> Row:
    """Medians over the epochs, after one to warm up."""
    env = EsperVectorEnv(1, preset, device="cpu", horizon=epochs + 2)
    life, size = plant(env, num_live), env.config.engine.counterfactual_size
    subsets, seen = lattice(life.live), []
    for _ in range(epochs + 1):
        before = dict(life.seconds)
        life.train()
        losses = life.measure(subsets).subsets[0].tolist()
        spent = [life.seconds[name] - before[name] for name in before]
        plain, expected = one_pass_each(life, subsets[1:], size)
        assert losses[1:] == expected, "shared prefixes change a loss"
        seen.append([*spent, plain])
    return Row(*(median(column) for column in np.array(seen[1:]).T.tolist()), *flops(life, subsets, size))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", choices=["cifar", "micro"], default="micro")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, CPU, {args.threads} threads, {args.env}, {BLUEPRINT} at alpha 1, "
        f"median of {args.epochs} epochs\n"
    )
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    for num_live in (1, 2, 3):
        row = measure(args.env, num_live, args.epochs)
        print("| " + " | ".join(row.cells(num_live)) + " |", flush=True)


if __name__ == "__main__":
    main()
