"""What decides the last bit, and what a duration means: CPU, threads, versions and kernels."""

import hashlib
import platform
from pathlib import Path

import numpy as np
import torch

from esper_env import EsperVectorEnv
from esper_env.engine.kernels import build

BITS = ("cpu", "cpu_features", "capability", "gpu", "threads", "torch", "numpy", "kernels")
"""Names of what must be the same where the same bits are asked for."""
TOLD = ("kernels_file",)
"""The same, where both tell; the first results do not. Another compiler makes other kernels."""
NAMED = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip
"""Of what Linux tells of a CPU, all that libraries choose their kernels by; not what changes as it runs."""


def hardware(envs: EsperVectorEnv) -> dict[str, str | int]:
    """Of this process, and of the environments that it plays."""
    device = envs.config.engine.device
    lines = cpu_lines()
    found: dict[str, str | int] = {
        "cpu": lines.get("model name") or platform.processor() or platform.machine(),
        "cpu_features": hashlib.sha256(repr(sorted(lines.items())).encode()).hexdigest()[:12],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "kernels": "native" if "native kernels" in str(envs.metadata["engine"]) else "torch",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    if found["kernels"] == "native":
        found["kernels_file"] = hashlib.sha256(build.path().read_bytes()).hexdigest()[:12]
    if device != "cpu" and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def cpu_lines() -> dict[str, str]:
    """What the system says of its first CPU, as far as it is `NAMED`; nothing where there is no such file.

    A name alone is not enough: machines in a cloud may all be called "Intel(R) Xeon(R) Processor".
    """
    listed = Path("/proc/cpuinfo")
    first = listed.read_text().split("\n\n", 1)[0].splitlines() if listed.is_file() else []
    pairs = [line.partition(":") for line in first]
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip() in NAMED}
