"""Hosts: sizes by hand, the network against plain torch functions, places, and what is refused."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from esper_env.hosts.cnn import HOSTS, ConvHost, Recipe, build_host
from esper_env.hosts.host import Host, HostConfig, resolve_slots
from esper_env.slots.grown import seeded

SIZES = {"baseline": 6418, "deep": 99922, "blind": 2986, "impaired": 77, "minimal": 164, "micro": 1102}
DEFAULTS = {"baseline": (1, 2, 3), "deep": (1, 3, 5), "blind": (1, 2)}


def plain_forward(host: ConvHost, x: torch.Tensor) -> torch.Tensor:
    """The host from its recipe and its parameters in order, in functions alone; batch norm by its formula."""
    recipe, parameters = HOSTS[host.name], iter(host.parameters())
    for _ in recipe.widths:
        x = functional.conv2d(x, next(parameters), padding=(recipe.kernel - 1) // 2)
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        scale, shift = (next(parameters)[:, None, None] for _ in range(2))
        x = ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
        x = functional.max_pool2d(x, 2) if recipe.pooled else x
    return x.flatten(2).mean(2) @ next(parameters).T + next(parameters)


@pytest.mark.parametrize("name", HOSTS)
def test_host_has_the_published_number_of_parameters(name: str) -> None:
    size = 16 if name == "micro" else 32
    assert sum(p.numel() for p in build_host(name, (3, size, size), 10).parameters()) == SIZES[name]


@pytest.mark.parametrize("name", HOSTS)
def test_host_computes_what_its_recipe_says(name: str) -> None:
    with seeded(7):
        host = build_host(name, (3, 32, 32), 10).double()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for parameter in host.parameters():
        parameter.data.add_(0.1)  # so that scales of 1 and shifts of 0 can't hide an omission
    torch.testing.assert_close(host(x), plain_forward(host, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", HOSTS)
def test_every_place_has_the_shape_it_declares(name: str) -> None:
    host = build_host(name, (3, 32, 48), 10).eval()
    h = torch.zeros(2, 3, 32, 48)
    for segment, place in zip(host.segments, host.places, strict=False):
        h = segment(h)
        assert h.shape == (2, *place.shape)
        assert place.channels == h.shape[1]
        assert place.positions == h[0, 0].numel()
    assert host.places[-1].depth == 1
    assert len(host.segments) == len(host.places) + 1


@pytest.mark.parametrize("name", HOSTS)
def test_default_slots_follow_the_relu_of_the_published_blocks(name: str) -> None:
    blocks = DEFAULTS.get(name, (1, 2, 3))
    assert build_host(name, (3, 32, 32), 10).default_slots == tuple(f"block{b}.relu" for b in blocks)


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        (None, ["block1.relu", "block2.relu", "block3.relu"]),
        (1, ["block2.relu"]),
        (2, ["block1.relu", "block3.relu"]),
        (3, ["block1.relu", "block2.relu", "block3.relu"]),
        (6, [f"block{b}.{kind}" for b in (1, 2, 3) for kind in ("relu", "pool")]),
        (["block3.pool", "block1.relu"], ["block1.relu", "block3.pool"]),
    ],
)
def test_slots_resolve_to_places_in_depth_order(slots: int | list[str] | None, expected: list[str]) -> None:
    host = build_host("baseline", (3, 32, 32), 10)
    config = HostConfig(name="baseline", slots=slots)
    indices = resolve_slots(host.places, host.default_slots, config.slots)
    assert [host.places[index].name for index in indices] == expected


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (0, r"slots=0.*1 to 6"),
        (7, r"slots=7.*1 to 6"),
        ([], "empty"),
        (["block9.relu"], r"block9\.relu.*block1\.relu"),
        (["block1.relu", "block1.relu"], "a place can hold one slot"),
    ],
)
def test_slots_that_cannot_be_are_refused_by_name(slots: int | list[str], message: str) -> None:
    host = build_host("baseline", (3, 32, 32), 10)
    with pytest.raises(ValueError, match=message):
        resolve_slots(host.places, host.default_slots, slots)


@pytest.mark.parametrize("bad", [{"slots": 0}, {"slots": True}, {"slots": "block1.relu"}, {"width": 3}])
def test_config_refuses_what_it_cannot_mean(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        HostConfig.model_validate(bad)


def test_unknown_host_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.*baseline.*micro"):
        build_host("resnet", (3, 32, 32), 10)


@pytest.mark.parametrize(("name", "size", "needed"), [("deep", 31, 32), ("micro", 7, 8), ("impaired", 4, 8)])
def test_pooling_below_one_pixel_is_refused_by_name(name: str, size: int, needed: int) -> None:
    with pytest.raises(ValueError, match=rf"'{name}'.*{size}x{size}.*{needed}x{needed}"):
        build_host(name, (3, size, size), 10)
    assert build_host(name, (3, needed, needed), 10).places[-1].shape[1:] == (1, 1)


@pytest.mark.parametrize(("shape", "classes"), [((32, 32), 10), ((3, 0, 32), 10), ((3, 32, 32), 1)])
def test_malformed_input_is_refused(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(ValueError, match="baseline"):
        build_host("baseline", shape, classes)


def test_parts_that_do_not_fit_are_refused() -> None:
    host = ConvHost("tiny", Recipe((2,), 3, False, (1,)), (3, 8, 8), 10)
    with pytest.raises(ValueError, match="1 segments"):
        Host("tiny", (3, 8, 8), host.segments[:1], host.places, ())
    with pytest.raises(ValueError, match="block9"):
        Host("tiny", (3, 8, 8), list(host.segments), host.places, ["block9.relu"])
