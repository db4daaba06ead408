"""Settings come from preset, file and flags in this order, and what is wrong is refused by name."""

import copy
import json

import pytest
from gymnasium.vector import AutoresetMode

from esper_agents import config_file
from esper_agents.checkpoint import new_run
from esper_agents.config import build, differences, fingerprint
from esper_agents.environment import make_world
from esper_agents.record import refuse_other


def test_a_preset_yields_to_what_is_given():
    assert build({"env": "EsperMicro-v0"}).rounds == 50
    assert build({"env": "EsperMicro-v0", "rounds": 3}).rounds == 3
    assert build({"env": "EsperMicro-v0", "total_steps": 500}).rounds is None


def test_a_configuration_survives_being_written_and_read():
    config = build({"schedule": {"slots": [0, 1], "epochs": [3, 4]}, "overrides": {"host.slots": ["a"]}})
    assert build(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"bogus": 1}, "bogus=1: there is no such setting"),
        ({"schedule": {"blueprnt": "norm"}}, "schedule.blueprnt='norm': there is no such setting"),
        ({"num_envs": 0}, "num_envs=0 is not allowed"),
        ({"num_envs": "8"}, "num_envs='8' is not allowed"),
        ({"num_envs": True}, "num_envs=True is not allowed"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"algo": "dqn"}, "algo='dqn' is not allowed"),
        ({"reward": "economic"}, "reward='economic' is not allowed"),
        ({"env": "CartPole-v1"}, "env='CartPole-v1' is not known"),
        ({"rounds": 3, "total_steps": 4}, "rounds=3 and total_steps=4 exclude each other"),
        ({"env": "EsperMicro-v0", "data": "cifar10"}, "data='cifar10' is not allowed: EsperMicro-v0"),
        ({"schedule": {"slots": [0], "epochs": [1, 2]}}, "schedule.epochs has 2 entries for 1 slots"),
        ({"schedule": {"slots": [1, 1]}}, "names a slot twice"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(values, named):
    with pytest.raises(ValueError, match=named):
        build(values)


@pytest.mark.parametrize(
    ("env", "data", "wanted"),
    [
        ("EsperMicro-v0", None, "procedural"),
        ("EsperMicro-v0", "auto", "procedural"),
        ("EsperCifar-v0", None, "auto"),
        ("EsperCifar-v0", "folder:mine", "folder:mine"),
    ],
)
def test_only_micro_is_procedural_without_being_asked(env, data, wanted):
    assert build({"env": env, "data": data}).wanted_data == wanted


PRICES = {"quality": 100, "rent": 1}


@pytest.mark.parametrize(
    ("values", "mode", "rent"),
    [
        ({}, "dense", 2.0),
        ({"reward": "economy"}, "economy", 2.0),
        ({"reward": "economy", "overrides": {"reward.rent": 3}}, "economy", 3.0),
        ({"reward": "sparse", "overrides": {"reward.mode": "economy"}}, "economy", 2.0),
        ({"overrides": {"reward.mode": PRICES}}, "custom", 1.0),
    ],
)
def test_the_reward_that_is_asked_for_is_played(values, mode, rent):
    rules = values.get("overrides", {}) | {"engine.name": "null"}
    config = build({**values, "env": "EsperMicro-v0", "overrides": rules})
    reward = make_world(config, 1, AutoresetMode.SAME_STEP).envs.config.reward
    assert (reward.mode, reward.rent) == (mode, rent)


SHORT = {"task.patience": 0.2, "task.train_size": 256, "task.val_size": 64, "task.test_size": 64}
SMALL = {**SHORT, "engine.epoch_size": 128, "engine.counterfactual_size": 64}


@pytest.fixture
def no_network(monkeypatch):
    import torchvision.datasets

    def unreachable(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", unreachable)


@pytest.mark.usefixtures("no_network")
def test_auto_says_what_it_fell_back_to_and_why(tmp_path):
    config = build({"data_dir": str(tmp_path), "overrides": SMALL, "num_envs": 1})
    world = make_world(config, 1, AutoresetMode.SAME_STEP)
    assert world.envs.config.task.data == "procedural"
    assert "procedural images" in world.provenance
    assert "no route" in world.provenance


@pytest.mark.usefixtures("no_network")
def test_real_data_that_were_asked_for_by_name_are_never_replaced(tmp_path):
    config = build({"data_dir": str(tmp_path), "overrides": SHORT, "data": "cifar10"})
    with pytest.raises(FileNotFoundError, match="no route"):
        make_world(config, 1, AutoresetMode.SAME_STEP)


@pytest.mark.parametrize(("total", "rounds"), [(1, 1), (240, 1), (241, 2)])
def test_total_steps_are_rounded_up_to_whole_rounds(total, rounds):
    assert build({"total_steps": total, "num_envs": 8}).num_rounds(horizon=30) == rounds


def test_differences_are_named_by_path():
    old, new = {"a": 1, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [2], "d": 2}, "e": 0}
    assert differences(old, new) == ["b.c ([1] there, [2] here)", "e (None there, 0 here)"]
    assert differences(old, json.loads(json.dumps(old))) == []
    assert fingerprint(old) != fingerprint(new)
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.json", '{"rounds": 1, "rounds": 2}', "rounds.* given twice"),
        ("a.json", '{"learning_rate": NaN}', "NaN is not a number"),
        ("a.json", "[1]", "not a JSON object"),
        ("a.json", "{", "a.json"),
        ("a.toml", "rounds = ", "a.toml"),
        ("a.yaml", "rounds: 1", "a.yaml"),
    ],
)
def test_a_file_that_is_not_plain_settings_is_refused(tmp_path, name, text, named):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=named):
        config_file.read(tmp_path / name)


def test_toml_and_json_say_the_same(tmp_path):
    (tmp_path / "a.toml").write_text(
        'env = "EsperMicro-v0"\nlearning_rate = 1e-3\n[schedule]\nslots = [0, 2]\n'
    )
    values = {"env": "EsperMicro-v0", "learning_rate": 1e-3, "schedule": {"slots": [0, 2]}}
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert config_file.read(tmp_path / "a.toml") == config_file.read(tmp_path / "a.json") == values


def test_runs_are_numbered_and_never_share_a_folder(tmp_path):
    names = [new_run(tmp_path / "runs", "x").name for _ in range(3)]
    (tmp_path / "runs" / "x-notes").mkdir()
    assert [*names, new_run(tmp_path / "runs", "x").name] == ["x-1", "x-2", "x-3", "x-4"]


def test_a_checkpoint_goes_on_wherever_its_data_lie_now_but_not_on_other_settings() -> None:
    record = {
        "config": {"seed": 0, "logdir": "a"},
        "environment": {"horizon": 30, "engine": {"device": "cpu"}, "task": {"data_dir": "old", "data": "x"}},
        "provenance": "real, from old",
        "observation_version": 1,
    }
    moved = copy.deepcopy(record) | {"provenance": "real, from new"}
    moved["environment"]["task"]["data_dir"] = "new"
    refuse_other(record, moved, "here")
    moved["environment"]["horizon"] = 20
    with pytest.raises(
        ValueError, match=r"here is a checkpoint of another configuration.*environment\.horizon"
    ):
        refuse_other(record, moved, "here")
