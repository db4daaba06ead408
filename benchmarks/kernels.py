"""Claim: small convolutional networks train 1.7 to 5 times as fast as plain torch modules, on one thread.

Forward and backward of the hosts of EsperCifar and EsperMicro, many networks at once: torch modules one after
another (channels last), `torch_kernels`, and `native` with the pool as a layer of its own and within the
convolution. First in CPU seconds of one thread, which other programs on the machine disturb least, then in
seconds with all threads; the fastest of many steps, in turns. Measured on 2 cores with AVX-512, in 2026-11:
pooled 1.7 to 2.2 times (EsperCifar) and 3.3 to 5.1 times (EsperMicro) the images of modules on one thread;
with both cores, EsperCifar, 8 networks: modules 7,720 images/s, native 22,478 (2.9), pooled 28,856 (3.7).
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper_env.engine.kernels import build
from esper_env.engine.kernels.kernels import BatchNorm
from esper_env.engine.kernels.native import NativeKernels
from esper_env.engine.kernels.torch_kernels import TorchKernels

HOSTS = {"cifar": (128, 32, (8, 16, 32)), "micro": (64, 16, (4, 8, 8))}
"""Samples, side of the images, widths."""
CASES = (("cifar", 8), ("cifar", 1), ("micro", 64), ("micro", 1))
SECONDS = 3.0
Conv = Callable[[Tensor, Tensor, BatchNorm], Tensor]


def network(widths: tuple[int, ...]) -> nn.Sequential:
    """One host, without its mean over space and its head."""
    layers: list[nn.Module] = []
    for channels, width in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def plain(networks: list[nn.Sequential], x: Tensor, y: Tensor) -> None:
    """One step of each network by itself: the last layer's features are its logits."""
    for own, images, labels in zip(networks, x, y, strict=True):
        own.zero_grad()
        F.cross_entropy(own(images.permute(0, 3, 1, 2)).mean((2, 3)), labels).backward()


def stacked(networks: list[nn.Sequential], conv: Conv, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A step of all networks at once."""
    blocks = [
        {
            name: torch.stack([own[at].state_dict()[name] for own in networks])
            for name in ("weight", "bias", "running_mean", "running_var")
            if name in networks[0][at].state_dict()
        }
        for at in range(len(networks[0]))
    ]
    filters = [block["weight"].requires_grad_() for block in blocks[::4]]
    norms = [
        BatchNorm(own["weight"].requires_grad_(), own["bias"].requires_grad_(), own["running_mean"],
                  own["running_var"], 0.1, 1e-5, True)
        for own in blocks[1::4]
    ]  # fmt: skip
    wanted = [*filters, *(each for norm in norms for each in (norm.weight, norm.bias))]

    def step() -> None:
        h = x
        for weight, norm in zip(filters, norms, strict=True):
            h = conv(h, weight, norm)
        loss = F.cross_entropy(h.mean((2, 3)).flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
        torch.autograd.grad(loss, wanted)

    return step


def contenders(host: str, rows: int) -> dict[str, Callable[[], None]]:
    """A step by name of who does it, all with the same networks and images."""
    samples, side, widths = HOSTS[host]
    torch.manual_seed(0)
    networks = [network(widths) for _ in range(rows)]
    x, y = torch.randn(rows, samples, side, side, 3), torch.randint(widths[-1], (rows, samples))
    grouped, native = TorchKernels({}, "channels_last"), NativeKernels()

    def layered(kernels: TorchKernels) -> Conv:
        return lambda h, weight, norm: kernels.max_pool(kernels.conv(h, weight, None, norm, True))

    def pooled(h: Tensor, weight: Tensor, norm: BatchNorm) -> Tensor:
        return native.conv(h, weight, None, norm, True, pool=True)

    return {
        "modules": lambda: plain(networks, x, y),
        "torch": stacked(networks, layered(grouped), x, y),
        "native": stacked(networks, layered(native), x, y),
        "pooled": stacked(networks, pooled, x, y),
    }


def fastest(steps: dict[str, Callable[[], None]], clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of the fastest step of each, in turns for a few seconds."""
    best = dict.fromkeys(steps, float("inf"))
    end = time.perf_counter() + SECONDS * len(steps)
    while time.perf_counter() < end:
        for name, step in steps.items():
            start = clock()
            step()
            best[name] = min(best[name], clock() - start)
    return best


def main() -> None:
    """Print images per second of each, and the ratio to plain modules."""
    if not build.load():
        raise SystemExit("build the library first: python -m esper_env.engine.kernels.build")
    every = torch.get_num_threads()
    for threads, clock in ((1, time.process_time), (every, time.perf_counter)):
        torch.set_num_threads(threads)
        for host, rows in CASES:
            found = fastest(contenders(host, rows), clock)
            images = rows * HOSTS[host][0]
            line = [
                f"{name} {images / seconds:,.0f} ({found['modules'] / seconds:.2f})"
                for name, seconds in found.items()
            ]
            print(f"{threads} threads, {host}, {rows} networks, images/s: {', '.join(line)}", flush=True)


if __name__ == "__main__":
    main()
