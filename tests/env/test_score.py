"""The end of a host: losses and gradients of texts are exact, and their logits are never there as a whole."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esper_env.engine import score
from esper_env.engine.kernels.torch_kernels import TorchKernels
from esper_env.engine.score import NextTokens, score_of
from esper_env.engine.stacked import Run
from esper_env.hosts.build import build_host

ROWS, SAMPLES, TOKENS, VOCABULARY = 3, 4, 8, 53
RUN = Run(TorchKernels({}, "channels_last"), True, lambda row: torch.no_grad())


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(made) if isinstance(each, Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return made


def heads(
    vocabulary: int = VOCABULARY, context: int = TOKENS, dtype: torch.dtype = torch.float64
) -> tuple[NextTokens, list[nn.Module], dict[str, Tensor]]:
    """The last segment of some hosts, as one, as they are, and their stacked parameters."""
    torch.manual_seed(0)
    segments = [build_host("gpt_micro", (context,), vocabulary).segments[-1].to(dtype) for _ in range(ROWS)]
    for each in segments:
        nn.init.normal_(each[1].weight)
    fused = score_of(segments[0], "", "transformer")
    assert isinstance(fused, NextTokens)
    every = [dict(each.named_parameters()) for each in segments]
    names = every[0]
    return (
        fused,
        segments,
        {n: torch.stack([own[n].detach() for own in every]).requires_grad_() for n in names},
    )


def batch(
    vocabulary: int = VOCABULARY, tokens: int = TOKENS, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, SAMPLES, tokens, 32, dtype=dtype, requires_grad=True)
    return x, torch.randint(vocabulary, (ROWS, SAMPLES, tokens))


def plain(segments: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    """Loss of every sample, (row, sample): minus the mean log-probability of its tokens."""
    logits = torch.stack([segment(own) for segment, own in zip(segments, x, strict=True)])
    return -logits.log_softmax(dim=-1).gather(-1, y[..., None])[..., 0].mean(dim=2)


@pytest.mark.parametrize("at_once", [1, VOCABULARY * 5, 2**18])
def test_losses_and_gradients_in_pieces_are_those_of_the_whole(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows weigh differently, as no row's gradient may depend on another one's."""
    monkeypatch.setitem(score.LOGITS, "cpu", at_once)
    fused, segments, tensors = heads()
    x, y = batch()
    weights = torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64)
    losses, right = fused.train(RUN, tensors, x, y)
    expected = plain(segments, x, y).mean(dim=1)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    assert right.shape == (ROWS,)
    assert right.isnan().all()
    to_x, *to_tensors = torch.autograd.grad((losses * weights).sum(), [x, *tensors.values()])
    (expected * weights).sum().backward()
    torch.testing.assert_close(to_x, x.grad, rtol=1e-10, atol=1e-14)
    for name, found in zip(tensors, to_tensors, strict=True):
        wanted = torch.stack([each.get_parameter(name).grad for each in segments])
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14, msg=name)


@pytest.mark.parametrize("at_once", [VOCABULARY * 5, 2**18])
@torch.no_grad()
def test_what_is_measured_are_sums_over_samples_of_means_over_tokens(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(score.LOGITS, "cpu", at_once)
    fused, segments, tensors = heads()
    x, y = batch()
    measured = fused.measure(RUN, tensors, x, y)
    torch.testing.assert_close(measured[:, 0], plain(segments, x, y).sum(dim=1), rtol=1e-12, atol=0)
    assert measured[:, 1].isnan().all()


def test_large_logits_have_finite_losses_as_log_softmax_has() -> None:
    fused, segments, tensors = heads(dtype=torch.float32)
    x, y = batch(dtype=torch.float32)
    for each, stacked in zip([own[1].weight for own in segments], tensors["1.weight"].detach(), strict=True):
        each.data *= 300
        stacked *= 300
    losses, _ = fused.train(RUN, tensors, x, y)
    expected = plain(segments, x, y).mean(dim=1)
    assert (expected > 1000).all(), "e to the minus that is 0"
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)


def test_what_is_no_number_stays_in_its_row() -> None:
    fused, _, tensors = heads()
    x, y = batch()
    calm = torch.autograd.grad(fused.train(RUN, tensors, x, y)[0].sum(), [x, *tensors.values()])
    broken = x.detach().clone()
    broken[1, 0, 0, 0] = torch.nan
    losses, _ = fused.train(RUN, tensors, broken.requires_grad_(), y)
    assert losses.isnan().tolist() == [False, True, False]
    for before, after in zip(
        calm, torch.autograd.grad(losses.sum(), [broken, *tensors.values()]), strict=True
    ):
        assert torch.equal(before[[0, 2]], after[[0, 2]])


@pytest.mark.parametrize("training", [True, False])
def test_no_tensor_is_as_large_as_the_logits(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest one is a piece of them, or a value or weight of all rows."""
    vocabulary, tokens, at_once = 1000, 64, 2**15
    monkeypatch.setitem(score.LOGITS, "cpu", at_once)
    fused, segments, tensors = heads(vocabulary, tokens, torch.float32)
    x, y = batch(vocabulary, tokens, torch.float32)
    logits = ROWS * SAMPLES * tokens * vocabulary
    with Largest() as seen:
        if training:
            losses, _ = fused.train(RUN, tensors, x, y)
            torch.autograd.grad(losses.sum(), [x, *tensors.values()])
        else:
            fused.measure(RUN, tensors, x, y)
    others = [x.numel(), *[each.numel() for each in tensors.values()]]
    assert at_once // 2 < seen.numbers <= max(at_once, *others) < logits / 7
    with Largest() as seen:
        plain(segments, x, y)
    assert seen.numbers == logits


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("tokens", "vocabulary"), [(64, 163), (2048, 4096), (8192, 4096), (8192, 32_768)])
def test_how_a_row_is_cut_depends_on_no_other(device: str, tokens: int, vocabulary: int) -> None:
    """Each piece is of one row, so logits of two are never there at once."""

    def pieces(rows: int) -> list[tuple[slice, slice]]:
        x = torch.empty(rows, tokens, 8, device="meta")
        like = SimpleNamespace(shape=x.shape, device=torch.device(device))
        return list(score._pieces(like, torch.empty(rows, vocabulary, 8, device="meta")))

    alone = [tokens for _, tokens in pieces(1)]
    assert sum(min(each.stop, tokens) - each.start for each in alone) == tokens
    assert max(each.stop - each.start for each in alone) * vocabulary <= score.LOGITS[device]
    for rows in (2, 3, 16):
        assert pieces(rows) == [(slice(row, row + 1), each) for row in range(rows) for each in alone]


@pytest.mark.parametrize("training", [True, False])
def test_a_row_among_others_is_that_row_alone_to_the_last_bit(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(score.LOGITS, "cpu", VOCABULARY * 5)
    fused, _, tensors = heads(dtype=torch.float32)
    x, y = batch(dtype=torch.float32)

    def figures(rows: slice) -> list[Tensor]:
        own = {name: each[rows].detach().requires_grad_() for name, each in tensors.items()}
        value = x[rows].detach().requires_grad_()
        if not training:
            return [fused.measure(RUN, own, value, y[rows])[:, 0]]
        losses, _ = fused.train(RUN, own, value, y[rows])
        return [losses, *torch.autograd.grad(losses.sum(), [value, *own.values()])]

    together = figures(slice(0, ROWS))
    for row in range(ROWS):
        for whole, alone in zip(together, figures(slice(row, row + 1)), strict=True):
            assert torch.equal(whole[row], alone[0])
