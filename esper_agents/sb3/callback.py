"""Stable-Baselines3's callback, which hands steps and rounds on to ours."""

from typing import Protocol

from stable_baselines3.common.callbacks import BaseCallback

from esper_agents.callbacks import Tags
from esper_agents.episodes import Step
from esper_agents.sb3.adapter import EsperSb3VecEnv


class RoundListener(Protocol):
    """Hears what happens in a run. `done` is always the number of environment steps so far."""

    def updated(self, done: int) -> None:
        """The policy is as it will be in the next round: before the first, and after every update."""

    def stepped(self, step: Step, done: int) -> None:
        """All environments made a step."""

    def played(self, done: int) -> Tags:
        """A round was played and will be learned from; what to log of it."""


class RoundCallback(BaseCallback):
    """Drives a `RoundListener`."""

    def __init__(self, listener: RoundListener, adapter: EsperSb3VecEnv) -> None:
        super().__init__()
        self._listener, self._adapter = listener, adapter

    def _on_rollout_start(self) -> None:
        self._listener.updated(self.num_timesteps)

    def _on_step(self) -> bool:
        self._listener.stepped(self._adapter.last, self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        for tag, value in self._listener.played(self.num_timesteps).items():
            self.logger.record(tag, value)

    def _on_training_end(self) -> None:
        self._listener.updated(self.num_timesteps)
