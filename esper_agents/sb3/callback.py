"""Stable-Baselines3's callback, which hands steps and rounds on to ours."""

from stable_baselines3.common.callbacks import BaseCallback

from esper_agents.learning import RoundListener
from esper_agents.sb3.adapter import EsperSb3VecEnv


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
