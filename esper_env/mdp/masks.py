"""Which actions are legal. What is masked in always succeeds; what is masked out becomes WAIT."""

import math
from dataclasses import dataclass
from functools import cache, reduce
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_env.contracts.action import HEADS_READ, READS, ActionLayout, Actions, Head, Style
from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import HAS_MODULE, TRANSITIONS, Op, Stage
from esper_env.contracts.state import GameState, SlotState
from esper_env.mdp.gates import GateResults
from esper_env.mdp.transition import LifecycleConfig

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Int8s = NDArray[np.int8]
NEEDS_SLOT = READS[:, Head.SLOT]
"""(op,): every op but WAIT."""


Size = Annotated[float, Field(ge=1)]
Cost = Annotated[float, Field(gt=0)]


class BudgetConfig(BaseModel):
    """What a grown network may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    params: Size | tuple[Size, ...] | None = None
    """Most parameters of host, modules and gates together, as a multiple of the host's; None for no limit.
    Several are for as many blocks of environments: of 8, the first two have the first of four."""
    compute: Cost | tuple[Cost, ...] | None = None
    """Training FLOPs after which the episode ends, as a multiple of what the static host spends over the
    whole horizon; None for no limit. Several: see above."""

    @property
    def blocks(self) -> int:
        """Numbers of environments that can be divided so are multiples of this."""
        return math.lcm(*(len(each) for each in (self.params, self.compute) if isinstance(each, tuple)))

    def of_each(self, name: Literal["params", "compute"], num_envs: int) -> Floats:
        """(env,): a budget; infinite without.

        Raises:
            ValueError: so many environments can't be divided into blocks of equal size.
        """
        given = getattr(self, name)
        several = given if isinstance(given, tuple) else (np.inf if given is None else given,)
        if not several or num_envs % len(several):
            raise ValueError(
                f"budget.{name} has {len(several)} values {several}, one for each block of environments: "
                f"num_envs={num_envs} is no multiple of {len(several)}"
            )
        return np.repeat(np.array(several, dtype=np.float64), num_envs // len(several))


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
        return legal & ((actions.op != Op.GERMINATE.value) | fits)

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
    gates = np.where(HAS_MODULE[slots.stage] & (slots.style == Style.GATED.value), facts.gate_params, 0)
    return facts.host_params + (slots.module_params + gates).sum(axis=1)


def fitting(slots: SlotState, facts: HostFacts, params: Floats, max_modules: int | None) -> Bools:
    """(env, slot, blueprint): what GERMINATE may plant, the room for a gate always reserved.

    Args:
        slots: As observed.
        facts: Sizes.
        params: (env,), most parameters as a multiple of the host's; infinite for no limit.
        max_modules: At a time; None for no limit.
    """
    legal = facts.fits & slots.in_stage(Stage.DORMANT)[..., None]
    if max_modules is not None:
        legal &= (HAS_MODULE[slots.stage].sum(axis=1) < max_modules)[:, None, None]
    if np.isfinite(params).any():
        added = facts.module_params + facts.gate_params[:, None]
        total = committed_params(slots, facts)[:, None, None] + added
        legal &= total <= (params * facts.host_params)[:, None, None]
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
    passed = reduce(np.logical_or, (gate.passed for gate in gates.values()))  # each in its stage alone
    shown = passed + 2 * slots.resting + 4 * (slots.age >= config.min_prune_age)
    op_slot = _legal(config.auto_advance)[slots.stage, shown].swapaxes(1, 2)
    return _publish(op_slot, blueprint_slot, layout)


@cache
def _legal(auto_advance: tuple[str, ...]) -> Bools:
    """(stage, shown, op): the transitions; the bits of `shown` say gate passed, alpha at rest, old enough."""
    table = np.zeros((len(Stage), 8, len(Op)), dtype=bool)
    table[:, :, Op.WAIT] = True
    passed, rests, old = ((np.arange(8) & bit).astype(bool) for bit in (1, 2, 4))
    config = LifecycleConfig(auto_advance=auto_advance)
    for row in TRANSITIONS:
        if not config.fires_by_itself(row):
            met = passed | (row.gate is None)
            table[row.source, :, row.op] |= met & (rests | (not row.needs_rest)) & (old | (not row.needs_age))
    return table


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
    any_slot = np.ones(layout.num_slots, dtype=bool)  # a product of truth values is an `any`, and faster
    ops = op_slot @ any_slot
    read = ops @ READS
    flat = np.repeat(read, layout.nvec, axis=1)
    flat[:, layout.part(Head.OP)] = ops
    flat[:, layout.part(Head.SLOT)] = NEEDS_SLOT @ op_slot
    flat[:, layout.part(Head.BLUEPRINT)] = any_slot @ blueprint_slot
    flat[:, layout.starts] |= ~read
    return flat.astype(np.int8)


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
