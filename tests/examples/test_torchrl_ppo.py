"""The example for TorchRL: resets, rewards, masks and updates (make test-libraries)."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from esper_env import MaskInVectorObservation

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
HORIZON = 6
TINY = {"num_steps": 2 * HORIZON + 1, "num_envs": 2, "horizon": HORIZON, "epoch_size": 64, "hidden_size": 8}


@pytest.fixture
def torchrl_ppo(example):
    return example("torchrl_ppo")


@pytest.fixture
def rollout(torchrl_ppo):
    """Two episodes and one step of the untrained actor, and the environment that played them."""
    args = torchrl_ppo.Args(**TINY)
    torch.manual_seed(0)
    env = torchrl_ppo.make_env(args)
    actor, _ = torchrl_ppo.make_networks(env, args)
    with torch.no_grad():
        played = env.rollout(args.num_steps, actor, break_when_any_done=False)
    return played, env, actor


def test_the_environment_keeps_torchrls_specifications(torchrl_ppo):
    from torchrl.envs.utils import check_env_specs

    check_env_specs(torchrl_ppo.make_env(torchrl_ppo.Args(**TINY)))


def test_the_wrapper_of_the_flat_mask_is_taken_too(torchrl_ppo):
    from torchrl.envs.utils import check_env_specs

    envs = gym.make_vec("EsperMicro-v0", num_envs=2, engine="null", autoreset_mode="Disabled")
    env = torchrl_ppo.GymWrapper(MaskInVectorObservation(envs))
    check_env_specs(env)
    assert env.observation_spec["action_mask"].shape == (2, 41)


def test_episodes_follow_each_other_without_a_lost_step(rollout):
    played, env, _ = rollout
    epoch = env.features["epoch"]
    shown = (played["observations"][..., epoch].squeeze(-1) * HORIZON).round().long().tolist()
    after = (played["next", "observations"][..., epoch].squeeze(-1) * HORIZON).round().long().tolist()
    assert shown == [[t % HORIZON for t in range(2 * HORIZON + 1)]] * 2
    assert after == [[t % HORIZON + 1 for t in range(2 * HORIZON + 1)]] * 2
    assert played["next", "done"].nonzero()[:, 1].tolist() == [5, 11, 5, 11]


def test_rewards_and_masks_are_those_of_the_environment_played_by_hand(rollout):
    played = rollout[0]
    envs = gym.make_vec("EsperMicro-v0", 2, autoreset_mode="SameStep", horizon=HORIZON, epoch_size=64)
    envs.reset(seed=0)
    obs, info = envs.reset()  # the first reset was that of `set_seed`
    for t in range(played.shape[1]):
        np.testing.assert_array_equal(played["observations"][:, t], obs)
        np.testing.assert_array_equal(played["op_slot_mask"][:, t], info["op_slot_mask"])
        np.testing.assert_array_equal(played["blueprint_slot_mask"][:, t], info["blueprint_slot_mask"])
        obs, reward, *_, info = envs.step(played["action"][:, t].numpy())
        assert info["action_valid"].all()
        np.testing.assert_allclose(played["next", "reward"][:, t, 0], 0.1 * reward, rtol=1e-5, atol=1e-6)


def test_what_was_drawn_scores_as_it_was_drawn(rollout):
    played, _, actor = rollout
    drawn = played["action_log_prob"]
    torch.testing.assert_close(actor.get_dist(played).log_prob(played["action"]), drawn)
    assert drawn.std() > 0.1


def test_the_share_of_illegal_actions_is_counted(rollout, torchrl_ppo):
    played, env, _ = rollout
    assert torchrl_ppo.illegal_share(played, env) == 0
    with torch.no_grad():
        lost = env.rollout(4, lambda td: td.set("action", torch.tensor([[0] * 8, [0] * 7 + [4]])))
    assert torchrl_ppo.illegal_share(lost, env) == 0.5, "FOSSILIZE in an empty slot, every time"


def test_it_learns_to_wait_where_ops_only_cost(torchrl_ppo, costly_ops):
    learning = {"learning_rate": 3e-3, "hidden_size": 16, "reward_scale": 10.0, "entropy": 0.0}
    _, log = torchrl_ppo.main(torchrl_ppo.Args(rounds=14, **learning))
    returns = [entry["return"] for entry in log]
    assert returns[0] < -1.0
    assert sum(returns[-3:]) / 3 > returns[0] / 2


def test_two_updates_move_every_tensor_and_play_no_illegal_action(torchrl_ppo):
    def run(rounds):
        return torchrl_ppo.main(torchrl_ppo.Args(rounds=rounds, **TINY))

    (before, _), (after, log) = run(1), run(3)
    assert [entry["illegal"] for entry in log] == [0.0] * 3
    assert np.isfinite([list(entry.values()) for entry in log]).all()
    for name, tensor in after.named_parameters():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before.get_parameter(name)), name
