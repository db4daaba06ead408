"""What the tests of the rules share: small made-up hosts, environments that train nothing, scripted lives."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_env import EsperVectorEnv, HostFacts, Op, Place, encode
from esper_env.contracts.state import GameState, SlotState
from esper_env.engine.null import Script, plausible

CONV_LIGHT = 1
"""Blueprint index that the scripted lives plant."""

GROW = (
    encode(Op.GERMINATE, slot=0, blueprint=CONV_LIGHT, tempo=0, alpha_target=2),
    encode(Op.ADVANCE, slot=0),
    *[encode(Op.WAIT)] * 3,
    encode(Op.ADVANCE, slot=0),
    *[encode(Op.WAIT)] * 2,
    encode(Op.ADVANCE, slot=0),
)
"""DORMANT to HOLDING in the fewest steps; in step 5 (counted from 0) the module enters BLENDING."""


def facts(num_slots: int = 2) -> HostFacts:
    """A host of 1,000 parameters and three blueprints: noop, small (100 to 200 parameters), large (1,000)."""
    places = tuple(Place(f"block{s}", "cnn", (8, 4, 2), (s + 1) / num_slots) for s in range(num_slots))
    sizes = np.array([[0, 100 * (s + 1), 1000] for s in range(num_slots)])
    return HostFacts(
        places=places,
        host_params=1000,
        host_flops=10_000,
        fits=sizes > 0,
        module_params=sizes,
        gate_params=np.full(num_slots, 50),
        blueprints=("noop", "small", "large"),
        chance_quality=0.1,
        chance_loss=float(np.log(10)),
    )


def game(num_envs: int = 1, num_slots: int = 2) -> GameState:
    """A game in which an episode has just begun."""
    state = GameState.empty(num_envs, num_slots)
    state.begin(np.arange(num_envs), 0.1)
    return state


def put(slots: SlotState, env: int, slot: int, **values: Any) -> None:
    """Set fields of one slot."""
    for name, value in values.items():
        getattr(slots, name)[env, slot] = value


def rules_only(num_envs: int = 1, script: Script = plausible, **arguments: Any) -> EsperVectorEnv:
    """EsperMicro without training; autoreset is disabled unless the arguments say otherwise."""
    env = EsperVectorEnv(num_envs, "micro", engine="null", **{"autoreset_mode": "DISABLED"} | arguments)
    env._engine.script = script
    return env


@cache
def shared(num_envs: int, **arguments: Any) -> EsperVectorEnv:
    """The same environment for every example that hypothesis draws; begin with a reset."""
    return rules_only(num_envs, **arguments)


def play(env: EsperVectorEnv, actions: Iterable[NDArray[np.int64]]) -> list[SlotState]:
    """Play single actions (8,), each in every environment; the slots after each step."""
    seen = []
    for action in actions:
        info = env.step(np.tile(action, (env.num_envs, 1)))[-1]
        assert info["action_valid"].all(), action
        seen.append(env._state.slots.copy())
    return seen


def wandering(env: EsperVectorEnv, rng: np.random.Generator, waiting: float) -> NDArray[np.int64]:
    """Legal actions (env, 8) that wait with this probability, so that modules live to see every stage."""
    actions = env.sample_valid(rng)
    actions[rng.random(env.num_envs) < waiting] = encode(Op.WAIT)
    return actions
