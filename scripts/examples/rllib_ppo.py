"""RLlib's PPO on the vector environment, autoreset NEXT_STEP: the op drawn first, every mask exact.

python scripts/examples/rllib_ppo.py --rounds 100
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import ray
import torch
import tyro
from op_first import BLUEPRINT_SLOT, OBS, OP_SLOT, ExactMasksInObservation, OpFirst
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.distribution.torch.torch_distribution import TorchDeterministic
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from torch import Tensor, nn


@dataclass
class Args:
    """What can be set on the command line."""

    rounds: int = 2
    """Updates."""
    num_steps: int = 30
    """Steps of every environment between updates."""
    num_envs: int = 8
    """Of each runner."""
    num_runners: int = 0
    """Processes that play; 0 plays in this one."""
    horizon: int = 30
    """Epochs of an episode."""
    epoch_size: int = 512
    """Training images an epoch."""
    seed: int = 0
    hidden_size: int = 64
    learning_rate: float = 3e-4
    gae_lambda: float = 0.95
    epochs: int = 4
    """Passes over a rollout."""
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.01


class OpFirstActions(Distribution):
    """`OpFirst` as RLlib wants it: made from one flat tensor, which holds the masks behind the logits."""

    def __init__(self, dist: OpFirst) -> None:
        super().__init__()
        self.dist = dist

    @classmethod
    def from_logits(
        cls, logits: Tensor, shapes: tuple[tuple[int, int], ...], **kwargs: Any
    ) -> "OpFirstActions":
        """From (..., sum(nvec) + op x slot + slot x blueprint), and the shapes of the two masks."""
        masks = [rows * columns for rows, columns in shapes]
        logits, *flat = logits.split([logits.shape[-1] - sum(masks), *masks], dim=-1)
        return cls(
            OpFirst(logits, *(mask.unflatten(-1, shape) for mask, shape in zip(flat, shapes, strict=True)))
        )

    def sample(self, **kwargs: Any) -> Tensor:
        """Actions (..., 8)."""
        return self.dist.sample()

    def rsample(self, **kwargs: Any) -> Tensor:
        """Not possible.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("actions are discrete: they can't be drawn with a gradient")

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Log-probability of actions (..., 8)."""
        return self.dist.log_prob(value.long())

    def entropy(self, **kwargs: Any) -> Tensor:
        """Of whole actions."""
        return self.dist.entropy()

    def kl(self, other: "OpFirstActions", **kwargs: Any) -> Tensor:
        """Divergence of another distribution with the same masks from this one."""
        return self.dist.cross_entropy(other.dist) - self.dist.entropy()

    def to_deterministic(self) -> TorchDeterministic:
        """The likeliest op, and what is likeliest after it."""
        return TorchDeterministic(loc=self.dist.mode)

    @staticmethod
    def required_input_dim(space: gym.Space, **kwargs: Any) -> int:
        """Not known from the action space alone.

        Raises:
            NotImplementedError: always; `OpFirstModule` knows it.
        """
        raise NotImplementedError("the length depends on the masks' shapes too")


class OpFirstModule(TorchRLModule, ValueFunctionAPI):
    """Actor and critic, two hidden layers each, for Dict observations of `ExactMasksInObservation`."""

    def setup(self) -> None:
        """Build the networks from the spaces and `model_config["hidden_size"]`."""
        features, hidden = self.observation_space[OBS].shape[0], self.model_config["hidden_size"]
        self.actor = _network(features, hidden, int(self.action_space.nvec.sum()))
        self.critic = _network(features, hidden, 1)
        shapes = tuple(self.observation_space[key].shape for key in (OP_SLOT, BLUEPRINT_SLOT))
        self.actions = OpFirstActions.get_partial_dist_cls(shapes=shapes)

    def get_train_action_dist_cls(self) -> type[Distribution]:
        """The distribution, in every phase."""
        return self.actions

    get_exploration_action_dist_cls = get_inference_action_dist_cls = get_train_action_dist_cls

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """The masks go along with the logits: so an update uses those that an action was drawn with."""
        seen = batch[Columns.OBS]
        masks = [seen[key].flatten(-2).float() for key in (OP_SLOT, BLUEPRINT_SLOT)]
        return {Columns.ACTION_DIST_INPUTS: torch.cat([self.actor(seen[OBS]), *masks], dim=-1)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """(env,)."""
        return self.critic(batch[Columns.OBS][OBS]).squeeze(-1)


class CountIllegal(RLlibCallback):
    """Counts, in every round, the actions and those of them that became WAIT."""

    def on_episode_step(self, *, episode: Any, metrics_logger: Any, **kwargs: Any) -> None:
        """Called by RLlib after every step that was played."""
        metrics_logger.log_value("actions", 1, reduce="sum")
        metrics_logger.log_value("illegal", int(not episode.get_infos(-1)["action_valid"]), reduce="sum")


def _network(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, out)
    )


def make_env(config: dict[str, Any]) -> ExactMasksInObservation:
    """The environments of one runner; RLlib adds `num_envs` to the settings."""
    return ExactMasksInObservation(gym.make_vec("EsperMicro-v0", **config))


def configured(args: Args) -> PPOConfig:
    """PPO on the new API stack."""
    register_env("EsperMicro-masked", make_env)
    steps = args.num_envs * args.num_steps * max(1, args.num_runners)
    return (
        PPOConfig()
        .environment("EsperMicro-masked", env_config={"horizon": args.horizon, "epoch_size": args.epoch_size})
        .env_runners(
            num_env_runners=args.num_runners,
            num_envs_per_env_runner=args.num_envs,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .rl_module(rl_module_spec=RLModuleSpec(OpFirstModule, model_config={"hidden_size": args.hidden_size}))
        .training(
            train_batch_size_per_learner=steps,
            minibatch_size=steps // args.minibatches,
            num_epochs=args.epochs,
            lr=args.learning_rate,
            gamma=1.0,
            lambda_=args.gae_lambda,
            clip_param=args.clip,
            vf_clip_param=float("inf"),
            entropy_coeff=args.entropy,
        )
        .callbacks(CountIllegal)
        .debugging(seed=args.seed)
    )


def main(args: Args) -> tuple[Algorithm, list[dict[str, Any]]]:
    """Train; the algorithm, and RLlib's results of each round."""
    algorithm = configured(args).build_algo()
    results = []
    for number in range(1, args.rounds + 1):
        results.append(algorithm.train())
        played = results[-1]["env_runners"]
        illegal = f"{played['illegal']:.0f} of {played['actions']:.0f} actions illegal"
        print(f"round {number}: mean return {played['episode_return_mean']:.2f}, {illegal}")
    return algorithm, results


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
    ray.shutdown()
