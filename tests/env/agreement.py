"""Whether an environment with a `Breakable` engine is in every respect what its plain world says."""

from dataclasses import fields
from math import isclose
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oracle import PRESENT
from world import Module, World

from esper_env import EsperVectorEnv, Op, Stage
from esper_env.contracts.state import SlotState


def row_bits(env: EsperVectorEnv, e: int) -> dict[str, bytes]:
    """Everything the rules know of one environment."""
    records = (env._state, env._state.slots)
    named = [(f.name, getattr(record, f.name)) for record in records for f in fields(record)]
    return {name: array[e].tobytes() for name, array in named if isinstance(array, np.ndarray)}


def check(world: World, env: EsperVectorEnv, e: int, obs: NDArray[np.float32], info: dict[str, Any]) -> None:
    """Slots, masks, governor, snapshot and observation of environment `e`."""
    check_masks(world, info, e)
    check_governor(world, env, e)
    check_observation(world, env.features, obs[e])
    for s, module in enumerate(world.slots):
        check_slot(world, module, env._state.slots, e, s)


def check_slot(world: World, module: Module, slots: SlotState, e: int, s: int) -> None:
    own = {f.name: getattr(slots, f.name)[e, s] for f in fields(slots)}
    assert Stage(own["stage"]).name == module.stage
    assert own["planting"] == world.plantings[s]
    present, asleep = module.stage in PRESENT, module.stage == "DORMANT"
    ramp = module.ramp
    down = ramp.moving and (module.to_prune or ramp.target < ramp.start)
    expected = {
        "epochs_in_stage": 0 if asleep else module.in_stage,
        "age": module.age if present else 0,
        "alpha": module.alpha,
        "alpha_velocity": 0.0 if asleep else module.velocity,
        "alpha_target": ramp.target,
        "ramp": 2 if down else int(ramp.moving),
        "ramp_total": ramp.total,
        "ramp_done": ramp.done,
        "prune_on_arrival": module.to_prune,
        "blueprint": module.blueprint,
        "credit": module.credit,
    }
    for name, value in expected.items():
        assert isclose(own[name], value, abs_tol=1e-9), (name, own[name], module)
    assert own["module_params"] + own["gate_params"] == world.params(s)
    measured = module.live and len([m for m in world.slots if m.live]) > 1
    assert not measured or isclose(np.nansum(own["interaction"]), module.interaction, abs_tol=1e-9)


def check_masks(world: World, info: dict[str, Any], e: int) -> None:
    slots = range(len(world.slots))
    fitting = [[world.fits(s, b) for b in range(13)] for s in slots]
    assert info["blueprint_slot_mask"][e].tolist() == fitting
    for op in Op:
        legal = [any(fitting[s]) if op == Op.GERMINATE else world.legal(op.name, s) for s in slots]
        assert info["op_slot_mask"][e, op].tolist() == legal, op.name


def check_governor(world: World, env: EsperVectorEnv, e: int) -> None:
    state, engine, kept = env._state, env._engine, world.kept
    counts = {"epoch": world.epoch, "rollbacks": world.panics, "divergent": world.suspicious}
    counts |= {"since_snapshot": world.good_since, "has_learned": world.above_chance}
    assert {name: getattr(state, name)[e] for name in counts} == counts
    assert [engine.learned[e], engine.kept[e]] == [world.learned, [kept.learned, *kept.fossils]]
    assert isclose(state.quality[e], world.quality)
    assert state.snapshot_has_learned[e] == kept.above_chance
    seen = state.good_losses[e]
    np.testing.assert_allclose(seen[~np.isnan(seen)], world.good_losses[: world.rules.window], rtol=1e-12)


def check_observation(world: World, features: dict[str, slice], obs: NDArray[np.float32]) -> None:
    shares = [sum(m.stage == stage for m in world.slots) / len(world.slots) for stage in PRESENT[1:]]
    names = ("training_share", "blending_share", "holding_share", "fossilized_share")
    expected = dict(zip(names, shares, strict=True)) | {
        "epoch": world.epoch / world.rules.horizon,
        "panics_left": 1 - world.panics / 3,
        "compute_left": 1 - world.epoch / world.rules.compute,
        "val_quality": world.quality if world.epoch else -1,
    }
    for name, value in expected.items():
        assert isclose(obs[features[name]][0], value, abs_tol=1e-6), name
