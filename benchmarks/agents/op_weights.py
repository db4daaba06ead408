"""Claim: legal play at random never pays on EsperMicro-v0, however the ops are weighted.

`python benchmarks/agents/op_weights.py --episodes 32` draws a legal op by weight, then the rest uniformly,
and compares the return with that of WAIT on the same hosts.
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from esper_agents.agent import Info, Memory
from esper_agents.baselines import baseline
from esper_agents.evaluate import evaluate
from esper_env import EsperVectorEnv, Head, Op

WEIGHTS: tuple[Mapping[str, float], ...] = (
    {},
    {"WAIT": 4},
    {"PRUNE": 0.1},
    {"WAIT": 2, "PRUNE": 0},
    {"WAIT": 4, "ADVANCE": 4, "FOSSILIZE": 4, "PRUNE": 0.1, "SET_ALPHA_TARGET": 0.1},
)
"""Of ops; 1 where nothing is said."""


class WeightedAgent:
    """Draws legal actions; an op as often as its weight says among those that are legal. See `Agent`."""

    def __init__(self, env: EsperVectorEnv, weights: Mapping[str, float]) -> None:
        self.name, self._nvec = (
            ", ".join(f"{op} {weight:g}" for op, weight in weights.items()),
            env.layout.nvec,
        )
        self._weights = np.array([weights.get(op.name, 1.0) for op in Op])

    def begin(self, seeds: Sequence[int]) -> Memory:
        """See `Agent`."""
        return [np.random.default_rng(seed) for seed in seeds]

    def act(self, obs: NDArray[np.float32], info: Info, memory: Memory) -> tuple[NDArray[np.int64], Memory]:
        """See `Agent`."""
        masks = zip(memory, info["op_slot_mask"], info["blueprint_slot_mask"], strict=True)
        return np.stack([self._draw(*each) for each in masks]), memory

    def _draw(
        self, rng: np.random.Generator, ops: NDArray[np.int8], fits: NDArray[np.int8]
    ) -> NDArray[np.int64]:
        likely = self._weights * ops.any(axis=1)
        action = rng.integers(self._nvec)
        op = action[Head.OP] = rng.choice(len(likely), p=likely / likely.sum())
        slot = action[Head.SLOT] = rng.choice(np.flatnonzero(ops[op]))
        if op == Op.GERMINATE:
            action[Head.BLUEPRINT] = rng.choice(np.flatnonzero(fits[slot]))
        return action


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=5_000)
    args = parser.parse_args(arguments)
    seeds = range(args.seed, args.seed + args.episodes)
    env = EsperVectorEnv(args.episodes, "micro", autoreset_mode=AutoresetMode.NEXT_STEP)
    print("| weights of ops | return less WAIT's | fossils an episode | illegal |\n| --- | --- | --- | --- |")
    with closing(env):
        wait = evaluate(baseline("wait", env), env, list(seeds))
        for weights in WEIGHTS:
            played = evaluate(WeightedAgent(env, weights), env, list(seeds))
            gap, fossils = played.against(wait), np.mean(played.values("fossilized"))
            shown = f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f}) | {fossils:.2f}"
            illegal = sum(episode.invalid for episode in played.episodes)
            print(f"| {played.agent or 'all alike'} | {shown} | {illegal} |", flush=True)


if __name__ == "__main__":
    main()
