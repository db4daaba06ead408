"""Variants of a network: each is a plain pass without some modules, and what they share is computed once."""

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from esper_env.blueprints.catalogue import CATALOGUE
from esper_env.contracts.action import Style
from esper_env.engine.ledger import branch_cost, gate_cost, segment_flops, variant_flops
from esper_env.hosts.cnn import build_host
from esper_env.slots.grown import Graft, GrownModel, build_branch, build_gate, seeded

BLUEPRINT = {blueprint.name: blueprint for blueprint in CATALOGUE}
BATCH = 3
PLACES = ["block1.relu", "block1.pool", "block2.relu", "block3.relu", "block3.pool"]
ROLES = {
    "live": {"alpha": 0.7, "isolated": False},
    "fossil": {"alpha": 1.0, "isolated": False},
    "isolated": {"alpha": 0.0, "isolated": True},
}


def grown(names: Sequence[str]) -> GrownModel:
    """The micro host in eval mode, with statistics that are not those of its birth."""
    with seeded(1):
        host = build_host("micro", (3, 16, 16), 10)
        host.train()(torch.randn(8, 3, 16, 16))
    places = [place.name for place in host.places]
    return GrownModel(host, [places.index(name) for name in names]).eval()


def plant(model: GrownModel, slot: int, blueprint: str, style: Style, role: str) -> None:
    branch = build_branch(BLUEPRINT[blueprint], model.place(slot), 20 + slot)
    graft = Graft(branch.to(memory_format=torch.channels_last), style)
    graft.in_graph, graft.detach_input = True, False
    graft.alpha, graft.isolated = ROLES[role]["alpha"], bool(ROLES[role]["isolated"])
    if style == Style.GATED and role != "isolated":
        graft.gate = build_gate(model.place(slot), 30 + slot)
    model.plant(slot, graft)


def images() -> torch.Tensor:
    x = torch.randn(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(11))
    return x.to(memory_format=torch.channels_last)


def lattice(live: Sequence[int]) -> list[int]:
    """Every subset, the whole first."""
    sizes = range(len(live), -1, -1)
    return [sum(1 << slot for slot in part) for size in sizes for part in itertools.combinations(live, size)]


def off(live: Sequence[int], subset: int) -> frozenset[int]:
    return frozenset(slot for slot in live if not subset & (1 << slot))


@pytest.mark.parametrize("styles", list(itertools.product(Style, repeat=3)))
@torch.no_grad()
def test_every_subset_of_three_modules_has_the_bits_of_a_plain_pass_without_the_others(
    styles: tuple[Style, ...],
) -> None:
    model, x = grown(PLACES[::2]), images()
    for slot, (blueprint, style) in enumerate(zip(("conv_heavy", "norm", "depthwise"), styles, strict=True)):
        plant(model, slot, blueprint, style, "live")
    seen = list(model.variants(x, (0, 1, 2), lattice((0, 1, 2))))
    assert seen[0][0] == 7
    assert sorted(subset for subset, _ in seen) == list(range(8))
    for subset, logits in seen:
        assert torch.equal(logits, model(x, without=off((0, 1, 2), subset))), subset
        reduced = copy.deepcopy(model)
        for slot in off((0, 1, 2), subset):
            reduced.remove(slot)
        assert torch.equal(logits, reduced(x)), subset
    assert len({logits.numpy().tobytes() for _, logits in seen}) == 8


@torch.no_grad()
def test_fossils_stay_on_and_learners_stay_out_in_every_variant() -> None:
    model, x = grown(PLACES), images()
    for slot, role in enumerate(("fossil", "live", "isolated", "live", "fossil")):
        plant(model, slot, "conv_light", Style.LINEAR_ADD, role)
    bare = copy.deepcopy(model)
    bare.remove(2)
    for subset, logits in model.variants(x, (1, 3), lattice((1, 3))):
        assert torch.equal(logits, bare(x, without=off((1, 3), subset)))
    (_, committed) = list(model.variants(x, (1, 3), [0b01010, 0]))[1]
    for slot in (1, 3):
        bare.remove(slot)
    assert torch.equal(committed, bare(x))
    assert not torch.equal(committed, model.host(x)), "the fossils were on"


