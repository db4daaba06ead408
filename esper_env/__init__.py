"""Esper: environments in which an agent grows a neural network while it trains.

Importing the package registers `EsperCifar-v0`, `EsperTinyStories-v0` and `EsperMicro-v0` with Gymnasium.
"""

from esper_env.blueprints.catalogue import register_blueprint
from esper_env.checking import check_vector_env
from esper_env.config import EsperConfig
from esper_env.contracts.action import HEADS_READ, READS, ActionLayout, Curve, Head, Style, encode
from esper_env.contracts.facts import HostFacts, Place
from esper_env.contracts.lifecycle import COOL_DOWN, NEXT, TRANSITIONS, Gate, Op, Stage
from esper_env.env import EsperEnv
from esper_env.mdp.observation import OBSERVATION_VERSION
from esper_env.mdp.observation import layout as observation_layout
from esper_env.mdp.prices import MODES as REWARD_MODES
from esper_env.mdp.prices import register_reward_term
from esper_env.mdp.reward import StepChange
from esper_env.registration import IDS, one_thread_per_forked_worker, register
from esper_env.tasks.cifar10 import cached as cifar10_cached
from esper_env.tasks.folder import DataUnavailableError
from esper_env.tasks.tinystories import cached as tinystories_cached
from esper_env.tasks.tinystories import check as check_tinystories
from esper_env.vector_env import EsperVectorEnv
from esper_env.wrappers import MaskInObservation, MaskInVectorObservation

register()
one_thread_per_forked_worker()

__version__ = "0.1.0"
__all__ = [
    "COOL_DOWN",
    "HEADS_READ",
    "IDS",
    "NEXT",
    "OBSERVATION_VERSION",
    "READS",
    "REWARD_MODES",
    "TRANSITIONS",
    "ActionLayout",
    "Curve",
    "DataUnavailableError",
    "EsperConfig",
    "EsperEnv",
    "EsperVectorEnv",
    "Gate",
    "Head",
    "HostFacts",
    "MaskInObservation",
    "MaskInVectorObservation",
    "Op",
    "Place",
    "Stage",
    "StepChange",
    "Style",
    "check_tinystories",
    "check_vector_env",
    "cifar10_cached",
    "encode",
    "observation_layout",
    "register_blueprint",
    "register_reward_term",
    "tinystories_cached",
]
