"""FLOPs of what the slots hold, looked up: the same sums as the reference engine's, for all environments."""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from esper_env.engine.ledger import Cost, branch_cost, gate_cost, variant_flops
from esper_env.engine.setup import Setup
from esper_env.engine.topology import Modules

_FORWARD, _ISOLATED, _BLENDED, _FROZEN = range(4)
"""Columns of the table: the fields of `Cost`, in its order."""


class Costs:
    """What modules cost.

    Args:
        setup: places, blueprints and the sizes of the splits.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup, self._always = setup, setup.config.isolation == "always"
        facts = setup.facts
        self._table = np.zeros((facts.num_slots, facts.num_blueprints, 2, 4))
        """(slot, blueprint, has a gate, `Cost`)."""
        for slot, blueprint in np.argwhere(facts.fits):
            place = facts.places[slot]
            branch, gate = _row(branch_cost(setup.blueprints[blueprint], place)), _row(gate_cost(place))
            self._table[slot, blueprint] = branch, branch + gate
        self._measuring = lru_cache(maxsize=4096)(partial(_measuring, setup))

    def _of(self, modules: Modules) -> NDArray[np.float64]:
        """(env, slot, `Cost`): 0 where there is no module."""
        slots = np.arange(self._table.shape[0])
        costs = self._table[slots, np.maximum(modules.blueprint, 0), modules.has_gate.astype(int)]
        return costs * modules.here[..., None]

    def training(self, modules: Modules) -> NDArray[np.float64]:
        """(env,): FLOPs of an epoch of each network as it is now."""
        detached = modules.isolated | self._always
        states = np.where(
            modules.frozen,
            np.where(detached, _FORWARD, _FROZEN),
            np.where(detached, _ISOLATED, _BLENDED),
        )
        own = np.take_along_axis(self._of(modules), states[..., None], axis=2)[..., 0]
        return (self._setup.facts.host_flops + (own * modules.in_graph).sum(axis=1)) * self._setup.epoch_size

    def measuring(
        self, modules: Modules, envs: Sequence[int], subsets: Sequence[Sequence[int]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(asked,) each: FLOPs of validating these networks, and of their variants beyond that.

        Args:
            modules: what the slots hold.
            envs: (asked,).
            subsets: by environment asked about, bit masks of the live slots that are on.
        """
        forward = (self._of(modules)[..., _FORWARD] * (modules.alpha > 0)).astype(np.int64).tolist()
        live, active = modules.live.tolist(), (modules.here & (modules.alpha > 0)).tolist()
        rows = [
            self._measuring(tuple(forward[env]), tuple(active[env]), tuple(live[env]), tuple(asked))
            for env, asked in zip(envs, subsets, strict=True)
        ]
        whole, beyond = np.array(rows, dtype=np.float64).reshape(-1, 2).T
        return whole, beyond


def _measuring(
    setup: Setup,
    forward: tuple[int, ...],
    active: tuple[bool, ...],
    live: tuple[bool, ...],
    asked: tuple[int, ...],
) -> tuple[int, int]:
    """FLOPs of validating one network, and of its variants beyond that."""
    slots = [slot for slot, counts in enumerate(live) if counts]
    modules = {slot: forward[slot] for slot, counts in enumerate(active) if counts}
    mask = sum(1 << slot for slot in slots)
    whole, variants = (
        variant_flops(setup.segment_flops, setup.slot_places, modules, slots, wanted)
        for wanted in ([mask], {mask, *asked})
    )
    samples = setup.loaded_task.validation.num_samples
    return whole * samples, (variants - whole) * setup.config.counterfactual_size


def _row(cost: Cost) -> NDArray[np.float64]:
    return np.array([cost.forward, cost.isolated, cost.blended, cost.frozen], dtype=np.float64)
