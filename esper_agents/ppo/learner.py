"""Plays and learns, round by round: a rollout, an update."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.random import SeedSequence
from numpy.typing import NDArray
from torch import Tensor

from esper_agents.ppo.distribution import sampled, walk
from esper_agents.ppo.network import Encoded, Memory, Policy
from esper_agents.ppo.rollout import Rollout, joined
from esper_agents.ppo.teacher import Teacher
from esper_agents.ppo.update import Figures, Updater
from esper_agents.ppo_config import OwnPpoConfig


class ReturnScale:
    """Running deviation of the discounted return, by which rewards are divided.

    As in `gymnasium.wrappers.vector.NormalizeReward`, but updated once a rollout, all of which it divides.

    Args:
        gamma: Discount.
    """

    def __init__(self, gamma: float) -> None:
        self._gamma = gamma
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0
        self._running: NDArray[np.float64] | None = None

    def state(self) -> dict[str, float]:
        """Plain values to go on from, besides episodes under way."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def divide(self, rewards: NDArray[np.float64], ended: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Rewards (step, env) in units of the deviation, these returns included."""
        running = np.zeros(rewards.shape[1]) if self._running is None else self._running
        returns = np.empty_like(rewards)
        for step, (reward, over) in enumerate(zip(rewards, ended, strict=True)):
            returns[step] = running = running * self._gamma + reward
            running = np.where(over, 0.0, running)
        self._running = running
        self._add(returns)
        return rewards / np.sqrt(self.squares / self.count + 1e-8)

    def forget(self) -> None:
        """Episodes begin anew."""
        self._running = None

    def _add(self, values: NDArray[np.float64]) -> None:
        count, mean = values.size, float(values.mean())
        both, apart = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + apart**2 * self.count * count / both
        self.mean += apart * count / both
        self.count = both


class Listener(Protocol):
    """Hears every step while a rollout is played."""

    def __call__(self, obs: Any, actions: Any, rewards: Any, ended: Any, info: Mapping[str, Any]) -> None:
        """After a step: the arguments are what `VectorEnv.step` took and gave."""


