"""Language hosts: sizes by hand, the network against torch's own layers, causality, and what is refused."""

import math

import pytest
import torch
from growing import CONTEXT, VOCABULARY, grown, inputs
from torch import nn
from torch.nn import functional

from esper_env.hosts import cnn
from esper_env.hosts.build import HOSTS, build_host, host_kind
from esper_env.hosts.gpt import HOSTS as GPT
from esper_env.hosts.gpt import Block, GptHost
from esper_env.slots.grown import seeded

SIZES = {"gpt": (6, 384, 256), "gpt_small": (4, 128, 256), "gpt_micro": (3, 32, 64)}
"""Layers, width and context, as published."""
DEFAULTS = {"gpt": (2, 4, 6), "gpt_small": (1, 3, 4), "gpt_micro": (1, 2, 3)}


def micro(vocabulary: int = VOCABULARY, context: int = CONTEXT) -> GptHost:
    with seeded(7):
        host = build_host("gpt_micro", (context,), vocabulary)
    assert isinstance(host, GptHost)
    return host


def torchs_layer(block: Block, heads: int) -> nn.TransformerEncoderLayer:
    """The same block from torch.nn, whose biases are 0."""
    width = block.attention[1].out.in_features
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    names = {
        "self_attn.in_proj_weight": block.attention[1].qkv.weight,
        "self_attn.out_proj.weight": block.attention[1].out.weight,
        "linear1.weight": block.mlp[1].weight,
        "linear2.weight": block.mlp[3].weight,
        "norm1.weight": block.attention[0].weight,
        "norm1.bias": block.attention[0].bias,
        "norm2.weight": block.mlp[0].weight,
        "norm2.bias": block.mlp[0].bias,
    }
    zeros = {name: torch.zeros_like(value) for name, value in layer.state_dict().items()}
    layer.load_state_dict(zeros | names)
    return layer


@pytest.mark.parametrize(("name", "vocabulary"), [("gpt", 4096), ("gpt_small", 4096), ("gpt_micro", 50)])
def test_host_has_the_parameters_of_a_hand_count(name: str, vocabulary: int) -> None:
    layers, width, context = SIZES[name]
    assert host_kind(name).context == context
    host = build_host(name, (context,), vocabulary)
    block = 12 * width**2 + 4 * width
    assert sum(p.numel() for p in host.parameters()) == (
        (vocabulary + context) * width + layers * block + 2 * width
    )


