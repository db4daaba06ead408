"""Environments that train nothing, in which the worth of every module is known."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from esper_env.contracts.state import SlotState
from esper_env.engine.null import Script, plausible

Worth = Callable[[SlotState], np.ndarray]
"""Slots -> points that each module adds at alpha 1, (env, slot)."""
Curve = Callable[[np.ndarray], np.ndarray]
"""Epochs trained -> what the bare host shows, both (env,)."""


def make(num_envs=2, script=None, **settings):
    """EsperMicro on the null engine."""
    env = gym.make_vec("EsperMicro-v0", num_envs=num_envs, **{"engine": "null", **settings})
    if script is not None:
        env._engine.script = script
    return env


def networks(worth: Worth, accuracy: Curve = lambda epochs: np.full(len(epochs), 0.4), loss=None) -> Script:
    """Healthy networks: the host's accuracy plus what its modules add; the loss follows unless given."""

    def script(slots: SlotState, epochs: np.ndarray):
        stats = plausible(slots, epochs)
        stats.val_accuracy = accuracy(epochs) + (slots.alpha * worth(slots)).sum(axis=1) / 100
        stats.val_loss = -np.log(stats.val_accuracy) if loss is None else loss(epochs)
        return stats

    return script


def everywhere(points: float) -> Worth:
    """Every module is worth the same."""
    return lambda slots: np.full(slots.stage.shape, points)
