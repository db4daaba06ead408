"""Which actions are legal. What is masked in always succeeds; what is masked out becomes WAIT."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_env.contracts.action import HEADS_READ, ActionLayout, Actions, Head, Style
from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import HAS_MODULE, TRANSITIONS, Op, Stage
from esper_env.contracts.state import GameState, Ramp, SlotState
from esper_env.mdp.gates import GateResults
from esper_env.mdp.transition import LifecycleConfig

Bools = NDArray[np.bool_]
Int8s = NDArray[np.int8]


class BudgetConfig(BaseModel):
    """What a grown network may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    params: float | None = Field(None, ge=1)
    """Most parameters of host, modules and gates together, as a multiple of the host's; None for no limit."""
    compute: float | None = Field(None, gt=0)
    """Training FLOPs after which the episode ends, as a multiple of what the static host spends over the
    whole horizon; None for no limit."""


@dataclass(frozen=True)
class Masks:
    """Legality in the three forms in which it is published, 1 for legal."""

    op_slot: Int8s
    """(env, op, slot): the truth; the row of WAIT is all 1."""
    blueprint_slot: Int8s
    """(env, slot, blueprint): for GERMINATE, which blueprints are legal where."""
    flat: Int8s
    """(env, sum(nvec)): per head, the union over the legal ops that read it."""

    def legal(self, actions: Actions) -> Bools:
        """(env,): whether each action is legal. Heads that the op does not read decide nothing."""
        env = np.arange(len(actions.op))
        legal = self.op_slot[env, actions.op, actions.slot] == 1
        fits = self.blueprint_slot[env, actions.slot, actions.blueprint] == 1
        return legal & ((actions.op != Op.GERMINATE) | fits)

    def refusal(self, actions: Actions, env: int, slots: SlotState, facts: HostFacts) -> str:
        """What to tell a user whose action in environment `env` is illegal."""
        op, slot = Op(actions.op[env]), int(actions.slot[env])
        asked, allowed = op.name, [o.name for o in Op if self.op_slot[env, o, slot]]
        if op == Op.GERMINATE and op.name in allowed:
            asked += f" {facts.blueprints[actions.blueprint[env]]}"
            fits = np.flatnonzero(self.blueprint_slot[env, slot])
            allowed = [f"{op.name} {facts.blueprints[blueprint]}" for blueprint in fits]
        stage = Stage(slots.stage[env, slot]).name
        return f"environment {env}, slot {slot} is {stage}: {asked} is not legal, only {allowed}"


def committed_params(slots: SlotState, facts: HostFacts) -> NDArray[np.int64]:
    """(env,): parameters of host, modules, and gates, those of GATED modules not yet blended included."""
    gates = np.where(HAS_MODULE[slots.stage] & (slots.style == Style.GATED), facts.gate_params, 0)
    return facts.host_params + (slots.module_params + gates).sum(axis=1)


def fitting(slots: SlotState, facts: HostFacts, budget: BudgetConfig, max_modules: int | None) -> Bools:
    """(env, slot, blueprint): what GERMINATE may plant, the room for a gate always reserved."""
    legal = np.repeat(facts.fits[None], len(slots.stage), axis=0)
    legal &= (slots.stage == Stage.DORMANT)[..., None]
    if max_modules is not None:
        legal &= (HAS_MODULE[slots.stage].sum(axis=1) < max_modules)[:, None, None]
    if budget.params is not None:
        added = facts.module_params + facts.gate_params[:, None]
        total = committed_params(slots, facts)[:, None, None] + added
        legal &= total <= budget.params * facts.host_params
    return legal


def build(
    state: GameState, gates: GateResults, blueprint_slot: Bools, config: LifecycleConfig, layout: ActionLayout
) -> Masks:
    """The masks to publish with an observation.

    Args:
        state: As observed.
        gates: Judged on that state.
        blueprint_slot: (env, slot, blueprint), from `fitting`.
        config: Ages, and the gates that fire by themselves.
        layout: Sizes of the heads.
    """
    slots = state.slots
    op_slot = np.zeros((len(slots.stage), len(Op), layout.num_slots), dtype=bool)
    op_slot[:, Op.WAIT] = True
    for row in TRANSITIONS:
        legal = slots.stage == row.source
        if row.gate is not None:
            legal &= gates[row.gate].passed
        if row.needs_rest:
            legal &= slots.ramp == Ramp.REST
        if row.needs_age:
            legal &= slots.age >= config.min_prune_age
        if not config.fires_by_itself(row):
            op_slot[:, row.op] |= legal
    return _publish(op_slot, blueprint_slot, layout)


def wait_only(masks: Masks, env: Bools, layout: ActionLayout) -> Masks:
    """The same masks, with nothing but WAIT legal in the environments where `env` is True."""
    if not env.any():
        return masks
    op_slot, blueprint_slot = masks.op_slot == 1, masks.blueprint_slot == 1
    op_slot[env, Op.WAIT + 1 :] = False
    blueprint_slot[env] = False
    return _publish(op_slot, blueprint_slot, layout)


def _publish(op_slot: Bools, blueprint_slot: Bools, layout: ActionLayout) -> Masks:
    return Masks(
        op_slot.astype(np.int8), blueprint_slot.astype(np.int8), _flat(op_slot, blueprint_slot, layout)
    )


def _flat(op_slot: Bools, blueprint_slot: Bools, layout: ActionLayout) -> Int8s:
    """Union per head; a head that no legal op reads keeps its canonical value 0, so none is ever empty."""
    ops: Bools = np.any(op_slot, axis=2)
    flat = np.zeros((len(op_slot), int(layout.nvec.sum())), dtype=np.int8)
    flat[:, layout.part(Head.OP)] = ops
    flat[:, layout.part(Head.SLOT)] = op_slot[:, Op.WAIT + 1 :].any(axis=1)
    flat[:, layout.part(Head.BLUEPRINT)] = blueprint_slot.any(axis=1)
    for head in (Head.STYLE, Head.TEMPO, Head.ALPHA_TARGET, Head.ALPHA_SPEED, Head.ALPHA_CURVE):
        readers = [op for op in Op if head in HEADS_READ[op]]
        flat[:, layout.part(head)] = ops[:, readers].any(axis=1, keepdims=True)
    for head in Head:
        part = layout.part(head)
        flat[:, part.start] |= ~flat[:, part].any(axis=1)
    return flat


def sample(masks: Masks, layout: ActionLayout, rng: np.random.Generator) -> NDArray[np.int64]:
    """A legal batch of shape (env, 8): the op uniformly among the legal ones, then slot, then arguments."""
    drawn = [
        _sample_one(masks.op_slot[env], masks.blueprint_slot[env], layout, rng)
        for env in range(len(masks.flat))
    ]
    return np.array(drawn, dtype=np.int64)


def _sample_one(
    op_slot: Int8s, blueprint_slot: Int8s, layout: ActionLayout, rng: np.random.Generator
) -> NDArray[np.int64]:
    action = np.zeros(len(Head), dtype=np.int64)
    op = Op(rng.choice(np.flatnonzero(op_slot.any(axis=1))))
    action[Head.OP] = op
    for head in HEADS_READ[op]:
        action[head] = rng.integers(layout.nvec[head])
    if op != Op.WAIT:
        action[Head.SLOT] = rng.choice(np.flatnonzero(op_slot[op]))
    if op == Op.GERMINATE:
        action[Head.BLUEPRINT] = rng.choice(np.flatnonzero(blueprint_slot[action[Head.SLOT]]))
    return action
