"""What instances are drawn from: hosts, data, lengths and learning rates, kind by kind.

`FAMILIAR` is what agents may train on. Each of `NEW_LOOKS` differs from it by at least one range that does
not overlap, the hosts and lengths of other parts by values that it has not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Rule(Protocol):
    """How a value is drawn."""

    def draw(self, rng: np.random.Generator) -> Any:
        """A plain value."""


@dataclass(frozen=True)
class OneOf:
    """One of some values, each as likely."""

    values: Sequence[Any]

    def draw(self, rng: np.random.Generator) -> Any:
        """See `Rule`."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Between:
    """Uniform, both ends included; a whole number if both are."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """See `Rule`."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return int(rng.integers(self.low, self.high + 1))
        return round(rng.uniform(self.low, self.high), 4)


@dataclass(frozen=True)
class Near:
    """Within a factor of the root of 2, on a logarithmic scale."""

    middle: float

    def draw(self, rng: np.random.Generator) -> float:
        """See `Rule`."""
        return float(f"{self.middle * 2 ** rng.uniform(-0.5, 0.5):.3g}")


Family = Mapping[str, Any]
"""Dotted path -> a rule, or the value that it has in all instances."""


def drawn(family: Family, rng: np.random.Generator) -> dict[str, Any]:
    """A value for every path, in the family's order."""
    return {
        path: value.draw(rng) if isinstance(value, OneOf | Between | Near) else value
        for path, value in family.items()
    }


def _difficulty(**rules: Rule) -> Family:
    return {f"task.difficulty.{name}": rule for name, rule in rules.items()}


LOOKS = _difficulty(
    min_radius=Between(0.22, 0.28), max_radius=Between(0.40, 0.46), tilt=Between(0.1, 0.25),
    contrast=Between(0.2, 0.3), shading=Between(0.3, 0.5), clutter=Between(1, 3), haze=Between(0.92, 0.96),
    min_period=Between(0.15, 0.17), max_period=Between(0.19, 0.22),
)  # fmt: skip
"""Of the procedural images that agents may train on."""
FAMILIAR: Family = {
    "horizon": 30,  # one for all: whoever trains on many instances plays rounds of one length
    "host.name": "micro",
    "host.slots": OneOf(
        (["block1.relu", "block2.relu", "block3.relu"], ["block1.relu", "block1.pool", "block2.relu"])
    ),
    "task.data": "procedural",
    "task.image_size": 16,
    "task.train_size": 8192,
    "task.val_size": 1024,
    "task.test_size": 2048,
    **LOOKS,
    "engine.epoch_size": OneOf((448, 512, 576)),
    "engine.batch_size": 64,
    "engine.counterfactual_size": 256,
    "engine.optimizer.host_lr": Near(0.05),
    "engine.optimizer.module_lr": Near(0.02),
}
"""EsperMicro and its neighbours."""
NEW_LOOKS: dict[str, Family] = {
    "small": _difficulty(min_radius=Between(0.14, 0.18), max_radius=Between(0.28, 0.36)),
    "cluttered": _difficulty(clutter=Between(6, 9)),
    "tilted": _difficulty(tilt=Between(0.32, 0.4)),
    "faint": _difficulty(contrast=Between(0.05, 0.12)),
}
"""Families of images that are kept for testing."""
TEXT: Family = {
    "horizon": OneOf((28, 30, 32)),
    "host.name": "gpt_micro",
    "host.slots": None,
    "task.data": "procedural",
    "task.val_size": 64,
    "task.test_size": 128,
    "engine.epoch_size": OneOf((64, 80)),
    "engine.batch_size": 8,
    "engine.counterfactual_size": 32,
    "engine.optimizer.host_lr": Near(4e-3),
    "engine.optimizer.module_lr": Near(4e-3),
    "engine.optimizer.warmup_steps": 20,
}
"""Stories of a grammar, read by the smallest language host."""


def impaired(host: str) -> Family:
    """A host that sees no neighbourhood until a module brings it: small, so that it can have more images."""
    return {**FAMILIAR, "host.name": host, "host.slots": None, "engine.epoch_size": OneOf((1536, 2048))}


T1: dict[str, tuple[tuple[str, Family], ...]] = {
    "train": (("micro", FAMILIAR),),
    "seeds": (("micro", FAMILIAR),),
    "data": tuple(("micro", {**FAMILIAR, **looks}) for looks in NEW_LOOKS.values()),
    "impairment": (("micro", impaired("minimal")), ("micro", impaired("impaired"))),
    "reach": (
        ("micro", {**FAMILIAR, "horizon": OneOf((44, 46))}),
        ("micro", {**FAMILIAR, "horizon": OneOf((58, 60))}),
    ),
    "modality": (("stories", TEXT),),
}
"""Part -> preset and family of its instances, in turn: what a laptop can play."""
WIDE: Family = {
    **{path: rule for path, rule in FAMILIAR.items() if not path.startswith("task.")},
    "horizon": 40,
    "host.name": "baseline",
    "task.data": "procedural",
    "task.train_size": 16_384,
    "task.val_size": 2_000,
    "task.test_size": 4_000,
    "engine.epoch_size": OneOf((896, 1_024)),
    "engine.counterfactual_size": 512,
}
"""EsperCifar's host, 6,418 parameters, on 32x32 images that are about as hard for it as CIFAR-10."""
REAL: Family = {
    **{path: rule for path, rule in WIDE.items() if not path.startswith("task.")},
    "host.name": "micro",
    "task.data": "cifar10",
    "task.val_fraction": 0.04,
    "engine.epoch_size": OneOf((1_792, 2_048)),
}
"""CIFAR-10, few images an epoch, and EsperMicro's host; decision 026 has figures of the larger one."""
STORIES: Family = {
    **TEXT,
    "task.data": "tinystories",
    "task.train_size": 8_192,
    "task.val_size": 128,
    "task.test_size": 256,
}
"""Real stories, few windows of them, and the smallest host: a step of EsperTinyStories' own costs six times
as much."""
T2: dict[str, tuple[tuple[str, Family], ...]] = {
    "train": (("cifar", WIDE),),
    "seeds": (("cifar", WIDE),),
    "data": (("cifar", REAL),),
    "modality": (("stories", STORIES),),
}
"""EsperCifar's host, and real data of EsperCifar and EsperTinyStories with smaller hosts, cut to hours on a
CPU: 28 or 40 epochs an episode, of a quarter of the images or a third of the windows at most."""
FAMILIES = {"T1": T1, "T2": T2}
