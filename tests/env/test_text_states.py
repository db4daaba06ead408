"""States and snapshots of language hosts hold both moments and the step counts of every AdamW."""

import copy
import re
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES
from lives import play
from plain import WAIT, same, weights
from test_state import advance, bits, planting, seen, through_a_file
from texts import ATTENTION, MLP, grow, memory, started, texts

from esper_env import EsperVectorEnv, Op, Style, encode

HORIZON = 15
LIFE = [
    planting(0, ATTENTION, Style.GATED), planting(2, 9, Style.LINEAR_ADD), advance(0),
    encode(Op.PRUNE, slot=2), planting(1, MLP, Style.SIGMOID_ADD), advance(1), advance(0), WAIT, WAIT,
    advance(0), advance(1), encode(Op.FOSSILIZE, slot=0), WAIT,
    encode(Op.SET_ALPHA_TARGET, slot=1, alpha_target=0, alpha_speed=1), WAIT,
    planting(2, 12, Style.LINEAR_MULTIPLY), advance(2),
]  # fmt: skip
"""Gated blending, a module that is pruned, a fossil, alpha on its way down; then the next episode."""
ALL = np.array([True])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_life_handed_on_in_every_step_is_the_life_itself(engine: str) -> None:
    """What a state forgot would be forgotten in each of these environments."""

    def make() -> EsperVectorEnv:
        arguments = {"horizon": HORIZON, "autoreset_mode": "SAME_STEP", "engine": engine}
        return texts(overrides={"governor.snapshot_every": 3}, **arguments)

    straight, relay = make(), make()
    for env in (straight, relay):
        env.reset(seed=7)
    down = 0
    for step, wanted in enumerate(LIFE):
        state, relay = through_a_file(relay.get_state(0)), make()
        relay.set_state(0, state)
        assert bits(relay.get_state(0)) == bits(state)
        assert seen(relay, wanted) == seen(straight, wanted), step
        down += sum(planted.frozen for planted in straight._engine.life(0).planted.values())
    assert bits(relay.get_state(0)) == bits(straight.get_state(0)), "weights and moments included"
    assert down == 1, "the second step of the fall ends the episode"


def with_fossil() -> EsperVectorEnv:
    """A gated fossil in slot 0 and a module in TRAINING in slot 1; the governor keeps nothing by itself."""
    env = texts(horizon=40, overrides={"governor.snapshot_every": 99})
    env.reset(seed=2)
    script = [encode(Op.FOSSILIZE, slot=0), encode(Op.GERMINATE, slot=1, blueprint=MLP), advance(1)]
    play(env, [*grow(0, Style.GATED, ATTENTION), *script])
    return env


def test_host_and_fossils_come_back_with_their_moments_and_the_rest_goes() -> None:
    env = with_fossil()
    life = env._engine.life(0)
    env._engine.keep(ALL)

    def everything() -> list[torch.Tensor]:
        return weights(life.model.host) + weights(life.planted[0].graft) + memory(life)

    play(env, [WAIT] * 2)
    before = copy.deepcopy(life.model.state_dict())
    env._engine.restore(ALL)
    kept = everything()
    assert list(life.planted) == [0]
    assert {int(s["step"]) for s in life._host_optimizer.state.values()} == {4 * 12}
    assert {int(s["step"]) for s in life.planted[0].optimizers[0].state.values()} == {4 * 11}
    assert {int(s["step"]) for s in life.planted[0].optimizers[1].state.values()} == {4 * 7}
    assert not torch.equal(before["host.segments.0.0.tokens.weight"], kept[0])
    epochs, runs = life.epochs, []
    for _ in range(2):
        life.epochs = epochs
        life.train()
        runs.append(everything())
        env._engine.restore(ALL)
        assert same(everything(), kept), "what is kept stays as it was"
    assert same(*runs)
    assert not any(torch.equal(a, b) for a, b in zip(runs[0], kept, strict=True))


REMEMBERED = ("engine", "life", "parts", -1, "optimizers", 0)
WRONG: list[tuple[Any, Any, str]] = [
    ("exp_avg", None, "exp_avg"),
    ("exp_avg_sq", torch.zeros(3), "exp_avg_sq"),
    ("step", torch.zeros(1), "step"),
    ("step", 3, "step"),
    ("momentum_buffer", torch.zeros(3), "momentum_buffer"),
]


@pytest.mark.parametrize(("name", "value", "named"), WRONG)
def test_a_state_with_other_moments_is_refused_by_name(name: str, value: Any, named: str) -> None:
    env, _ = started()
    play(env, [WAIT])
    state = env.get_state(0)
    before = bits(env.get_state(0))
    remembered = state
    for step in REMEMBERED:
        remembered = remembered[step]
    if value is None:
        del remembered[0][name]
    else:
        remembered[0][name] = value
    with pytest.raises(ValueError, match=re.escape(named)):
        env.set_state(0, state)
    assert bits(env.get_state(0)) == before


def test_a_state_of_another_optimizer_is_refused_by_its_path() -> None:
    env, _ = started()
    sgd = {"engine.optimizer.module_optimizer": "sgd"}
    with pytest.raises(ValueError, match=r"engine\.optimizer\.module_optimizer"):
        env.set_state(0, started(overrides=sgd)[0].get_state(0))


def test_modules_with_sgd_grow_in_a_host_with_adamw() -> None:
    env, life = started(overrides={"engine.optimizer.module_optimizer": "sgd"})
    play(env, grow(0))
    state = life.planted[0].optimizers[0].state
    assert {name for each in state.values() for name in each} == {"momentum_buffer"}
    assert {name for each in life._host_optimizer.state.values() for name in each} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    again = texts(overrides={"engine.optimizer.module_optimizer": "sgd"})
    again.set_state(0, through_a_file(env.get_state(0)))
    assert bits(again.get_state(0)) == bits(env.get_state(0))


def test_a_state_does_not_go_where_tokens_mean_something_else(tmp_path: Path) -> None:
    """Stories of two folders in codes of as many entries."""
    envs = []
    for name, letters in (("a", "abcdefgh"), ("b", "stuvwxyz"), ("c", "abcdefgh")):
        folder = tmp_path / name / "tinystories"
        folder.mkdir(parents=True)
        stories = [" ".join(permutation) for permutation in islice(permutations(letters), 400)]
        for file, part in (("train", stories[:300]), ("valid", stories[300:])):
            (folder / f"{file}.txt").write_text("".join(f"{story}\n<|endoftext|>\n" for story in part))
        config = {"data": "tinystories", "data_dir": str(tmp_path / name), "horizon": 3}
        envs.append(started(overrides={"task.vocabulary": 262, "task.val_fraction": 0.2}, **config)[0])
    before, state = bits(envs[1].get_state(0)), envs[0].get_state(0)
    with pytest.raises(
        ValueError, match=r"code is 'byte-pair code \w{8}' there and 'byte-pair code \w{8}' here"
    ):
        envs[1].set_state(0, state)
    assert bits(envs[1].get_state(0)) == before
    envs[2].set_state(0, state)
    assert bits(envs[2].get_state(0)) == bits(state), "the same stories elsewhere"
