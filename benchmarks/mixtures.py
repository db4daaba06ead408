"""Claim: empty slots cost nothing, and it doesn't matter which modules the environments have.

`python benchmarks/mixtures.py --env micro --out runs/mixtures` trains the same environments in turns, round
by round: hosts without slots and with empty ones; every environment with modules of the same blueprint, one
blueprint after another; and a mixture in which each blueprint is as frequent as the others. An even mixture
does the work of the average of the others, so that average is what it is held against. Seconds of training.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from machine import describe, spread
from numpy.typing import NDArray
from peers.work import Work, seed, setup

from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState
from esper_env.engine.fused import FusedEngine
from esper_env.engine.setup import Setup

ALPHA = 0.5
"""Of every module."""
BATCHES = {"micro": 8, "cifar": 12}
"""Training batches of an epoch."""
MIXED = "each blueprint as often"
EMPTY, BARE = "empty slots", "no slots"


class Training:
    """Some environments' networks in the fused engine.

    Args:
        prepared: data, host and slots.
        slots: what the slots hold.
    """

    def __init__(self, prepared: Setup, slots: SlotState) -> None:
        num_envs = len(slots.stage)
        self._engine, self._slots = FusedEngine(num_envs, prepared), slots
        self._playing = np.ones(num_envs, dtype=bool)
        self._engine.begin(np.arange(num_envs), [seed(env) for env in range(num_envs)])
        self.seconds: list[float] = []

    def epoch(self) -> None:
        """Train all of them for one epoch."""
        self._engine.sync(self._slots, self._playing)
        began = perf_counter()
        self._engine.epoch(self._playing)
        self.seconds.append(perf_counter() - began)


def without_slots(prepared: Setup) -> Setup:
    """The same host, with no place for modules."""
    none = np.empty((0, len(prepared.facts.blueprints)))
    facts = replace(
        prepared.facts,
        places=(),
        fits=none > 0,
        module_params=none.astype(int),
        gate_params=np.empty(0, dtype=int),
    )
    return replace(prepared, slot_places=(), facts=facts)


def holding(prepared: Setup, blueprints: NDArray[np.int64]) -> SlotState:
    """Slots with these blueprints, (env, slot), all blended at alpha `ALPHA`; 0 is an empty slot."""
    state, facts = SlotState.empty(*blueprints.shape), prepared.facts
    here = blueprints > 0
    state.blueprint[:], state.planting[:] = blueprints, here
    state.stage[here] = Stage.BLENDING
    state.module_params[:] = facts.module_params[np.arange(facts.num_slots), blueprints] * here
    state.alpha[here] = state.alpha_target[here] = ALPHA
    state.quality_at_germination[here] = facts.chance_quality
    state.probe_passed[:] = here
    return state


def cases(work: Work) -> dict[str, Training]:
    """What takes turns, by name."""
    prepared = setup(work)
    fitting = np.flatnonzero(prepared.facts.fits.all(axis=0))
    fitting = fitting[fitting > 0]
    shape = work.num_envs, prepared.facts.num_slots
    kinds = {prepared.facts.blueprints[each]: np.full(shape, each) for each in fitting.tolist()}
    env, slot = np.indices(shape)
    kinds[MIXED] = fitting[(env + slot) % len(fitting)]
    kinds[EMPTY] = np.zeros(shape, dtype=np.int64)
    running = {name: Training(prepared, holding(prepared, each)) for name, each in kinds.items()}
    bare = without_slots(prepared)
    return running | {BARE: Training(bare, SlotState.empty(work.num_envs, 0))}


def table(running: dict[str, Training]) -> str:
    """Seconds, and the two ratios round by round, as Markdown."""
    seconds = {name: np.array(each.seconds[1:]) for name, each in running.items()}
    alike = np.mean([own for name, own in seconds.items() if name not in (MIXED, EMPTY, BARE)], axis=0)
    lines = ["| all environments have | ms an epoch |", "| --- | --- |"]
    lines += [f"| {name} | {1e3 * np.median(own):.1f} |" for name, own in seconds.items()]
    for title, ratios in (
        ("one blueprint for all, averaged over blueprints, against the mixture", alike / seconds[MIXED]),
        ("empty slots against none", seconds[EMPTY] / seconds[BARE]),
    ):
        middle, least, most = spread(ratios.tolist())
        lines.append(f"\n{title}: {middle:.3f} ({least:.3f} to {most:.3f})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--env", choices=["micro", "cifar"], default="micro")
    parser.add_argument("--num-envs", type=int, default=14, help="a multiple of the blueprints is even")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/mixtures"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    work = Work(args.env, args.num_envs, "W1", args.device, batches=BATCHES[args.env])
    running = cases(work)
    for _ in range(args.rounds + 1):
        for each in running.values():
            each.epoch()
    head = f"{describe(args.device)}; {args.threads} threads, {args.env}, {args.num_envs} environments."
    text = f"{head}\n\n{table(running)}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"mixtures_{args.env}.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
