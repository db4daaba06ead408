"""When attention in windows is compiled, and for what; the compiler itself is stood in for."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.exc import InductorError, TritonMissing

from esper_env.engine.setup import windows_by
from esper_env.layers import window
from esper_env.layers.window import FLEX, SDPA, by_blocks, by_mask, window_form

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


@pytest.mark.parametrize(("context", "form"), [(64, SDPA), (128, FLEX), (200, SDPA), (256, FLEX)])
def test_what_is_reported_is_what_runs_in_windows_of_the_task(
    context: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "_compiles", lambda device: True)
    task = SimpleNamespace(device=CUDA, dtype=torch.float32, input_shape=(context,))
    assert windows_by(SimpleNamespace(family="text", loaded_task=task)) == f", windows by {form}"
    assert windows_by(SimpleNamespace(family="image", loaded_task=task)) == ""


def three(batch: int, tokens: int = 128) -> list[torch.Tensor]:
    """q, k and v as an attention layer makes them: parts of one tensor."""
    qkv = torch.randn(batch, tokens, 3, 2, 8, generator=torch.Generator().manual_seed(batch))
    return [each.transpose(1, 2) for each in qkv.unbind(2)]


@torch.no_grad()
def test_torch_compiles_once_however_many_networks_have_such_a_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By torch's own tracer, with a compiler behind it that only counts."""
    counter, real = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **settings: real(f, backend=counter, **settings))
    window._flex.cache_clear()
    for batch in (1, 5, 32, 40, 96, 7):
        q, k, v = three(batch)
        torch.testing.assert_close(by_blocks(q, k, v, 32), by_mask(q, k, v, 32), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1
    window._flex.cache_clear()


@pytest.mark.parametrize("batch", [1, 31, 32, 33, 70])
def test_parts_filled_up_give_the_values_and_gradients_of_the_whole(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlexAttention has no gradients on a CPU, so a mask stands in for it."""
    seen = []

    def attend(*parts: torch.Tensor, block_mask: Any) -> torch.Tensor:
        seen.append([(each.shape, each.stride()) for each in parts])
        return by_mask(*parts, 9)

    def stand_in(shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
        assert shape == (window.SAMPLES, 2, 16, 8)
        return attend

    monkeypatch.setattr(window, "_flex", stand_in)
    monkeypatch.setattr(window, "_blocks", lambda *arguments: None)
    values = []
    for form in (by_blocks, by_mask):
        q, k, v = (each.requires_grad_() for each in three(batch, tokens=16))
        mixed = form(q, k, v, 9)
        values.append([mixed, *torch.autograd.grad(mixed.square().sum(), (q, k, v))])
    for found, expected in zip(*values, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(seen) == -(-batch // window.SAMPLES)
    assert all(part == seen[0][0] for parts in seen for part in parts), "another layout is compiled anew"
