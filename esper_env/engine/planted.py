"""A module in a slot of the reference engine, with what is needed to train it and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from esper_env.blueprints.catalogue import Blueprint
from esper_env.contracts.facts import HostFacts, Place
from esper_env.contracts.lifecycle import HAS_MODULE, Stage
from esper_env.engine.ledger import Cost, branch_cost, count_params, gate_cost
from esper_env.slots.grown import Graft
from esper_env.tasks.task import Task

M = TypeVar("M", bound=nn.Module)

DESCRIBED = {
    "blueprint": str,
    "style": int,
    "planting": int,
    "stage": int,
    "alpha": float,
    "frozen": bool,
    "probe_passed": bool,
}
"""What `Planted.describe` says, and of which type."""


def on_device(module: M, task: Task) -> M:
    """Moved to the task's device and type of number, channels last in memory (see `tasks.loader`)."""
    return module.to(task.device, task.dtype).to(memory_format=torch.channels_last)


@dataclass
class Planted:
    """A module in a slot, and what is needed to train it."""

    graft: Graft
    planting: int
    """Which of the slot's modules it is, counted from 1."""
    blueprint: Blueprint
    probe_passed: bool
    """Gate G1."""
    optimizers: list[torch.optim.Optimizer]
    """The branch's, as new as the module, and the gate's once there is one; none without parameters."""
    stage: Stage = Stage.GERMINATED
    frozen: bool = False
    """Alpha ramps down: neither weights nor what its optimizers remember move."""
    _learns: list[nn.Parameter] = field(default_factory=list, repr=False)
    """While it is frozen, what will learn again."""

    @property
    def trains(self) -> bool:
        """It has parameters, and they are updated."""
        return self.graft.in_graph and not self.frozen and bool(self.optimizers)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of branch and gate."""
        return list(self.graft.parameters())

    def freeze(self, frozen: bool) -> None:
        """Stop learning, or go on with it; what the blueprint itself holds fixed stays so."""
        if frozen:
            self._learns = [p for p in self.graft.parameters() if p.requires_grad]
        self.frozen = frozen
        for parameter in self._learns:
            parameter.requires_grad_(not frozen)

    def describe(self) -> dict[str, Any]:
        """Everything about it but its weights and optimizers, as plain values (`DESCRIBED`)."""
        values = (
            self.blueprint.name,
            int(self.graft.style),
            self.planting,
            int(self.stage),
            self.graft.alpha,
            self.frozen,
            self.probe_passed,
        )
        return dict(zip(DESCRIBED, values, strict=True))

    def forward_flops(self, place: Place) -> int:
        """FLOPs of evaluating one sample."""
        return sum(cost.forward for cost in self._costs(place))

    def training_flops(self, place: Place) -> int:
        """FLOPs of training one sample, as the module is now."""
        if not self.graft.in_graph:
            return 0
        detached, passing = ("forward", "frozen") if self.frozen else ("isolated", "blended")
        state = detached if self.graft.detach_input else passing
        return sum(getattr(cost, state) for cost in self._costs(place))

    def _costs(self, place: Place) -> list[Cost]:
        gate = [gate_cost(place)] if self.graft.gate is not None else []
        return [branch_cost(self.blueprint, place), *gate]


def refuse_undescribed(described: Mapping[str, Any]) -> None:
    """Whether this is what `Planted.describe` says of some module, apart from its names.

    Raises:
        ValueError: A value is of another type, or out of range.
    """
    for name, kind in DESCRIBED.items():
        if type(described[name]) is not kind:
            raise ValueError(f"{name}={described[name]!r} of a module is not a {kind.__name__}")
    alpha, planting, stage = described["alpha"], described["planting"], Stage(described["stage"])
    if not 0 <= alpha <= 1 or planting < 1 or not HAS_MODULE[stage]:
        raise ValueError(f"there is no module with alpha={alpha}, planting={planting} and stage={stage.name}")


def refuse_other_size(branch: nn.Module, facts: HostFacts, slot: int, blueprint: int, when: str) -> None:
    """Rent, budgets and shares go by the facts: a branch of another size would be charged wrongly.

    Raises:
        RuntimeError: the branch has not as many parameters as the facts say.
    """
    found, expected = count_params(branch), int(facts.module_params[slot, blueprint])
    if found != expected:
        name, place = facts.blueprints[blueprint], facts.places[slot].name
        raise RuntimeError(
            f"blueprint {name!r} at {place} has {found} parameters {when}, but had {expected} when its costs "
            "were counted: their number must not vary"
        )
