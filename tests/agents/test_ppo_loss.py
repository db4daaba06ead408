"""What an update of esper_ppo descends on, by hand: every sign, clip, end and baseline."""

import numpy as np
import pytest
import torch
from test_ppo_update import learner

from esper_agents.ppo.update import Batch
from esper_env import EsperVectorEnv


def batch(advantages, argument_advantages=None):
    zeros, own = torch.zeros(len(advantages), 8), torch.tensor(advantages)
    other = own if argument_advantages is None else torch.tensor(argument_advantages)
    return Batch(zeros.long(), zeros, own, other, torch.zeros(len(advantages)))


def log_ratios(ratios, head=7):
    logs = torch.zeros(len(ratios), 8)
    logs[:, head] = torch.tensor(ratios).log()
    return logs


def test_the_joint_ratio_is_clipped_where_that_is_worse():
    own = learner().updater
    logs, read = log_ratios([1.5, 1.5, 0.5, 0.5, 1.1]), torch.ones(5, 8, dtype=torch.bool)
    loss, clipped = own._surrogate(batch([1.0, -1.0, 1.0, -1.0, 2.0]), logs, read)
    # The least of ratio and clipped ratio times advantage: 1.2, -1.5, 0.5, -0.8, 2.2.
    assert float(loss) == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 2.2) / 5)
    assert float(clipped) == pytest.approx(4 / 5)


def test_the_joint_ratio_is_the_product_over_the_heads():
    own = learner().updater
    logs = log_ratios([1.1], head=7) + log_ratios([1.5], head=0) + log_ratios([0.5], head=2)
    loss, _ = own._surrogate(batch([1.0]), logs, torch.ones(1, 8, dtype=torch.bool))
    assert float(loss) == pytest.approx(-1.1 * 1.5 * 0.5)


def test_ratios_of_heads_have_an_advantage_of_their_own_and_unread_ones_none():
    own = learner(ratio="per_head", argument_baseline="op_value").updater
    logs, read = log_ratios([1.5]) + log_ratios([1.1], head=1), torch.zeros(1, 8, dtype=torch.bool)
    read[0, [1, 7]] = True
    loss, clipped = own._surrogate(batch([2.0], [-3.0]), logs, read)
    # The op, clipped to 1.2, has V(s) as baseline; the blueprint Q(s, op).
    assert float(loss) == pytest.approx(-(1.2 * 2 + 1.1 * -3))
    assert float(clipped) == pytest.approx(1 / 2)


def test_the_op_is_held_against_the_value_and_what_follows_against_that_of_the_op():
    own = learner(ratio="per_head", argument_baseline="op_value", gae_lambda=1.0)
    rollout, _ = own.play()
    targets = own.updater._targets(rollout)
    to_come = rollout.rewards.flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(targets.returns, to_come, atol=1e-4, rtol=1e-4)
    for found, baseline in (
        (targets.advantages, rollout.values),
        (targets.argument_advantages, rollout.op_values),
    ):
        gain = to_come - baseline
        torch.testing.assert_close(found, (gain - gain.mean()) / gain.std(correction=0), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(targets.advantages, targets.argument_advantages)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_entropy_that_is_paid_for_is_the_mean_over_all_rows(weight, monkeypatch):
    """A head that few rows read counts by as much less."""
    own = learner(entropy=weight, value_weight=0.0)
    rollout, fresh = own.play()
    seen = []
    loss = own.updater._loss
    monkeypatch.setattr(own.updater, "_loss", lambda *each: seen.append((each, loss(*each))) or seen[-1][1])
    own.updater._step(
        rollout,
        own.updater._targets(rollout),
        next(own.updater._minibatches(rollout, torch.from_numpy(fresh))),
    )
    ((rows, now, values, _), (total, figures)) = seen[0]
    shares = now.entropies / now.choices.clamp(min=2).log()
    expected = -weight * float(shares[now.choices > 1].detach().sum()) / len(rows.actions)
    assert float(total.detach()) - figures["train/policy_gradient_loss"] == pytest.approx(expected, abs=1e-6)
    assert weight == 0 or expected < -0.1
    assert values.shape == (len(rows.actions),)


def test_a_cut_is_worth_its_last_observation_and_an_end_nothing():
    own = learner(num_envs=3, horizon=6, core="mlp")
    own.envs.close()
    envs = EsperVectorEnv(
        3, "micro", engine="null", horizon=6, max_episode_steps=4, autoreset_mode=own.envs.autoreset_mode
    )
    own.envs, own.steps = envs, 10
    last = []
    rollout, _ = own.play(lambda obs, actions, rewards, ended, info: last.append((ended.copy(), info)))
    steps = [step for step, (ended, _) in enumerate(last) if ended.any()]
    assert steps == [3, 7]
    with torch.no_grad():
        for step in steps:
            final = torch.from_numpy(np.stack(last[step][1]["final_obs"]))
            features = own.policy.features(final[None], ())[0].features[0]
            torch.testing.assert_close(rollout.following[step], own.policy.values(features))
    assert (rollout.following[3].abs() > 1e-4).all()
    ended, _ = learner(num_envs=3, horizon=6, core="mlp").play()
    assert (ended.following[-1] == 0).all()


def test_the_last_step_of_a_rollout_is_followed_by_what_comes_next():
    own = learner(num_envs=2, horizon=6, core="mlp")
    own.steps = 4
    rollout, _ = own.play()
    assert not rollout.ended.any()
    with torch.no_grad():
        features = own.policy.features(torch.from_numpy(own._obs)[None], ())[0].features[0]
        torch.testing.assert_close(rollout.following[-1], own.policy.values(features))
    torch.testing.assert_close(rollout.following[:-1], rollout.values[1:])


@pytest.mark.parametrize("ratio", ["joint", "per_head"])
def test_it_learns_to_wait_where_ops_only_cost(ratio):
    own = learner(num_envs=8, horizon=12, ratio=ratio, learning_rate=3e-3, entropy=0.0)
    own.envs.close()
    mode = own.envs.autoreset_mode
    own.envs = EsperVectorEnv(
        8, "micro", engine="null", horizon=12, reward={"op_cost": 1.0}, autoreset_mode=mode
    )
    paid = []
    for _ in range(25):
        paid.append(0.0)
        own.round(lambda obs, actions, rewards, ended, info: paid.__setitem__(-1, paid[-1] + rewards.mean()))
    assert np.mean(paid[:3]) < -0.4
    assert np.mean(paid[-3:]) > np.mean(paid[:3]) / 4


@pytest.mark.parametrize("where", ["rewards", "values"])
def test_what_is_not_finite_stops_the_run_before_the_weights_are_lost(where):
    from dataclasses import replace

    own = learner()
    rollout, fresh = own.play()
    broken = getattr(rollout, where).clone()
    broken[2, 1] = float("nan")
    before = {name: each.clone() for name, each in own.policy.state_dict().items()}
    with pytest.raises(FloatingPointError, match="weights were kept"):
        own.learn(replace(rollout, **{where: broken}), fresh)
    assert all(torch.equal(each, before[name]) for name, each in own.policy.state_dict().items())
