"""A learner for Esper's environments, from its settings."""

import torch

from esper_agents.ppo.actions import EsperActions
from esper_agents.ppo.encoder import FlatSlots, SlotSet
from esper_agents.ppo.learner import Learner
from esper_agents.ppo.network import LstmCore, MlpCore, Policy
from esper_agents.ppo.ranges import Ranges
from esper_agents.ppo_config import OwnPpoConfig
from esper_env import EsperVectorEnv

ENCODERS = {"flat": FlatSlots, "set": SlotSet}
CORES = {"lstm": LstmCore, "mlp": MlpCore}


def make_learner(envs: EsperVectorEnv, config: OwnPpoConfig, seed: int) -> Learner:
    """A new one, which plays one episode's length in each environment between updates.

    Args:
        envs: With autoreset SAME_STEP.
        config: Settings.
        seed: Of weights, exploration and episodes.

    Raises:
        ValueError: a floor for a head that does not exist, or ranges of a feature that does not.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = esper_policy(envs, config)
    game, gamma = envs.config, envs.metadata["gamma"]
    return Learner(envs, policy, config, gamma, game.horizon, seed, blocks=game.budget.blocks)


def esper_policy(envs: EsperVectorEnv, config: OwnPpoConfig) -> Policy:
    """A policy for these environments, with weights from torch's generator.

    Raises:
        ValueError: a floor for a head that does not exist, or ranges of a feature that does not.
    """
    model = EsperActions(envs.layout)
    unknown = sorted(set(config.entropy_floor) - set(model.names))
    if unknown:
        raise ValueError(f"entropy_floor names {unknown}, the heads are {list(model.names)}")
    encoded, width = config.sizes
    encoder = ENCODERS[config.policy](envs.features, envs.facts.num_slots, encoded)
    ranges = Ranges(envs.features, config.own_weights) if config.own_weights else None
    core = CORES[config.core](encoded, width, 1 if ranges is None else ranges.count)
    return Policy(encoder, core, model, config.argument_baseline == "op_value", ranges)
