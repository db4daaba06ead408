"""Weights of their own for ranges of a feature: those of one range learn nothing in another."""

import pytest
import torch
from gymnasium.vector import AutoresetMode
from test_start import run, weights

from esper_agents.ppo.build import make_learner
from esper_agents.ppo.ranges import Ranges, in_blocks
from esper_agents.ppo_config import OwnPpoConfig
from esper_env import EsperVectorEnv

FEATURES = {"a": slice(0, 1), "wide": slice(1, 4), "b": slice(4, 5)}
OWN = {"host_compute_share": [0.75]}


def learner(core="lstm", compute=(1.0, 2.0), own=OWN, **settings):
    envs = EsperVectorEnv(
        4,
        "micro",
        engine="null",
        horizon=6,
        compute_budget=list(compute),
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    small = {"memory_size": 16, "hidden_size": 16, "core": core, "own_weights": own, **settings}
    return make_learner(envs, OwnPpoConfig(**small), seed=3)


def test_a_range_is_told_by_counting_the_edges_below():
    ranges = Ranges(FEATURES, {"b": (0.5,), "a": (-1.0, 1.0)})
    obs = torch.zeros(2, 3, 5)
    obs[..., 0] = torch.tensor([[-2.0, 0.0, 2.0], [0.0, -1.5, 1.5]])
    obs[..., 4] = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.4]])
    assert ranges.count == 6
    assert ranges(obs).tolist() == [[0, 2, 5], [3, 1, 4]]


def test_values_stand_in_their_block_alone():
    values = torch.arange(1.0, 7.0).reshape(3, 2)
    found = in_blocks(values, torch.tensor([2, 0, 1]), 3)
    assert found.tolist() == [[0, 0, 0, 0, 1, 2], [3, 4, 0, 0, 0, 0], [0, 0, 5, 6, 0, 0]]


@pytest.mark.parametrize("core", ["lstm", "mlp"])
def test_what_one_budget_teaches_moves_no_weights_of_anothers(core):
    own, shared = (learner(core, own=each) for each in (OWN, {}))
    for each, kept in ((own, True), (shared, False)):
        rollout, _ = each.play()
        begin = each.policy.begin(4)
        features, _ = each.policy.features(rollout.obs, begin)
        value = each.policy.values(features.features)
        value[:, :2].square().sum().backward()
        reads = [each.policy.value.weight, next(iter(each.policy.core.parameters()))]
        assert features.features.shape[-1] == 16 * (2 if kept else 1)
        for weight in reads:
            half = weight.grad.shape[1] // 2
            one, other = weight.grad[:, :half], weight.grad[:, half:]
            untouched = not one.any() or not other.any()
            assert untouched is kept
            assert weight.grad.any()


def test_as_many_blocks_begin_as_strong_as_one():
    one, two = (learner(own=each).policy for each in ({}, OWN))
    for name in ("heads.enter.weight", "value.weight", "core.lstm.weight_ih_l0"):
        alone, several = one.get_parameter(name), two.get_parameter(name)
        for block in several.tensor_split(2, dim=1):
            assert block.norm().item() == pytest.approx(alone.norm().item(), rel=1e-5)


def test_a_run_with_weights_for_each_budget_goes_on_exactly(tmp_path):
    own = {
        "algo": "esper_ppo", "own_weights": OWN, "num_envs": 4, "eval_episodes": 2,
        "overrides": {"engine.name": "null", "budget.compute": [1.0, 2.0]},
    }  # fmt: skip
    whole = weights(run(tmp_path / "whole", **own, rounds=3))
    parts = weights(run(tmp_path / "parts", run(tmp_path / "parts", **own, rounds=1), **own, rounds=3))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_ranges_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"own_weights of 'epoch' is \[2.0, 1.0\]: ascending values"):
        OwnPpoConfig(own_weights={"epoch": (2.0, 1.0)})
    with pytest.raises(ValueError, match=r"own_weights names \['nothing'\], the features of one number are"):
        learner(own={"nothing": [0.5]})


def test_the_order_in_which_ranges_are_named_means_nothing():
    obs = torch.rand(50, 5)
    edges = {"a": [0.5], "b": [0.2, 0.7]}
    one, other = Ranges(FEATURES, edges), Ranges(FEATURES, dict(reversed(edges.items())))
    assert one(obs).unique().tolist() == list(range(6))
    assert torch.equal(one(obs), other(obs))


def test_a_run_does_not_begin_with_weights_for_other_ranges(tmp_path):
    first = run(tmp_path / "first", algo="esper_ppo", own_weights=OWN)
    for other in ({}, {"host_params_share": [0.75]}, {"host_compute_share": [0.5]}):
        with pytest.raises(ValueError, match=r"has own_weights=\{'host_compute_share': \[0.75\]\}, not"):
            run(tmp_path / "second", algo="esper_ppo", own_weights=other, start_from=str(first))
    assert not (tmp_path / "second").exists()
