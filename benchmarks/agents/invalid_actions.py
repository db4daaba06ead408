"""Claim: with masks our PPO learns as well as MaskablePPO, and plays no illegal action.

`python benchmarks/agents/invalid_actions.py --seeds 0 1 2 --out runs/invalid` trains both on sb3-contrib's
own `InvalidActionEnvMultiDiscrete`: each step shows one value for every head, and 1 is paid for naming them
all; some of the other values are illegal, new ones every step. Both have no memory, the same steps, learning
rate, discount and passes. Then 100 episodes of 100 steps are drawn from each policy.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from classic import NamedByMask
from sb3_contrib import MaskablePPO
from stable_baselines3.common.env_util import make_vec_env
from training import evaluated, learner, train

from esper_agents.ppo.actions import IndependentActions
from esper_agents.ppo_config import OwnPpoConfig

TASKS = {"10 x 10, 10 illegal": ((10, 10), 10), "20 x 20, 30 illegal": ((20, 20), 30)}
"""Name -> values of each head, and how many of them are illegal in a step."""
NUM_ENVS, STEPS, TOTAL, EPISODES, GAMMA = 8, 256, 81_920, 100, 0.4
SHARED = {"learning_rate": 1e-3, "gae_lambda": 0.95, "entropy": 0.0, "ppo_epochs": 10}
OURS = SHARED | {"core": "mlp", "minibatches": 8, "hidden_size": 64, "memory_size": 64, "target_kl": None}


def ours(make: Callable[[], gym.Env[Any, Any]], sizes: tuple[int, ...], seed: int) -> dict[str, float]:
    """Train and evaluate esper_ppo."""
    model = IndependentActions(sizes, "action_mask")
    config = OwnPpoConfig(**OURS)  # type: ignore[arg-type]
    own = learner(make, model, config, GAMMA, NUM_ENVS, STEPS, seed, single=False)
    result = train(own, TOTAL)
    counted: list[NamedByMask] = []
    returns = evaluated(own, lambda: counted.append(env := make()) or env, EPISODES, seed=1000 + seed)
    return figures(returns, counted, result.seconds)


def theirs(make: Callable[[], gym.Env[Any, Any]], sizes: tuple[int, ...], seed: int) -> dict[str, float]:
    """Train and evaluate MaskablePPO."""
    model = MaskablePPO(
        "MlpPolicy",
        make_vec_env(make, NUM_ENVS, seed=seed),
        n_steps=STEPS,
        batch_size=STEPS,
        n_epochs=SHARED["ppo_epochs"],
        learning_rate=SHARED["learning_rate"],
        gae_lambda=SHARED["gae_lambda"],
        gamma=GAMMA,
        seed=seed,
        device="cpu",
    )
    began = perf_counter()
    model.learn(TOTAL)
    seconds = perf_counter() - began
    returns, env = [], make()
    for episode in range(EPISODES):
        obs, _ = env.reset(seed=1000 + seed * EPISODES + episode)
        over, total = False, 0.0
        while not over:
            action, _ = model.predict(obs, action_masks=env.action_masks())
            obs, reward, terminated, truncated, _ = env.step(action)
            over, total = terminated or truncated, total + float(reward)
        returns.append(total)
    return figures(returns, [env], seconds)


def figures(returns: Sequence[float], envs: Sequence[NamedByMask], seconds: float) -> dict[str, float]:
    """Mean return, of 100 at most, and the illegal actions among all."""
    illegal, played = sum(env.illegal for env in envs), sum(env.played for env in envs)
    return {"return": float(np.mean(returns)), "illegal": illegal, "played": played, "seconds": seconds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/invalid"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    print(
        "| task | seed | agent | return | illegal actions | seconds |\n| --- | --- | --- | --- | --- | --- |"
    )
    for task, (sizes, illegal) in TASKS.items():
        for seed in args.seeds:
            for agent, run in {"esper_ppo": ours, "MaskablePPO": theirs}.items():
                np.random.seed(seed)  # the environment draws illegal values from the global generator
                row = run(lambda s=sizes, n=illegal: NamedByMask(s, n), sizes, seed)
                rows.append({"task": task, "seed": seed, "agent": agent} | row)
                shown = f"{row['return']:.1f} | {row['illegal']} of {row['played']:,} | {row['seconds']:.0f}"
                print(f"| {task} | {seed} | {agent} | {shown} |", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "invalid_actions.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
