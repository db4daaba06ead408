"""Claim: environments take the memory that is counted to 3%, a training step 0.70 to 0.93 of the worst case.

For EsperMicro and EsperCifar on an idle 2-core Xeon, float32, procedural images, batches of 64 and 128,
2026-11 (`results/memory_*.md`; `docs/engine.md` has the formula).

`python benchmarks/memory.py` on a CPU, with `--device cuda` on a GPU: two minutes. Every figure is a process
of its own. What environments hold for good: all pools are filled, and by how much the process (on a GPU, what
torch has allocated) grows per environment. What a step holds: every slot has a module of those that take
most, gated and blended, all environments train side by side and measure all variants, and by how much the
peak grows per environment. `--keeping` leaves the C library its habit of keeping memory that was given
back. It prints the table and writes it to `--out`.
"""

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from machine import describe

from esper_env import EsperVectorEnv, Style
from esper_env.contracts.lifecycle import Stage
from esper_env.engine.footprint import Footprint, footprint
from esper_env.engine.kernels.choice import refusal

GIB = 2**30
PRESETS = ("micro", "cifar")
MOST = ("conv_heavy", "bottleneck")
"""Blueprints of the environments by turns."""
NUM_ENVS = (1, 129, 257)
"""Environments that are not trained."""
ROWS = (1, 9)
"""Environments that are trained, side by side."""
EPOCH = 512
"""Training samples: enough batches for a step to be recorded on CUDA."""
FEW = {
    "task.train_size": 1024, "task.val_size": 128, "task.test_size": 16,
    "engine.epoch_size": EPOCH, "engine.counterfactual_size": 128, "engine.cuda_graphs": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One process."""

    preset: str
    kernels: str
    device: str
    num_envs: int
    trained: bool

    def run(self, keeping: bool) -> int:
        """Bytes in a process of its own, at the peak if there is training."""
        words = [str(int(each)) if isinstance(each, int) else each for each in vars(self).values()]
        command = [sys.executable, __file__, "--case", *words]
        own = os.environ | ({} if keeping else {"MALLOC_MMAP_THRESHOLD_": "65536"})
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=own).stdout)

    def build(self) -> EsperVectorEnv:
        """The environments."""
        own = {"engine.rows_at_once": self.num_envs, "engine.kernels": self.kernels}
        return EsperVectorEnv(
            self.num_envs,
            self.preset,
            data="procedural",
            engine="fused",
            device=self.device,
            overrides=FEW | own,
        )

    def measure(self) -> int:
        """Bytes in this process."""
        torch.set_num_threads(1)
        env = self.build()
        env.reset(seed=0)
        fill(env)
        if self.trained:
            everyone = np.ones(self.num_envs, dtype=bool)
            env._engine.epoch(everyone)
            env._engine.evaluate(everyone, np.tile(np.arange(8)[::-1], (self.num_envs, 1)))
        return taken(self.device, self.trained)


def taken(device: str, peak: bool) -> int:
    """Bytes that torch has on a GPU, or this process on the CPU; now, or at the peak so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def fill(env: EsperVectorEnv) -> None:
    """Every pool and what the governor remembers, and a module in every slot."""
    networks = env._engine._networks  # type: ignore[attr-defined]
    everyone = torch.arange(env.num_envs, device=networks.kinds.device)
    for at in np.argwhere(env.facts.fits).tolist():
        pool = networks.kinds.module(*at).pool
        pool.give(everyone, pool.take(everyone))
        pool.keep(everyone)
    modules, indices = networks.modules, [env.facts.blueprints.index(name) for name in MOST]
    modules.blueprint[:] = np.resize(indices, (env.num_envs, 1))
    modules.stage[:], modules.alpha[:], modules.planting[:] = Stage.BLENDING, 0.5, 1
    modules.style[:], modules.has_gate[:] = Style.GATED, True


def table(device: str, keeping: bool) -> str:
    """Measure everything."""
    kernels = ["torch"] + ["native"] * (not refusal(torch.device(device), "float32"))
    lines = [
        "| preset | kernels | KiB an environment | counted | environments per GiB | counted "
        "| MiB more, side by side | counted |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for preset in PRESETS:
        for name in kernels:
            lines.append(_line(preset, name, device, keeping=keeping))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _line(*which: str, keeping: bool) -> str:
    counted: Footprint = footprint(Case(*which, 1, False).build()._engine._setup)  # type: ignore[attr-defined]
    always, step = counted.host + counted.modules, counted.row
    if which[2] == "cuda":
        step += counted.recording
    held = [Case(*which, count, False).run(keeping) for count in NUM_ENVS]
    each = float(np.polyfit(NUM_ENVS, held, 1)[0])
    few, many = (Case(*which, rows, True).run(keeping) for rows in ROWS)
    row = (many - few) / (ROWS[1] - ROWS[0]) - always
    cells = (
        f"{each / 2**10:,.0f} | {always / 2**10:,.0f}",
        f"{GIB / each:,.0f} | {GIB / always:,.0f}",
        f"{row / 2**20:.1f} | {step / 2**20:.1f}",
    )
    return " | ".join((f"| {which[0]}", which[1], *cells)) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--keeping", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/memory.md"))
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.case:
        preset, kernels, device, num_envs, trained = args.case
        print(Case(preset, kernels, device, int(num_envs), trained == "1").measure())
        return
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(f"{table(args.device, args.keeping)}\n\n{describe(args.device)}\n")


if __name__ == "__main__":
    main()
