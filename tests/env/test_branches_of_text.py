"""Branches of transformers: sizes by hand, each against its formula, and no look at later tokens."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from growing import CONTEXT, TRANSFORMER, VOCABULARY, combinations, grown, inputs, plant
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper_env.blueprints.catalogue import Blueprint
from esper_env.contracts.action import Style
from esper_env.contracts.facts import Place
from esper_env.layers.transformer import heads_of
from esper_env.layers.window import SDPA, by_blocks, by_mask, window_form
from esper_env.slots.grown import build_branch, build_gate, probe

PARAMETERS: dict[str, Callable[[int], int]] = {
    "attention": lambda d: 4 * d * d + 2 * d,
    "flex_attention": lambda d: 4 * d * d + 2 * d,
    "norm": lambda d: 2 * d,
    "lora": lambda d: 16 * d,
    "lora_large": lambda d: 64 * d,
    "mlp_small": lambda d: 4 * d * d + 2 * d,
    "mlp": lambda d: 8 * d * d + 2 * d,
}
HEADS = {1: 1, 8: 1, 32: 1, 48: 1, 64: 2, 96: 3, 128: 4, 384: 12, 100: 2, 97: 1}


def place(width: int, context: int = 12) -> Place:
    return Place("block1", "transformer", (context, width), 1.0)


def branch_of(blueprint: Blueprint, width: int, context: int = 12) -> nn.Module:
    """With weights far from those at birth, so that a scale of 1 or a shift of 0 can't hide an omission."""
    generator = torch.Generator().manual_seed(1)
    branch = build_branch(blueprint, place(width, context), 3).double()
    for parameter in branch.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return branch


def plain_branch(name: str, x: torch.Tensor, p: list[torch.Tensor]) -> torch.Tensor:
    """The branch of spec 5's table from its parameters in order, token by token where it attends."""
    if name.startswith("lora"):
        return x @ p[0].T @ p[1].T
    centered = x - x.mean(-1, keepdim=True)
    normal = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[0] + p[1]
    if name == "norm":
        return normal - x
    if name.startswith("mlp"):
        hidden = normal @ p[2].T
        return (hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))) @ p[3].T
    return plain_attention(normal, p[2], p[3], window=3 if name == "flex_attention" else 12)


def plain_attention(x: torch.Tensor, qkv: torch.Tensor, out: torch.Tensor, window: int) -> torch.Tensor:
    width = x.shape[-1]
    size = width // HEADS[width]
    q, k, v = (x @ qkv[i * width : (i + 1) * width].T for i in range(3))
    mixed = torch.zeros_like(x)
    for b, t, head in itertools.product(range(len(x)), range(x.shape[1]), range(HEADS[width])):
        part, seen = slice(head * size, (head + 1) * size), slice(max(0, t - window + 1), t + 1)
        weights = torch.exp(k[b, seen, part] @ q[b, t, part] / math.sqrt(size))
        mixed[b, t, part] = weights / weights.sum() @ v[b, seen, part]
    return mixed @ out.T


def test_the_built_in_branches_of_transformers_have_these_indices() -> None:
    names = [blueprint.name for blueprint in TRANSFORMER]
    assert names == ["attention", "norm", "lora", "lora_large", "mlp_small", "mlp", "flex_attention"]


@pytest.mark.parametrize("width", [8, 32, 96, 128])
@pytest.mark.parametrize("blueprint", TRANSFORMER, ids=lambda b: b.name)
def test_branch_has_the_parameters_of_a_hand_count(blueprint: Blueprint, width: int) -> None:
    branch = build_branch(blueprint, place(width), 0)
    assert sum(p.numel() for p in branch.parameters()) == PARAMETERS[blueprint.name](width)
    assert not list(branch.buffers())


@pytest.mark.parametrize(("width", "heads"), HEADS.items())
def test_heads_have_32_features_or_share_the_width_evenly(width: int, heads: int) -> None:
    assert heads_of(width) == heads
    assert width % heads == 0


