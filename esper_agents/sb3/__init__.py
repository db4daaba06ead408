"""The only package here that knows Stable-Baselines3 and sb3-contrib."""

from esper_agents.sb3.adapter import EsperSb3VecEnv
from esper_agents.sb3.agent import Sb3Agent
from esper_agents.sb3.callback import RoundCallback
from esper_agents.sb3.model import ALGORITHMS, load_parameters, make_model, model_bytes, writing_logger

__all__ = [
    "ALGORITHMS",
    "EsperSb3VecEnv",
    "RoundCallback",
    "Sb3Agent",
    "load_parameters",
    "make_model",
    "model_bytes",
    "writing_logger",
]
