"""The machine that a benchmark runs on: its name, and the most it does, measured in the same run."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import gymnasium
import numpy as np
import torch

from esper_env.engine.engine import EngineConfig

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied."""
COPIED = {"cpu": 256 * 2**20, "cuda": 4 * 2**30}
"""Bytes that are copied."""
REPEATS = 7


@dataclass(frozen=True)
class Peak:
    """Best of a few tries."""

    flops: dict[str, float]
    """FLOP/s of a matrix product by precision: `fp32`, `tf32` (CUDA), `bf16`."""
    copy: float
    """Bytes/s of a copy in memory, reading and writing both counted."""

    def __str__(self) -> str:
        """In words."""
        products = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in self.flops.items())
        return f"matrix product {products}; copy {self.copy / 1e9:,.0f} GB/s"


def peak(device: str) -> Peak:
    """Measure it with all of torch's threads: seconds."""
    side = SIDE[device]
    flops = {}
    for precision in ("fp32", "tf32", "bf16") if device == "cuda" else ("fp32", "bf16"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        flops[precision] = 2 * side**3 / _best(lambda a=left, b=right: a @ b, device)  # type: ignore[misc]
    source = torch.zeros(COPIED[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peak(flops, 2 * COPIED[device] / _best(lambda: target.copy_(source), device))


def _best(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of a few tries; the first is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - began)
    return min(seconds[1:])


def describe(device: str) -> str:
    """Hardware and versions in one line."""
    flags = _cpuinfo("flags").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    parts = [f"{_cpuinfo('model name')}, {len(os.sched_getaffinity(0))} cores ({', '.join(known)})"]
    if device == "cuda":
        parts.append(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    versions = {"torch": torch.__version__, "gymnasium": gymnasium.__version__, "numpy": np.__version__}
    parts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "; ".join([*parts, f"Python {platform.python_version()}, default engine {EngineConfig().name!r}"])


def _cpuinfo(name: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return median(values), min(values), max(values)
