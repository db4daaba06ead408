"""What the tests of growing networks share: small hosts of every family with modules in their slots."""

import itertools

import torch
from torch.nn import functional

from esper_env.blueprints.catalogue import CATALOGUE, Blueprint
from esper_env.contracts.action import Style
from esper_env.hosts import cnn
from esper_env.hosts.build import build_host
from esper_env.hosts.host import Host
from esper_env.slots.grown import Graft, GrownModel, build_branch, build_gate, seeded

CNN = [blueprint for blueprint in CATALOGUE if "cnn" in blueprint.builders]
TRANSFORMER = [blueprint for blueprint in CATALOGUE if "transformer" in blueprint.builders]
NAMES = (*cnn.HOSTS, "gpt_micro")
"""Hosts; the larger language hosts differ from the smallest in their sizes alone."""
BATCH, CONTEXT, VOCABULARY = 4, 12, 16


def inputs(host: Host, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and classes, or texts and their next tokens."""
    generator = torch.Generator().manual_seed(11)
    if host.sample(1).dtype == torch.int64:
        texts = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), generator=generator)
        return texts[:, :-1], texts[:, 1:]
    x = torch.randn(BATCH, *host.input_shape, generator=generator).to(dtype)
    return x, torch.randint(10, (BATCH,), generator=generator)


def grown(name: str, dtype: torch.dtype = torch.float32) -> GrownModel:
    """A host with empty slots at its default places, on the smallest inputs that it takes quickly."""
    shape = (3, 32, 32) if name == "deep" else (3, 8, 8)
    with seeded(1):
        host = build_host(name, shape, 10) if name in cnn.HOSTS else build_host(name, (CONTEXT,), VOCABULARY)
    host.to(dtype)
    places = [place.name for place in host.places]
    return GrownModel(host, [places.index(slot) for slot in host.default_slots])


def fitting(model: GrownModel) -> list[Blueprint]:
    """The blueprints for this family of hosts."""
    return [blueprint for blueprint in CATALOGUE if blueprint.fits(model.place(0))]


def combinations(model: GrownModel) -> list[tuple[Blueprint, Style]]:
    """Each of them in every style."""
    return list(itertools.product(fitting(model), Style))


def plant(model: GrownModel, slot: int, blueprint: Blueprint, style: Style, blended: bool) -> Graft:
    """A module in TRAINING, or fully blended, with its gate if it is GATED."""
    like = next(model.host.parameters())
    graft = Graft(build_branch(blueprint, model.place(slot), 20 + slot).to(like), style)
    graft.in_graph = True
    if blended:
        graft.isolated, graft.detach_input, graft.alpha = False, False, 1.0
        graft.gate = build_gate(model.place(slot), 30 + slot).to(like) if style == Style.GATED else None
    model.plant(slot, graft)
    return graft


def backward(model: GrownModel) -> torch.Tensor:
    """Gradients of the cross-entropy, and the logits."""
    model.zero_grad()
    x, y = inputs(model.host, next(model.parameters()).dtype)
    logits = model(x)
    functional.cross_entropy(logits.flatten(0, -2), y.flatten()).backward()
    return logits.detach()


def gradients(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
