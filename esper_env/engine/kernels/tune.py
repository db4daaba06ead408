"""Writes the table of `choice.py`: `python -m esper_env.engine.kernels.tune`.

Every convolution of the built-in hosts and blueprints is timed, forward and backward with its norm, in each
of its forms, in turns; the table has the form that was fastest where that is not the default. The machine
should be idle. Nothing else ever decides by a clock.
"""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch

from esper_env.engine.kernels.build import load
from esper_env.engine.kernels.choice import APART, DEFAULT, NATIVE, TABLE
from esper_env.engine.kernels.kernels import GroupNorm, Kernels
from esper_env.engine.kernels.native import NativeKernels
from esper_env.engine.kernels.torch_kernels import Form, TorchKernels, shape_of
from esper_env.hosts.cnn import HOSTS, build_host

ROWS, SAMPLES, ROUNDS = 8, 64, 7
"""Networks and samples of a timed call, and how often each form is timed."""
IMAGES = {name: (3, 32, 32) for name in HOSTS} | {"micro": (3, 16, 16)}
"""Input of each host, as the presets have it."""
MARGIN = 0.95
"""A form other than the default has to take less than this share of its time."""


def shapes() -> Iterator[tuple[int, int, int, int]]:
    """Channels, features, side of the kernel and side of the image, of hosts and what is planted."""
    for name, image in IMAGES.items():
        channels = image[0]
        for place in build_host(name, image, 10).places:
            features, side = place.shape[0], place.shape[1]
            if place.name.endswith("relu"):
                yield channels, features, HOSTS[name].kernel, side
                channels = features
            yield features, features, 3, side
            yield features, features, 1, side


def forms(device: torch.device) -> dict[str, Kernels]:
    """What is compared, by its name in the table."""
    torchs: dict[str, Kernels] = {form: TorchKernels({}, form) for form in get_args(Form)}
    native = device.type == "cpu" and load()
    return torchs | ({NATIVE: NativeKernels({})} if native else {})


def seconds(kernels: Kernels, x: torch.Tensor, weight: torch.Tensor) -> float:
    """Of one convolution with norm and ReLU, forward and backward."""
    ones = torch.ones(weight.shape[:2], device=x.device)
    norm = GroupNorm(ones, ones.clone(), 1, 1e-5)
    began = time.perf_counter()
    torch.autograd.grad(kernels.conv(x, weight, None, norm, True).sum(), (x, weight))
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def fastest(device: torch.device, channels: int, features: int, side: int, size: int) -> dict[str, float]:
    """Median seconds of each form."""
    x = torch.randn(ROWS, SAMPLES, size, size, channels, device=device, requires_grad=True)
    weight = torch.randn(ROWS, features, channels, side, side, device=device, requires_grad=True)
    measured: dict[str, list[float]] = {name: [] for name in forms(device)}
    for _ in range(ROUNDS):
        for name, kernels in forms(device).items():
            measured[name].append(seconds(kernels, x, weight))
    return {name: statistics.median(times[1:]) for name, times in measured.items()}


def tuned(device: torch.device) -> dict[str, dict[str, str]]:
    """Of each kind of kernels, what is not its default; each shape is printed with its times.

    Among the native kernels stand only forms in which a row's bits don't depend on the other rows.
    """
    kinds: dict[str, tuple[str, tuple[str, ...]]] = {device.type: (DEFAULT[device.type], get_args(Form))}
    if NATIVE in forms(device):
        kinds[NATIVE] = (NATIVE, (NATIVE, APART))
    chosen: dict[str, dict[str, str]] = {kind: {} for kind in kinds}
    for channels, features, side, size in sorted(set(shapes())):
        times = fastest(device, channels, features, side, size)
        shape = shape_of(torch.empty(0, 0, size, size, 0), torch.empty(0, features, channels, side, side))
        print(shape, *(f"{name} {1e3 * each:.2f} ms" for name, each in times.items()), sep="  ")  # noqa: T201
        for kind, (default, among) in kinds.items():
            best = min(among, key=times.__getitem__)
            if times[best] < MARGIN * times[default]:
                chosen[kind][shape] = best
    return chosen


def main() -> None:
    """Tune every device there is, and write the table into the package."""
    path = Path(__file__).parent / TABLE
    table = json.loads(path.read_text())
    for name in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        table |= tuned(torch.device(name))
    path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
