"""Configuration: every keyword and every path is checked by name, and reaches its field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from esper_env import REWARD_MODES, EsperConfig, EsperVectorEnv
from esper_env.config import KEYWORDS, override
from esper_env.engine import setup
from esper_env.mdp.prices import OWN_TERMS
from esper_env.presets import PRESETS, cifar, resolve


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever touches the data fails the test."""

    def load(*arguments: Any) -> None:
        raise AssertionError("data was touched")

    monkeypatch.setattr(setup, "load_task", load)


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from leaves(value, f"{path}.{name}".lstrip("."))
    else:
        yield path, values


DEFAULTS = dict(leaves(cifar().model_dump()))
OTHER = {
    "max_episode_steps": 7, "host.name": "deep", "host.slots": 2, "task.data": "procedural",
    "task.data_dir": "x",
    "task.augment": True, "task.val_fraction": 0.2, "task.train_size": 7, "task.val_size": 7,
    "task.test_size": 7, "task.context": 64,
    "engine.name": "null", "engine.device": "cpu", "engine.epoch_size": 1280,
    "engine.batch_size": 64, "engine.optimizer.lr_schedule": "constant", "engine.isolation": "always",
    "engine.optimizer.host_optimizer": "adamw", "engine.optimizer.module_optimizer": "adamw",
    "lifecycle.max_modules": 2, "lifecycle.tempo_epochs": [1, 2, 3], "lifecycle.speed_epochs": [0, 1, 2, 3],
    "lifecycle.alpha_targets": [0.25, 0.5, 1.0], "lifecycle.sigmoid_steepness": [1.0, 2.0, 3.0],
    "lifecycle.auto_advance": ["G1"], "gates.mode": "strict", "budget.params": 2.0, "budget.compute": 1.5,
    "reward.mode": "sparse", "reward.gamma": 0.5, "reward.credit_basis": "contribution",
    "reward.credit_at_end": "kept",
    "attribution.shapley_permutations": 2,
    "engine.precision": "float64", "engine.kernels": "torch", "engine.rows_at_once": 8,
}  # fmt: skip
"""A different value for each leaf that has no number to be nudged."""
WITH_IT = {"reward.mode": {"reward.pay_at_end": True}}
"""What else changes with a leaf: a mode is a set of prices."""


def different(path: str, value: Any) -> Any:
    if path in OTHER:
        return OTHER[path]
    if isinstance(value, bool):
        return not value
    assert isinstance(value, int | float), f"say what else {path} could be"
    return value + 1 if isinstance(value, int) else value * 0.875 + (value == 0) * 0.125


@pytest.mark.parametrize("path", DEFAULTS)
def test_an_override_reaches_this_field_and_no_other(path: str) -> None:
    value = different(path, DEFAULTS[path])
    changed = dict(leaves(override(cifar(), {path: value}).model_dump()))
    assert changed.pop(path) == (tuple(value) if isinstance(value, list) else value)
    expected = DEFAULTS | WITH_IT.get(path, {})
    assert changed == {name: kept for name, kept in expected.items() if name != path}


NAMED = {path: name for name, path in KEYWORDS.items()}


@pytest.mark.parametrize("path", DEFAULTS)
def test_an_override_of_the_wrong_type_is_refused_by_its_path(path: str) -> None:
    with pytest.raises(ValueError, match=rf"{path}|{path.split('.')[-1]}=|{NAMED.get(path)}="):
        override(cifar(), {path: object()})


UNKNOWN = ["", "rent", "reward.rents", "rewards.rent", "reward.rent.x", "horizon.x", "reward.", ".rent"]
UNKNOWN += ["reward.potentials.DORMANTS", "engine.optimizer.lr"]


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_path_is_refused_and_says_what_there_is(path: str) -> None:
    with pytest.raises(ValueError, match="has no field") as error:
        resolve("micro", {}, {path: 1})
    assert repr(path) in str(error.value)


@pytest.mark.parametrize("overrides", ["reward.rent=1", [("reward.rent", 1)], 3, {1: 2}])
def test_overrides_that_are_no_dict_of_paths_are_refused(overrides: Any) -> None:
    with pytest.raises(ValueError, match="overrides"):
        resolve("micro", {}, overrides)


