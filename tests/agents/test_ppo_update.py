"""Advantages, sequences and the loss, held against other libraries, plain loops and exact enumeration."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.buffers import RolloutBuffer
from test_ppo_distribution import LAYOUT, MODEL, SIZE, encoded, heads, legal_actions, masks

from esper_agents.ppo.advantage import advantages, explained_variance, less_replicas, normalized
from esper_agents.ppo.build import make_learner
from esper_agents.ppo.distribution import given, walk
from esper_agents.ppo.learner import ReturnScale
from esper_agents.ppo.rollout import Rollout, joined, sequences
from esper_agents.ppo.update import Batch, Updater
from esper_agents.ppo_config import OwnPpoConfig
from esper_env import EsperVectorEnv, Head


def learner(num_envs=4, seed=0, horizon=6, **settings):
    mode = AutoresetMode.SAME_STEP
    env = EsperVectorEnv(num_envs, "micro", engine="null", horizon=horizon, autoreset_mode=mode)
    small = {"memory_size": 16, "hidden_size": 16} | settings
    return make_learner(env, OwnPpoConfig(**small), seed)


def test_advantages_are_those_of_stable_baselines3():
    from gymnasium import spaces

    rng = np.random.default_rng(0)
    steps, envs, gamma, decay = 12, 3, 0.97, 0.9
    buffer = RolloutBuffer(
        steps, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", decay, gamma, n_envs=envs
    )
    rewards, values = rng.normal(size=(2, steps, envs)).astype(np.float32)
    ended = rng.random((steps, envs)) < 0.25
    last, starts = rng.normal(size=envs).astype(np.float32), np.zeros(envs)
    for t in range(steps):
        buffer.add(
            np.zeros((envs, 1)), np.zeros((envs, 1)), rewards[t], starts,
            torch.from_numpy(values[t]), torch.zeros(envs),
        )  # fmt: skip
        starts = ended[t]
    buffer.compute_returns_and_advantage(torch.from_numpy(last), ended[-1])
    following = np.where(ended, 0, np.concatenate([values[1:], last[None]])).astype(np.float32)
    mine = advantages(*map(torch.from_numpy, (rewards, values, following, ended)), gamma, decay)
    np.testing.assert_allclose(mine, buffer.advantages, atol=1e-5)


def test_a_cut_episode_goes_on_with_the_value_of_its_last_observation():
    one = torch.ones(1, 1)
    cut = advantages(one, one * 2, one * 5, torch.tensor([[True]]), 0.5, 0.9)
    assert float(cut) == pytest.approx(1 + 0.5 * 5 - 2)


def test_explained_variance_is_one_when_all_is_foreseen_and_nothing_without_variance():
    values = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(values, values + 3) == pytest.approx(1)
    assert explained_variance(torch.zeros(3), values) == pytest.approx(0)
    assert np.isnan(explained_variance(values, torch.ones(3)))


def test_episodes_are_cut_at_their_ends_and_padded():
    ended = torch.tensor([[0, 0], [1, 0], [0, 0], [0, 1]], dtype=torch.bool)
    found = sequences(ended, torch.tensor([1, 0]), torch.tensor([True, False]))
    lengths = found.valid.sum(dim=0).tolist()
    assert lengths == [4, 2, 2]
    assert found.envs.tolist() == [1, 0, 0]
    assert found.carried.tolist() == [True, False, False]
    steps = torch.arange(8).view(4, 2)
    kept = [found.take(steps)[:length, k].tolist() for k, length in enumerate(lengths)]
    assert kept == [[1, 3, 5, 7], [0, 2], [4, 6]]


@pytest.mark.parametrize("core", ["lstm", "mlp"])
@pytest.mark.parametrize("anew", [True, False])
def test_the_update_sees_the_probabilities_that_were_played(core, anew):
    """Sequences from zero, or from where the rollout began, in one call: as step by step."""
    own = learner(core=core, horizon=6, learning_rate=1e-9)
    own._anew, own.steps = anew, 10
    for _ in range(2):
        rollout, fresh = own.play()
        assert rollout.ended[:-1].any()
        part = sequences(rollout.ended, torch.arange(4), torch.from_numpy(fresh))
        encoded, _ = own.policy.features(part.take(rollout.obs), part.begin(rollout.memory))
        values = own.policy.values(encoded.features)[part.valid]
        assert torch.allclose(values, part.take(rollout.values)[part.valid], atol=1e-5)
        figures = own.updater.update(rollout, torch.from_numpy(fresh))
        assert abs(figures["train/approx_kl"]) < 1e-7
        assert figures["train/clip_fraction"] == 0
    assert fresh.all() == anew


@pytest.mark.parametrize("ratio", ["joint", "per_head"])
def test_the_gradient_is_that_of_the_expected_return(ratio):
    """A one-step problem with all legal actions enumerated: dE[R]/dtheta, and PPO's, tensor by tensor."""
    own, network = masks(11), heads()
    actions = legal_actions(own)
    worth = torch.randn(len(actions), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    repeated = {name: mask.expand(len(actions), -1, -1) for name, mask in own.items()}

    def log_probs():
        return walk(MODEL, network.begin(encoded(len(actions))), repeated, len(actions), given(actions))

    parameters = list(network.parameters())
    expected = (log_probs().log_probs.sum(dim=1).exp() * worth).sum()
    truth = torch.autograd.grad(expected, parameters, allow_unused=True)

    # Each action once, with its probability in its advantage, is what very many draws come to.
    found = log_probs()
    often = found.log_probs.detach().sum(dim=1).exp() * len(actions)
    gain = often * (worth - expected.detach())
    batch = Batch(actions, found.log_probs.detach(), gain, gain, gain)
    updater = learner(ratio=ratio).updater
    loss, clipped = Updater._surrogate(updater, batch, found.log_probs - batch.log_probs, found.read)
    assert clipped == 0
    estimate = torch.autograd.grad(-loss, parameters, allow_unused=True)
    compared = 0
    for (name, _), a, b in zip(network.named_parameters(), truth, estimate, strict=True):
        if a is not None and a.norm() > 1e-7:
            assert (a * b).sum() / (a.norm() * b.norm()) > 0.99999, name
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-6), name
            compared += 1
    assert compared > 2 * len(Head)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"policy": "set", "core": "mlp"},
        {"precision": "bfloat16"},
        {"ratio": "per_head", "argument_baseline": "op_value"},
    ],
)
def test_every_head_learns_in_every_mode(settings):
    own = learner(num_envs=16, horizon=30, **settings)
    before = {name: parameter.clone() for name, parameter in own.policy.named_parameters()}
    figures = [own.round() for _ in range(4)]
    for name, parameter in own.policy.named_parameters():
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), name
    for head in MODEL.names:
        assert any(each[f"heads/{head}_gradient"] > 0 for each in figures), head


