"""The mean of weights: what it is, that it plays, and that a run goes on exactly."""

import io
import zipfile

import pytest
import torch
from test_start import SMALL, run

from esper_agents import checkpoint
from esper_agents.config import build
from esper_agents.environment import make_world
from esper_agents.trainees import make_trainee

TAUGHT = {"algo": "esper_ppo", "learning_rate": 1e-2}


def tensors(folder, entry="policy.pt"):
    with zipfile.ZipFile(folder / checkpoint.CHECKPOINT) as archive:
        return torch.load(io.BytesIO(archive.read(entry)), weights_only=True)


def test_what_plays_is_the_decaying_mean_of_the_weights_after_each_update(tmp_path):
    last = [tensors(run(tmp_path / str(rounds), **TAUGHT, rounds=rounds)) for rounds in (1, 2, 3)]
    mean = tensors(run(tmp_path / "mean", **TAUGHT, rounds=3, average=0.75))
    for name, tensor in mean.items():
        one, two, three = (weights[name] for weights in last)
        torch.testing.assert_close(tensor, 0.75 * (0.75 * one + 0.25 * two) + 0.25 * three)
    assert any(not torch.equal(tensor, last[2][name]) for name, tensor in mean.items())


@pytest.mark.parametrize("rounds_per_update", [1, 2])
def test_a_run_that_was_stopped_has_the_same_mean(tmp_path, rounds_per_update):
    own = {**TAUGHT, "average": 0.5, "rounds_per_update": rounds_per_update}
    whole = run(tmp_path / "whole", **own, rounds=4)
    parts = run(tmp_path / "parts", run(tmp_path / "parts", **own, rounds=2), **own, rounds=4)
    for entry in ("policy.pt", "training.pt"):
        one, other = tensors(whole, entry), tensors(parts, entry)
        one, other = (each.get("weights", each) for each in (one, other))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_another_run_begins_with_the_mean(tmp_path):
    first = run(tmp_path / "first", **TAUGHT, rounds=3, average=0.9)
    second = run(tmp_path / "second", algo="esper_ppo", learning_rate=1e-30, start_from=str(first))
    for name, tensor in tensors(first).items():
        torch.testing.assert_close(tensors(second)[name], tensor)


def test_before_the_first_update_the_weights_it_began_with_play(tmp_path):
    first = run(tmp_path / "first", **TAUGHT)
    config = build({**SMALL, **TAUGHT, "seed": 7, "average": 0.9})
    trainee = make_trainee(config, make_world(config, config.num_envs, "SameStep"), None)
    trainee.start_from(first / checkpoint.CHECKPOINT)
    with zipfile.ZipFile(io.BytesIO(trainee.content()[0])) as archive:
        begun = torch.load(io.BytesIO(archive.read("policy.pt")), weights_only=True)
    assert all(torch.equal(tensor, begun[name]) for name, tensor in tensors(first).items())
