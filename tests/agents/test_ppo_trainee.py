"""A run of our PPO: it goes on exactly, keeps tensors and plain values alone, and plays nothing illegal."""

import io
import zipfile

import pytest
import torch
from gymnasium.vector import AutoresetMode
from test_train import events

from esper_agents import checkpoint
from esper_agents.config import build
from esper_agents.environment import make_world
from esper_agents.evaluate import evaluate
from esper_agents.ppo.network import Encoded
from esper_agents.ppo.player import PpoAgent
from esper_agents.ppo.trainee import REST, WEIGHTS
from esper_agents.train import train
from esper_agents.trainees import make_trainee
from esper_env import EsperVectorEnv, Head

SMALL = {
    "env": "EsperMicro-v0",
    "algo": "esper_ppo",
    "num_envs": 3,
    "episode_length": 8,
    "memory_size": 16,
    "hidden_size": 16,
    "minibatches": 2,
    "eval_episodes": 2,
    "overrides": {"engine.name": "null"},
}


def run(folder, resume=None, **changes):
    return train(build({**SMALL, "logdir": str(folder), **changes}), resume, io.StringIO())


def saved(folder):
    with zipfile.ZipFile(folder / checkpoint.CHECKPOINT) as archive:
        return [torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in (WEIGHTS, REST)]


def equal(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("core", ["lstm", "mlp"])
def test_a_run_that_was_stopped_has_the_weights_of_one_that_was_not(tmp_path, core, stop):
    whole = run(tmp_path / "whole", rounds=4, core=core)
    first = run(tmp_path / "parts", rounds=stop, core=core)
    assert not equal(saved(first.folder), saved(whole.folder))
    second = run(tmp_path / "parts", first.folder, rounds=4, core=core)
    assert second.folder == first.folder
    assert equal(saved(second.folder), saved(whole.folder))
    states = [
        checkpoint.read_record(each.folder / checkpoint.CHECKPOINT)["state"] for each in (whole, second)
    ]
    assert states[0] == states[1]
    assert second.steps == whole.steps == 4 * 3 * 8


def test_curves_have_the_librarys_names_and_one_for_every_head(tmp_path):
    folder = run(tmp_path, rounds=2).folder
    shown = events(folder)
    tags = set(shown.Tags()["scalars"])
    names = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "loss",
             "explained_variance", "learning_rate", "clip_range", "n_updates", "gradient_norm")  # fmt: skip
    assert {f"train/{name}" for name in names} <= tags
    figures = ("entropy", "kl", "clip_fraction", "gradient", "masked_share", "forced_share", "read_share")
    assert {f"heads/{head}_{figure}" for head in ("op", "slot", "alpha_curve") for figure in figures} <= tags
    assert [event.step for event in shown.Scalars("train/loss")] == [24, 48]


def test_another_configuration_is_not_gone_on_with(tmp_path):
    folder = run(tmp_path, rounds=1).folder
    with pytest.raises(ValueError, match=r"ratio .*'joint' there, 'per_head' here"):
        run(tmp_path, folder, rounds=2, ratio="per_head")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"argument_baseline": "op_value"}, "needs ratio='per_head'"),
        ({"entropy_floor": {"op": 1.5}}, "entropy_floor of 'op' is 1.5"),
        ({"entropy_floor": {"nose": 0.5}}, r"entropy_floor names \['nose'\], the heads are"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, rounds=1, **changes)
    assert not list(tmp_path.glob("*/checkpoint.zip"))


