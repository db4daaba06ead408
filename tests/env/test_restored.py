"""What comes back after a panic is measured once more: host and fossils, as they are now."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engines import ENGINES
from numpy.typing import NDArray
from plain import WAIT, accuracy, grow, poison, same, task_of, tiny, weights

from esper_env import EsperVectorEnv, Op, encode

LIFE = [*grow(0), encode(Op.FOSSILIZE, slot=0), *grow(1)[:7]]
"""17 steps: a fossil in slot 0, and a module that blends in slot 1. The last snapshot is that of step 14."""
FOSSIL = {0: 1.0}
SPENT = ("measure_flops", "counterfactual_flops")


def played(engine: str, script: Sequence[NDArray[np.int64]] = LIFE, **arguments: Any) -> EsperVectorEnv:
    env = tiny(engine=engine, **arguments)
    env.reset(seed=5)
    for action in script:
        assert env.step(action[None])[-1]["action_valid"][0]
    return env


def broken(env: EsperVectorEnv) -> EsperVectorEnv:
    """A tensor of the host's weights is no number any more."""
    poison(env)
    return env


def spending(env: EsperVectorEnv) -> tuple[dict[str, Any], dict[str, float]]:
    """The info of a step, and what it spent on measuring."""
    before = env.ledger()
    info = env.step(WAIT[None])[-1]
    return info, {name: float(env.ledger()[name][0] - before[name][0]) for name in SPENT}


def counted(env: EsperVectorEnv, alphas: dict[int, float]) -> float:
    """Validation accuracy in [0, 1] of what the engine holds, counted by the tests' own code."""
    return accuracy(env, task_of(env).validation, alphas) / 100


@pytest.mark.parametrize("engine", ENGINES)
def test_the_quality_after_a_panic_is_that_of_the_network_that_came_back(engine: str) -> None:
    env = broken(played(engine))
    obs, _, _, _, info = env.step(WAIT[None])
    assert list(env._engine.life(0).planted) == [0]
    shown = [info["val_accuracy"][0], env._state.quality[0], obs[0, env.features["val_quality"]].item()]
    assert shown == pytest.approx([counted(env, FOSSIL)] * 3, rel=1e-6)
    split = task_of(env).validation
    with torch.no_grad():
        loss = F.cross_entropy(env.export(0)(split.images), split.labels)
    assert info["val_loss"][0] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_module_that_was_live_when_the_snapshot_was_taken_does_not_count(engine: str) -> None:
    env = played(engine, [*grow(0), WAIT], overrides={"engine.counterfactual_size": 128})
    kept, committed = env._state.quality[0], env.attribution()["committed"][0]
    assert env._state.since_snapshot[0] == 0, "taken in this very epoch, the tenth, with a module held"
    info = broken(env).step(WAIT[None])[-1]
    assert 100 * info["val_accuracy"][0] == pytest.approx(committed, abs=1e-9)
    assert info["val_accuracy"][0] != kept
    assert info["reward_terms"]["quality"][0] == pytest.approx(committed - 100 * kept)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_panic_costs_one_validation_of_what_came_back(engine: str) -> None:
    env, calm = broken(played(engine)), played(engine)
    (_, spent), (_, usual), (_, alone) = spending(env), spending(calm), spending(env)
    assert (env._state.rollbacks[0], calm._state.rollbacks[0]) == (1, 0)
    assert alone["counterfactual_flops"] == 0 < alone["measure_flops"]
    assert spent["measure_flops"] == usual["measure_flops"] + alone["measure_flops"]
    assert spent["counterfactual_flops"] == usual["counterfactual_flops"] > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_network_of_the_reset_is_measured_too(engine: str) -> None:
    env = played(engine, [])
    fresh = weights(env._engine.life(0).model)
    obs, _, _, _, info = broken(env).step(WAIT[None])
    assert env._state.rollbacks[0] == 1
    assert same(weights(env._engine.life(0).model), fresh)
    assert info["val_accuracy"][0] == counted(env, {})
    assert info["reward_terms"]["quality"][0] == pytest.approx(100 * (counted(env, {}) - 0.1))
    assert obs[0, env.features["evaluated"]] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_the_harvest_of_what_came_back_in_the_third_panic_changes_nothing(engine: str) -> None:
    env, won = played(engine, []), 0.0
    for number in range(len(LIFE) + 3):
        action = LIFE[number] if number < len(LIFE) else WAIT
        *_, terminated, _, info = (env if number < len(LIFE) else broken(env)).step(action[None])
        won += info["reward_terms"]["quality"][0]
    assert (terminated[0], info["rollbacks"][0], env._engine.life(0).fossils) == (True, 3, [0])
    assert info["reward_terms"]["harvest"][0] == 0.0
    for name in ("accuracy", "loss"):
        assert info[f"val_{name}"][0] == info[f"harvest_{name}"][0]
    assert info["harvest_accuracy"][0] == counted(env, FOSSIL)
    assert won == pytest.approx(100 * (info["harvest_accuracy"][0] - 0.1))
