"""Agents play language hosts: all of them, from the command to the curves."""

import io
import json
import math
import sys
from importlib import import_module
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from esper_agents import tune
from esper_agents.baselines import ScheduleConfig, baseline
from esper_agents.baselines.preference import preferred
from esper_agents.callbacks import text_tags
from esper_agents.config import build
from esper_agents.environment import make_world
from esper_agents.evaluate import evaluate
from esper_agents.progress import reporter
from esper_agents.table import table
from esper_agents.train import train
from esper_env import Op, Stage, register_blueprint
from esper_env.blueprints import catalogue

LEARNERS = ("esper_ppo", "recurrent_ppo", "maskable_ppo", "maskable_recurrent_ppo", "ppo")
BASELINES = ("wait", "random", "schedule", "heuristic")
NULL = {"engine.name": "null", "host.name": "gpt_micro"}
TINY = {
    "host.name": "gpt_micro", "task.context": 16, "task.train_size": 64, "task.val_size": 16,
    "task.test_size": 8, "engine.epoch_size": 16, "engine.batch_size": 8, "engine.counterfactual_size": 8,
    "engine.optimizer.warmup_steps": 0,
}  # fmt: skip
SMALL = {
    "env": "EsperTinyStories-v0", "data": "procedural", "episode_length": 5, "num_envs": 2, "rounds": 1,
    "ppo_epochs": 1, "memory_size": 4, "hidden_size": 4, "eval_episodes": 2, "compare": ["wait"],
    "overrides": TINY,
}  # fmt: skip
SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(folder, **changes):
    """Summary and printed lines of a small run."""
    stream = io.StringIO()
    summary = train(build({**SMALL, "logdir": str(folder), **changes}), None, stream)
    return summary, stream.getvalue().splitlines()


def shown(folder):
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0}).Reload()


@pytest.mark.parametrize("algo", LEARNERS)
def test_an_algorithm_learns_on_language_hosts(tmp_path, algo):
    summary, lines = run(tmp_path, algo=algo)
    assert lines[0].startswith("data: procedural stories")
    assert summary.steps == 2 * 5
    assert [e.agent for e in summary.evaluations] == [algo, "wait"]
    figures = summary.evaluations[0].episodes[0].measured
    assert figures["test_accuracy"] is None
    assert 0 < figures["test_loss"] < 2 * math.log(163)
    assert any("host loss" in line for line in lines if line.startswith("round 1"))


@pytest.mark.parametrize("algo", BASELINES)
def test_an_agent_that_does_not_learn_plays_language_hosts(tmp_path, algo):
    summary, lines = run(tmp_path, algo=algo, compare=["wait", "random"])
    [heading] = [line for line in lines if line.split()[:1] == ["agent"]]
    assert "test loss" in heading
    assert "harvested loss" in heading
    assert "harvested  " not in heading.replace("harvested loss", "")
    row = lines[lines.index(heading) + 1].split()
    assert f"{np.mean(summary.evaluations[0].values('test_loss')):.3f}" in row
    written = json.loads((summary.folder / "evaluation.json").read_text())["agents"][0]
    assert written["story"] == summary.evaluations[0].story
    assert written["characters_per_token"] == summary.evaluations[0].characters_per_token


def test_the_curves_of_language_hosts_are_losses_and_a_story(tmp_path):
    summary, _ = run(tmp_path, algo="maskable_ppo", rounds=2, eval_every=1)
    events = shown(summary.folder)
    tags = set(events.Tags()["scalars"])
    assert not [tag for tag in tags if "accuracy" in tag]
    world = make_world(build({**SMALL}), 1, AutoresetMode.NEXT_STEP)
    per_token = world.envs.metadata["characters_per_token"]
    assert per_token["test"] != pytest.approx(per_token["validation"], rel=1e-3)
    for group, loss, split in (("host", "val_loss", "validation"), ("eval", "test_loss", "test")):
        curves = [
            [event.value for event in events.Scalars(f"{group}/{name}")]
            for name in (loss, "perplexity", "bits_per_character")
        ]
        assert len(curves[0]) == 2
        for nats, perplexity, bits in zip(*curves, strict=True):
            assert 0 < nats < 2 * math.log(163)
            assert perplexity == pytest.approx(np.exp(nats), rel=1e-5)
            assert bits == pytest.approx(nats / np.log(2) / per_token[split], rel=1e-5)
    mean = np.mean(summary.evaluations[0].values("test_loss"))
    assert events.Scalars("eval/test_loss")[-1].value == pytest.approx(mean, rel=1e-6)
    assert len(events.Images("eval/episode")) == 2
    stories = [e.tensor_proto.string_val[0].decode() for e in events.Tensors("eval/story/text_summary")]
    assert len(stories) == 2
    assert stories[-1].strip() == summary.evaluations[0].story.strip() != ""