BAD: dict[str, list[Any]] = {
    "horizon": [0, -1, 1.5, "30", True],
    "max_episode_steps": [0, -1, "5"],
    "host": ["nonesuch", 3, ""],
    "slots": [0, -1, 9, 1.5, "three", ["nowhere"], [], ["block1.relu", "block1.relu"], True],
    "data": ["imagenet", "folder:../x", 1],
    "data_dir": [3],
    "epoch_size": [0, -64, 100, 1.5, "all", True],
    "batch_size": [0, 1, -1, 2.5, "64"],
    "isolation": ["never", True],
    "engine": ["fast", 1],
    "device": ["tpu", 0],
    "reward": [
        "economic",
        1,
        True,
        ["dense"],
        {"quality": -1},
        {"quality": "1"},
        {"rent": True},
        {"rent": None},
        {"credit": float("nan")},
        {"outcome": float("inf")},
        {"churn": np.bool_(True)},
        {"nonesuch": 1.0},
        {"gamma": 1.0},
        {"rent_cap": 1.0},
        {"pay_at_end": True},
        {3: 1.0},
    ],
    "gamma": [0, -0.5, 1.1, "1", float("nan")],
    "gates": ["lenient", False],
    "auto_advance": ["G1", ["G0"], ["G5"], ["g1"], [1], 1],
    "max_modules": [0, -1, 1.5],
    "param_budget": [0.99, 0, -1, "2", float("inf"), float("nan")],
    "compute_budget": [0, -1, "1", float("inf")],
    "num_envs": [0, -1, 1.5, "2", True],
    "autoreset_mode": ["next_step", 3],
    "render_mode": ["human", 3],
    "strict_actions": ["no", 1],
    "preset": ["nonesuch", 3],
    "overrides": ["reward.rent=1"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_a_wrong_keyword_is_refused_by_name_before_any_data_is_touched(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*") as error:
        EsperVectorEnv(**{"preset": "micro", name: value})
    text = str(error.value)
    assert name in text
    part = value[0] if isinstance(value, list) and value else value
    shown = {repr(value), repr(part), str(part)}
    if isinstance(value, dict):
        [(price, part)] = value.items()
        shown = {f".{price}={part}", f".{price}={part!r}", repr([price]), f"={price}"}
    assert any(one in text for one in shown)


def test_every_keyword_is_tried() -> None:
    assert set(KEYWORDS) <= set(BAD)
    with pytest.raises(TypeError, match="colour"):
        EsperVectorEnv(preset="micro", colour=1)


@pytest.mark.parametrize("name", ["num_envs", "autoreset_mode"])
def test_make_refuses_what_belongs_to_make_vec(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=2 belongs to gymnasium.make_vec"):
        gym.make("EsperMicro-v0", **{name: 2})


@pytest.mark.parametrize(("name", "path"), KEYWORDS.items())
def test_a_keyword_sets_its_field_and_an_override_comes_after_it(name: str, path: str) -> None:
    value = different(path, DEFAULTS[path])
    listed = tuple(value) if isinstance(value, list) else value
    found = dict(leaves(resolve("cifar", {name: value}, None).model_dump()))
    assert found == DEFAULTS | {path: listed} | WITH_IT.get(path, {})
    assert resolve("cifar", {name: None}, None) == cifar()
    assert dict(leaves(resolve("cifar", {name: DEFAULTS[path]}, {path: value}).model_dump())) == found


def prices(reward: Any = None, overrides: Any = None) -> dict[str, Any]:
    """Everything that a mode sets."""
    config = resolve("micro", {"reward": reward}, overrides).reward
    return {name: getattr(config, name) for name in (*REWARD_MODES["dense"], "mode")}


def test_a_mode_sets_every_price_and_single_prices_come_on_top_in_any_order() -> None:
    economy = REWARD_MODES["economy"] | {"mode": "economy"}
    assert prices(reward="economy") == prices(overrides={"reward.mode": "economy"}) == economy
    assert prices(reward="sparse", overrides={"reward.mode": "economy"}) == economy
    cheap = economy | {"rent": 0.5, "pay_at_end": True}
    changes = {"reward.rent": 0.5, "reward.mode": "economy", "reward.pay_at_end": True}
    assert prices(overrides=changes) == prices(overrides=dict(reversed(changes.items()))) == cheap
    assert prices(reward="economy", overrides={"reward.rent": 0.5, "reward.pay_at_end": True}) == cheap


def test_a_dictionary_prices_what_it_names_and_nothing_else() -> None:
    given = {"quality": np.float32(50), "rollback": np.int64(3), "outcome": 2}
    free = REWARD_MODES["custom"] | {"mode": "custom"}
    expected = free | {"quality": 50.0, "rollback": 3.0, "outcome": 2.0}
    assert set(free.values()) == {0.0, "custom"}
    assert prices(reward=given) == prices(overrides={"reward.mode": given}) == expected
    assert prices(reward=given, overrides={"reward.rent": 1.0}) == expected | {"rent": 1.0}
    assert prices(reward={}) == prices(reward="custom") == free


def test_a_later_mode_forgets_the_prices_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(OWN_TERMS, "mine", lambda change, facts: change.op * 0.0)
    before = override(cifar(), {"reward.mode": {"mine": 2.0, "rent": 7.0}})
    assert before.reward.own == {"mine": 2.0}
    assert override(before, {"reward.mode": "dense"}).reward == cifar().reward


def test_every_wrong_argument_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"horizon=0.*gamma=2|gamma=2.*horizon=0"):
        resolve("micro", {"horizon": 0, "gamma": 2}, None)


def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield kind
    for field in kind.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from models(field.annotation)


@pytest.mark.parametrize("kind", list(models(EsperConfig)), ids=lambda k: k.__name__)
def test_every_config_is_frozen_and_forbids_what_it_does_not_know(kind: type[BaseModel]) -> None:
    config = kind()
    for name in kind.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, name, 1)
    with pytest.raises(ValidationError, match="nonesuch"):
        kind(nonesuch=1)  # type: ignore[call-arg]
    assert kind.model_config["allow_inf_nan"] is False


def test_presets_hold_the_numbers_of_the_rules() -> None:
    cifar, micro = PRESETS["cifar"](), PRESETS["micro"]()
    assert (cifar.horizon, cifar.engine.epoch_size, cifar.engine.batch_size) == (150, 8192, 128)
    assert (cifar.task.data, cifar.host.name, cifar.engine.counterfactual_size) == (
        "cifar10",
        "baseline",
        1024,
    )
    sizes = (micro.task.train_size, micro.task.val_size, micro.task.test_size, micro.task.image_size)
    assert sizes == (8192, 1024, 2048, 16)
    assert (micro.horizon, micro.engine.epoch_size, micro.engine.batch_size) == (30, 512, 64)
    assert (micro.task.data, micro.host.name, micro.engine.counterfactual_size) == (
        "procedural",
        "micro",
        256,
    )
    rates = [config.engine.optimizer for config in (cifar, micro)]
    assert [(o.host_lr, o.module_lr) for o in rates] == [(0.01, 0.01), (0.05, 0.02)]
    for optimizer in rates:
        assert (optimizer.host_momentum, optimizer.host_weight_decay, optimizer.clip_norm) == (0.9, 5e-4, 1.0)
        assert (optimizer.module_momentum, optimizer.module_weight_decay) == (0.9, 0.0)


@pytest.mark.parametrize("gamma", [1.0, 0.95])
@pytest.mark.parametrize("name", ["EsperMicro-v0", "EsperCifar-v0"])
def test_gamma_is_published(gamma: float, name: str) -> None:
    envs = gym.make_vec(name, num_envs=2, engine="null", gamma=gamma)
    assert envs.metadata["gamma"] == gamma
    assert gym.make(name, engine="null", gamma=gamma).unwrapped.metadata["gamma"] == gamma


@pytest.mark.parametrize("arguments", [{"data": "cifar10"}, {"overrides": {"task.data": "folder:mine"}}])
def test_micro_is_always_procedural(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="EsperMicro is always 'procedural'"):
        gym.make("EsperMicro-v0", engine="null", **arguments)


def test_paths_and_numbers_of_numpy_are_what_they_stand_for(tmp_path: Path) -> None:
    config = resolve("cifar", {"data_dir": tmp_path, "horizon": np.int64(7), "gamma": np.float32(0.5)}, None)
    assert (config.task.data_dir, config.horizon, config.reward.gamma) == (str(tmp_path), 7, 0.5)
    assert gym.make_vec("EsperMicro-v0", num_envs=np.int64(2), engine="null").num_envs == 2


@pytest.mark.parametrize("path", ["engine", "engine.optimizer", "reward", "task.difficulty"])
def test_a_dictionary_for_a_whole_part_is_refused_instead_of_resetting_the_rest(path: str) -> None:
    with pytest.raises(ValueError, match=rf"overrides\['{path}'\] is not allowed: it would set all of"):
        override(cifar(), {path: {}})


def test_fields_that_are_dictionaries_take_one_and_single_entries() -> None:
    changed = override(cifar(), {"reward.potentials": {"HOLDING": 2.0}})
    assert changed.reward.potentials == {"HOLDING": 2.0}
    assert override(cifar(), {"reward.potentials.HOLDING": 2.0}).reward.potentials["TRAINING"] == 2.0


@pytest.mark.parametrize("mode", [3, "rich", True])
def test_what_is_no_mode_is_refused_with_what_is(mode: Any) -> None:
    with pytest.raises(ValueError, match=rf"reward={mode!r} is not allowed: .*'economy'.* and dictionaries"):
        EsperVectorEnv(1, "micro", engine="null", reward=mode)
