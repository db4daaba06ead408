"""What decides the last bit, and what a duration means: CPU model, threads, versions and kernels."""

import platform
from pathlib import Path

import torch

from esper_env import EsperVectorEnv


def hardware(envs: EsperVectorEnv) -> dict[str, str | int]:
    """Of this process, and of the environments that it plays."""
    device = envs.config.engine.device
    found: dict[str, str | int] = {
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": "native" if "native kernels" in str(envs.metadata["engine"]) else "torch",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    if device != "cpu" and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def cpu_model() -> str:
    """As the system names it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