def test_host_computes_what_torchs_layers_compute() -> None:
    host = micro().double()
    for parameter in host.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    x, _ = inputs(host, torch.float64)
    embedding, first = host.segments[0]
    h = functional.one_hot(x, VOCABULARY).double() @ embedding.tokens.weight + embedding.positions.weight
    mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT, dtype=torch.float64)
    for block in (first, *host.segments[1:-1]):
        h = torchs_layer(block, heads=2)(h, src_mask=mask)
    norm = host.segments[-1][0]
    h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = (h * norm.weight + norm.bias) @ embedding.tokens.weight.T
    torch.testing.assert_close(host(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GPT)
def test_initial_weights_are_those_of_gpt_2(name: str) -> None:
    layers, _, context = SIZES[name]
    with seeded(3):
        host = build_host(name, (context,), 300)
    for tensor, weight in host.state_dict().items():
        if weight.dim() == 1:
            assert torch.equal(weight, torch.full_like(weight, float(tensor.endswith("weight"))))
            continue
        added = tensor.endswith(("out.weight", "mlp.3.weight"))
        expected = 0.02 / math.sqrt(2 * layers) if added else 0.02
        few = 5 / math.sqrt(2 * weight.numel())
        assert float(weight.std()) == pytest.approx(expected, rel=few), tensor
        assert abs(float(weight.mean())) < 5 * expected / math.sqrt(weight.numel()), tensor


def test_an_untrained_host_guesses() -> None:
    host = micro(vocabulary=200, context=64)
    x = torch.randint(200, (8, 65), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = functional.cross_entropy(host(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(200), abs=0.05)


def test_embedding_and_head_are_one_parameter_that_gets_both_gradients() -> None:
    host = micro().double()
    x, y = inputs(host, torch.float64)
    tokens, head = host.segments[0][0].tokens, host.segments[-1][1]
    assert tokens.weight is head.weight
    functional.cross_entropy(host(x).flatten(0, 1), y.flatten()).backward()
    both = tokens.weight.grad.clone()
    parts = []
    for cut in (tokens, head):
        other = head if cut is tokens else tokens
        kept = cut.weight
        cut.weight = nn.Parameter(kept.detach().clone())
        host.zero_grad()
        functional.cross_entropy(host(x).flatten(0, 1), y.flatten()).backward()
        parts.append(other.weight.grad.clone())
        cut.weight = kept
    torch.testing.assert_close(both, sum(parts), rtol=1e-10, atol=1e-14)
    assert min(float(part.norm()) for part in parts) > 1e-3


def test_a_copy_and_a_move_keep_the_tie_and_a_state_dict_fits() -> None:
    model = grown("gpt_micro").to(torch.float64).to(memory_format=torch.channels_last)
    host = model.host
    assert host.segments[0][0].tokens.weight is host.segments[-1][1].weight
    other = micro().double()
    other.load_state_dict(host.state_dict())
    x, _ = inputs(host, torch.float64)
    assert torch.equal(other(x), host(x))


@pytest.mark.parametrize("name", GPT)
def test_every_place_has_the_shape_it_declares(name: str) -> None:
    layers, width, _ = SIZES[name]
    host = build_host(name, (6,), VOCABULARY)
    h = torch.zeros(2, 6, dtype=torch.int64)
    assert len(host.places) == layers
    for segment, place in zip(host.segments, host.places, strict=False):
        h = segment(h)
        assert h.shape == (2, *place.shape) == (2, 6, width)
        assert (place.channels, place.positions) == (width, 6)
    assert host.segments[-1](h).shape == (2, 6, VOCABULARY)
    assert [place.depth for place in host.places] == [(block + 1) / layers for block in range(layers)]
    assert host.default_slots == tuple(f"block{block}" for block in DEFAULTS[name])


def test_a_host_reads_texts_that_are_shorter_than_its_context_the_same_way() -> None:
    host = micro().double()
    x, _ = inputs(host, torch.float64)
    torch.testing.assert_close(host(x[:, :5]), host(x)[:, :5], rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="size"):
        host(torch.cat([x, x], dim=1))


def test_its_sample_is_what_it_reads() -> None:
    sample = micro().sample(3)
    assert (sample.shape, sample.dtype, sample.device.type) == ((3, CONTEXT), torch.int64, "meta")
    image = build_host("micro", (3, 8, 8), 10).sample(3)
    assert (image.shape, image.dtype, image.device.type) == ((3, 3, 8, 8), torch.float32, "meta")


def test_the_registry_has_every_host_of_every_family() -> None:
    assert set(HOSTS) == {*cnn.HOSTS, *GPT}
    assert {name: kind.family for name, kind in HOSTS.items()} == {
        **dict.fromkeys(cnn.HOSTS, "image"),
        **dict.fromkeys(GPT, "text"),
    }
    assert all((kind.context is None) == (kind.family == "image") for kind in HOSTS.values())


@pytest.mark.parametrize(
    ("name", "shape", "vocabulary", "message"),
    [
        ("llama", (12,), 16, r"'llama'.*baseline.*gpt_small"),
        ("gpt_micro", (3, 8, 8), 10, r"'gpt_micro'.*\(3, 8, 8\).*\(context,\)"),
        ("gpt_micro", (0,), 10, r"'gpt_micro'.*\(0,\)"),
        ("gpt_micro", (12,), 1, "at least 2 tokens"),
        ("micro", (12,), 16, r"'micro'.*\(12,\).*height"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    name: str, shape: tuple[int, ...], vocabulary: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_host(name, shape, vocabulary)