class Learner:
    """A policy that learns on environments.

    Args:
        envs: With autoreset SAME_STEP.
        policy: What plays, and is trained in place.
        config: Settings.
        gamma: Discount.
        steps: Of each environment in a rollout.
        seed: Of exploration, of the order of minibatches and of episodes.
        anew: Whether every rollout begins new episodes, seeded by the rollout's number: then nothing of the
            environments has to be kept to continue a run exactly. Otherwise episodes go on.
        single: Whether the environment wants one number for an action, not a row of heads.
        blocks: Of environments, all of one size, with budgets of their own.

    Raises:
        ValueError: Another autoreset mode, or replicas that don't divide the environments or whose episodes
            would not begin together.
    """

    def __init__(
        self,
        envs: VectorEnv,
        policy: Policy,
        config: OwnPpoConfig,
        gamma: float,
        steps: int,
        seed: int,
        anew: bool = True,
        single: bool = False,
        blocks: int = 1,
    ) -> None:
        _refuse(envs, config.replicas, anew)
        self.envs, self.policy, self.rounds = envs, policy, 0
        self.teacher: Teacher | None = None
        """Of these environments: says what it would have played."""
        self._config, self.steps, self._seed, self._anew, self.single = config, steps, seed, anew, single
        self.updater = Updater(policy, config, gamma, seed, blocks)
        self.scale = ReturnScale(gamma)
        self._fresh = np.ones(envs.num_envs, dtype=bool)
        self._obs: NDArray[np.float32] | None = None
        self._waiting: list[tuple[Rollout, Tensor]] = []
        self.settle()

    def round(self, heard: Listener | None = None) -> Figures:
        """Play a rollout and learn from it."""
        return self.learn(*self.play(heard))

    def learn(self, rollout: Rollout, fresh: NDArray[np.bool_]) -> Figures:
        """Learn from what `play` gave, as soon as there are `rounds_per_update` of it; before, no figures."""
        self._waiting.append((rollout, torch.from_numpy(fresh)))
        self.rounds += 1
        if len(self._waiting) < self._config.rounds_per_update:
            return {}
        rollouts, begun = zip(*self._waiting, strict=True)
        self._waiting = []
        figures = self.updater.update(joined(rollouts), torch.cat(begun))
        self.settle()
        return figures

    def settle(self) -> None:
        """What is so far is where a run goes on: rounds that wait for an update would be played again."""
        self.settled = self.rounds, self.scale.state()

    @torch.no_grad()
    def play(self, heard: Listener | None = None) -> tuple[Rollout, NDArray[np.bool_]]:
        """A rollout, and (env,): whether its first step began an episode."""
        if self._anew or self._obs is None:
            self._begin()
        before, fresh, rows = self._memory, self._fresh.copy(), []
        for _ in range(self.steps):
            rows.append(self._step(heard))
        last = self._value(self._obs, self._memory)
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return self._rollout(columns, before, last), fresh

    def _begin(self) -> None:
        own = SeedSequence([self._seed, self.rounds]).generate_state(self.envs.num_envs + 1)
        self._generator = torch.Generator().manual_seed(int(own[-1]))
        seeds = np.repeat(own[:-1], self._config.replicas)[: self.envs.num_envs]
        self._obs, self._info = self.envs.reset(seed=seeds.tolist())
        self._memory = self.policy.begin(self.envs.num_envs)
        self._fresh[:] = True
        self.scale.forget()
        if self.teacher:
            self.teacher.begin()

    def _step(self, heard: Listener | None) -> dict[str, NDArray[Any]]:
        obs, model = np.asarray(self._obs, dtype=np.float32), self.policy.model
        masks = model.published(self._info)
        encoded, memory = self.policy.features(torch.from_numpy(obs)[None], self._memory)
        encoded = Encoded(encoded.features[0], None if encoded.slots is None else encoded.slots[0])
        uniforms = torch.rand(len(obs), len(model.sizes), generator=self._generator, dtype=torch.float64)
        seen = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        drawn = walk(model, self.policy.heads.begin(encoded), seen, len(obs), sampled(uniforms))
        actions = drawn.actions.numpy()
        row = {"obs": obs, "actions": actions, "log_probs": drawn.log_probs.numpy()}
        row |= {f"mask:{name}": mask for name, mask in masks.items()}
        row["values"] = self.policy.values(encoded.features).numpy()
        if self.policy.op_value is not None:
            op = drawn.actions[:, model.order[0], None]
            row["op_values"] = self.policy.op_value(encoded.features).gather(1, op)[:, 0].numpy()
        if self.teacher:
            row["taught"] = self.teacher.advise(obs, self._info)
        asked, before = actions[:, 0] if self.single else actions, self._info
        self._obs, rewards, terminated, truncated, self._info = self.envs.step(asked)
        ended = terminated | truncated
        if self.teacher:
            self.teacher.follow(before, actions, ended)
        row |= {"rewards": np.asarray(rewards, dtype=np.float64), "ended": ended}
        row["cut"] = self._after_cut(truncated & ~terminated, memory)
        keep = torch.from_numpy(~ended)[None, :, None]
        self._memory, self._fresh = tuple(part * keep for part in memory), ended
        if heard:
            heard(self._obs, actions, rewards, ended, self._info)
        return row

    def _after_cut(self, cut: NDArray[np.bool_], memory: Memory) -> NDArray[np.float32]:
        """(env,): the value of the last observation of an episode that was cut off; 0 elsewhere."""
        values = np.zeros(len(cut), dtype=np.float32)
        at = np.flatnonzero(cut)
        if len(at):
            last = np.stack([np.asarray(self._info["final_obs"][env], dtype=np.float32) for env in at])
            values[at] = self._value(last, tuple(part[:, at] for part in memory)).numpy()
        return values

    def _value(self, obs: Any, memory: Memory) -> Tensor:
        encoded, _ = self.policy.features(torch.from_numpy(np.asarray(obs, dtype=np.float32))[None], memory)
        return self.policy.values(encoded.features[0])

    def _rollout(self, columns: dict[str, NDArray[Any]], before: Memory, last: Tensor) -> Rollout:
        rewards, ended = columns["rewards"], columns["ended"]
        if self._config.normalize_reward:
            rewards = self.scale.divide(rewards, ended)
        following = np.concatenate([columns["values"][1:], last.numpy()[None]])
        following = np.where(ended, columns["cut"], following)
        masks = {name[5:]: values for name, values in columns.items() if name.startswith("mask:")}
        as_tensor: Callable[[Any], Tensor] = torch.from_numpy
        return Rollout(
            obs=as_tensor(columns["obs"]),
            masks={name: as_tensor(mask) for name, mask in masks.items()},
            actions=as_tensor(columns["actions"]),
            log_probs=as_tensor(columns["log_probs"]),
            values=as_tensor(columns["values"]),
            op_values=as_tensor(columns["op_values"]) if "op_values" in columns else None,
            rewards=as_tensor(rewards.astype(np.float32)),
            following=as_tensor(following),
            ended=as_tensor(ended),
            memory=before,
            taught=as_tensor(columns["taught"]) if "taught" in columns else None,
        )


def _refuse(envs: VectorEnv, replicas: int, anew: bool) -> None:
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        raise ValueError(f"esper_ppo learns with autoreset_mode={AutoresetMode.SAME_STEP}, not {mode}")
    if envs.num_envs % replicas:
        raise ValueError(f"replicas={replicas} does not divide num_envs={envs.num_envs}")
    if replicas > 1 and not anew:
        raise ValueError(f"replicas={replicas}: only where every round begins new episodes")
