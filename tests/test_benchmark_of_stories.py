"""The benchmark on stories: what is compared has the same size and cost, and figures are what they say."""

import json
import math
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from esper_env.hosts import build, gpt
from esper_env.tasks.plot import optimal_loss

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = {
    "task.context": 8, "task.train_size": 64, "task.val_size": 16, "task.test_size": 8,
    "engine.epoch_size": 16, "engine.batch_size": 8, "engine.counterfactual_size": 8,
    "engine.optimizer.warmup_steps": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def load(monkeypatch):
    """Import a file of benchmarks/; the hosts that it registers are forgotten after the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(gpt, "HOSTS", gpt.HOSTS.copy())
    monkeypatch.setattr(build, "HOSTS", build.HOSTS.copy())
    return import_module


def call(load, capsys, tmp_path, study, *flags):
    """What a study prints, and its episodes."""
    small = ("--out", str(tmp_path / "e"), "--picture", str(tmp_path / "p.png"), "--seeds", "0", "1")
    load("stories").main([study, *small, *flags])
    return capsys.readouterr().out, [json.loads(path.read_text()) for path in (tmp_path / "e").iterdir()]


def own_stories(folder, monkeypatch):
    (folder / "tinystories").mkdir()
    for name, count in (("train", 400), ("valid", 20)):
        told = (f"Tom had {i} balls. He gave {i % 7} to Amy.\n<|endoftext|>\n" for i in range(count))
        (folder / "tinystories" / f"{name}.txt").write_text("".join(told))
    monkeypatch.setenv("ESPER_DATA_DIR", str(folder))
    return json.dumps({**TINY, "task.vocabulary": 256})


@pytest.mark.parametrize("host", sorted(gpt.HOSTS))
def test_a_grown_host_is_as_large_as_the_static_one_it_is_compared_with(load, host):
    stories, play = load("stories"), load("stories_play")
    plan = stories.plan(host, 0, 0)
    grown = play.Job("grown", 0, 30, host, "procedural", plan, stories.slots(host)).setup().facts
    large = play.Job("static", 0, 30, stories.larger(host), "procedural").setup().facts
    indices = [grown.blueprints.index(name) for name in plan["blueprints"]]
    modules = sum(int(grown.module_params[slot, index]) for slot, index in enumerate(indices))
    assert grown.host_params + modules == large.host_params
    assert len({place.name for place in grown.places}) == len(indices) >= 2


def test_grown_and_static_cost_the_same_and_stand_beside_the_optimum(load, capsys, tmp_path):
    size = ("--epochs", "14", "--host", "gpt_micro", "--start", "0", "--spacing", "0")
    out, episodes = call(load, capsys, tmp_path, "grammar", *size, "--overrides", json.dumps(TINY))
    of = load("stories_report").arms(episodes)
    assert {name: len(runs) for name, runs in of.items()} == {
        "grown": 2, "gpt_micro": 2, "as large from the start": 2,
    }  # fmt: skip
    [params] = {run["params"] for name in ("grown", "as large from the start") for run in of[name]}
    assert f"{params:,.0f}" in out
    assert all(run["fossilized"] == 2 for run in of["grown"])
    for name in ("gpt_micro", "as large from the start"):
        epoch = of[name][0]["curves"]["flops"][0]
        assert of[name][0]["curves"]["flops"][-1] == pytest.approx(
            of["grown"][0]["curves"]["flops"][-1], abs=epoch / 2
        )
    job = load("stories_play").Job("x", 0, 1, "gpt_micro", "procedural", overrides=TINY)
    task = job.environment()._stories
    best = optimal_loss(task.test)
    gaps = [run["test_loss"] - best for run in of["grown"]]
    assert f"- grown, test loss above the optimum: {np.mean(gaps):.3f} (" in out
    assert f"validation {optimal_loss(task.validation):.3f}" in out
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_what_was_played_is_not_played_again(load, capsys, tmp_path, monkeypatch):
    overrides = own_stories(tmp_path, monkeypatch)
    flags = ("--epochs", "3", "--host", "gpt_micro", "--overrides", overrides)
    first, episodes = call(load, capsys, tmp_path, "static", *flags)
    assert first.count("test loss") > 2
    monkeypatch.setattr(load("stories_play"), "play", None)
    again, _ = call(load, capsys, tmp_path, "static", *flags)
    assert first.endswith(again)
    run = next(each for each in episodes if each["job"]["seed"] == 0)
    assert run["tokens_an_epoch"] == 16 * 8
    row = next(line for line in again.splitlines() if line.startswith("| 3 | 0.00 |"))
    assert f"{np.mean([each['curves']['val_loss'][2] for each in episodes]):.3f}" in row
    shown = next(line for line in again.splitlines() if line.startswith("| gpt_micro |"))
    per_character = [e["test_loss"] / math.log(2) / e["characters_per_token"]["test"] for e in episodes]
    assert f"{np.mean(per_character):.3f}" in shown


def test_the_published_configuration_is_the_nearest_that_can_be(load, capsys, tmp_path, monkeypatch):
    overrides = json.loads(own_stories(tmp_path, monkeypatch)) | {"engine.epoch_size": 8}
    out, episodes = call(
        load, capsys, tmp_path, "published", "--epochs", "1", "--overrides", json.dumps(overrides)
    )
    config = episodes[0]["job"]["overrides"]
    assert config["engine.optimizer.adam_beta2"] == 0.99
    width, layers, context, vocabulary = 64, 5, 8, 256
    params = (vocabulary + context) * width + layers * (12 * width**2 + 4 * width) + 2 * width
    assert episodes[0]["params"] == params
    assert f"{params:,} parameters" in out
    assert "Published: 1.2968" in out
    setup = load("stories_play").Job("x", 0, 1, load("stories").LLAMA, overrides={"task.vocabulary": 512})
    assert setup.setup().facts.host_params == (512 + 512) * 64 + 5 * (12 * 64**2 + 4 * 64) + 2 * 64


def test_whatever_differs_from_seed_to_seed_has_an_interval(load):
    report = load("stories_report")
    assert set(report.OF_DESIGN) < set(report.COLUMNS)
    losses = (1.0, 1.1, 1.3)
    results = [
        {
            "job": {"arm": "static", "seed": seed}, "params": 1000, "tokens_an_epoch": 1,
            "curves": {"val_loss": [loss, loss], "flops": [1.0, 2.0]},
            "harvest_loss": loss, "test_loss": loss, "characters_per_token": {"test": 4.0},
        }
        for seed, loss in enumerate(losses)
    ]  # fmt: skip
    header, _, row = report.summary(results).splitlines()
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    shown = {name.strip("| "): cell.strip("| ") for name, cell in cells.items()}
    per_character = [loss / math.log(2) / 4 for loss in losses]
    for name, values in {"test bits/character": per_character, "test perplexity": np.exp(losses)}.items():
        margin = 4.303 * np.std(values, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
        mean, low, high = np.mean(values) + np.array([0, -margin, margin])
        assert shown[name] == f"{mean:.3f} ({low:.3f} to {high:.3f})"
    assert {name for name, cell in shown.items() if " to " in cell} == set(report.PER_SEED)
    assert shown["parameters"] == "1,000"
