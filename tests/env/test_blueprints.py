"""Blueprints: order and sizes by hand, each branch against its formula, registration from outside."""

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn
from torch.nn import functional

from esper_env.blueprints import catalogue as module
from esper_env.blueprints.catalogue import CATALOGUE, Blueprint, catalogue, register_blueprint
from esper_env.contracts.facts import Place
from esper_env.slots.grown import build_branch, build_gate, probe, seeded

ORDER = (
    "noop conv_light attention norm depthwise bottleneck conv_small conv_heavy "
    "lora lora_large mlp_small mlp flex_attention"
)
CNN = [blueprint for blueprint in CATALOGUE if "cnn" in blueprint.builders]
CHANNELS = (1, 2, 4, 8, 16, 32, 64)
PARAMETERS: dict[str, Callable[[int], int]] = {
    "norm": lambda c: 2 * c,
    "attention": lambda c: (c + 1) * max(4, c // 4) + (max(4, c // 4) + 1) * c,
    "depthwise": lambda c: 9 * c + c * c + 2 * c,
    "bottleneck": lambda c: (c + 1) * (m := max(8, c // 4)) + (9 * m + 1) * m + m * c + 2 * c,
    "conv_small": lambda c: c * c + 2 * c,
    "conv_light": lambda c: 9 * c * c + 2 * c,
    "conv_heavy": lambda c: 2 * (9 * c * c + 2 * c),
}


def place(channels: int, size: int = 6) -> Place:
    return Place("block1.relu", "cnn", (channels, size, size), 1.0)


def plain_norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Group norm by its formula, 16 channels a group."""
    groups = x.unflatten(1, (max(1, x.shape[1] // 16), -1))
    mean = groups.mean((2, 3, 4), keepdim=True)
    variance = (groups - mean).square().mean((2, 3, 4), keepdim=True)
    normal = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    return normal * scale[:, None, None] + shift[:, None, None]


def plain_branch(name: str, x: torch.Tensor, p: list[torch.Tensor]) -> torch.Tensor:
    """The branch of spec 5's table from its parameters in order, in functions alone."""

    def same(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        groups = x.shape[1] // weight.shape[1]
        return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    if name == "norm":
        return plain_norm(x, *p) - x
    if name == "attention":
        hidden = x.mean((2, 3)) @ p[0].T + p[1]
        factor = 2 / (1 + torch.exp(-((hidden / (1 + torch.exp(-hidden))) @ p[2].T + p[3]))) - 1
        return x * factor[:, :, None, None]
    if name == "depthwise":
        return plain_norm(same(same(x, p[0]), p[1]), p[2], p[3]).clamp(min=0)
    if name == "bottleneck":
        inner = same(same(x, p[0], p[1]).clamp(min=0), p[2], p[3]).clamp(min=0)
        return plain_norm(same(inner, p[4]), p[5], p[6])
    for i in range(0, len(p), 3):
        x = plain_norm(same(x, p[i]), p[i + 1], p[i + 2]).clamp(min=0)
    return x


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """An empty registry, and a list of entry points that a test fills."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(module, "_REGISTERED", [])
    monkeypatch.setattr(module, "entry_points", lambda group: [e for e in entries if e.group == group])
    module._from_entry_points.cache_clear()
    yield entries
    module._from_entry_points.cache_clear()


class Twice(nn.Module):
    """A branch from outside."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Shrink(nn.Module):
    """A branch that doesn't keep the shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 1:]


class Broken(nn.Module):
    """A branch whose output isn't finite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0


twice = Blueprint("twice", {"cnn": lambda place: Twice()})
not_a_blueprint = 3


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=f"{__name__}:{value}", group="esper.blueprints")


def test_built_in_order_is_that_of_the_action_head() -> None:
    assert " ".join(blueprint.name for blueprint in CATALOGUE) == ORDER
    assert [blueprint.name for blueprint in CNN] == ORDER.split()[1:8]
    assert not CATALOGUE[0].builders


@pytest.mark.parametrize("channels", [*CHANNELS, 128])
@pytest.mark.parametrize("blueprint", CNN, ids=lambda b: b.name)
def test_branch_has_the_parameters_of_a_hand_count(blueprint: Blueprint, channels: int) -> None:
    branch = build_branch(blueprint, place(channels), 0)
    assert sum(p.numel() for p in branch.parameters()) == PARAMETERS[blueprint.name](channels)


@pytest.mark.parametrize(("channels", "expected"), [(8, 81), (16, 145), (32, 273), (64, 1057)])
def test_gate_has_the_published_parameters(channels: int, expected: int) -> None:
    assert sum(p.numel() for p in build_gate(place(channels), 0).parameters()) == expected


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("blueprint", CNN, ids=lambda b: b.name)
def test_branch_computes_its_formula(blueprint: Blueprint, channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    branch = build_branch(blueprint, place(channels), 3).double()
    for parameter in branch.parameters():
        parameter.data.add_(0.3 * torch.rand(parameter.shape, generator=generator))
    x = torch.randn(3, channels, 6, 6, generator=generator, dtype=torch.float64)
    expected = plain_branch(blueprint.name, x, list(branch.parameters()))
    torch.testing.assert_close(branch(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("blueprint", CNN, ids=lambda b: b.name)
def test_building_depends_on_the_key_alone_and_moves_no_global_generator(blueprint: Blueprint) -> None:
    before = torch.get_rng_state()
    first, again, other = (build_branch(blueprint, place(8), key) for key in (5, 5, 2**63 - 1))
    assert torch.equal(torch.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    differ = [not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
    assert all(same)
    assert any(differ) or blueprint.name == "norm"


def test_seeded_restores_the_generator_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), seeded(1):
        torch.rand(3).reshape(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_registered_blueprint_gets_the_next_index(outside: list[EntryPoint]) -> None:
    assert register_blueprint("thrice", {"cnn": lambda place: Twice()}) == len(CATALOGUE)
    assert register_blueprint("again", {"transformer": lambda place: Twice()}) == len(CATALOGUE) + 1
    assert [b.name for b in catalogue()[len(CATALOGUE) :]] == ["thrice", "again"]
    assert catalogue()[-2].fits(place(4))
    assert not catalogue()[-1].fits(place(4))


def test_entry_points_come_sorted_and_before_registered_ones(outside: list[EntryPoint]) -> None:
    outside += [entry("z", "twice"), EntryPoint(name="a", value="no.such:thing", group="other.group")]
    register_blueprint("thrice", {"cnn": lambda place: Twice()})
    assert [b.name for b in catalogue()[len(CATALOGUE) :]] == ["twice", "thrice"]


@pytest.mark.parametrize("value", ["not_a_blueprint", "missing"])
def test_broken_entry_point_is_named(outside: list[EntryPoint], value: str) -> None:
    outside.append(entry("my_plugin", value))
    with pytest.raises(ValueError, match=f"my_plugin.*{value}"):
        catalogue()


def test_entry_points_of_one_name_are_refused(outside: list[EntryPoint]) -> None:
    outside += [entry("a", "twice"), entry("b", "twice")]
    with pytest.raises(ValueError, match="twice"):
        catalogue()


@pytest.mark.parametrize(
    ("name", "families", "message"),
    [
        ("norm", ["cnn"], "'norm' exists already"),
        ("Bad Name", ["cnn"], "Bad Name"),
        ("none", ["cnn"], "'none'"),
        ("fine", ["graph"], "graph.*transformer"),
        ("fine", [], "at least one builder"),
    ],
)
def test_bad_registration_is_refused_by_name(
    outside: list[EntryPoint], name: str, families: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        register_blueprint(name, {family: lambda place: Twice() for family in families})
    assert catalogue() == CATALOGUE


def test_blueprint_without_a_builder_for_the_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'lora'.*cnn"):
        build_branch(CATALOGUE[8], place(4), 0)


def test_failing_builder_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"'conv_light'.*block1\.relu.*47 channels.*2 equal"):
        build_branch(CATALOGUE[1], place(47), 0)


@pytest.mark.parametrize("blueprint", CNN, ids=lambda b: b.name)
def test_probe_passes_sound_branches_and_leaves_their_mode(blueprint: Blueprint) -> None:
    branch = build_branch(blueprint, place(8), 0).train()
    before = torch.get_rng_state()
    assert probe(branch, place(8))
    assert branch.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in branch.parameters())


@pytest.mark.parametrize("branch", [Shrink(), Broken()])
def test_probe_fails_branches_that_change_the_shape_or_are_not_finite(branch: nn.Module) -> None:
    assert not probe(branch, place(4))
