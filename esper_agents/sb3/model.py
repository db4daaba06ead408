"""The algorithms, built from our settings, and what a checkpoint keeps of them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from esper_agents import checkpoint
from esper_agents.ppo_config import PpoConfig
from esper_agents.sb3.adapter import EsperSb3VecEnv
from esper_agents.sb3.masked import MaskableRecurrentPPO

ALGORITHMS: dict[str, type[Any]] = {
    "recurrent_ppo": RecurrentPPO,
    "maskable_ppo": MaskablePPO,
    "maskable_recurrent_ppo": MaskableRecurrentPPO,
    "ppo": PPO,
}
"""By the name that users give."""


def make_model(
    algo: str, adapter: EsperSb3VecEnv, config: PpoConfig, rollout_steps: int, seed: int
) -> OnPolicyAlgorithm:
    """A new model.

    Args:
        algo: A key of `ALGORITHMS`.
        adapter: What it plays.
        config: Settings.
        rollout_steps: Steps of each environment between updates.
        seed: Of weights and exploration; the seeds of episodes are the adapter's.
    """
    policy: dict[str, Any] = {"net_arch": [config.hidden_size or 64] * 2, "activation_fn": nn.Tanh}
    recurrent = issubclass(ALGORITHMS[algo], RecurrentPPO)
    if recurrent:
        policy |= {"lstm_hidden_size": config.memory_size or 64}
    gamma = adapter.envs.metadata["gamma"]
    model: OnPolicyAlgorithm = ALGORITHMS[algo](
        policy="MlpLstmPolicy" if recurrent else "MlpPolicy",
        env=_wrapped(adapter, config, gamma),
        n_steps=rollout_steps,
        batch_size=rollout_steps * _episodes_a_batch(adapter.num_envs, config.minibatches),
        n_epochs=config.ppo_epochs,
        learning_rate=config.learning_rate,
        gamma=gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.entropy,
        policy_kwargs=policy,
        seed=seed,
        device="cpu",
    )
    return model


def _wrapped(adapter: EsperSb3VecEnv, config: PpoConfig, gamma: float) -> VecEnv:
    monitored = VecMonitor(adapter)
    if not config.normalize_reward:
        return monitored
    return VecNormalize(monitored, norm_obs=False, norm_reward=True, gamma=gamma)


def _episodes_a_batch(num_envs: int, minibatches: int) -> int:
    """The largest number of rollouts that divides them all and makes at least `minibatches` parts."""
    most = max(1, num_envs // minibatches)
    return max(k for k in range(1, most + 1) if num_envs % k == 0)


def writing_logger(writer: SummaryWriter | None) -> Logger:
    """A logger that writes there and nowhere else; nowhere at all for None."""
    return Logger(folder=None, output_formats=[] if writer is None else [_Output(writer)])


class _Output(TensorBoardOutputFormat):
    """Stable-Baselines3's own format, on a writer that was opened elsewhere."""

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer
        self._is_closed = False


def model_bytes(model: OnPolicyAlgorithm) -> tuple[bytes, dict[str, Any]]:
    """The model as Stable-Baselines3's zip, and as plain values what that zip leaves out."""
    content = io.BytesIO()
    model.save(content)
    normalizer = model.get_vec_normalize_env()
    return_rms = None
    if normalizer is not None:
        rms = normalizer.ret_rms
        return_rms = {"mean": float(rms.mean), "var": float(rms.var), "count": float(rms.count)}
    state = {"timesteps": model.num_timesteps, "updates": model._n_updates, "return_rms": return_rms}
    return content.getvalue(), state


def load_weights(model: OnPolicyAlgorithm, path: Path) -> None:
    """Put the weights of a checkpoint into a model, and nothing else; only tensors are read."""
    _, parameters, _ = load_from_zip_file(path, load_data=False, device="cpu")
    weights: Any = parameters["policy"]
    model.policy.load_state_dict(weights)


def load_parameters(model: OnPolicyAlgorithm, path: Path, state: dict[str, Any]) -> None:
    """Put weights, optimizer and counts of a checkpoint into a model built from the same configuration.

    Only tensors are read from the zip: no pickled object in it is run.

    Raises:
        ValueError: a checkpoint without an optimizer.
    """
    checkpoint.refuse_without(path, "policy.optimizer.pth")
    model.set_parameters(str(path), exact_match=True, device="cpu")
    model.num_timesteps, model._n_updates = state["timesteps"], state["updates"]
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        for name, value in state["return_rms"].items():
            setattr(normalizer.ret_rms, name, value if name == "count" else np.float64(value))