def test_the_story_is_that_of_the_first_episodes_harvested_network():
    env = make_world(build({**SMALL}), 1, AutoresetMode.NEXT_STEP, "rgb_array").envs
    found = evaluate(baseline("schedule", env), env, [3])
    obs, info = env.reset(seed=[3])
    agent = baseline("schedule", env)
    memory, ended = agent.begin([3]), False
    while not ended:
        action, memory = agent.act(obs, info, memory)
        obs, _, terminated, _, info = env.step(action)
        ended = terminated[0]
    assert found.story == env.tell(0)
    assert evaluate(baseline("wait", env), env, [4]).story != found.story


class Whole(nn.Module):
    """A branch that has a weight for every place in a window, and so can't read the beginning of one."""

    def __init__(self, place):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(place.shape))

    def forward(self, x):
        return x * self.weight


def test_a_network_that_can_not_tell_is_evaluated_all_the_same(monkeypatch):
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    register_blueprint("whole", {"transformer": Whole})
    config = build({**SMALL, "episode_length": 12})
    env = make_world(config, 1, AutoresetMode.NEXT_STEP, "rgb_array").envs
    agent = baseline("schedule", env, ScheduleConfig(blueprint="whole", slots=(0,)))
    found = evaluate(agent, env, [0])
    assert found.episodes[0].fossilized == 1
    assert found.values("test_loss")[0] > 0
    assert found.story.startswith("(no story: RuntimeError: The size of tensor a")


@pytest.mark.parametrize(("loss", "per_token"), [(None, 3.0), (1.0, None)])
def test_what_was_not_measured_has_no_units_of_language(loss, per_token):
    assert text_tags("host", loss, per_token) == {}


def test_a_loss_beyond_all_bounds_is_a_number_still():
    assert all(map(math.isfinite, text_tags("host", 1e4, 4.0).values()))


def test_images_have_no_story_and_no_bits_per_character(tmp_path):
    summary, _ = run(
        tmp_path, env="EsperMicro-v0", algo="maskable_ppo", data=None, overrides={"engine.name": "null"}
    )
    events = shown(summary.folder)
    tags = set(events.Tags()["scalars"])
    assert {"host/val_accuracy", "host/val_loss", "eval/test_accuracy", "eval/test_loss"} <= tags
    assert not [tag for tag in tags if "perplexity" in tag or "bits" in tag]
    assert not [tag for tag in events.Tags()["tensors"] if "story" in tag]
    assert "test loss" not in table(summary.evaluations)[0]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_the_loss_where_there_is_no_accuracy(monkeypatch):
    from esper_agents.episodes import Step

    monkeypatch.setattr("esper_agents.progress.MIN_INTERVAL", 0)
    env = make_world(build({**SMALL, "overrides": TINY | NULL}), 2, AutoresetMode.NEXT_STEP).envs
    env.reset(seed=0)
    actions = np.zeros((2, 8), dtype=np.int64)
    obs, rewards, _, _, info = env.step(actions)
    stream = Terminal()
    with reporter(10, 0, stream) as bar:
        bar.step(Step(obs, actions, rewards, np.zeros(2, dtype=bool), info), 2)
    assert f"host loss {info['val_loss'].mean():.3f}" in stream.getvalue()


def make(num_envs=1, **settings):
    return gym.make_vec("EsperTinyStories-v0", num_envs=num_envs, engine="null", host="gpt_micro", **settings)


