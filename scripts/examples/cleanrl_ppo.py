"""PPO in one file, in the manner of CleanRL: plain torch, the op drawn first, every mask exact.

python scripts/examples/cleanrl_ppo.py --rounds 100
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

from esper_env import READS, EsperVectorEnv, Head

ORDER = sorted(Head, key=lambda head: head != Head.OP)
"""The op, then the slot, then what may depend on both."""
Batch = dict[str, Tensor]


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


class Agent(nn.Module):
    """A policy for actions with heads of these sizes, and a value; two hidden layers each."""

    def __init__(self, num_features: int, sizes: list[int], hidden_size: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.actor = _network(num_features, hidden_size, sum(sizes), gain=0.01)
        self.critic = _network(num_features, hidden_size, 1, gain=1.0)

    def value(self, obs: Tensor) -> Tensor:
        """(env, feature) -> (env,)."""
        return self.critic(obs).squeeze(-1)

    def act(self, seen: Batch, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw actions, or score those that are given under the masks that they were drawn with.

        Args:
            seen: `obs` (env, feature) and its `op_slot_mask` and `blueprint_slot_mask`.
            action: (env, 8).

        Returns:
            Actions (env, 8); their log-probability and the entropy of the heads along the way, (env,) each.
        """
        logits = self.actor(seen["obs"]).split(self.sizes, dim=-1)
        taken = torch.zeros(len(seen["obs"]), len(Head), dtype=torch.long) if action is None else action
        log_prob = entropy = torch.zeros(len(taken))
        for head in ORDER:
            legal = legal_values(head, taken, seen, self.sizes[head])
            choice = Categorical(logits=torch.where(legal, logits[head], -1e8))
            if action is None:
                taken[:, head] = choice.sample()
            log_prob = log_prob + choice.log_prob(taken[:, head])
            entropy = entropy + choice.entropy()
        return taken, log_prob, entropy


def legal_values(head: Head, action: Tensor, seen: Batch, size: int) -> Tensor:
    """Which values of a head are legal after those before it in `ORDER`; 0 alone where it is not read."""
    op, slot, env = action[:, Head.OP], action[:, Head.SLOT], torch.arange(len(action))
    if head == Head.OP:
        return seen["op_slot_mask"].any(-1)
    legal = torch.ones(len(action), size, dtype=torch.bool)
    if head == Head.SLOT:
        legal = seen["op_slot_mask"][env, op]
    elif head == Head.BLUEPRINT:
        legal = seen["blueprint_slot_mask"][env, slot]
    read = torch.tensor(READS)[op, head]
    return torch.where(read[:, None], legal, torch.arange(size) == 0)


class Player:
    """Plays the environments, which have autoreset SAME_STEP, and counts what happens."""

    def __init__(self, envs: EsperVectorEnv, agent: Agent, args: Args) -> None:
        self.envs, self.agent, self.args = envs, agent, args
        self.gamma = envs.metadata["gamma"]
        self.seen = _tensors(*envs.reset(seed=args.seed))
        self.running = np.zeros(envs.num_envs)
        self.returns: list[float] = []
        self.actions = self.illegal = 0

    @torch.no_grad()
    def rollout(self) -> Batch:
        """Play `num_steps`: what was seen, done and paid, (step, env, ...), advantages and returns."""
        steps = [self._step() for _ in range(self.args.num_steps)]
        rollout = {key: torch.stack([step[key] for step in steps]) for key in steps[0]}
        next_value, advantage = self.agent.value(self.seen["obs"]), torch.zeros(self.envs.num_envs)
        advantages = torch.zeros_like(rollout["reward"])
        for t in reversed(range(self.args.num_steps)):
            go_on = ~rollout["ended"][t]
            delta = rollout["reward"][t] + self.gamma * next_value * go_on - rollout["value"][t]
            advantage = delta + self.gamma * self.args.gae_lambda * advantage * go_on
            advantages[t], next_value = advantage, rollout["value"][t]
        return rollout | {"advantage": advantages, "return": advantages + rollout["value"]}

    def _step(self) -> Batch:
        seen, (action, log_prob, _) = self.seen, self.agent.act(self.seen)
        obs, reward, terminated, truncated, info = self.envs.step(action.numpy())
        self._count(reward, ended := terminated | truncated, info["action_valid"])
        paid = torch.from_numpy(reward * self.args.reward_scale).float()
        if (cut := truncated & ~terminated).any():  # would have gone on: the last observation says how
            last = np.stack([info["final_obs"][env] for env in np.flatnonzero(cut)])
            paid[cut] += self.gamma * self.agent.value(torch.from_numpy(last))
        self.seen = _tensors(obs, info)
        played = {"action": action, "log_prob": log_prob, "value": self.agent.value(seen["obs"])}
        return seen | played | {"reward": paid, "ended": torch.from_numpy(ended)}

    def _count(self, reward: np.ndarray, ended: np.ndarray, valid: np.ndarray) -> None:
        self.running += reward
        self.returns += self.running[ended].tolist()
        self.running[ended] = 0.0
        self.actions += len(valid)
        self.illegal += int((~valid).sum())


