"""The example for RLlib: episodes, masks, its distribution and updates (make test-libraries)."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import esper_env
from esper_env import Head

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
HORIZON = 6
TINY = {"num_steps": 2 * HORIZON, "num_envs": 2, "horizon": HORIZON, "epoch_size": 64, "hidden_size": 8}
pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True, scope="module")
def _elsewhere(tmp_path_factory):
    """Ray writes results and a token into the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.syspath_prepend(str(EXAMPLES))
        yield


@pytest.fixture(scope="module")
def rllib_ppo(_elsewhere):
    module = import_module("rllib_ppo")
    yield module
    module.ray.shutdown()


@pytest.fixture(scope="module")
def trained(rllib_ppo):
    """The algorithm after two updates, and its results."""
    algorithm, results = rllib_ppo.main(rllib_ppo.Args(**TINY))
    yield algorithm, results
    algorithm.stop()


@pytest.fixture(scope="module")
def episodes(trained):
    """Four whole episodes of the trained module."""
    sampled = trained[0].env_runner.sample(num_episodes=4, explore=True)
    assert len(sampled) == 4
    return sampled


def test_two_updates_play_no_illegal_action(trained):
    for result in trained[1]:
        assert result["env_runners"]["illegal"] == 0
        assert result["env_runners"]["actions"] == 2 * 2 * HORIZON
        assert result["env_runners"]["episode_len_mean"] == HORIZON, "the reset step is none of an episode"
        assert np.isfinite(result["env_runners"]["episode_return_mean"])


def test_an_update_moves_every_tensor(trained):
    algorithm = trained[0]
    before = {name: tensor.clone() for name, tensor in algorithm.get_module().named_parameters()}
    algorithm.train()
    for name, tensor in algorithm.get_module().named_parameters():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before[name]), name
    assert len(before) == 12


def test_episodes_begin_at_the_first_epoch_and_miss_none(episodes, trained):
    epoch = trained[0].env_runner.env.unwrapped.features["epoch"]
    for episode in episodes:
        shown = np.stack([seen["observations"] for seen in unstacked(episode)])[:, epoch].ravel()
        np.testing.assert_allclose(shown * HORIZON, np.arange(HORIZON + 1), atol=1e-5)
        assert episode.is_terminated


def test_every_action_is_legal_by_the_masks_it_was_drawn_with(episodes):
    for episode in episodes:
        for seen, action in zip(unstacked(episode), episode.get_actions(), strict=False):
            op, slot, blueprint = (action[head] for head in (Head.OP, Head.SLOT, Head.BLUEPRINT))
            assert seen["op_slot_mask"][op, slot] == 1
            assert blueprint == 0 or seen["blueprint_slot_mask"][slot, blueprint] == 1


def test_rewards_are_those_of_the_environment(episodes):
    for episode in episodes:
        terms = [sum(info["reward_terms"].values()) for info in episode.get_infos()[1:]]
        np.testing.assert_allclose(episode.get_rewards(), terms, rtol=1e-5)


def unstacked(episode):
    """The observations of an episode, one dict each."""
    return [episode.get_observations(t) for t in range(len(episode) + 1)]


def test_the_flat_input_is_taken_apart_as_it_was_put_together(rllib_ppo):
    torch.manual_seed(0)
    op_slot, blueprint_slot = torch.ones(2, 6, 3), torch.ones(2, 3, 13)
    op_slot[0, 1:, 1], blueprint_slot[1, :, 4:] = 0, 0
    direct = [rllib_ppo.OpFirst(torch.randn(2, 41), op_slot, blueprint_slot) for _ in range(2)]
    shapes = {"shapes": ((6, 3), (3, 13))}
    flat = [torch.cat([d.logits, op_slot.flatten(1), blueprint_slot.flatten(1)], -1) for d in direct]
    one, two = (rllib_ppo.OpFirstActions.get_partial_dist_cls(**shapes).from_logits(each) for each in flat)
    actions = direct[0].sample()
    assert torch.equal(one.logp(actions), direct[0].log_prob(actions))
    assert torch.equal(one.entropy(), direct[0].entropy())
    assert torch.equal(one.to_deterministic().sample(), direct[0].mode)
    assert (one.kl(two) > 0).all()
    torch.testing.assert_close(one.kl(one), torch.zeros(2))


def test_it_learns_to_wait_where_ops_only_cost(rllib_ppo, costly_ops):
    learning = {"learning_rate": 3e-3, "hidden_size": 16, "entropy": 0.0}
    algorithm, results = rllib_ppo.main(rllib_ppo.Args(rounds=14, **learning))
    first = results[0]["env_runners"]["episode_return_mean"]
    last = [episode.get_return() for episode in algorithm.env_runner.sample(num_episodes=24, explore=True)]
    algorithm.stop()
    assert first < -1.0
    assert np.mean(last) > first / 2


def test_rllibs_own_masking_module_keeps_to_the_flat_mask(rllib_ppo):
    from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule

    def make(config):
        return esper_env.MaskInVectorObservation(gym.make_vec("EsperMicro-v0", **config))

    rllib_ppo.register_env("EsperMicro-flat", make)
    algorithm = (
        rllib_ppo.PPOConfig()
        .environment("EsperMicro-flat", env_config={"engine": "null", "horizon": HORIZON})
        .env_runners(
            num_env_runners=0, num_envs_per_env_runner=2, gym_env_vectorize_mode="vector_entry_point"
        )
        .rl_module(rl_module_spec=rllib_ppo.RLModuleSpec(ActionMaskingTorchRLModule))
        .training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=1)
        .build_algo()
    )
    algorithm.train()
    sizes = algorithm.env_runner.env.single_action_space.nvec
    for episode in algorithm.env_runner.sample(num_episodes=4, explore=True):
        for seen, action in zip(unstacked(episode), episode.get_actions(), strict=False):
            assert seen["action_mask"][np.cumsum(sizes) - sizes + action].all()
    algorithm.stop()


def test_the_id_itself_trains_without_masks_and_with_memory(rllib_ppo):
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    algorithm = (
        rllib_ppo.PPOConfig()
        .environment("esper_env:EsperMicro-v0", env_config={"engine": "null", "horizon": HORIZON})
        .env_runners(
            num_env_runners=0, num_envs_per_env_runner=2, gym_env_vectorize_mode="vector_entry_point"
        )
        .rl_module(model_config=DefaultModelConfig(use_lstm=True, lstm_cell_size=8, max_seq_len=HORIZON))
        .training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=1)
        .callbacks(rllib_ppo.CountIllegal)
        .build_algo()
    )
    played = algorithm.train()["env_runners"]
    algorithm.stop()
    assert played["episode_len_mean"] == HORIZON
    assert 0 < played["illegal"] < played["actions"] == 24


def test_it_runs_with_a_runner_in_another_process():
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    command = [sys.executable, str(EXAMPLES / "rllib_ppo.py"), "--num-runners=1", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("round")]
    assert [line.rpartition(", ")[2] for line in lines] == ["0 of 24 actions illegal"] * 2
