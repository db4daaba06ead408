"""The example for Stable-Baselines3: MaskablePPO keeps to its mask, RecurrentPPO runs without one."""

import numpy as np
import pytest
import torch

from esper_agents.sb3 import EsperSb3VecEnv

TINY = {"num_steps": 6, "num_envs": 2, "horizon": 6, "epoch_size": 64}


@pytest.fixture
def played(monkeypatch):
    """Everything that is played: masks and actions, (env, sum(nvec)) and (env, 8) a step."""
    steps = []
    step_async = EsperSb3VecEnv.step_async

    def watched(self, actions):
        steps.append((self.envs.action_masks(), actions.copy(), self.envs.layout.starts))
        step_async(self, actions)

    monkeypatch.setattr(EsperSb3VecEnv, "step_async", watched)
    return steps


@pytest.mark.parametrize("algo", ["maskable_ppo", "recurrent_ppo"])
def test_two_updates_move_every_tensor(example, algo):
    sb3_ppo = example("sb3_ppo")
    before, after = (
        sb3_ppo.main(sb3_ppo.Args(algo=algo, rounds=rounds, **TINY))[0].policy for rounds in (1, 3)
    )
    for name, tensor in after.named_parameters():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before.get_parameter(name)), name


def test_it_learns_to_wait_where_ops_only_cost(example, costly_ops):
    sb3_ppo = example("sb3_ppo")

    def returns(rounds):
        model, _ = sb3_ppo.main(sb3_ppo.Args(rounds=rounds, learning_rate=3e-3))
        return np.mean([episode["r"] for episode in model.ep_info_buffer][-24:])

    first = returns(1)
    assert first < -0.3
    assert returns(25) > first / 2


@pytest.mark.parametrize(("algo", "keeps"), [("maskable_ppo", True), ("recurrent_ppo", False)])
def test_only_the_algorithm_that_knows_masks_keeps_to_them(example, played, algo, keeps):
    sb3_ppo = example("sb3_ppo")
    _, report = sb3_ppo.main(sb3_ppo.Args(algo=algo, **TINY))
    inside = np.array(
        [np.take_along_axis(masks, starts + actions, axis=1) for masks, actions, starts in played]
    )
    assert inside.shape == (12, 2, 8)
    assert inside.all() == keeps
    assert report.actions == 24
    assert report.illegal > 0, "the mask of each head is a union over ops: it lets illegal pairs through"
