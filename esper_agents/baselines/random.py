"""The agent that plays anything legal."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Info
from esper_env import HEADS_READ, ActionLayout, Head, Op

Generators = list[np.random.Generator]


class RandomAgent:
    """Draws the op uniformly among the legal ones, then the slot, then what the op reads. See `Agent`.

    Args:
        layout: Sizes of the heads.
        seed: Of its draws; together with an episode's seed it decides them.
    """

    name = "random"

    def __init__(self, layout: ActionLayout, seed: int = 0) -> None:
        self.layout, self.seed = layout, seed

    def begin(self, seeds: Sequence[int]) -> Generators:
        """See `Agent`: a generator for every environment."""
        return [np.random.default_rng([self.seed, seed]) for seed in seeds]

    def act(
        self, obs: NDArray[np.float32], info: Info, memory: Generators
    ) -> tuple[NDArray[np.int64], Generators]:
        """See `Agent`."""
        masks = zip(info["op_slot_mask"], info["blueprint_slot_mask"], memory, strict=True)
        return np.stack([self._draw(op_slot, blueprints, rng) for op_slot, blueprints, rng in masks]), memory

    def _draw(
        self, op_slot: NDArray[np.int8], blueprint_slot: NDArray[np.int8], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        action = np.zeros(len(Head), dtype=np.int64)
        op = Op(rng.choice(np.flatnonzero(op_slot.any(axis=1))))
        action[Head.OP] = op
        for head in HEADS_READ[op]:
            action[head] = rng.integers(self.layout.nvec[head])
        if op != Op.WAIT:
            action[Head.SLOT] = rng.choice(np.flatnonzero(op_slot[op]))
        if op == Op.GERMINATE:
            action[Head.BLUEPRINT] = rng.choice(np.flatnonzero(blueprint_slot[action[Head.SLOT]]))
        return action
