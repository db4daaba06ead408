"""FLOPs of transformers against torch's own counter and against counts by hand, and their facts."""

import math

import numpy as np
import pytest
import torch
from counting import counted, measured
from growing import TRANSFORMER

from esper_env.blueprints.catalogue import CATALOGUE, Blueprint
from esper_env.contracts.facts import Place
from esper_env.engine.ledger import branch_cost, describe, gate_cost, host_flops, segment_flops
from esper_env.hosts.build import build_host
from esper_env.hosts.host import Host
from esper_env.slots.grown import build_branch, build_gate

WIDTH, CONTEXT, VOCABULARY = 32, 12, 50
LINEAR = {"attention": 4, "flex_attention": 4, "norm": 0, "mlp_small": 4, "mlp": 8}
"""Multiply-adds a token in linear layers, in squares of the width."""


def place(width: int, context: int = CONTEXT) -> Place:
    return Place("block1", "transformer", (context, width), 1.0)


def micro() -> Host:
    return build_host("gpt_micro", (CONTEXT,), VOCABULARY)


@pytest.mark.parametrize("width", [8, 96])
@pytest.mark.parametrize("blueprint", TRANSFORMER, ids=lambda b: b.name)
def test_branch_costs_what_torch_counts_in_every_state(blueprint: Blueprint, width: int) -> None:
    expected = measured(build_branch(blueprint, place(width), 0), place(width).shape)
    assert branch_cost(blueprint, place(width)) == expected


@pytest.mark.parametrize("blueprint", TRANSFORMER, ids=lambda b: b.name)
def test_branch_costs_what_a_hand_count_says(blueprint: Blueprint) -> None:
    """Products of activations in full: 2 x context x width multiply-adds a token."""
    rank = {"lora": 8, "lora_large": 32}.get(blueprint.name, 0)
    linear = LINEAR.get(blueprint.name, 0) * WIDTH**2 + 2 * rank * WIDTH
    attending = 2 * CONTEXT * WIDTH * blueprint.name.endswith("attention")
    cost = branch_cost(blueprint, place(WIDTH))
    forward = 2 * CONTEXT * (linear + attending)
    first = 2 * CONTEXT * rank * WIDTH  # without a norm before it, an isolated layer's input gets no gradient
    assert (cost.forward, cost.isolated, cost.blended) == (forward, 3 * forward - first, 3 * forward)
    assert cost.frozen == 2 * forward + 2 * CONTEXT * attending


@pytest.mark.parametrize("width", [4, 128])
def test_gate_costs_what_torch_counts_in_every_state(width: int) -> None:
    assert gate_cost(place(width)) == measured(build_gate(place(width), 0), place(width).shape)


def test_host_costs_what_torch_counts() -> None:
    host = micro()
    x = torch.randint(VOCABULARY, (2, CONTEXT))
    assert 2 * host_flops(host) == counted(host, x)
    assert 2 * sum(segment_flops(host)) == counted(host, x, backward=False)


def test_host_costs_what_a_hand_count_says() -> None:
    """Embeddings nothing, the head a product."""
    block = 2 * CONTEXT * (12 * WIDTH**2 + 2 * CONTEXT * WIDTH)
    head = 2 * CONTEXT * WIDTH * VOCABULARY
    assert segment_flops(micro()) == (block, block, block, head)
    assert host_flops(micro()) == 3 * (3 * block + head)


def test_facts_are_the_sizes_of_what_would_be_built() -> None:
    facts = describe(micro(), [0, 2], CATALOGUE, 0.0, math.log(VOCABULARY))
    assert facts.host_params == (VOCABULARY + CONTEXT) * WIDTH + 3 * (12 * WIDTH**2 + 4 * WIDTH) + 2 * WIDTH
    fits = [index in (2, 3, 8, 9, 10, 11, 12) for index in range(13)]
    assert facts.fits.tolist() == 2 * [fits]
    assert (facts.module_params > 0).tolist() == 2 * [fits]
    assert facts.module_params[0, 8:10].tolist() == [16 * WIDTH, 64 * WIDTH]
    assert facts.gate_params.tolist() == [(WIDTH + 1) * 8 + 9] * 2
    assert (facts.chance_quality, facts.chance_loss) == (0.0, np.log(VOCABULARY))