def update(agent: Agent, optimizer: torch.optim.Optimizer, rollout: Batch, args: Args) -> float:
    """Some passes of PPO over a rollout; the approximate KL of the last one."""
    flat = {key: values.flatten(0, 1) for key, values in rollout.items()}
    for _ in range(args.epochs):
        parts = torch.randperm(len(flat["reward"])).chunk(args.minibatches)
        batches = [{key: values[rows] for key, values in flat.items()} for rows in parts]
        kl = sum(_descend(agent, optimizer, batch, args) for batch in batches) / len(batches)
    return kl


def _descend(agent: Agent, optimizer: torch.optim.Optimizer, batch: Batch, args: Args) -> float:
    _, log_prob, entropy = agent.act(batch, batch["action"])
    log_ratio, advantage = log_prob - batch["log_prob"], batch["advantage"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    clipped = log_ratio.exp().clamp(1 - args.clip, 1 + args.clip)
    policy_loss = -torch.min(advantage * log_ratio.exp(), advantage * clipped).mean()
    value_loss = 0.5 * (agent.value(batch["obs"]) - batch["return"]).square().mean()
    optimizer.zero_grad()
    (policy_loss + 0.5 * value_loss - args.entropy * entropy.mean()).backward()
    nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
    optimizer.step()
    return float((log_ratio.exp() - 1 - log_ratio).detach().mean())


def _tensors(obs: np.ndarray, info: dict[str, np.ndarray]) -> Batch:
    masks = {key: torch.from_numpy(info[key]).bool() for key in ("op_slot_mask", "blueprint_slot_mask")}
    return {"obs": torch.from_numpy(obs)} | masks


def _network(width: int, hidden: int, out: int, gain: float) -> nn.Sequential:
    layers = nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)
    for layer, scale in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def main(args: Args) -> tuple[Agent, Player]:
    """Train; the agent, and the player with what it has counted."""
    torch.manual_seed(args.seed)
    settings = {"horizon": args.horizon, "epoch_size": args.epoch_size}
    envs = gym.make_vec("EsperMicro-v0", args.num_envs, autoreset_mode="SameStep", **settings)
    agent = Agent(envs.single_observation_space.shape[0], envs.layout.nvec.tolist(), args.hidden_size)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    player = Player(envs, agent, args)
    for number in range(1, args.rounds + 1):
        player.returns.clear()
        kl = update(agent, optimizer, player.rollout(), args)
        mean = np.mean(player.returns) if player.returns else np.nan
        illegal = f"{player.illegal} of {player.actions} actions illegal"
        print(f"round {number}: mean return {mean:.2f}, {illegal}, KL {kl:.4f}")
    envs.close()
    return agent, player


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
