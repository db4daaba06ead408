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
        own, episodes = self._seeds(0 if state is None else state["timesteps"])
        self.model = make_model(config.algo, self._adapter, config, world.envs.config.horizon, own)
        self._adapter.seed_each(episodes)
        if path is not None and state is not None:
            load_parameters(self.model, path, state)

    def _seeds(self, done: int) -> tuple[int, list[int]]:
        """Of exploration, and of each environment's next episode, after so many steps."""
        seeds = SeedSequence([self._seed, done]).generate_state(1 + self._adapter.num_envs)
        own, *episodes = seeds.tolist()
        return own, episodes

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

    def enter(self, world: World) -> None:
        """See `Trainee`. From here on all depends on the weights, and on how far the run is."""
        own, episodes = self._seeds(self.steps)
        self._adapter.envs = world.envs
        wrapped = self.model.get_env()
        assert wrapped is not None
        self.model.set_env(wrapped, force_reset=True)
        self.model.set_random_seed(own)
        self._adapter.seed_each(episodes)

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