def test_what_is_planted_unless_one_says_it_fits_the_host():
    facts = make().facts
    assert {preferred(facts, slot) for slot in range(3)} == {"mlp"}
    images = gym.make_vec("EsperMicro-v0", engine="null").facts
    assert {preferred(images, slot) for slot in range(3)} == {"conv_heavy"}


@pytest.mark.parametrize(("name", "blueprint"), [("schedule", "mlp"), ("heuristic", "mlp")])
def test_agents_with_rules_grow_language_hosts_and_commit(name, blueprint):
    env = make(horizon=60)
    obs, info = env.reset(seed=0)
    agent = baseline(name, env)
    memory, planted = agent.begin([0]), []
    for _ in range(59):
        actions, memory = agent.act(obs, info, memory)
        obs, _, _, _, info = env.step(actions)
        assert info["action_valid"].all()
        if actions[0, -1] == Op.GERMINATE:
            planted.append(env.facts.blueprints[actions[0, 1]])
    assert planted[0] == blueprint
    stages = [obs[0, env.features[f"slot{slot}.stage"]].argmax() + 1 for slot in range(3)]
    assert Stage.FOSSILIZED in stages


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"blueprint": "conv_heavy"}, r"'conv_heavy' does not fit slot 0 \(block1\).*'mlp'"),
        ({"blueprints": ("mlp", "norm", "depthwise")}, r"'depthwise' does not fit slot 2 \(block3\)"),
    ],
)
def test_a_plan_for_other_hosts_is_refused_by_name(plan, named):
    with pytest.raises(ValueError, match=named):
        baseline("schedule", make(), ScheduleConfig(**plan))


def test_a_search_draws_what_fits_and_writes_a_plan_that_can_be_played(tmp_path):
    values = {"env": "EsperTinyStories-v0", "overrides": NULL, "logdir": str(tmp_path), "candidates": 9}
    found = tune.tune(tune.build(values | {"episode_length": 20, "first_seeds": 1, "eval_episodes": 1}))
    fitting = {"attention", "norm", "lora", "lora_large", "mlp_small", "mlp", "flex_attention", None}
    plans = [entry.schedule for entry in found.rungs[0].entries]
    assert {plan.blueprint for plan in plans} | {n for p in plans for n in p.blueprints or ()} <= fitting
    assert evaluate(baseline("schedule", make(horizon=20), found.best), make(horizon=20), [0]).episodes


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """A script's `main` in this process: status, output, errors."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.chdir(tmp_path)

    def play(script, *flags):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
        try:
            import_module(script).main(list(flags))
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return play


def test_train_print_evaluate_and_tune_from_the_command_line(call, tmp_path):
    about = ("--env", "EsperTinyStories-v0", "--data", "procedural", "--overrides", json.dumps(TINY))
    size = ("--num-envs", "2", "--episode-length", "4")
    short = ("--rounds", "1", "--eval-episodes", "1", "--hidden-size", "4", "--memory-size", "4")
    status, printed, err = call("train_agent", *about, *size, *short, "--print-config")
    assert status == 0, err
    (tmp_path / "c.json").write_text(printed)
    assert json.loads(printed)["overrides"] == TINY
    status, out, err = call("train_agent", "--config", "c.json", "--algo", "recurrent_ppo")
    assert status == 0, err
    assert out.startswith("data: procedural stories")
    status, out, err = call("train_agent", "--config", "c.json", "--dry-run")
    assert status == 0, err
    status, out, err = call("evaluate_agent", "--agents", "runs", "schedule", "--episodes", "2")
    assert status == 0, err
    assert "recurrent_ppo-seed0-1 - schedule: " in out
    search = ("--candidates", "3", "--first-seeds", "1", "--eval-episodes", "1")
    status, out, err = call("tune_schedule", *about, *size, *search)
    assert status == 0, err
    plan = out.splitlines()[-1].removeprefix("plan: ")
    status, out, err = call("evaluate_agent", "--config", plan, "--agents", "schedule", "--episodes", "1")
    assert status == 0, err
