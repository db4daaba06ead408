"""What is no state of this environment is refused by name, and changes nothing."""

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from lives import play, rules_only
from plain import TINY, WAIT, grow, tiny
from test_state import bits
from torch import nn

from esper_env import EsperVectorEnv, Op, Style, encode
from esper_env.blueprints import catalogue


@pytest.mark.parametrize("env", [-1, 2, 1.0, True, None])
def test_an_index_that_is_none_is_refused(env: Any) -> None:
    envs = rules_only(2)
    envs.reset(seed=0)
    state = envs.get_state(0)
    for call in (lambda: envs.get_state(env), lambda: envs.set_state(env, state)):
        with pytest.raises(
            ValueError, match=re.escape(f"env={env!r} is not allowed: an index from 0 to 1 is")
        ):
            call()


def changed(state: dict[str, Any], *path: Any, **to: Any) -> dict[str, Any]:
    """A copy with another value at this path, or, without one, with nothing there."""
    copied = copy.deepcopy(state)
    parent = copied
    for name in path[:-1]:
        parent = parent[name]
    if to:
        parent[path[-1]] = to["to"]
    else:
        del parent[path[-1]]
    return copied


def grown() -> EsperVectorEnv:
    """Two environments that are drawn, each with a fossil in slot 0 and a module in slot 1."""
    env = tiny(2, render_mode="rgb_array")
    env.reset(seed=0)
    play(env, [*grow(0, Style.GATED), encode(Op.FOSSILIZE, slot=0), *grow(1)[:3]])
    return env


NO_STATES: list[Any] = [None, 3, {}, {"version": 1}]
ABSENT = [
    ("rules", "epoch"), ("slots", "stage"), ("trace", "alpha"), ("flags", "truncated"),
    ("engine", "kept"), ("engine", "life"), ("engine", "kept", -1), ("engine", "kept", 0),
    ("engine", "life", "seed"), ("engine", "life", "modules", 1), ("engine", "life", "parts", -1),
    ("engine", "life", "parts", 1, "optimizers"), ("engine", "life", "modules", 0, "alpha"),
    ("engine", "kept", 0, "weights", "gate.layers.0.bias"), ("engine", "kept", -1, "optimizers"),
]  # fmt: skip
"""What must not be missing."""
WRONG: list[tuple[tuple[Any, ...], list[Any]]] = [
    (("made_for",), [None]),
    (("series",), [3, None, [1], [1, 2, 3], [1.0, 0], [True, 0], ["1", 0], [1, -1], [1, 0.5], [1, False]]),
    (("flags",), [{}, [True, False], {"terminated": False, "truncated": 0}]),
    (("rules",), [1, {}]),
    (("rules", "epoch"), [1, torch.tensor(1.0), torch.tensor([1]), torch.tensor(-1), torch.tensor(21)]),
    (("rules", "loss_history"), [torch.zeros(4, dtype=torch.float64), torch.zeros(5)]),
    (("slots", "stage"), [torch.zeros(3), torch.zeros(2, dtype=torch.int8), torch.tensor([0, 9, 0]).char()]),
    (("slots", "blueprint"), [torch.tensor([1, 13, 0])]),
    (("trace",), [1, {}]),
    (("trace", "alpha"), [torch.zeros(3, 9, dtype=torch.float64), torch.zeros(3, 13)]),
    (("engine",), [None, {}, []]),
    (("engine", "life"), [None, {"seed": 1}]),
    (("engine", "life", "seed"), [1.5, None, True]),
    (("engine", "life", "epochs"), [-1, 1.0]),
    (("engine", "life", "modules"), [3, {}]),
    (("engine", "life", "modules", 3), [{}]),
    (("engine", "life", "modules", -2), [{}]),
    (("engine", "life", "modules", 1, "blueprint"), ["conv_huge", 1, "lora", "noop"]),
    (("engine", "life", "modules", 1, "style"), [4, 1.0]),
    (("engine", "life", "modules", 1, "stage"), [0, 6, 77]),
    (("engine", "life", "modules", 1, "planting"), [0, True]),
    (("engine", "life", "modules", 1, "alpha"), [1.5, float("nan"), 0]),
    (("engine", "life", "modules", 1, "frozen"), [0]),
    (("engine", "life", "parts", -1, "weights", "segments.0.0.weight"), [torch.zeros(3), 0]),
    (("engine", "life", "parts", -1, "weights", "segments.0.1.running_var"), [torch.ones(4).double()]),
    (("engine", "life", "parts", -1, "optimizers"), [[], {}, [[]], [{99: {}}], [{"0": {}}], [{0: {}}]]),
    (("engine", "life", "parts", -1, "optimizers", 0, 0, "momentum_buffer"), [torch.zeros(4), None]),
    (("engine", "kept"), [None, {}]),
    (("engine", "kept", 1), [{}]),
    (("engine", "kept", 0, "optimizers", 1, 0, "momentum_buffer"), [torch.zeros(1)]),
]  # fmt: skip
"""What must not be something else."""


