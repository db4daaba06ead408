"""When attention in windows is compiled, and for what; the compiler itself is stood in for."""

from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError, TritonMissing

from esper_env.layers import window
from esper_env.layers.window import FLEX, SDPA, window_form

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
NO_COMPILER: list[Exception] = [
    TritonMissing(None),
    InductorError(RuntimeError("Failed to find C compiler"), None),
    BackendCompilerFailed(lambda: None, RuntimeError("no ptxas"), None),
]
OTHERS: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory"),
    InductorError(torch.OutOfMemoryError("CUDA out of memory"), None),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def by_blocks(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(window, "by_blocks", by_blocks)


@pytest.mark.parametrize("error", NO_COMPILER, ids=lambda e: type(e).__name__)
def test_without_a_compiler_windows_are_a_mask_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    with pytest.warns(UserWarning, match="attention in windows is computed by SDPA on cpu: "):
        assert not window._compiles.__wrapped__(CPU)


@pytest.mark.parametrize("error", OTHERS, ids=lambda e: type(e).__name__)
def test_what_may_be_otherwise_next_time_decides_no_kernel(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    with pytest.raises(type(error)):
        window._compiles.__wrapped__(CPU)


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "form"),
    [
        (CUDA, torch.float32, 256, FLEX),
        (CUDA, torch.bfloat16, 128, FLEX),
        (CUDA, torch.float64, 256, SDPA),
        (CUDA, torch.float32, 64, SDPA),
        (CUDA, torch.float32, 200, SDPA),
        (CPU, torch.float32, 256, SDPA),
    ],
)
def test_the_kernel_follows_from_device_type_and_length(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, dtype: torch.dtype, tokens: int, form: str
) -> None:
    monkeypatch.setattr(window, "_compiles", lambda device: True)
    assert window_form(device, dtype, tokens) == form


def test_every_shape_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[Any, dict[str, Any]]] = []

    def compile_(function: Any, **settings: Any) -> Any:
        compiled.append((function, settings))
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    window._flex.cache_clear()
    shapes = [(batch, 1, 128, 8) for batch in (*range(1, 12), 1, 2)]
    functions = [window._flex(shape) for shape in shapes]
    window._flex.cache_clear()
    assert len(compiled) == len(set(functions)) == 11
    assert len({id(function.__code__) for function, _ in compiled}) == 11, "torch keeps kernels by these"
    assert all(settings == {"dynamic": False, "fullgraph": True} for _, settings in compiled)
