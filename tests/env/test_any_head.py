"""A language host may end as it likes: with any last segment the engines agree."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from parity import DOUBLE, EXACT, QUICK, Pair
from plain import WAIT
from test_score import ROWS, VOCABULARY, Largest, batch, plain
from texts import grow
from torch import nn

from esper_env import Op, Style, encode
from esper_env.engine.any_head import AnyHead
from esper_env.engine.kernels.torch_kernels import TorchKernels
from esper_env.engine.score import ByLabels, score_of
from esper_env.engine.stacked import Run
from esper_env.hosts import build, gpt
from esper_env.hosts.build import HostKind
from esper_env.hosts.gpt import GptHost, TiedHead

WIDTH = 32
RUN = Run(TorchKernels({}, "channels_last"), True, lambda row: nullcontext())


class Odd(nn.Module):
    """Layers that are known to nobody, with dropout, a scalar and a fixed temperature."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.out, self.dropout = nn.Linear(WIDTH, vocabulary), nn.Dropout(0.2)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("temperature", torch.tensor(0.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.out(self.dropout(torch.tanh(x))) * self.scale / self.temperature
        return y


HEADS: dict[str, Callable[[int], nn.Module]] = {
    "untied": lambda vocabulary: nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)),
    "no bias": lambda vocabulary: nn.Sequential(
        nn.LayerNorm(WIDTH, bias=False), TiedHead(nn.Embedding(vocabulary, WIDTH))
    ),
    "odd": Odd,
}
ENDS = pytest.mark.parametrize("end", HEADS)


def heads(
    end: str, vocabulary: int = VOCABULARY
) -> tuple[ByLabels, list[nn.Module], dict[str, torch.Tensor]]:
    """Some of them as one score, as they are, and their stacked tensors in double precision."""
    torch.manual_seed(0)
    segments = [HEADS[end](vocabulary).double().eval() for _ in range(ROWS)]
    fused = score_of(segments[0], "", "transformer")
    assert isinstance(fused, ByLabels)
    assert isinstance(fused.tokens, AnyHead)
    every = [dict(each.named_parameters()) | dict(each.named_buffers()) for each in segments]
    learns = dict(segments[0].named_parameters())
    stacked = {
        n: torch.stack([own[n].detach() for own in every]).requires_grad_(n in learns) for n in every[0]
    }
    return fused, segments, stacked


@ENDS
def test_losses_and_gradients_are_those_of_each_network_by_itself(end: str) -> None:
    """Rows weigh differently, as no row's gradient may depend on another one's."""
    fused, segments, tensors = heads(end)
    if end == "odd":
        segments[0].dropout.p = 0.0  # this is the module that runs
    x, y = batch()
    weights = torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64)
    losses, right = fused.train(RUN, tensors, x, y)
    expected = plain(segments, x, y).mean(dim=1)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    assert right.shape == (ROWS,)
    assert right.isnan().all()
    leaves = {name: each for name, each in tensors.items() if each.requires_grad}
    to_x, *to_tensors = torch.autograd.grad((losses * weights).sum(), [x, *leaves.values()])
    (expected * weights).sum().backward()
    torch.testing.assert_close(to_x, x.grad, rtol=1e-10, atol=1e-14)
    for name, found in zip(leaves, to_tensors, strict=True):
        wanted = torch.stack([each.get_parameter(name).grad for each in segments])
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14, msg=name)
    with torch.no_grad():
        measured = fused.measure(RUN, tensors, x, y)
    torch.testing.assert_close(measured[:, 0], plain(segments, x, y).sum(dim=1), rtol=1e-12, atol=0)
    assert measured[:, 1].isnan().all()


@pytest.mark.parametrize("training", [True, False])
def test_logits_of_one_network_alone_are_there_at_once(training: bool) -> None:
    fused, _, tensors = heads("untied", vocabulary=1000)
    x, y = batch(vocabulary=1000, tokens=64)
    with Largest() as seen:
        if training:
            losses, _ = fused.train(RUN, tensors, x, y)
            torch.autograd.grad(losses.sum(), [x, *tensors.values()])
        else:
            fused.measure(RUN, tensors, x, y)
    assert seen.numbers == y[0].numel() * 1000


@ENDS
def test_a_host_that_ends_so_plays_as_in_the_reference(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more variants than environments: what is drawn is that of a network, not of a place."""

    def built(name: str, shape: tuple[int, ...], vocabulary: int) -> GptHost:
        host = gpt.build_host(name, shape, vocabulary)
        host.segments[-1] = HEADS[end](vocabulary)
        return host

    monkeypatch.setitem(build.HOSTS, "gpt_micro", HostKind("text", 64, built))
    pair = Pair(2, "fused", DOUBLE | QUICK, preset="stories")
    pair.reset(seed=3)
    scripts = (
        [*grow(0, Style.GATED), *grow(1)],
        [*grow(2, Style.LINEAR_MULTIPLY), *[WAIT] * 8, encode(Op.WAIT)],
    )
    for moment, actions in enumerate(zip(*scripts, strict=True)):
        first, second = pair.step(np.stack(actions))
        np.testing.assert_allclose(first[4]["val_loss"], second[4]["val_loss"], rtol=EXACT)
        if moment in (0, 16):
            pair.agree(EXACT)
    assert (pair.reference._state.slots.alpha > 0).sum() == 3
