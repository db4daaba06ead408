"""Claim: how much of what a trained agent wins is a plan, and how much is that it looks at the network.

`python benchmarks/agents/replay.py runs/micro/esper_ppo+null/200` plays some hosts with the agent's most
probable actions, plays what it did on each of them on all the others without looking (illegal actions are
WAIT), and compares the plan that did best there with the agent, on hosts that chose nothing.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from esper_agents import checkpoint
from esper_agents.agent import Agent, Info
from esper_agents.compare import load_agent
from esper_agents.config import TrainConfig, validated
from esper_agents.environment import World, make_world
from esper_agents.episodes import Step
from esper_agents.evaluate import Evaluation, evaluate
from esper_env import Head, Op

Plan = NDArray[np.int64]
"""(step, head)."""


class Replay:
    """Plays a plan in every environment, whatever it sees. See `Agent`."""

    name = "replay"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def begin(self, seeds: Sequence[int]) -> int:
        """See `Agent`."""
        return 0

    def act(self, obs: NDArray[np.float32], info: Info, memory: int) -> tuple[NDArray[np.int64], int]:
        """See `Agent`."""
        return np.tile(self._plan[memory], (len(obs), 1)), memory + 1


def plans(agent: Agent, world: World, seeds: Sequence[int]) -> list[Plan]:
    """What an agent does on each host."""
    actions: list[Plan] = []

    def note(step: Step) -> None:
        actions.append(step.actions.copy())

    evaluate(agent, world.envs, seeds, note)
    return list(np.stack(actions, axis=1))


def lives(plan: Plan, world: World) -> str:
    """What it plants, when, and where."""
    rows = [(epoch, row) for epoch, row in enumerate(plan) if row[Head.OP] == Op.GERMINATE]
    names = world.envs.facts.blueprints
    return ", ".join(f"{names[row[Head.BLUEPRINT]]} in {row[Head.SLOT]} at {epoch}" for epoch, row in rows)


def returns(found: Evaluation) -> float:
    """Their mean."""
    return float(np.mean(found.values("total_reward")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, choose, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--hosts", type=int, default=16, help="of which a plan each is taken and chosen on")
    parser.add_argument("--seed", type=int, default=30_000, help="of the first of these")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--eval-seed", type=int, default=40_000)
    args = parser.parse_args(arguments)
    path = checkpoint.find_checkpoint(args.run)
    config = validated(TrainConfig, checkpoint.read_record(path)["config"])
    tried = list(range(args.seed, args.seed + args.hosts))
    held_out = list(range(args.eval_seed, args.eval_seed + args.episodes))
    few, many = (make_world(config, count, AutoresetMode.NEXT_STEP) for count in (args.hosts, args.episodes))
    with closing(few.envs), closing(many.envs):
        found = plans(load_agent(path, few, deterministic=True), few, tried)
        scores = [returns(evaluate(Replay(plan), few.envs, tried)) for plan in found]
        best = found[int(np.argmax(scores))]
        agent = evaluate(load_agent(path, many, deterministic=True), many.envs, held_out)
        fixed = evaluate(Replay(best), many.envs, held_out)
        gap = agent.against(fixed)
        for plan, count in Counter(lives(plan, few) for plan in found).most_common():
            print(f"- {count} of {args.hosts} hosts: {plan}")
        print(f"plans on the {args.hosts} hosts: {min(scores):.1f} to {max(scores):.1f}")
        print(f"on the {args.episodes} others: agent {returns(agent):.1f}, best plan {returns(fixed):.1f}, ")
        print(f"difference {gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f}); {lives(best, few)}")


if __name__ == "__main__":
    main()
