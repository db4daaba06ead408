"""Claim: an update of esper_ppo takes a tenth of the time of RecurrentPPO's on the same rollout.

`python benchmarks/agents/update_time.py --envs 8 --steps 150` plays one rollout of EsperCifar-v0's rules on
the null engine, gives it to both, and times whole updates in turn, with one thread: the same passes, as many
transitions in a minibatch, and layer sizes. RecurrentPPO's actor and critic each have an LSTM, as is its
default; it goes step by step through sequences in which an episode begins, as all do here, ours takes each in
one call. `--compile` holds our update with `torch.compile`d encoder against the same without.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import RecurrentPPO

from esper_agents.environment import EnvironmentConfig, World, make_world
from esper_agents.ppo.build import make_learner
from esper_agents.ppo.learner import Learner
from esper_agents.ppo.rollout import Rollout
from esper_agents.ppo_config import OwnPpoConfig
from esper_agents.sb3.adapter import EsperSb3VecEnv
from esper_agents.sb3.model import make_model, writing_logger

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import describe

SIZES = {"64, 64": ((64, 64), (64, 64)), "128, 512": ((128, 512), (128, 512)), "own": ((128, 512), (64, 64))}
"""Name -> widths of layers and LSTM, of esper_ppo and of RecurrentPPO; `own`: what each has by default."""
WARM_UP, REPEATS = 1, 5


def config(hidden: int, memory: int) -> OwnPpoConfig:
    """Four passes of four minibatches, all of them."""
    return OwnPpoConfig(hidden_size=hidden, memory_size=memory, target_kl=None)


@torch.no_grad()
def theirs(world: World, hidden: int, memory: int, played: Rollout) -> RecurrentPPO:
    """RecurrentPPO with the rollout in its buffer."""
    steps, envs = played.rewards.shape
    model = make_model("recurrent_ppo", EsperSb3VecEnv(world.envs), config(hidden, memory), steps, seed=0)
    assert isinstance(model, RecurrentPPO)
    model.set_logger(writing_logger(None))
    model._setup_learn(steps * envs)
    lstm, starts = model._last_lstm_states, torch.ones(envs)
    model.rollout_buffer.reset()
    for step in range(steps):
        obs, actions = played.obs[step], played.actions[step]
        values, log_probs, _ = model.policy.evaluate_actions(obs, actions, lstm, starts)
        row = obs.numpy(), actions.numpy(), played.rewards[step].numpy(), starts.numpy()
        model.rollout_buffer.add(*row, values[:, 0], log_probs, lstm_states=lstm)
        lstm = model.policy.forward(obs, lstm, starts)[3]
        starts = played.ended[step].float()
    model.rollout_buffer.compute_returns_and_advantage(torch.zeros(envs), played.ended[-1].numpy())
    return model


def compiled(world: World, hidden: int, memory: int) -> Learner:
    """Our agent, its encoder compiled. The LSTM is a library's, and each head has rows of its own number."""
    learner = make_learner(world.envs, config(hidden, memory), seed=0)
    learner.policy.encoder.compile(dynamic=False)
    return learner


def timed(updates: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Seconds of each of them, in turn."""
    found: list[list[float]] = [[] for _ in updates]
    for repeat in range(WARM_UP + REPEATS):
        for update, seconds in zip(updates, found, strict=True):
            began = perf_counter()
            update()
            if repeat >= WARM_UP:
                seconds.append(perf_counter() - began)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--compile", action="store_true", help="ours against ours compiled")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    environment = EnvironmentConfig(data="procedural", episode_length=args.steps)
    world = make_world(environment, args.envs, AutoresetMode.SAME_STEP, changes={"engine.name": "null"})
    print(f"{describe('cpu')}; {torch.get_num_threads()} threads (of {os.cpu_count()})\n")
    other_name = "encoder compiled" if args.compile else "RecurrentPPO"
    print(
        f"| layers, LSTM | esper_ppo, ms | {other_name}, ms | ratio | least | most |\n" + "| --- " * 6 + "|"
    )
    with closing(world.envs):
        for name, (mine, other) in SIZES.items():
            learner = make_learner(world.envs, config(*mine), seed=0)
            played, fresh = learner.play()
            rival = (
                partial(compiled(world, *mine).learn, played, fresh)
                if args.compile
                else theirs(world, *other, played).train
            )
            seconds = timed([partial(learner.learn, played, fresh), rival])
            ratios = [b / a for a, b in zip(*seconds, strict=True)]
            medians = " | ".join(f"{1000 * median(each):.0f}" for each in seconds)
            print(f"| {name} | {medians} | {median(ratios):.1f} | {min(ratios):.1f} | {max(ratios):.1f} |")


if __name__ == "__main__":
    main()