def test_a_rate_of_zero_divergence_stops_the_update():
    own = learner(target_kl=1e-12, learning_rate=0.01)
    assert own.round()["train/gradient_steps"] == 1, "the first step is at the policy that played"


def test_returns_are_scaled_by_their_running_deviation():
    rng = np.random.default_rng(0)
    scale, gamma = ReturnScale(0.9), 0.9
    rewards, ended = rng.normal(size=(2, 20, 3)), rng.random((2, 20, 3)) < 0.2
    seen, running = [], np.zeros(3)
    for part, over in zip(rewards, ended, strict=True):
        for reward, end in zip(part, over, strict=True):
            running = running * gamma + reward
            seen.append(running)
            running = np.where(end, 0, running)
        expected = part / np.sqrt(np.var(seen) + 1e-8)
        np.testing.assert_allclose(scale.divide(part, over), expected, rtol=1e-9)


def test_an_encoder_shares_its_weights_among_slots():
    own = learner()
    features = own.envs.features
    obs = torch.rand(1, own.envs.single_observation_space.shape[0])
    swapped = obs.clone()
    for name, at in features.items():
        if name.startswith("slot0."):
            other = features["slot1." + name.partition(".")[2]]
            swapped[:, at], swapped[:, other] = obs[:, other], obs[:, at]
    first, second = own.policy.encoder(obs), own.policy.encoder(swapped)
    assert torch.allclose(first.slots[:, [1, 0, 2]], second.slots)
    assert torch.allclose(first.features, second.features, atol=1e-6)
    assert LAYOUT.num_slots == 2
    assert SIZE == 12


def test_rollouts_side_by_side_are_one_of_all_their_environments():
    rollout = {
        name: torch.randn(3, 4) for name in ("values", "rewards", "following", "actions", "log_probs", "obs")
    }
    both = Rollout(
        **rollout,
        masks={"op": torch.randn(3, 4, 6)},
        op_values=None,
        ended=torch.zeros(3, 4, dtype=torch.bool),
        memory=(torch.randn(1, 4, 5),),
    )
    halves = [
        Rollout(
            **{name: value[:, part] for name, value in rollout.items()},
            masks={"op": both.masks["op"][:, part]},
            op_values=None,
            ended=both.ended[:, part],
            memory=(both.memory[0][:, part],),
        )
        for part in (slice(0, 1), slice(1, 4))
    ]
    found = joined(halves)
    for name, value in rollout.items():
        assert getattr(found, name).equal(value)
    assert found.masks["op"].equal(both.masks["op"])
    assert found.memory[0].equal(both.memory[0])
    assert found.ended.equal(both.ended)
    assert found.op_values is None


