"""Schedules on hosts that they were not made for: a block that does not fit is replaced by its like."""

from collections.abc import Mapping
from typing import Any

from board.cells import Cell
from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.config import validated
from esper_env import HostFacts

LIKE = {
    "conv_small": "lora", "conv_light": "mlp_small", "conv_heavy": "mlp", "depthwise": "lora_large",
    "bottleneck": "mlp_small",
    "lora": "conv_small", "lora_large": "depthwise", "mlp_small": "conv_light", "mlp": "conv_heavy",
    "flex_attention": "attention",
}  # fmt: skip
"""Blueprint -> the one of the other family that comes next to it in size. `norm` and `attention` fit both."""


def plan_for(config: Mapping[str, Any], cell: Cell) -> ScheduleConfig:
    """The plan of an entry's settings: its `schedule`, or that of its `plans` which is for this cell.

    Raises:
        ValueError: there are plans, but none for this cell.
    """
    plans = config.get("plans")
    if plans is None:
        return validated(ScheduleConfig, config.get("schedule") or {})
    if cell.id not in plans:
        raise ValueError(f"plans has {sorted(plans)}, and none for the cell {cell.id!r}")
    return validated(ScheduleConfig, plans[cell.id])


def fitted(plan: ScheduleConfig, facts: HostFacts) -> ScheduleConfig:
    """The plan with blueprints that fit this host, in the slots that it has.

    Args:
        plan: Made for any host.
        facts: Of the host that is to be grown.
    """
    slots = tuple(range(facts.num_slots)) if plan.slots is None else plan.slots
    names = plan.blueprints or ((plan.blueprint,) * len(slots) if plan.blueprint else None)
    if names is None:
        return plan
    fitting = tuple(_like(name, slot, facts) for name, slot in zip(names, slots, strict=True))
    return plan.model_copy(update={"blueprint": None, "blueprints": fitting})


def _like(name: str, slot: int, facts: HostFacts) -> str:
    known = facts.blueprints
    fits = name in known and slot < facts.num_slots and bool(facts.fits[slot, known.index(name)])
    return name if fits else LIKE.get(name, name)