def test_what_is_no_state_or_is_damaged_is_refused_and_changes_nothing() -> None:
    env = grown()
    good = env.get_state(1)
    env.step(np.tile(WAIT, (2, 1)))
    before = bits(env.get_state(0))
    bad = [(state, "is no state") for state in [*NO_STATES, {**good, "more": 1}]]
    bad += [(changed(good, "version", to=value), f"state['version']={value}") for value in (9, True)]
    bad += [(changed(good, *path), "the state is damaged") for path in ABSENT]
    bad += [(changed(good, *path, to=value), "is damaged") for path, values in WRONG for value in values]
    for state, message in bad:
        with pytest.raises(ValueError, match=re.escape(message)):
            env.set_state(0, state)
        assert bits(env.get_state(0)) == before
    env.set_state(0, good)
    assert bits(env.get_state(0)) == bits(good)


@pytest.mark.parametrize("epochs", [-1, 1.0, True, None])
def test_without_a_network_the_engines_part_is_looked_at_too(epochs: Any) -> None:
    env = rules_only()
    env.reset(seed=0)
    play(env, [WAIT] * 2)
    state = env.get_state(0)
    play(env, [WAIT])
    before = bits(env.get_state(0))
    with pytest.raises(ValueError, match=r"the state is damaged.*epochs"):
        env.set_state(0, changed(state, "engine", "epochs", to=epochs))
    assert bits(env.get_state(0)) == before


class Varying(nn.Conv2d):
    """It has as many channels as its class says when it is built."""

    inner = 1

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)
        self.more = nn.Conv2d(1, self.inner, 1)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("the device is gone")])
def test_what_goes_wrong_with_the_machine_is_not_said_to_be_the_states_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = tiny()
    env.reset(seed=0)
    state, before = env.get_state(0), bits(env.get_state(0))

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(nn.Module, "to", fail)
    with pytest.raises(type(error), match=str(error)):
        env.set_state(0, state)
    monkeypatch.undo()
    assert bits(env.get_state(0)) == before


def test_a_blueprint_of_another_size_is_named_and_not_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    index = catalogue.register_blueprint("varying", {"cnn": lambda place: Varying(place.channels)})
    env = tiny()
    env.reset(seed=0)
    play(env, [encode(Op.GERMINATE, slot=0, blueprint=index)])
    state = env.get_state(0)
    monkeypatch.setattr(Varying, "inner", 2)
    with pytest.raises(RuntimeError, match=r"'varying' at block1\.relu.*must not vary"):
        env.set_state(0, state)


def test_the_engine_that_auto_stands_for_reads_the_same_states() -> None:
    env, auto = tiny(engine="fused"), tiny(engine="auto")
    for each in (env, auto):
        each.reset(seed=0)
    assert (env.config.engine.name, auto.config.engine.name) == ("fused", "auto")
    for one, other in ((env, auto), (auto, env)):
        one.set_state(0, other.get_state(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": {**TINY, "reward.rent": 1.0}}, "reward.rent is 2.0 there and 1.0 here"),
        ({"overrides": TINY, "horizon": 9}, "horizon is 20 there and 9 here"),
        ({"overrides": TINY, "slots": 2}, "host.slots is None there and 2 here"),
        ({"overrides": {**TINY, "task.image_size": 32}}, "task.image_size is 16 there and 32 here"),
    ],
)
def test_a_state_of_another_configuration_is_refused_by_the_first_difference(
    arguments: dict[str, Any], message: str
) -> None:
    env = tiny()
    env.reset(seed=0)
    other = EsperVectorEnv(1, "micro", **{"horizon": 20, "engine": "null"} | arguments)
    state = env.get_state(0)
    state["made_for"]["engine.name"] = "null"
    with pytest.raises(ValueError, match=re.escape(message)):
        other.set_state(0, state)


def test_a_state_may_move_to_another_device_and_folder() -> None:
    env, other = rules_only(), rules_only(data_dir="elsewhere", device="auto")
    env.reset(seed=0)
    assert env.config != other.config
    other.set_state(0, env.get_state(0))
    assert other.step(WAIT[None])[0].tobytes() == env.step(WAIT[None])[0].tobytes()


def test_there_is_no_state_before_a_reset_or_after_close() -> None:
    env = rules_only(2)
    with pytest.raises(ResetNeeded, match="environment 1 was never reset"):
        env.get_state(1)
    env.reset(seed=0)
    state = env.get_state(0)
    env.close()
    for call in (lambda: env.get_state(0), lambda: env.set_state(0, state), lambda: env.export(0)):
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_nothing_is_answered_after_close(render_mode: str | None) -> None:
    env = rules_only(2, render_mode=render_mode)
    env.reset(seed=0)
    env.close()
    draw = np.random.default_rng(0)
    for call in (
        env.action_masks, lambda: env.sample_valid(draw), env.ledger, env.attribution, env.render,
    ):  # fmt: skip
        with pytest.raises(ClosedEnvironmentError):
            call()