@pytest.mark.parametrize("width", [8, 64, 96])
@pytest.mark.parametrize("blueprint", TRANSFORMER, ids=lambda b: b.name)
def test_branch_computes_its_formula(blueprint: Blueprint, width: int) -> None:
    branch = branch_of(blueprint, width)
    x = torch.randn(3, 12, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = plain_branch(blueprint.name, x, [p.detach() for p in branch.parameters()])
    torch.testing.assert_close(branch(x).detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("blueprint", TRANSFORMER, ids=lambda b: b.name)
def test_a_new_module_is_small_beside_a_trained_host(blueprint: Blueprint) -> None:
    """Of a host's value near 1, as it is after some epochs; norm is what it is."""
    x = torch.randn(4, 64, 128, generator=torch.Generator().manual_seed(2))
    d = build_branch(blueprint, place(128, 64), 5)(x).detach()
    assert probe(build_branch(blueprint, place(128, 64), 5), place(128, 64))
    assert 0 < float(d.square().mean().sqrt()) < 0.15


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 40), window=st.integers(1, 50), seed=st.integers(0, 99))
def test_a_window_is_the_last_tokens_and_no_others(tokens: int, window: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 1, tokens, 4, generator=generator, dtype=torch.float64)
    before, moved = by_mask(q, k, v, window), int(torch.randint(tokens, (1,), generator=generator))
    v[:, :, moved] += 1
    changed = (by_mask(q, k, v, window) != before).any(dim=-1).any(dim=0)[0]
    assert changed.tolist() == [moved <= token < moved + window for token in range(tokens)]


@pytest.mark.parametrize(("tokens", "window"), [(16, 4), (130, 32), (7, 1), (5, 9)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_and_a_mask_give_the_same_values(tokens: int, window: int) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 2, 2, tokens, 16, generator=generator, dtype=torch.float64)
    by_flex = by_blocks(q, k, v, window, compiled=False)
    torch.testing.assert_close(by_flex, by_mask(q, k, v, window), rtol=1e-10, atol=1e-12)


def test_on_a_cpu_windows_are_a_mask() -> None:
    assert window_form(torch.device("cpu"), torch.float32) == SDPA


class Peeking(nn.Module):
    """A branch that looks at the next token."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(-1, dims=1)


def looks_ahead(name: str, blueprint: Blueprint, style: Style, slot: int, at: int) -> bool:
    """Whether, at full alpha, logits up to a token change with the tokens after it."""
    model = grown(name, torch.float64).eval()
    graft = plant(model, slot, blueprint, style, blended=True)
    for parameter in graft.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    x, _ = inputs(model.host, torch.float64)
    other = x.clone()
    other[:, at + 1 :] = (other[:, at + 1 :] + 1) % VOCABULARY
    before, after = model(x), model(other)
    assert not torch.equal(before[:, at + 1 :], after[:, at + 1 :])
    assert not torch.equal(before, model.host(x)), "the module has its say"
    return not torch.equal(before[:, : at + 1], after[:, : at + 1])


@pytest.mark.parametrize("at", [0, 4, CONTEXT - 2])
@pytest.mark.parametrize("slot", [0, 1, 2])
def test_logits_of_a_token_do_not_change_with_later_tokens(slot: int, at: int) -> None:
    for blueprint, style in combinations(grown("gpt_micro")):
        assert not looks_ahead("gpt_micro", blueprint, style, slot, at), (blueprint.name, style)


def test_a_branch_that_looks_ahead_would_be_found() -> None:
    peeking = Blueprint("peeking", {"transformer": lambda place: Peeking()})
    assert looks_ahead("gpt_micro", peeking, Style.LINEAR_ADD, 1, 4)


def test_a_gate_decides_for_each_token_by_itself() -> None:
    gate = build_gate(place(32), 7).double()
    h = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = gate(h)
    assert value.shape == (2, 12, 1)
    h[:, 5] += 1
    assert (gate(h) != value).squeeze(-1).tolist() == [[token == 5 for token in range(12)]] * 2
