"""A model of Stable-Baselines3 as a `Trainee`."""

from pathlib import Path
from typing import Any

from numpy.random import SeedSequence
from torch.utils.tensorboard import SummaryWriter

from esper_agents import checkpoint
from esper_agents.agent import Agent
from esper_agents.config import TrainConfig
from esper_agents.environment import World
from esper_agents.learning import RoundListener
from esper_agents.sb3.adapter import EsperSb3VecEnv
from esper_agents.sb3.agent import Sb3Agent
from esper_agents.sb3.callback import RoundCallback
from esper_agents.sb3.masked import MaskableRecurrentPPO
from esper_agents.sb3.masked_adapter import MaskedEsperSb3VecEnv
from esper_agents.sb3.model import (
    ALGORITHMS,
    load_parameters,
    load_weights,
    make_model,
    model_bytes,
    writing_logger,
)


class Sb3Trainee:
    """See `Trainee`. A run that goes on plays new episodes: their seeds depend on how far it is.

    Args:
        config: The run.
        world: What it plays.
        path: A checkpoint to go on from; None for a new model.
    """

    def __init__(self, config: TrainConfig, world: World, path: Path | None) -> None:
        self._seed = config.seed
        masked = issubclass(ALGORITHMS[config.algo], MaskableRecurrentPPO)
        self._adapter = (MaskedEsperSb3VecEnv if masked else EsperSb3VecEnv)(world.envs)
        state = None if path is None else checkpoint.read_record(path)["state"]
        seeds = SeedSequence([config.seed, 0 if state is None else state["timesteps"]])
        own, *episodes = seeds.generate_state(1 + self._adapter.num_envs).tolist()
        self.model = make_model(config.algo, self._adapter, config, world.envs.config.horizon, own)
        self._adapter.seed_each(episodes)
        if path is not None and state is not None:
            load_parameters(self.model, path, state)

    @property
    def steps(self) -> int:
        """See `Trainee`."""
        return self.model.num_timesteps

    @property
    def num_parameters(self) -> int:
        """See `Trainee`."""
        return sum(parameter.numel() for parameter in self.model.policy.parameters())

    def start_from(self, path: Path) -> None:
        """See `Trainee`."""
        load_weights(self.model, path)

    def learn(self, steps: int, listener: RoundListener | None, writer: SummaryWriter | None) -> None:
        """See `Trainee`."""
        self.model.set_logger(writing_logger(writer))
        callback = None if listener is None else RoundCallback(listener, self._adapter)
        self.model.learn(steps, callback, reset_num_timesteps=False)
        # The library logs an update together with the next round: the last one has none.
        self.model.logger.dump(self.model.num_timesteps)

    def content(self) -> tuple[bytes, dict[str, Any]]:
        """See `Trainee`."""
        return model_bytes(self.model)

    def agent(self, name: str, deterministic: bool) -> Agent:
        """See `Trainee`."""
        return Sb3Agent(self.model, name, deterministic, self._seed)
