"""The single file: what it draws is legal, what it learns from is what happened."""

import ast
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
TINY = {"num_steps": 6, "num_envs": 2, "horizon": 6, "epoch_size": 64, "hidden_size": 8}


@pytest.fixture
def cleanrl(example):
    return example("cleanrl_ppo")


@pytest.fixture
def player(cleanrl):
    """A player of environments with these settings, and agents that all begin alike."""

    def make(envs=None, **settings):
        torch.manual_seed(0)
        args = cleanrl.Args(**TINY, **settings)
        envs = gym.make_vec(
            "EsperMicro-v0",
            args.num_envs,
            autoreset_mode="SameStep",
            horizon=args.horizon,
            epoch_size=args.epoch_size,
            **(envs or {}),
        )
        [num_features] = envs.single_observation_space.shape
        agent = cleanrl.Agent(num_features, envs.layout.nvec.tolist(), args.hidden_size)
        return cleanrl.Player(envs, agent, args)

    return make


def test_it_is_a_single_file_that_needs_torch_and_the_environment_alone():
    text = (EXAMPLES / "cleanrl_ppo.py").read_text()
    assert text.count("\n") <= 200
    imported = {node.module or "" for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    imported |= {
        name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for name in node.names
    }
    packages = {name.split(".")[0] for name in imported}
    assert packages == {"dataclasses", "gymnasium", "numpy", "torch", "tyro", "esper_env"}


def test_it_runs_as_printed():
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-W", "error", str(EXAMPLES / "cleanrl_ppo.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("round 1: mean return ")
    assert "0 of 24 actions illegal" in second


def test_two_updates_move_every_tensor_and_play_no_illegal_action(cleanrl):
    def run(rounds):
        return cleanrl.main(cleanrl.Args(rounds=rounds, **TINY))

    before, (after, player) = run(0)[0], run(2)
    assert (player.actions, player.illegal) == (24, 0)
    for name, tensor in after.named_parameters():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before.get_parameter(name)), name


def test_it_learns_to_wait_where_ops_only_cost(cleanrl, costly_ops, capsys):
    cleanrl.main(cleanrl.Args(rounds=20, learning_rate=3e-3, hidden_size=16, reward_scale=10.0, entropy=0.0))
    returns = [float(line.split()[4].rstrip(",")) for line in capsys.readouterr().out.splitlines()]
    assert returns[0] < -1.0
    assert sum(returns[-3:]) / 3 > returns[0] / 2


def test_an_agent_of_no_preference_draws_legally_for_a_hundred_steps(player):
    playing = player(envs={"engine": "null", "param_budget": 2.0, "strict_actions": True})
    playing.agent.actor[-1].weight.data.zero_()
    drawn = torch.cat([playing._step()["action"] for _ in range(100)])
    assert playing.illegal == 0
    assert (drawn.amax(0) > 0).all(), "every head was used"


def test_actions_score_as_they_were_drawn_and_as_the_distribution_of_the_other_examples_says(player, example):
    playing = player()
    playing.agent.actor[-1].weight.data.normal_()
    rollout = {key: values.flatten(0, 1) for key, values in playing.rollout().items()}
    _, log_prob, _ = playing.agent.act(rollout, rollout["action"])
    torch.testing.assert_close(log_prob, rollout["log_prob"])
    dist = example("op_first").OpFirst(
        playing.agent.actor(rollout["obs"]), rollout["op_slot_mask"], rollout["blueprint_slot_mask"]
    )
    torch.testing.assert_close(dist.log_prob(rollout["action"]), log_prob)
    assert log_prob.std() > 0.1


def test_returns_are_the_sums_of_the_rewards_to_come(player):
    rollout = player(gae_lambda=1.0).rollout()
    assert rollout["ended"][-1].all(), "an episode ends with the rollout"
    sums = rollout["reward"].flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(rollout["return"], sums)
    torch.testing.assert_close(rollout["advantage"], sums - rollout["value"])


def test_an_advantage_does_not_look_into_the_next_episode(player):
    playing = player(gae_lambda=1.0)
    playing.args.num_steps = 9
    rollout = playing.rollout()
    assert rollout["ended"].nonzero()[:, 0].tolist() == [5, 5]
    torch.testing.assert_close(rollout["return"][:6], rollout["reward"][:6].flip(0).cumsum(0).flip(0))
    next_value = playing.agent.value(playing.seen["obs"])
    torch.testing.assert_close(rollout["return"][6], rollout["reward"][6:].sum(0) + next_value)


def test_an_episode_that_was_cut_off_is_worth_what_the_critic_expects(player):
    def paid(envs):
        playing = player(envs=envs)
        playing.agent.critic[-1].weight.data.zero_()
        playing.agent.critic[-1].bias.data.fill_(5.0)
        return torch.stack([playing._step()["reward"].detach() for _ in range(3)])

    whole, cut = paid({}), paid({"max_episode_steps": 3})
    assert torch.equal(cut[:2], whole[:2])
    torch.testing.assert_close(cut[2], whole[2] + 5.0)
