"""Stable-Baselines3 and sb3-contrib, autoreset SAME_STEP: MaskablePPO, or RecurrentPPO, which knows no masks.

python scripts/examples/sb3_ppo.py --algo recurrent_ppo --rounds 100
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import tyro
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor

from esper_agents.sb3 import EsperSb3VecEnv

ALGORITHMS: dict[str, tuple[Callable[..., OnPolicyAlgorithm], str]] = {
    "maskable_ppo": (MaskablePPO, "MlpPolicy"),
    "recurrent_ppo": (RecurrentPPO, "MlpLstmPolicy"),
}
"""Name -> class and policy."""


@dataclass
class Args:
    """What can be set on the command line."""

    algo: Literal["maskable_ppo", "recurrent_ppo"] = "maskable_ppo"
    rounds: int = 2
    """Updates."""
    num_steps: int = 30
    """Steps of every environment between updates."""
    num_envs: int = 8
    horizon: int = 30
    """Epochs of an episode."""
    epoch_size: int = 512
    """Training images an epoch."""
    seed: int = 0
    learning_rate: float = 3e-4


class Report(BaseCallback):
    """Counts the actions that became WAIT, and prints a line a rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.actions = self.illegal = 0

    def _on_step(self) -> bool:
        valid = self.training_env.unwrapped.last.info["action_valid"]
        self.actions += len(valid)
        self.illegal += int((~valid).sum())
        return True

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or []]
        mean = f"mean return {np.mean(returns):.2f}" if returns else "no episode ended"
        print(f"step {self.num_timesteps}: {mean}, {self.illegal} of {self.actions} actions illegal")


def main(args: Args) -> tuple[OnPolicyAlgorithm, Report]:
    """Train; the model, and what was counted."""
    settings = {"horizon": args.horizon, "epoch_size": args.epoch_size}
    envs = gym.make_vec("EsperMicro-v0", args.num_envs, autoreset_mode="SameStep", **settings)
    algorithm, policy = ALGORITHMS[args.algo]
    model = algorithm(
        policy,
        VecMonitor(EsperSb3VecEnv(envs)),
        learning_rate=args.learning_rate,
        n_steps=args.num_steps,
        batch_size=args.num_steps * args.num_envs // 4,
        n_epochs=4,
        gamma=envs.metadata["gamma"],
        seed=args.seed,
        device="cpu",
    )
    report = Report()
    model.learn(args.rounds * args.num_steps * args.num_envs, callback=report)
    model.env.close()
    return model, report


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
