"""What the heuristic would have done where a trained agent played, and the other way round, op by op.

`python benchmarks/agents/agree.py runs/micro/esper_ppo+null/0 --episodes 16` takes a checkpoint, a run's
folder or a folder of runs, and plays the same hosts with both.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from gymnasium.vector import AutoresetMode

from esper_agents import checkpoint
from esper_agents.agreement import agreement
from esper_agents.baselines import baseline
from esper_agents.compare import load_agent
from esper_agents.config import TrainConfig, validated
from esper_agents.environment import make_world


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=10_000)
    args = parser.parse_args(arguments)
    path = checkpoint.find_checkpoint(args.run)
    config = validated(TrainConfig, checkpoint.read_record(path)["config"])
    seeds = range(args.seed, args.seed + args.episodes)
    world = make_world(config, args.episodes, AutoresetMode.NEXT_STEP)
    with closing(world.envs) as envs:
        learned, rules = load_agent(path, world), baseline("heuristic", envs)
        learned.name = config.algo
        for player, adviser in ((learned, rules), (rules, learned)):
            print("\n".join(agreement(player, adviser, envs, list(seeds)).lines()) + "\n", flush=True)


if __name__ == "__main__":
    main()
