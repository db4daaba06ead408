"""How exactly an engine computes: types of number, and what torch keeps switched for process and thread."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

TYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""Type of weights by precision; with `bfloat16` only convolutions and products are narrower."""


def precision(name: str, device: torch.device) -> AbstractContextManager[None]:
    """Inside, convolutions and matrix products of this precision are done in it."""
    if name != "bfloat16":
        return nullcontext()
    # Narrow weights are kept until the outermost autocast ends; that of `own_modes` lasts a whole step, in
    # which all but the first batch would be trained and validated with those of before.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def refuse_slow(name: str, device: torch.device) -> None:
    """Whether this device computes in this precision itself.

    Raises:
        ValueError: it would imitate it, which is many times slower than float32.
    """
    on_cpu = device.type == "cpu"
    if name == "bfloat16" and on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError(
            "engine.precision='bfloat16' is not allowed here: this CPU has no bfloat16 instructions "
            "(AVX512-BF16 or AMX); 'float32' and 'float64' are"
        )


@contextmanager
def own_modes() -> Iterator[None]:
    """Inside, gradients are recorded and nothing is cast, whatever the caller's code has switched.

    Agents are stepped with `no_grad`, `inference_mode` or `autocast` around them, and environments with them.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


@contextmanager
def switches(tf32: bool, deterministic: bool, device: torch.device) -> Iterator[None]:
    """Inside, numbers below the normal range are 0, and CUDA does what is asked; after, all is as before.

    Args:
        tf32: whether CUDA may round the factors of float32 products to 10 bits.
        deterministic: whether cuDNN and attention must give the same bits every time.
        device: the engine's.
    """
    # A module that dies under weight decay passes through numbers with which a CPU is 40 times slower.
    kept = bool(np.finfo(np.float32).tiny * np.float32(0.5) > 0)
    torch.set_flush_denormal(True)
    try:
        if device.type == "cuda":
            with _cuda(tf32, deterministic):
                yield
        else:
            yield
    finally:
        if kept:
            torch.set_flush_denormal(False)


def attention(plain: bool) -> AbstractContextManager[None]:
    """Inside, attention is plain products, which keep all scores, if asked; else torch chooses.

    The gradients of its faster kernels on CUDA are sums in any order.
    """
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


@contextmanager
def _cuda(tf32: bool, deterministic: bool) -> Iterator[None]:
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    matmul.allow_tf32 = tf32
    try:
        with (
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=deterministic, allow_tf32=tf32
            ),
            attention(deterministic),
        ):
            yield
    finally:
        matmul.allow_tf32 = before
