"""A training run from configuration to summary: learning, logging, saving, resuming."""

import io
import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper_agents import checkpoint
from esper_agents.compare import build as build_comparison
from esper_agents.compare import compare
from esper_agents.config import build
from esper_agents.train import train

LEARNERS = ("recurrent_ppo", "maskable_ppo", "ppo")
SMALL = {
    "env": "EsperMicro-v0",
    "episode_length": 6,
    "num_envs": 2,
    "rounds": 2,
    "ppo_epochs": 1,
    "memory_size": 4,
    "hidden_size": 4,
    "eval_episodes": 2,
    "compare": ["wait"],
    "overrides": {"engine.name": "null"},
}


def run(folder, resume=None, **changes):
    """Summary and printed lines of a small run."""
    stream = io.StringIO()
    summary = train(build({**SMALL, "logdir": str(folder), **changes}), resume, stream)
    return summary, stream.getvalue().splitlines()


def weights(folder):
    """Every tensor of the policy in a run's checkpoint."""
    from stable_baselines3.common.save_util import load_from_zip_file

    _, parameters, _ = load_from_zip_file(folder / checkpoint.CHECKPOINT, load_data=False)
    return parameters["policy"]


def events(folder):
    """What TensorBoard shows of a run."""
    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0}).Reload()


@pytest.mark.parametrize("algo", LEARNERS)
def test_an_algorithm_learns_saves_and_plays_again(tmp_path, algo):
    summary, lines = run(tmp_path, algo=algo, seed=3)
    assert lines[0].startswith("data: ")
    assert summary.steps == 2 * 2 * 6
    assert [e.agent for e in summary.evaluations] == [algo, "wait"]
    assert [e.seed for e in summary.evaluations[0].episodes] == [10_000, 10_001]
    values = build_comparison({"agents": [str(summary.folder)], "episodes": 2})
    again = compare(values).evaluations[0]
    assert again.episodes == summary.evaluations[0].episodes