@pytest.mark.parametrize("policy", ["flat", "set"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_it_plays_legal_actions_alone_and_the_same_ones_beside_any_others(policy, deterministic):
    config = build({**SMALL, "policy": policy})
    world = make_world(config, 3, AutoresetMode.SAME_STEP)
    learner = make_trainee(config, world, None).learner
    agent = PpoAgent(learner.policy, "own", deterministic)

    def played(seeds):
        envs = EsperVectorEnv(
            len(seeds), "micro", engine="null", horizon=30, strict_actions=True, autoreset_mode="NEXT_STEP"
        )
        return evaluate(agent, envs, seeds)

    together, alone = played([5, 6, 7, 8]), played([7])
    assert not any(episode.invalid for episode in together.episodes)
    assert alone.episodes[0].ops == together.episodes[2].ops
    assert sum(together.episodes[0].ops.values()) == 30


def permuted(features, order, obs):
    """The slots of an observation in another order."""
    out = obs.clone()
    for name, at in features.items():
        slot, _, feature = name.partition(".")
        if feature:
            out[:, at] = obs[:, features[f"slot{order[int(slot[4:])]}.{feature}"]]
    return out


def slot_logits(policy, obs):
    """Of the slots, and the features that everything else is drawn from."""
    encoded, _ = policy.features(obs[None], policy.begin(len(obs)))
    now = Encoded(encoded.features[0], encoded.slots[0])
    return policy.heads.begin(now).logits(Head.SLOT, torch.arange(len(obs))), now.features


def set_policy(slots, seed=0, **settings):
    world = make_world(
        build(
            {
                **SMALL,
                "policy": "set",
                "seed": seed,
                "overrides": {"engine.name": "null", "host.slots": slots},
            }
        ),
        2,
        AutoresetMode.SAME_STEP,
    )
    config = build({**SMALL, "policy": "set", "seed": seed, **settings})
    return make_trainee(config, world, None).learner.policy, world.envs.features


def observations(features, slots, count=6, seed=0):
    obs = torch.rand(
        count, max(at.stop for at in features.values()), generator=torch.Generator().manual_seed(seed)
    )
    for slot in range(slots):
        obs[:, features[f"slot{slot}.present"]] = 1.0
    return obs


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 7, 64])
def test_permuted_slots_have_permuted_logits_to_the_last_bit(count, seed):
    (policy, features), order = set_policy(5, seed, memory_size=32), [3, 0, 4, 2, 1]
    obs = observations(features, 5, count, seed)
    for slot in (1, 4):  # two empty ones, alike
        for name, at in features.items():
            if name.startswith(f"slot{slot}."):
                obs[:, at] = 0.25 if name.endswith(("channels", "positions", "depth")) else 0.0
    logits, whole = slot_logits(policy, obs)
    others, same = slot_logits(policy, permuted(features, order, obs))
    assert torch.equal(others, logits[:, order])
    assert torch.equal(same, whole)
    assert logits.std(dim=1).max() > 1e-4


@torch.no_grad()
def test_one_more_empty_slot_changes_no_other_ones_logits():
    (three, few), (five, many) = set_policy(3), set_policy(5)
    five.load_state_dict(three.state_dict())
    obs = observations(few, 3)
    more = torch.zeros(6, max(at.stop for at in many.values()))
    for name, at in few.items():
        more[:, many[name]] = obs[:, at]
    for slot in (3, 4):
        more[:, many[f"slot{slot}.log2_channels"]] = 0.7
    (first, whole), (second, same) = slot_logits(three, obs), slot_logits(five, more)
    torch.testing.assert_close(second[:, :3], first, atol=1e-6, rtol=0)
    torch.testing.assert_close(same, whole, atol=1e-6, rtol=0)


def test_a_policy_over_a_set_of_slots_plays_hosts_with_more_and_fewer(tmp_path):
    from esper_agents.compare import build as comparison
    from esper_agents.compare import compare

    trained = run(tmp_path, rounds=1, policy="set").folder
    for slots in (1, 2, 5):
        changes = {"overrides": {"engine.name": "null", "host.slots": slots}, "episodes": 2}
        [played] = compare(comparison({"agents": [str(trained)], **changes})).evaluations
        assert not any(episode.invalid for episode in played.episodes)
    flat = run(tmp_path, rounds=1, policy="flat").folder
    with pytest.raises(ValueError, match="was trained with single_observation_space"):
        compare(comparison({"agents": [str(flat)], **changes}))


def test_episodes_that_a_round_cuts_short_are_not_counted_on(tmp_path, monkeypatch):
    """A budget ends episodes early; a round's rest is dropped, for the next one begins anew."""
    from esper_agents.callbacks import RoundReport

    lengths, tags = [], RoundReport.tags

    def kept(report):
        lengths.append([episode.length for episode in report.episodes])
        return tags(report)

    monkeypatch.setattr(RoundReport, "tags", kept)
    budget = {"engine.name": "null", "budget.params": 1.0, "budget.compute": 0.4}  # no module fits
    run(tmp_path, rounds=3, episode_length=12, overrides=budget)
    assert lengths == [[5] * 6] * 3


def test_a_checkpoint_from_before_a_setting_was_there_goes_on(tmp_path):
    import json

    first = run(tmp_path, rounds=1)
    path = first.folder / checkpoint.CHECKPOINT
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(entries[checkpoint.RECORD])
    del record["config"]["replicas"], record["config"]["start_from"], record["start"]
    entries[checkpoint.RECORD] = json.dumps(record).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert run(tmp_path, first.folder, rounds=2).steps == 48
    with pytest.raises(ValueError, match="replicas"):
        run(tmp_path, first.folder, rounds=3, replicas=3)


def test_the_curves_have_the_names_of_stable_baselines3(tmp_path):
    folder = run(tmp_path, rounds=3).folder
    found = events(folder)
    for tag in (
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "time/fps",
        "train/approx_kl",
        "train/n_updates",
    ):
        assert found.Tags()["scalars"].count(tag) == 1, tag
    returns, same = (found.Scalars(f"{tag}") for tag in ("charts/episodic_return", "rollout/ep_rew_mean"))
    assert [event.value for event in returns] == [event.value for event in same]
    assert found.Scalars("rollout/ep_len_mean")[-1].value == 8
