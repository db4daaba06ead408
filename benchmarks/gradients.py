"""Claim: all image blueprints have gradients of health 1.00 in every slot, and ratios of 0.10 to 3.5.

Gradient health, gradient ratio and delta ratio of every blueprint at epochs 1, 3 and 10 of TRAINING, measured
on real CIFAR-10 and on EsperMicro with the reference engine, float32, seed 0, 2026-11.

`python benchmarks/gradients.py --preset cifar` prints a Markdown table over blueprints and slots. Modules in
TRAINING leave the host and each other untouched, so all slots are measured in one episode a blueprint.
Figures and conditions: `results/gradients_*.md`; the strict threshold of gate G2 is set from them.
"""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray

from esper_env import EsperVectorEnv, Op, Stage, encode

EPOCHS = (1, 3, 10)
Figures = tuple[float, float, float]


class Watched:
    """One environment whose slots are all given the same blueprint and left in TRAINING."""

    def __init__(self, preset: str, blueprint: str, epoch_size: int | None) -> None:
        self.env = EsperVectorEnv(1, preset, horizon=3 * max(EPOCHS), epoch_size=epoch_size)
        self.blueprint = self.env.facts.blueprints.index(blueprint)
        self.obs, self.info = self.env.reset(seed=0)

    def read(self, slot: int, feature: str, offset: int = 0) -> float:
        """A feature of a slot, as observed."""
        return float(self.obs[0, self.env.features[f"slot{slot}.{feature}"].start + offset])

    def choose(self) -> NDArray[np.int64]:
        """Plant, then advance whatever is GERMINATED, then wait."""
        for slot in range(self.env.facts.num_slots):
            if self.info["blueprint_slot_mask"][0, slot, self.blueprint]:
                return encode(Op.GERMINATE, slot=slot, blueprint=self.blueprint)
            if self.read(slot, "stage", Stage.GERMINATED - 1):
                return encode(Op.ADVANCE, slot=slot)
        return encode(Op.WAIT)

    def play(self) -> dict[tuple[int, int], Figures]:
        """(slot, epochs of TRAINING) -> (health, averaged gradient ratio, delta ratio)."""
        slots = range(self.env.facts.num_slots)
        trained, seen = dict.fromkeys(slots, 0), {}
        while min(trained.values()) < max(EPOCHS):
            self.obs, _, _, _, self.info = self.env.step(self.choose()[None])
            for slot in slots:
                trained[slot] += bool(self.read(slot, "stage", Stage.TRAINING - 1))
                if trained[slot] in EPOCHS:
                    ratio, delta = 10 * self.read(slot, "gradient_ratio"), 7 * self.read(slot, "delta_ratio")
                    figures = (self.read(slot, "gradient_health"), ratio, float(np.expm1(delta)))
                    seen.setdefault((slot, trained[slot]), figures)
        return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=["cifar", "micro"], default="cifar")
    parser.add_argument("--epoch-size", type=int, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = ("conv_light", "attention", "norm", "depthwise", "bottleneck", "conv_small", "conv_heavy")
    print("| blueprint | slot | " + " | ".join(f"health, ratio, delta at {epoch}" for epoch in EPOCHS) + " |")
    print("|" + " --- |" * (2 + len(EPOCHS)))
    for name in names:
        seen = Watched(args.preset, name, args.epoch_size).play()
        for slot in sorted({slot for slot, _ in seen}):
            cells = ("{:.2f}, {:.2f}, {:.2f}".format(*seen[slot, epoch]) for epoch in EPOCHS)
            print(f"| {name} | {slot} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
