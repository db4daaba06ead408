"""The ids, and the preset behind each: the only look-up by name that users see."""

import os

import gymnasium as gym
import torch

IDS = {"EsperCifar-v0": "cifar", "EsperTinyStories-v0": "stories", "EsperMicro-v0": "micro"}
"""Id -> preset."""


def register() -> None:
    """Make the ids known to `gymnasium.make` and `gymnasium.make_vec`."""
    for name, preset in IDS.items():
        gym.register(
            name,
            entry_point="esper_env.env:EsperEnv",
            vector_entry_point="esper_env.vector_env:EsperVectorEnv",
            kwargs={"preset": preset},
        )


def one_thread_per_forked_worker() -> None:
    """Let workers forked after torch has run compute with one thread each.

    The threads of the parent's OpenMP pool do not exist in the child, which would wait for them for ever.
    """
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