@pytest.mark.parametrize("algo", ["wait", "random", "schedule"])
def test_an_agent_that_does_not_learn_is_evaluated(tmp_path, algo):
    summary, _ = run(tmp_path, algo=algo, compare=["wait", "random"])
    assert summary.evaluations[0].agent == algo
    assert len({e.agent for e in summary.evaluations}) == len(summary.evaluations)
    assert not (summary.folder / checkpoint.CHECKPOINT).exists()
    assert json.loads((summary.folder / "evaluation.json").read_text())["agents"][0]["agent"] == algo


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    one, two, other = (
        weights(run(tmp_path / str(i), algo="ppo", seed=s)[0].folder) for i, s in enumerate((1, 1, 2))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_learning_changes_the_weights_and_evaluating_does_not(tmp_path):
    plain = weights(run(tmp_path / "a", algo="ppo", rounds=2)[0].folder)
    checked = weights(run(tmp_path / "b", algo="ppo", rounds=2, eval_every=1)[0].folder)
    short = weights(run(tmp_path / "c", algo="ppo", rounds=1)[0].folder)
    assert all(torch.equal(plain[name], checked[name]) for name in plain)
    assert not all(torch.equal(plain[name], short[name]) for name in plain)


def test_the_curves_of_a_run_are_complete(tmp_path):
    summary, _ = run(tmp_path, algo="maskable_ppo", eval_every=1, overrides={"engine.name": "null"})
    shown = events(summary.folder)
    tags = set(shown.Tags()["scalars"])
    ours = {
        "host/val_accuracy",
        "host/test_accuracy",
        "growth/param_ratio",
        "growth/fossilized",
        "growth/pruned",
    }
    ours |= {f"slot/{i}/alpha" for i in range(3)}
    ours |= {f"reward/{term}" for term in ("quality", "harvest", "rent", "churn", "op_cost", "shaping")}
    ops = ("wait", "germinate", "set_alpha_target", "prune", "fossilize", "advance")
    ours |= {f"actions/{op}_share" for op in ops} | {"actions/invalid_share", "perf/env_steps_per_s"}
    ours |= {"charts/episodic_return", "rollout/ep_rew_mean", "train/value_loss", "eval/mean_reward"}
    assert ours <= tags
    assert sum(shown.Scalars(f"actions/{op}_share")[0].value for op in ops) == pytest.approx(1)
    parts = sum(shown.Scalars(tag)[0].value for tag in tags if tag.startswith("reward/"))
    assert parts == pytest.approx(shown.Scalars("rollout/ep_rew_mean")[0].value, abs=1e-4)
    assert len(shown.Images("eval/episode")) == 2
    assert "provenance" in str(shown.Tensors("run/config/text_summary")[0].tensor_proto)


def test_the_record_beside_a_run_is_the_configuration_it_can_be_repeated_from(tmp_path):
    from esper_agents import config_file

    summary, _ = run(tmp_path, algo="ppo")
    record = json.loads((summary.folder / checkpoint.RUN_RECORD).read_text())
    assert record["provenance"] == summary.provenance
    assert record["environment"]["horizon"] == 6
    assert (
        build(config_file.read(summary.folder / checkpoint.RUN_RECORD)).model_dump(mode="json")
        == record["config"]
    )


@pytest.mark.parametrize("algo", LEARNERS)
def test_a_resumed_run_goes_on_where_it_was(tmp_path, algo):
    first, _ = run(tmp_path, algo=algo, rounds=1)
    before = checkpoint.read_record(first.folder / checkpoint.CHECKPOINT)["state"]
    summary, lines = run(tmp_path, resume=first.folder, algo=algo, rounds=3)
    after = checkpoint.read_record(first.folder / checkpoint.CHECKPOINT)["state"]
    assert summary.folder == first.folder
    assert next(line for line in lines if line.startswith("round")).startswith("round 2: 24/36")
    assert (before["timesteps"], after["timesteps"]) == (12, 36)
    assert after["updates"] == 3 * before["updates"]
    assert after["return_rms"]["count"] == pytest.approx(before["return_rms"]["count"] + 24)
    steps = [event.step for event in events(first.folder).Scalars("charts/episodic_return")]
    assert steps == [12, 24, 36]


def test_resuming_restores_weights_and_optimizer(tmp_path):
    from gymnasium.vector import AutoresetMode

    from esper_agents.environment import make_world
    from esper_agents.sb3 import Sb3Trainee

    summary, _ = run(tmp_path, algo="ppo")
    config = build({**SMALL, "algo": "ppo"})
    world = make_world(config, 2, AutoresetMode.SAME_STEP)
    model = Sb3Trainee(config, world, summary.folder / checkpoint.CHECKPOINT).model
    saved = weights(summary.folder)
    assert all(torch.equal(saved[name], value) for name, value in model.policy.state_dict().items())
    moments = model.policy.optimizer.state_dict()["state"]
    assert (
        int(moments[0]["step"])
        == checkpoint.read_record(summary.folder / checkpoint.CHECKPOINT)["state"]["updates"] * 2
    )
    assert any(np.any(state["exp_avg"].numpy()) for state in moments.values())


def test_a_finished_run_that_is_resumed_only_evaluates(tmp_path):
    first, _ = run(tmp_path, algo="ppo")
    summary, lines = run(tmp_path, resume=tmp_path, algo="ppo")
    assert summary.steps == first.steps
    assert not [line for line in lines if line.startswith("round")]
    assert summary.evaluations[0].episodes == first.evaluations[0].episodes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_envs": 3, "learning_rate": 0.1}, "learning_rate .*num_envs"),
        ({"algo": "maskable_ppo"}, "algo"),
        ({"overrides": {"engine.name": "null", "reward.rent": 0.5}}, r"overrides.reward.rent"),
        ({"algo": "wait"}, "does not learn"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_name(tmp_path, changes, named):
    first, _ = run(tmp_path, algo="ppo", rounds=1)
    before = (first.folder / checkpoint.CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match=named):
        run(tmp_path, resume=first.folder, **{"algo": "ppo", **changes})
    assert (first.folder / checkpoint.CHECKPOINT).read_bytes() == before


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        run(tmp_path, resume=tmp_path, algo="ppo")
    (tmp_path / "x.zip").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.zip is not a checkpoint"):
        run(tmp_path, resume=tmp_path / "x.zip", algo="ppo")
    first, _ = run(tmp_path, algo="ppo", rounds=1)
    path = first.folder / checkpoint.CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.zip is (damaged|not a checkpoint)"):
        run(tmp_path, resume=first.folder, algo="ppo")


def test_a_trained_agent_is_not_played_where_it_does_not_fit(tmp_path):
    summary, _ = run(tmp_path, algo="ppo")
    slots = {"engine.name": "null", "host.slots": 2}
    values = {"agents": ["wait", str(summary.folder)], "episodes": 1, "overrides": slots}
    with pytest.raises(ValueError, match="single_observation_space"):
        compare(build_comparison(values))
    with pytest.raises(ValueError, match="'greedy' is not known"):
        build_comparison({"agents": ["greedy"]})


def test_a_run_that_is_interrupted_keeps_its_last_checkpoint(tmp_path, monkeypatch):
    from esper_agents.run import Run

    stepped = Run.stepped

    def interrupt(self, step, done):
        if done > 12 + 4:
            raise KeyboardInterrupt
        stepped(self, step, done)

    monkeypatch.setattr(Run, "stepped", interrupt)
    summary, lines = run(tmp_path, algo="ppo", rounds=5)
    assert (summary.steps, summary.evaluations) == (12, [])
    assert "interrupted" in lines[-1]
    assert checkpoint.read_record(summary.folder / checkpoint.CHECKPOINT)["state"]["timesteps"] == 12


def test_the_reference_engine_is_trained_on_for_real(tmp_path):
    tiny = {"engine.epoch_size": 64, "task.train_size": 256, "task.val_size": 256, "task.test_size": 64}
    summary, lines = run(tmp_path, algo="maskable_ppo", rounds=1, episode_length=2, overrides=tiny)
    assert lines[0].startswith("data: procedural images 16x16")
    assert summary.evaluations[0].episodes[0].measured["test_accuracy"] is not None
