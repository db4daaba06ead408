"""TorchRL's PPO on the vector environment, autoreset DISABLED: the op drawn first, every mask exact.

python scripts/examples/torchrl_ppo.py --rounds 100
"""

from dataclasses import dataclass

import gymnasium as gym
import torch
import tyro
from op_first import BLUEPRINT_SLOT, OBS, OP_SLOT, ExactMasksInObservation, OpFirst
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import ExplorationType, RewardScaling, RewardSum, TransformedEnv
from torchrl.envs.libs.gym import GymWrapper
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


@dataclass
class Args:
    """What can be set on the command line."""

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
    hidden_size: int = 64
    learning_rate: float = 3e-4
    gae_lambda: float = 0.95
    reward_scale: float = 0.1
    """Rewards are multiplied by it: they are points of accuracy."""
    epochs: int = 4
    """Passes over a rollout."""
    minibatches: int = 4
    clip: float = 0.2
    entropy: float = 0.01
    max_grad_norm: float = 0.5


def make_env(args: Args) -> TransformedEnv:
    """The batch of environments as one TorchRL environment; it resets those that ended, and only those."""
    settings = {"horizon": args.horizon, "epoch_size": args.epoch_size}
    envs = gym.make_vec("EsperMicro-v0", args.num_envs, autoreset_mode="Disabled", **settings)
    env = TransformedEnv(GymWrapper(ExactMasksInObservation(envs)))
    env.append_transform(RewardSum())
    env.append_transform(RewardScaling(loc=0.0, scale=args.reward_scale))
    env.set_seed(args.seed)
    return env


def make_networks(env: TransformedEnv, args: Args) -> tuple[ProbabilisticActor, ValueOperator]:
    """Actor and critic, two hidden layers each."""
    features, outputs = env.observation_spec[OBS].shape[-1], int((env.action_spec.high[0] + 1).sum())
    shape = {"in_features": features, "num_cells": [args.hidden_size] * 2, "activation_class": nn.Tanh}
    logits = TensorDictModule(MLP(out_features=outputs, **shape), in_keys=[OBS], out_keys=["logits"])
    actor = ProbabilisticActor(
        logits,
        in_keys=["logits", OP_SLOT, BLUEPRINT_SLOT],
        distribution_class=OpFirst,
        return_log_prob=True,
        default_interaction_type=ExplorationType.RANDOM,
    )
    return actor, ValueOperator(MLP(out_features=1, **shape), in_keys=[OBS])


def update(flat: TensorDict, loss: ClipPPOLoss, optimizer: torch.optim.Optimizer, args: Args) -> float:
    """Some passes of PPO over transitions with their advantages; the approximate KL of the last one."""
    for _ in range(args.epochs):
        parts = torch.randperm(len(flat)).chunk(args.minibatches)
        kl = sum(_descend(flat[rows], loss, optimizer, args) for rows in parts) / len(parts)
    return kl


def _descend(batch: TensorDict, loss: ClipPPOLoss, optimizer: torch.optim.Optimizer, args: Args) -> float:
    values = loss(batch)
    optimizer.zero_grad()
    (values["loss_objective"] + values["loss_entropy"] + values["loss_critic"]).backward()
    nn.utils.clip_grad_norm_(loss.parameters(), args.max_grad_norm)
    optimizer.step()
    return float(values["kl_approx"])


def illegal_share(rollout: TensorDict, env: TransformedEnv) -> float:
    """Share of the actions that became WAIT: TorchRL reads no info here, but the observation says it too."""
    return 1.0 - float(rollout["next", OBS][..., env.features["last_success"]].mean())


def main(args: Args) -> tuple[ProbabilisticActor, list[dict[str, float]]]:
    """Train; the actor, and what each round came to."""
    torch.manual_seed(args.seed)
    env = make_env(args)
    actor, critic = make_networks(env, args)
    loss = ClipPPOLoss(
        actor, critic, clip_epsilon=args.clip, entropy_coeff=args.entropy, normalize_advantage=True
    )
    advantage = GAE(gamma=env.metadata["gamma"], lmbda=args.gae_lambda, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=args.learning_rate, eps=1e-5)
    frames = args.num_envs * args.num_steps
    collector = Collector(
        env,
        actor,
        frames_per_batch=frames,
        total_frames=frames * args.rounds,
        auto_register_policy_transforms=False,
    )
    log = []
    for number, rollout in enumerate(collector, 1):
        kl = update(advantage(rollout).reshape(-1), loss, optimizer, args)
        ended = rollout["next", "done"]
        mean = float(rollout["next", "episode_reward"][ended].mean())
        log.append({"return": mean, "illegal": illegal_share(rollout, env), "kl": kl})
        illegal = f"{log[-1]['illegal']:.1%} of actions illegal"
        print(f"round {number}: mean return {mean:.2f}, {illegal}, KL {kl:.4f}")
    collector.shutdown()
    return actor, log


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
