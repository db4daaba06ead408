"""The kinds of parts that networks consist of, the host and each blueprint at each slot, and their pools."""

from dataclasses import dataclass

import torch
from torch import nn

from esper_env.contracts.action import Style
from esper_env.engine.planted import on_device
from esper_env.engine.pool import Pool
from esper_env.engine.score import Score, score_of
from esper_env.engine.setup import Setup
from esper_env.engine.stacked import Forward, forward_of, joined
from esper_env.slots.grown import Graft, build_branch, build_gate, seeded

GATE = "gate."
"""How the names of a gate's parameters begin in a module; those of its branch begin with `branch.`."""


@dataclass(frozen=True)
class Kind:
    """Parts that are computed by the same functions of their parameters."""

    pool: Pool
    forwards: tuple[Forward, ...]
    """Of a host by segment, without the last one; of a module, those of its branch and of its gate."""
    joined: tuple[Forward | None, ...] = ()
    """Of a host by segment: it and the next one at once, where that is faster and nothing is in between."""
    score: Score | None = None
    """Of a host: its last segment, and what is made of it."""

    def segment(self, index: int, bare: bool) -> tuple[Forward, int]:
        """What to run at a segment of a host, and which segment is the last of it.

        Args:
            index: where to begin.
            bare: whether no module has to run after it.
        """
        both = self.joined[index] if bare else None
        return (self.forwards[index], index) if both is None else (both, index + 1)


class Kinds:
    """All kinds of one engine; a module's pool is made when the first one is planted.

    Args:
        setup: host, slots, blueprints and device.
        num_envs: rows of each pool.
    """

    def __init__(self, setup: Setup, num_envs: int) -> None:
        self._setup, self._num_envs = setup, num_envs
        with seeded(0):
            host = setup.build_host()
        self.places = [host.places[place] for place in setup.slot_places]
        self._family = host.places[0].family
        segments = [(f"segments.{index}.", each) for index, each in enumerate(host.segments)]
        forwards = tuple(forward_of(each, prefix, self._family) for prefix, each in segments[:-1])
        pairs = tuple(
            joined([*host.segments[index : index + 2]], prefix)
            for index, (prefix, _) in enumerate(segments[:-1])
        )
        score, optimizer = score_of(segments[-1][1], segments[-1][0], self._family), setup.config.optimizer
        pool = Pool(self.on_device(host), num_envs, optimizer.remembered(host=True))
        self.host, self._remembered = Kind(pool, forwards, pairs, score), optimizer.remembered(host=False)
        self.modules: dict[tuple[int, int], Kind] = {}

    def module(self, slot: int, blueprint: int) -> Kind:
        """The kind of this blueprint's modules in this slot."""
        if (slot, blueprint) not in self.modules:
            place = self.places[slot]
            graft = Graft(build_branch(self._setup.blueprints[blueprint], place, 0), Style.GATED)
            graft.gate = build_gate(place, 0)
            parts = ((graft.branch, "branch."), (graft.gate, GATE))
            forwards = tuple(forward_of(part, prefix, self._family) for part, prefix in parts)
            pool = Pool(self.on_device(graft), self._num_envs, self._remembered)
            self.modules[slot, blueprint] = Kind(pool, forwards)
        return self.modules[slot, blueprint]

    def on_device(self, module: nn.Module) -> nn.Module:
        """Moved to the engine's device and type of number."""
        return on_device(module, self._setup.loaded_task)

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self._setup.loaded_task.device
