"""Lives that are drawn, changed a little, and crossed."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import numpy as np

from esper_agents.baselines.moves import CurveName, SpeedName, StyleName, TargetName, TempoName
from esper_agents.search.life import TRAIN, Life, Planting
from esper_env import HostFacts

T = TypeVar("T")
Rng = np.random.Generator
Change = Callable[[Sequence[Planting], Rng], list[Planting]]
LEAST_LEFT = 10
"""Steps that the shortest life from planting to commitment takes."""
USUAL = 0.5
"""Share of the draws of a style, tempo or target that take the simplest one."""
AT_ONCE = 0.8
"""Share of the draws that wait nowhere on the way."""
MORE = 0.5
"""Chance of one more change, after each."""
NAMES: dict[str, tuple[Any, ...]] = {
    "style": get_args(StyleName),
    "tempo": get_args(TempoName),
    "alpha_target": ("FULL", "HALF", "MOST"),
    "speed": get_args(SpeedName),
    "curve": get_args(CurveName),
}
"""Fields of a planting that are chosen from a list, the simplest first."""
assert set(NAMES["alpha_target"]) == set(get_args(TargetName))


class Variation:
    """Draws and changes lives of one kind of host.

    Args:
        facts: Of the host.
        horizon: Epochs of an episode.

    Raises:
        ValueError: nothing fits the host anywhere.
    """

    def __init__(self, facts: HostFacts, horizon: int) -> None:
        names = np.array(facts.blueprints)
        self._fitting = {slot: names[row].tolist() for slot, row in enumerate(facts.fits) if row.any()}
        if not self._fitting:
            raise ValueError("no blueprint fits the host in any slot: there is nothing to search")
        self._latest, self._horizon = max(0, horizon - LEAST_LEFT), horizon

    def draw(self, rng: Rng) -> Life:
        """A life in some slots."""
        slots = rng.permutation(list(self._fitting))[: rng.integers(len(self._fitting)) + 1]
        return Life.of([self._planting(int(slot), rng) for slot in slots])

    def child(self, parents: Sequence[Life], rng: Rng) -> Life:
        """A life like one parent, or in some slots like one and in the others like the other; changed."""
        plantings = list(parents[0].plantings) if len(parents) == 1 else self._crossed(parents, rng)
        while True:
            change = _one(self._changes(plantings), rng)
            plantings = list(Life.of(change(plantings, rng)).plantings)
            if rng.random() >= MORE:
                return Life.of(plantings)

    def _crossed(self, parents: Sequence[Life], rng: Rng) -> list[Planting]:
        chosen = {slot: parents[int(rng.integers(len(parents)))] for slot in self._fitting}
        return [each for slot, life in chosen.items() for each in life.plantings if each.slot == slot]

    def additions(self, life: Life, epoch: int, count: int, rng: Rng) -> list[Planting]:
        """Different modules that could be planted in addition at an epoch, at most so many."""
        free, found = self._free(life.plantings), dict[Planting, None]()
        for _ in range(10 * count if free and epoch <= self._latest else 0):
            if len(found) < count:
                drawn = self._planting(_one(free, rng), rng)
                found[drawn.model_copy(update={"epoch": epoch}).canonical()] = None
        return list(found)

    def _changes(self, plantings: Sequence[Planting]) -> list[Change]:
        """What can be done; what is there twice is twice as likely. What grows where matters most."""
        changes: list[Change] = [self._added] * 3 if self._free(plantings) else []
        if plantings:
            changes += [self._replaced] * 3 + [self._shifted] * 2
            changes += [self._restyled, self._delayed, self._dropped, self._moved, self._removed]
        return changes

    def _free(self, plantings: Sequence[Planting]) -> list[int]:
        """Slots in which nothing stays."""
        taken = {each.slot for each in plantings if each.remove is None}
        return [slot for slot in self._fitting if slot not in taken]

    def _planting(self, slot: int, rng: Rng) -> Planting:
        simple = {"style": USUAL, "tempo": USUAL, "alpha_target": AT_ONCE}
        how = {name: _usually(NAMES[name], share, rng) for name, share in simple.items()}
        return Planting(
            slot=slot, blueprint=_one(self._fitting[slot], rng), epoch=self._early(rng), **how, **_delays(rng)
        )

    def _early(self, rng: Rng) -> int:
        """An epoch to plant in, early ones more often: what grows early serves long."""
        return int((self._latest + 1) * rng.random() ** 2)

    def _added(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        return [*plantings, self._planting(_one(self._free(plantings), rng), rng)]

    def _dropped(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        out = int(rng.integers(len(plantings)))
        return [each for number, each in enumerate(plantings) if number != out]

    def _shifted(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        """Somewhat earlier or later, or anywhen."""

        def shift(planting: Planting) -> dict[str, Any]:
            way = int(rng.geometric(0.5)) * (1 if rng.random() < 0.5 else -1)
            to = self._early(rng) if rng.random() < 0.2 else planting.epoch + way
            return {"epoch": int(np.clip(to, 0, self._latest))}

        return _changed(plantings, shift, rng)

    def _replaced(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        return _changed(plantings, lambda each: {"blueprint": _one(self._fitting[each.slot], rng)}, rng)

    def _restyled(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        def restyle(planting: Planting) -> dict[str, Any]:
            readable = list(NAMES) if planting.alpha_target != "FULL" else list(NAMES)[:3]
            name = _one(readable, rng)
            return {name: _one([value for value in NAMES[name] if value != getattr(planting, name)], rng)}

        return _changed(plantings, restyle, rng)

    def _delayed(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        return _changed(plantings, lambda _: _delays(rng), rng)

    def _moved(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        """To another slot; what is there changes places with it, as far as it fits."""
        here, there = (plantings[int(rng.integers(len(plantings)))].slot, _one(list(self._fitting), rng))
        way = {here: there, there: here}
        moved = [each.model_copy(update={"slot": way.get(each.slot, each.slot)}) for each in plantings]
        return [each for each in moved if each.blueprint in self._fitting[each.slot]]

    def _removed(self, plantings: Sequence[Planting], rng: Rng) -> list[Planting]:
        """A module that stayed is removed after a while, or one that was removed stays."""

        def remove(planting: Planting) -> dict[str, Any]:
            if planting.remove is not None:
                return {"remove": None, "commit": 0}
            return {"remove": int(rng.integers(TRAIN + 1, max(self._horizon, TRAIN + 2))), "commit": None}

        return _changed(plantings, remove, rng)


def _delays(rng: Rng) -> dict[str, int]:
    """Epochs for which a module waits on its way."""
    late = {name: 0 if rng.random() < AT_ONCE else int(rng.geometric(0.4)) for name in ("train", "rest")}
    late["commit"] = 0 if rng.random() < AT_ONCE else int(rng.geometric(0.4))
    return late | {"train": TRAIN + late["train"]}


def _changed(
    plantings: Sequence[Planting], change: Callable[[Planting], dict[str, Any]], rng: Rng
) -> list[Planting]:
    """One of them changed."""
    number = int(rng.integers(len(plantings)))
    new = plantings[number].model_copy(update=change(plantings[number]))
    return [*plantings[:number], new, *plantings[number + 1 :]]


def _usually(values: Sequence[T], share: float, rng: Rng) -> T:
    """The first of them this often, else any."""
    return values[0] if rng.random() < share else _one(values, rng)


def _one(values: Sequence[T], rng: Rng) -> T:
    return values[int(rng.integers(len(values)))]
