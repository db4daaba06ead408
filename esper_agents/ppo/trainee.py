"""Our PPO as a `Trainee`: what a checkpoint keeps of it, and what it reports."""

import io
import zipfile
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from esper_agents import checkpoint
from esper_agents.agent import Agent
from esper_agents.config import TrainConfig
from esper_agents.environment import World
from esper_agents.episodes import Step
from esper_agents.learning import RoundListener
from esper_agents.ppo.build import esper_policy, make_learner
from esper_agents.ppo.network import Policy
from esper_agents.ppo.player import PpoAgent
from esper_agents.ppo.teacher import Teacher
from esper_agents.ppo_config import OwnPpoConfig
from esper_env import EsperVectorEnv

WEIGHTS, REST = checkpoint.WEIGHTS, "training.pt"
"""Entries of a checkpoint: the weights of the policy, and optimizer and generator; tensors alone."""


SAME = {"rollout/ep_rew_mean": "charts/episodic_return", "rollout/ep_len_mean": "charts/episodic_length"}
"""Names of Stable-Baselines3 for tags of ours; theirs are means of 100 episodes, here of a round's."""


class PpoTrainee:
    """See `Trainee`. A run that goes on has the weights, to the last bit, of one that was never stopped.

    Args:
        config: The run.
        world: What it plays.
        path: A checkpoint to go on from; None for a new policy.
    """

    def __init__(self, config: TrainConfig, world: World, path: Path | None) -> None:
        self._seed, self.learner = config.seed, make_learner(world.envs, config, config.seed)
        self._mean = _mean_of(self.learner.policy, config.average) if config.average else None
        self._teachers = config.teachers
        self._round_steps = world.envs.num_envs * world.envs.config.horizon
        self.enter(world)
        if path is not None:
            self._load(path)

    @property
    def steps(self) -> int:
        """See `Trainee`."""
        return self.learner.rounds * self._round_steps

    @property
    def num_parameters(self) -> int:
        """See `Trainee`."""
        return sum(parameter.numel() for parameter in self.learner.policy.parameters())

    def start_from(self, path: Path) -> None:
        """See `Trainee`."""
        with zipfile.ZipFile(path) as archive:
            weights = _read(archive.read(WEIGHTS))
        self.learner.policy.load_state_dict(weights)
        if self._mean is not None:
            self._mean.module.load_state_dict(weights)

    def enter(self, world: World) -> None:
        """See `Trainee`: every round begins new episodes anyway."""
        self.learner.envs = world.envs
        self.learner.teacher = Teacher(self._teachers, world.envs) if self._teachers else None

    def learn(self, steps: int, listener: RoundListener | None, writer: SummaryWriter | None) -> None:
        """See `Trainee`."""
        target, began, before = self.steps + steps, perf_counter(), self.steps
        while self.steps < target:
            done = self.steps
            if listener is not None:
                listener.updated(done, anew=True)
            rollout, fresh = self.learner.play(None if listener is None else _Heard(listener, done))
            tags = {} if listener is None else listener.played(done + self._round_steps)
            figures = self.learner.learn(rollout, fresh)
            if figures and self._mean is not None:
                self._mean.update_parameters(self.learner.policy)
            tags |= figures
            tags |= {name: tags[own] for name, own in SAME.items() if own in tags}
            tags["time/fps"] = (self.steps - before) / (perf_counter() - began)
            if writer is not None:
                for tag, value in tags.items():
                    writer.add_scalar(tag, value, self.steps)
        if listener is not None:
            listener.updated(self.steps)

    def content(self) -> tuple[bytes, dict[str, Any]]:
        """See `Trainee`."""
        learner, updater = self.learner, self.learner.updater
        rest = {"optimizer": updater.optimizer.state_dict(), "generator": updater.generator.get_state()}
        if self._mean is not None:
            rest |= {"weights": learner.policy.state_dict(), "averaged": self._mean.n_averaged}
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(WEIGHTS, _saved(self._player.state_dict()))
            archive.writestr(REST, _saved(rest))
        rounds, scale = learner.settled
        plain = {"rounds": rounds, "updates": updater.updates, "scale": scale}
        return content.getvalue(), {"timesteps": rounds * self._round_steps, **plain}

    def _load(self, path: Path) -> None:
        state, learner, updater = checkpoint.read_record(path)["state"], self.learner, self.learner.updater
        checkpoint.refuse_without(path, REST)
        with zipfile.ZipFile(path) as archive:
            weights, rest = (_read(archive.read(name)) for name in (WEIGHTS, REST))
        learner.policy.load_state_dict(rest.get("weights", weights))
        if self._mean is not None:
            self._mean.module.load_state_dict(weights)
            self._mean.n_averaged.copy_(rest["averaged"])
        updater.optimizer.load_state_dict(rest["optimizer"])
        updater.generator.set_state(rest["generator"])
        learner.rounds, updater.updates = state["rounds"], state["updates"]
        vars(learner.scale).update(state["scale"])
        learner.settle()

    def agent(self, name: str, deterministic: bool) -> Agent:
        """See `Trainee`."""
        return PpoAgent(self._player, name, deterministic, self._seed)

    @property
    def _player(self) -> Policy:
        """What plays, but for the rounds that are learned from."""
        return self.learner.policy if self._mean is None else cast(Policy, self._mean.module)


def _mean_of(policy: Policy, decay: float) -> AveragedModel:
    """The mean of weights; the first update's are its first."""
    return AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(decay))


class _Heard:
    """Hands every step on, with the ends of episodes shown as they ended.

    Args:
        listener: Who hears it.
        done: Environment steps before.
    """

    def __init__(self, listener: RoundListener, done: int) -> None:
        self._listener, self._done = listener, done

    def __call__(self, obs: Any, actions: Any, rewards: Any, ended: Any, info: Any) -> None:
        """See `learner.Listener`."""
        seen = obs.copy()
        for env in np.flatnonzero(ended).tolist():
            seen[env] = info["final_obs"][env]
        self._done += len(ended)
        self._listener.stepped(Step(seen, actions, rewards, ended, info), self._done)


def saved_policy(path: Path, envs: EsperVectorEnv, config: OwnPpoConfig) -> Policy:
    """The policy of a checkpoint, for environments that may have another number of slots if it is a set's.

    Raises:
        RuntimeError: the weights don't fit.
    """
    policy = esper_policy(envs, config)
    with zipfile.ZipFile(path) as archive:
        policy.load_state_dict(_read(archive.read(WEIGHTS)))
    return policy


def _saved(values: Any) -> bytes:
    content = io.BytesIO()
    torch.save(values, content)
    return content.getvalue()


def _read(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), weights_only=True)
