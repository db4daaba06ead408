"""esper_ppo plays no illegal action, however often it is asked."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from esper_agents.ppo.build import make_learner
from esper_agents.ppo_config import OwnPpoConfig
from esper_env import READS, EsperVectorEnv, Head


class Count:
    """Hears what a learner plays: actions, illegal ones, and which values of every head were seen."""

    def __init__(self, envs):
        self.played = self.illegal = 0
        self.seen = [np.zeros(size, dtype=int) for size in envs.layout.nvec]
        self.fits = np.zeros(envs.layout.num_blueprints, dtype=bool)

    def __call__(self, obs, actions, rewards, ended, info):
        valid = info["action_valid"]
        self.played += len(valid)
        self.illegal += int((~valid).sum())
        self.fits |= info["blueprint_slot_mask"].astype(bool).any(axis=(0, 1))
        for head, counts in enumerate(self.seen):
            read = READS[actions[:, Head.OP], head]
            counts += np.bincount(actions[read, head], minlength=len(counts))


def learner(num_envs, policy, **settings):
    mode = AutoresetMode.SAME_STEP
    envs = EsperVectorEnv(num_envs, "micro", autoreset_mode=mode, strict_actions=True, **settings)
    config = OwnPpoConfig(memory_size=32, hidden_size=32, policy=policy, learning_rate=1e-3)
    return make_learner(envs, config, seed=0)


def play(own, steps, heard):
    """New weights of another size every few rounds: from nearly uniform to nearly certain."""
    random = torch.Generator().manual_seed(0)
    while heard.played < steps:
        own.rounds += 1
        if own.rounds % 4 == 0:
            size = float(torch.rand((), generator=random) * 3)
            with torch.no_grad():
                for layer in [*own.policy.heads.logits, own.policy.heads.slot_score]:
                    for parameter in layer.parameters():
                        parameter.normal_(0, size / 6, generator=random)
        own.play(heard)
    own.envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["flat", "set"])
def test_a_million_actions_under_the_real_rules_are_legal(policy):
    own = learner(512, policy, engine="null", param_budget=3.0)
    heard = Count(own.envs)
    play(own, 1_000_000, heard)
    assert heard.played >= 1_000_000
    assert heard.illegal == 0
    unseen = [np.flatnonzero(counts == 0).tolist() for counts in heard.seen]
    never = np.flatnonzero(~heard.fits).tolist()
    expected = [never if head == Head.BLUEPRINT else [] for head in Head]
    assert unseen == expected, "all that is ever legal was played"


@pytest.mark.slow
def test_ten_thousand_actions_on_networks_that_train_are_legal():
    own = learner(16, "flat", epoch_size=128)
    heard = Count(own.envs)
    while heard.played < 10_000:
        own.round(heard)
    own.envs.close()
    assert heard.illegal == 0


def test_some_thousand_actions_of_an_agent_that_learns_are_legal():
    own = learner(32, "set", engine="null", param_budget=2.0)
    heard = Count(own.envs)
    while heard.played < 4_000:
        own.round(heard)
    own.envs.close()
    assert heard.illegal == 0
