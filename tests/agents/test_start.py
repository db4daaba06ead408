"""A run that begins with the weights of another."""

import io
import json

import pytest
import torch

from esper_agents import checkpoint
from esper_agents.config import build
from esper_agents.dry_run import dry_run
from esper_agents.train import train

SMALL = {
    "env": "EsperMicro-v0",
    "num_envs": 2,
    "episode_length": 6,
    "memory_size": 8,
    "hidden_size": 8,
    "minibatches": 1,
    "eval_episodes": 2,
    "compare": [],
    "rounds": 1,
    "overrides": {"engine.name": "null"},
}
ALGOS = ["esper_ppo", "recurrent_ppo", "maskable_ppo", "maskable_recurrent_ppo", "ppo"]


def run(folder, resume=None, **changes):
    return train(build({**SMALL, "logdir": str(folder), **changes}), resume, io.StringIO()).folder


def weights(folder):
    """Every tensor of the policy, by name."""
    from esper_agents.config import TrainConfig, validated
    from esper_agents.environment import make_world
    from esper_agents.trainees import make_trainee

    path = folder / checkpoint.CHECKPOINT
    config = validated(TrainConfig, checkpoint.read_record(path)["config"])
    world = make_world(config, config.num_envs, "SameStep")
    trainee = make_trainee(config, world, path)
    policy = trainee.learner.policy if config.algo == "esper_ppo" else trainee.model.policy
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


@pytest.mark.parametrize("algo", ALGOS)
def test_it_begins_with_those_weights_and_its_own_optimizer(tmp_path, algo):
    first = run(tmp_path / "first", algo=algo, seed=1)
    still = {"learning_rate": 1e-30, "seed": 2, "algo": algo}
    second = run(tmp_path / "second", start_from=str(first), **still)
    alone = run(tmp_path / "alone", **still)
    taken, own = weights(second), weights(alone)
    for name, tensor in weights(first).items():
        torch.testing.assert_close(taken[name], tensor)
    assert any(not torch.equal(taken[name], own[name]) for name in own)
    record = checkpoint.read_record(second / checkpoint.CHECKPOINT)
    assert record["state"]["timesteps"] == 12
    assert record["start"]["path"] == str(first / checkpoint.CHECKPOINT)
    assert checkpoint.read_record(alone / checkpoint.CHECKPOINT)["start"] is None


def test_a_stopped_run_goes_on_without_the_weights_it_began_with(tmp_path):
    first = run(tmp_path / "first", algo="esper_ppo")
    settings = {"algo": "esper_ppo", "start_from": str(first), "learning_rate": 1e-2}
    whole = run(tmp_path / "whole", **settings | {"rounds": 2})
    half = run(tmp_path / "half", **settings)
    kept = json.loads((half / checkpoint.RUN_RECORD).read_text())["start"]
    (first / checkpoint.CHECKPOINT).unlink()
    run(tmp_path / "half", half, **settings | {"rounds": 2})
    resumed = weights(half)
    for name, tensor in weights(whole).items():
        assert torch.equal(resumed[name], tensor), name
    assert json.loads((half / checkpoint.RUN_RECORD).read_text())["start"] == kept


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    first = run(tmp_path / "first", algo="esper_ppo")
    refused = {
        "is a checkpoint of esper_ppo, not of maskable_ppo": {"algo": "maskable_ppo"},
        "does not fit": {"algo": "esper_ppo", "memory_size": 16},
        "has no checkpoint": {"algo": "esper_ppo", "start_from": str(tmp_path / "nowhere")},
    }
    for message, changes in refused.items():
        settings = {**SMALL, "start_from": str(first), "logdir": str(tmp_path / "out"), **changes}
        with pytest.raises(ValueError, match=message):
            dry_run(build(settings))
        with pytest.raises(ValueError, match=message):
            train(build(settings), None, io.StringIO())
    assert not list(tmp_path.glob("out/*/checkpoint.zip"))
    with pytest.raises(ValueError, match="algo='wait' does not learn"):
        build({**SMALL, "algo": "wait", "start_from": str(first)})
