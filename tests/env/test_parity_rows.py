"""Rows of the fused engine: no environment changes another, and what has no effect leaves no trace."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apart import agree, distances, moved
from engines import APART, FUSED
from numpy.typing import NDArray
from parity import QUICK, lively, small

from esper_env import EsperVectorEnv, Op, Style, encode
from esper_env.contracts.state import SlotState
from esper_env.engine.fused import FusedEngine

WAIT = encode(Op.WAIT)


def together(
    engine: str, num_envs: int, steps: int, **arguments: Any
) -> tuple[EsperVectorEnv, list[NDArray[np.int64]]]:
    """Lively games of that many environments, and what was done in them."""
    env = small(num_envs, engine, **arguments)
    _, info = env.reset(seed=5)
    rng, done = np.random.default_rng(0), []
    for _ in range(steps):
        done.append(lively(env, info, rng))
        info = env.step(done[-1])[-1]
    return env, done


def alone(
    engine: str, actions: Sequence[NDArray[np.int64]], index: int, preset: str, ulp: bool = False
) -> EsperVectorEnv:
    """One of them by itself, if wanted with other initial weights by one unit in the last place."""
    env = small(1, engine, QUICK, preset)
    env.reset(seed=5 + index)
    if ulp:
        moved(env)
    for action in actions:
        env.step(action[index : index + 1])
    return env


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize(("preset", "others"), [("micro", 63), ("stories", 15)])
def test_an_environment_among_others_is_that_environment_alone(preset: str, others: int, engine: str) -> None:
    """To the last bit in those engines that promise it, else no further off than rounding brings by itself.

    Torch's grouped convolutions add up in an order that depends on the number of groups.
    """
    among, actions = together(engine, 1 + others, 8, overrides=QUICK, preset=preset)
    off, ulp, seat = [], [], small(1, engine, QUICK, preset)
    for index in (0, 9, others // 3, others):
        one, twin = (alone(engine, actions, index, preset, ulp=each) for each in (False, True))
        seat.set_state(0, among.get_state(index))
        off.append(distances(one, seat)[0])
        ulp.append(distances(one, twin)[0])
        if engine in APART:
            agree(one.get_state(0), among.get_state(index), 0.0)
    assert max(off) < 1e-6
    assert np.mean(off) < 3 * np.mean(ulp)


TWO_THREADS = """
import numpy as np, torch
from parity import QUICK, small
from apart import agree
from esper_env import Op, encode
torch.set_num_threads(2)
longer = QUICK | {"task.context": 48, "engine.batch_size": 8, "engine.epoch_size": 8}
longer |= {"engine.rows_at_once": 3, "engine.counterfactual_size": 8, "task.val_size": 8}
among, one = (small(count, "fused/torch", longer, "stories") for count in (3, 1))
among.reset(seed=5)
one.reset(seed=6)
for action in (encode(Op.GERMINATE, slot=1, blueprint=11), encode(Op.ADVANCE, slot=1)):
    info = among.step(np.stack([encode(Op.WAIT), action, action]))[-1]
    one.step(action[None])
assert info["action_valid"].all()
agree(one.get_state(0), among.get_state(1), 0.0)
print(torch.get_num_threads(), np.isfinite(info["val_loss"]).all())
"""
"""Values large enough to be split between threads, and a module that trains."""


def test_with_two_threads_too_a_text_among_others_is_that_text_alone() -> None:
    """In a process of its own whose threads don't spin while they wait, as others may need the cores."""
    own = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    own["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", TWO_THREADS], capture_output=True, text=True, env=own, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "True"]


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize(
    ("preset", "host"), [("micro", "micro"), ("micro", "impaired"), ("stories", "gpt_micro")]
)
def test_what_is_no_number_stays_in_its_row(engine: str, preset: str, host: str) -> None:
    """All of its weights, in the same operations and groups as those of others."""
    calm, broken = (together(engine, 9, 8, preset=preset, host=host)[0] for _ in range(2))
    state = broken._engine.get_state(4)
    for part in state["life"]["parts"].values():
        for value in part["weights"].values():
            value.fill_(torch.nan if value.is_floating_point() else 0)
    broken._engine.set_state(4, state)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    shown, found = (env.step(np.tile(WAIT, (9, 1))) for env in (calm, broken))
    assert broken._state.rollbacks.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    for first, second in zip(
        (*shown[:2], shown[4]["val_loss"]), (*found[:2], found[4]["val_loss"]), strict=True
    ):
        agree(first[others], second[others], 0.0)
    for env in others:
        agree(calm._engine.get_state(env), broken._engine.get_state(env), 0.0)


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize(("preset", "planted"), [("micro", (7, 2, 5)), ("stories", (12, 2, 9))])
def test_planting_and_pruning_in_isolation_leaves_the_twin_that_was_never_planted(
    preset: str, planted: tuple[int, ...], engine: str
) -> None:
    (grown, twin) = (small(2, engine, preset=preset) for _ in range(2))
    for env in (grown, twin):
        env.reset(seed=3)
    heads = {"style": Style.GATED, "alpha_target": 2}
    script = [encode(Op.GERMINATE, slot=s, blueprint=b, **heads) for s, b in enumerate(planted)]
    script += [encode(Op.ADVANCE, slot=s) for s in range(3)] + [WAIT] * 2
    script += [encode(Op.PRUNE, slot=s) for s in range(3)] + [WAIT]
    for action in script:
        info = grown.step(np.stack([action, WAIT]))[-1]
        expected = twin.step(np.stack([WAIT, WAIT]))[-1]
        assert info["action_valid"].all()
        for name in ("val_loss", "val_accuracy", "train_loss"):
            assert info[name].tobytes() == expected[name].tobytes(), name
        agree(
            grown._engine.get_state(0)["life"]["parts"][-1],
            twin._engine.get_state(0)["life"]["parts"][-1],
            0.0,
        )
    agree(grown._engine.get_state(0), twin._engine.get_state(0), 0.0)


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("preset", ["micro", "stories"])
def test_slots_that_are_empty_change_no_bit(preset: str, engine: str) -> None:
    """Held against the same engine with hosts that have no slots at all."""
    env = small(3, engine, preset=preset)
    setup = env._engine._setup  # type: ignore[attr-defined]
    facts, none = setup.facts, np.empty((0, len(setup.facts.blueprints)))
    bare = replace(
        facts, places=(), fits=none > 0, module_params=none.astype(int), gate_params=np.empty(0, int)
    )
    engines = [env._engine, FusedEngine(3, replace(setup, slot_places=(), facts=bare))]
    playing, seeds = np.ones(3, dtype=bool), [4, 5, 6]
    for each, slots in zip(engines, (3, 0), strict=True):
        each.begin(np.arange(3), seeds)
        for _ in range(3):
            each.sync(SlotState.empty(3, slots), playing)
            each.epoch(playing)
    first, second = (each.evaluate(playing, np.empty((3, 0), dtype=np.int64)) for each in engines)
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "train_flops", "measure_flops"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name
    for index in range(3):
        one, other = (each.get_state(index)["life"] for each in engines)
        agree(one, other, 0.0)
