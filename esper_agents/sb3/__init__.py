"""The only package here that knows Stable-Baselines3 and sb3-contrib."""

from esper_agents.sb3.adapter import EsperSb3VecEnv
from esper_agents.sb3.agent import Sb3Agent
from esper_agents.sb3.callback import RoundCallback
from esper_agents.sb3.masked import MaskableLstmPolicy, MaskableRecurrentPPO
from esper_agents.sb3.masked_adapter import MaskedEsperSb3VecEnv
from esper_agents.sb3.model import ALGORITHMS, make_model
from esper_agents.sb3.trainee import Sb3Trainee

__all__ = [
    "ALGORITHMS",
    "EsperSb3VecEnv",
    "MaskableLstmPolicy",
    "MaskableRecurrentPPO",
    "MaskedEsperSb3VecEnv",
    "RoundCallback",
    "Sb3Agent",
    "Sb3Trainee",
    "make_model",
]