def test_replicas_are_held_against_the_mean_of_the_others():
    estimates = torch.tensor([[1.0, 4.0, 7.0, 10.0], [2.0, 6.0, 5.0, 5.0], [3.0, 3.0, 1.0, 9.0]])
    ended = torch.zeros(3, 4, dtype=torch.bool)
    ended[0, 0] = ended[2] = True
    alone = less_replicas(estimates, ended, 1)
    assert torch.equal(alone, estimates)
    pairs = less_replicas(estimates, ended, 2)
    # Environment 0 begins another episode after its first step: from then on it has no replica.
    assert pairs.tolist() == [[-3, 3, -3, 3], [2, 6, 0, 0], [3, 3, -8, 8]]
    four = less_replicas(estimates, ended, 4)
    assert four[0].tolist() == pytest.approx([1 - 7, 4 - 6, 7 - 5, 10 - 4])
    assert four[1].tolist() == pytest.approx([2, 6 - 5, 5 - 5.5, 5 - 5.5])


def test_the_baseline_of_replicas_leaves_the_gradient_and_lowers_its_spread():
    """Two actions, one of them worth 1 more, seeds worth much more: over many rounds, against the truth."""
    random = torch.Generator().manual_seed(0)
    rounds, seeds, replicas = 4000, 2, 4
    luck = 10 * torch.randn(rounds, seeds, 1, generator=random)
    actions = (torch.rand(rounds, seeds, replicas, generator=random) < 0.3).float()
    returns = (luck + actions).flatten(1)
    score = actions.flatten(1) - 0.3
    ended = torch.ones(rounds, seeds * replicas, dtype=torch.bool)
    plain = (score * returns).mean(dim=1)
    pairs = zip(returns, ended, strict=True)
    apart = torch.cat([less_replicas(own[None], end[None], replicas) for own, end in pairs])
    better = (score * apart).mean(dim=1)
    true = 0.3 * 0.7
    assert better.std() < plain.std() / 8
    assert float(better.mean()) == pytest.approx(true, abs=4 * float(better.std()) / rounds**0.5)


def test_replicas_begin_alike_and_differ_by_what_they_draw():
    own = learner(num_envs=4, replicas=2, horizon=6)
    rollout, _ = own.play()
    assert torch.equal(rollout.obs[0, 0], rollout.obs[0, 1])
    assert torch.equal(rollout.obs[0, 2], rollout.obs[0, 3])
    assert not torch.equal(rollout.actions[:, 0], rollout.actions[:, 1])
    assert own.learn(rollout, np.ones(4, dtype=bool))["train/gradient_steps"] > 0


def test_estimates_are_normalized_under_each_budget_apart():
    """Two rounds of two blocks of three environments: 0 to 2 and 6 to 8 are one block, the rest the other."""
    torch.manual_seed(0)
    estimates = torch.randn(5, 12)
    first, second = [0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]
    estimates[:, second] = 40 + 100 * estimates[:, second]
    found = normalized(estimates, rounds=2, blocks=2).numpy()
    for block in (first, second):
        own = estimates[:, block].numpy().astype(np.float64)
        np.testing.assert_allclose(found[:, block], (own - own.mean()) / own.std(), rtol=1e-4, atol=1e-5)
    together = normalized(estimates, rounds=1, blocks=1)
    torch.testing.assert_close(together, (estimates - estimates.mean()) / estimates.std(correction=0))


def test_an_update_knows_how_many_blocks_and_rounds_there_are(monkeypatch):
    from esper_agents.ppo import update

    asked, compute = [], [0.5, 2.0]
    monkeypatch.setattr(update, "normalized", lambda *args: asked.append(args[1:]) or normalized(*args))
    envs = EsperVectorEnv(
        4, "micro", engine="null", horizon=4, compute_budget=compute, autoreset_mode=AutoresetMode.SAME_STEP
    )
    own = make_learner(envs, OwnPpoConfig(memory_size=8, hidden_size=8, rounds_per_update=3), seed=1)
    for _ in range(3):
        own.round()
    assert asked == [(3, 2)] * 2
