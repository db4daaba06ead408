"""Which environments are played: a versioned generator draws them, train and held-out parts apart.

What is drawn is a function of (`VERSION`, tier, part, number). Whatever a held-out part is new in comes from
a range or list of its own: generator seeds of procedural data from disjoint ranges in every part,
difficulties of `data` from boxes that lie outside that of `train` (T2: CIFAR-10, and another host), hosts of
`impairment` and `modality` and lengths of `reach` from lists that `train` does not draw from. Spaces are the
same everywhere, so that every agent can play everything.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

import esper_env
from board.canonical import content_hash
from board.cells import Cell
from board.families import FAMILIES, drawn
from esper_env import cifar10_cached, tinystories_cached

VERSION = 1
"""Of the generator."""
Tier = Literal["T1", "T2"]
Part = Literal["train", "seeds", "data", "impairment", "reach", "modality"]
TIERS: tuple[Tier, ...] = get_args(Tier)
PARTS: tuple[Part, ...] = get_args(Part)
"""`train`, and the axes along which held-out instances are new."""
COUNTS: dict[str, dict[Part, int]] = {
    "T1": {"train": 8, "seeds": 4, "data": 4, "impairment": 4, "reach": 2, "modality": 2},
    "T2": {"train": 2, "seeds": 1, "data": 1, "modality": 1},
}
"""Tier -> part -> how many instances."""
IDS = {"micro": "EsperMicro-v0", "cifar": "EsperCifar-v0", "stories": "EsperTinyStories-v0"}
"""Preset -> id with Gymnasium."""
SEEDS_A_PART, SEEDS_A_NUMBER = 1_000_000, 1_000
"""Generator seeds that a part, and in it an instance, has for itself."""


class Instance(BaseModel):
    """One environment but for its budgets, which a cell adds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tier: Tier
    part: Part
    number: int = Field(ge=0, lt=SEEDS_A_PART // SEEDS_A_NUMBER)
    preset: Literal["micro", "cifar", "stories"]
    overrides: dict[str, JsonValue]
    """Dotted path -> plain value."""

    @property
    def id(self) -> str:
        """How tables and commands call it."""
        return f"{self.tier}-{self.part}-{self.number:02d}"

    @property
    def hash(self) -> str:
        """Of everything that is played, in hex."""
        return content_hash({"generator": VERSION, **self.model_dump(mode="json")})

    @property
    def held_out(self) -> bool:
        """Whether no agent may have been trained on it."""
        return self.part != "train"

    @property
    def horizon(self) -> int:
        """Epochs of an episode."""
        return int(str(self.overrides["horizon"]))

    def environment(self, cell: Cell | None, device: str = "cpu") -> dict[str, Any]:
        """Values of `esper_agents`' `EnvironmentConfig`.

        Args:
            cell: Budgets; None for none.
            device: Where networks grow.
        """
        overrides = {path: value for path, value in self.overrides.items() if path != "task.data"}
        return {
            "env": IDS[self.preset],
            "data": self.overrides["task.data"],
            "device": device,
            "overrides": overrides | (cell.overrides() if cell else {}),
        }


def environment_version() -> str:
    """Of what is played: rules and training, observation, and the generator of instances."""
    return f"{esper_env.__version__}+observation.{esper_env.OBSERVATION_VERSION}.instances.{VERSION}"


@cache
def draw(tier: Tier, part: Part, number: int) -> Instance:
    """The instance of a number."""
    rng = np.random.default_rng([VERSION, TIERS.index(tier), PARTS.index(part), number])
    families = FAMILIES[tier][part]
    preset, family = families[number % len(families)]
    overrides = drawn(family, rng)
    if overrides["task.data"] == "procedural":
        low, _ = generator_seeds(tier, part)
        overrides["task.generator_seed"] = low + SEEDS_A_NUMBER * number + int(rng.integers(SEEDS_A_NUMBER))
    return Instance(tier=tier, part=part, number=number, preset=preset, overrides=overrides)


def instances(tier: Tier, parts: Sequence[Part] = PARTS) -> tuple[Instance, ...]:
    """All of a tier, or those of some parts."""
    return tuple(
        draw(tier, part, number)
        for part, count in COUNTS[tier].items()
        if part in parts
        for number in range(count)
    )


def find(name: str) -> Instance:
    """The instance of an id.

    Raises:
        ValueError: there is none of that name.
    """
    known = {instance.id: instance for tier in TIERS for instance in instances(tier)}
    if name not in known:
        raise ValueError(f"instance {name!r} is not known: 'held-out', {list(PARTS)} and {list(known)} are")
    return known[name]


def select(tier: Tier, names: Sequence[str] | None = None) -> tuple[Instance, ...]:
    """Instances of a tier by part or id; `held-out` for all but `train`, which is what None means as well.

    Raises:
        ValueError: a name that is neither, or a part that the tier has not.
    """
    own = COUNTS[tier]
    chosen: dict[str, Instance] = {}
    for name in names or ["held-out"]:
        if name in PARTS and name not in own:
            raise ValueError(f"tier {tier} has no part {name!r}: it has {list(own)}")
        parts = [part for part in own if name == part or (name == "held-out" and part != "train")]
        chosen |= {each.id: each for each in (instances(tier, parts) if parts else [find(name)])}
    return tuple(chosen.values())


def refuse_absent(chosen: Iterable[Instance]) -> None:
    """Refuse to begin what data are missing for: nothing is downloaded, nothing stands in.

    Raises:
        FileNotFoundError: data that are not in the cache folder, and the instances that need them.
    """
    cached = {"procedural": lambda: True, "cifar10": cifar10_cached, "tinystories": tinystories_cached}
    for data, instance in {instance.overrides["task.data"]: instance for instance in chosen}.items():
        if not cached[str(data)]():
            raise FileNotFoundError(
                f"{instance.id} needs data={data!r}, which is not in the cache folder: set ESPER_DATA_DIR, "
                f"or make an environment with it once, which downloads it"
            )


def generator_seeds(tier: Tier, part: Part) -> tuple[int, int]:
    """First generator seed of a part, and the first that is no longer its own."""
    low = (1 + PARTS.index(part) + len(PARTS) * TIERS.index(tier)) * SEEDS_A_PART
    return low, low + SEEDS_A_PART