@torch.no_grad()
def test_a_batch_of_a_few_subsets_needs_no_whole_lattice() -> None:
    model, x = grown(PLACES), images()
    for slot in range(5):
        plant(model, slot, "conv_small", Style(slot % 3), "live")
    live = range(5)
    subsets = [31, 30, 29, 27, 23, 15, 0]
    seen = dict(model.variants(x, live, subsets))
    assert sorted(seen) == sorted(subsets)
    for subset, logits in seen.items():
        assert torch.equal(logits, model(x, without=off(live, subset)))
    assert [subset for subset, _ in model.variants(x, live, [31])] == [31]


@torch.no_grad()
def test_no_more_values_are_held_than_along_one_path() -> None:
    """Between two variants, the walk holds one value for each slot at which it still has to turn."""
    model, x = grown(PLACES[::2]), images()
    for slot in range(3):
        plant(model, slot, "conv_light", Style.LINEAR_ADD, "live")
    walk = model.variants(x, (0, 1, 2), lattice((0, 1, 2)))
    held = []
    for subset, _ in walk:
        frames, generator = 0, walk
        while (inner := generator.gi_yieldfrom) is not None:
            frames, generator = frames + 1, inner
        held.append((subset, frames))
    # one frame to begin with, and one more for each module that is on with its off still to come
    assert held == [(subset, 1 + bin(subset).count("1")) for subset in (7, 3, 5, 1, 6, 2, 4, 0)]


CASES = {
    "one": (("live",), ("conv_light",)),
    "one behind a fossil": (("fossil", "live"), ("attention", "bottleneck")),
    "two": (("live", "live"), ("conv_heavy", "attention")),
    "two around a fossil": (("live", "fossil", "live"), ("conv_small", "conv_light", "attention")),
    "three": (("live",) * 3, ("conv_light", "attention", "bottleneck")),
    "three and more": (("fossil", "live", "live", "isolated", "live"), ("conv_light",) * 5),
}


@pytest.mark.parametrize("style", [Style.LINEAR_ADD, Style.GATED])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_flops_by_formula_are_those_that_torch_counts_and_less_than_those_of_one_pass_each(
    case: str, style: Style
) -> None:
    roles, blueprints = CASES[case]
    model, x = grown(PLACES[: len(roles)]), images()
    modules = {}
    for slot, (role, blueprint) in enumerate(zip(roles, blueprints, strict=True)):
        plant(model, slot, blueprint, style, role)
        gate = gate_cost(model.place(slot)).forward if style == Style.GATED else 0
        if role != "isolated":
            modules[slot] = branch_cost(BLUEPRINT[blueprint], model.place(slot)).forward + gate
    live = [slot for slot, role in enumerate(roles) if role == "live"]
    for subsets in (lattice(live), [sum(1 << slot for slot in live), 0]):
        with FlopCounterMode(display=False) as counter:
            assert len(list(model.variants(x, live, subsets))) == len(subsets)
        with FlopCounterMode(display=False) as plain:
            for subset in subsets:
                model(x, without=off(live, subset))
        segments = segment_flops(model.host)
        formula = variant_flops(segments, model.slots, modules, live, subsets)
        assert BATCH * formula == counter.get_total_flops() < plain.get_total_flops()


def test_flops_of_two_modules_are_those_of_a_hand_count() -> None:
    segments = (100, 10, 1)
    # The first segment once; the second with and without module 0; the third and module 1 on both paths.
    expected = 100 + 1000 + 2 * 10 + 2 * 2000 + 4 * 1
    assert variant_flops(segments, (0, 1), {0: 1000, 1: 2000}, (0, 1), (3, 2, 1, 0)) == expected
    assert variant_flops(segments, (0, 1), {0: 1000, 1: 2000}, (0, 1), (3,)) == 111 + 3000
    assert variant_flops(segments, (0, 1), {1: 2000}, (1,), (2, 0)) == 110 + 2000 + 2
    assert variant_flops(segments, (0, 1), {0: 1000, 1: 2000}, (1,), (2, 0)) == 110 + 3000 + 2


def test_segments_cost_what_torch_counts_and_add_up_to_the_host() -> None:
    host = build_host("baseline", (3, 32, 32), 10).eval()
    x, counted = torch.randn(1, 3, 32, 32), []
    with torch.no_grad():
        for segment in host.segments:
            with FlopCounterMode(display=False) as counter:
                x = segment(x)
            counted.append(counter.get_total_flops())
    assert segment_flops(host) == tuple(counted)
    assert sum(counted) == 2 * (27 * 8 * 1024 + 72 * 16 * 256 + 144 * 32 * 64 + 32 * 10)
