"""The probability of an action is right: it sums to one over the legal ones, and the entropies add up."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st

from esper_agents.ppo.actions import EsperActions, IndependentActions
from esper_agents.ppo.distribution import given, masked_log_softmax, most_probable, sampled, walk
from esper_agents.ppo.network import SLOT_WIDTH, Encoded, Heads
from esper_env import READS, ActionLayout, Head, Op

LAYOUT = ActionLayout(num_slots=2, num_blueprints=3)
MODEL = EsperActions(LAYOUT)
SIZE = 12


def heads(model=MODEL, seed=0):
    torch.manual_seed(seed)
    own = Heads(model, SIZE, 16).double()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return own


def encoded(batch, slots=2, seed=1):
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(1, SIZE, generator=random, dtype=torch.float64).expand(batch, -1)
    own = torch.randn(1, slots, SLOT_WIDTH, generator=random, dtype=torch.float64)
    return Encoded(features, own.expand(batch, -1, -1))


def masks(seed):
    """Of one observation: WAIT is always legal, and GERMINATE where a blueprint fits."""
    rng = np.random.default_rng(seed)
    ops, fits = rng.random((len(Op), 2)) < 0.5, rng.random((2, 3)) < 0.6
    ops[Op.WAIT] = True
    ops[Op.GERMINATE] = fits.any(axis=1)
    return {"op_slot_mask": torch.from_numpy(ops)[None], "blueprint_slot_mask": torch.from_numpy(fits)[None]}


def legal_actions(own):
    """Every legal action once, unread heads 0: from the table and the masks, by plain loops."""
    ops, fits = (own[name][0].numpy() for name in ("op_slot_mask", "blueprint_slot_mask"))
    found = set()
    for action in product(*(range(size) for size in LAYOUT.nvec.tolist())):
        read = READS[action[Head.OP]]
        if any(value and not read[head] for head, value in enumerate(action)):
            continue
        op, slot = action[Head.OP], action[Head.SLOT]
        fitting = op != Op.GERMINATE or fits[slot, action[Head.BLUEPRINT]]
        if op == Op.WAIT or (ops[op, slot] and fitting):
            found.add(action)
    return torch.tensor(sorted(found))


@torch.no_grad()
def evaluated(own, actions, seed=0):
    repeated = {name: mask.expand(len(actions), -1, -1) for name, mask in own.items()}
    return walk(MODEL, heads(seed=seed).begin(encoded(len(actions))), repeated, len(actions), given(actions))


@drawn_from(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_probabilities_of_the_legal_actions_sum_to_one(seed):
    own = masks(seed)
    actions = legal_actions(own)
    found = evaluated(own, actions, seed)
    assert torch.equal(found.actions, actions)
    probabilities = found.log_probs.sum(dim=1).exp()
    assert (probabilities > 0).all()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-6)
    entropy = -(probabilities * probabilities.log()).sum()
    along = (probabilities[:, None] * found.entropies).sum()
    assert float(along) == pytest.approx(float(entropy), abs=1e-5), "the chain rule of entropy"


@drawn_from(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_only_legal_actions_are_drawn_as_often_as_they_are_probable(seed):
    own, many = masks(seed), 4000
    repeated = {name: mask.expand(many, -1, -1) for name, mask in own.items()}
    uniforms = torch.rand(many, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        found = walk(MODEL, heads(seed=seed).begin(encoded(many)), repeated, many, sampled(uniforms))
    legal = legal_actions(own)
    places = {tuple(action): index for index, action in enumerate(legal.tolist())}
    counts = np.bincount([places[tuple(action)] for action in found.actions.tolist()], minlength=len(legal))
    expected = many * evaluated(own, legal, seed).log_probs.sum(dim=1).exp().detach().numpy()
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected.max()) + 6
    again = evaluated(own, found.actions, seed)
    assert torch.allclose(again.log_probs, found.log_probs, atol=1e-6)


def test_heads_that_are_not_read_are_zero_and_count_for_nothing():
    own = masks(3)
    found = evaluated(own, legal_actions(own))
    read = torch.from_numpy(READS[found.actions[:, Head.OP].numpy()])
    assert torch.equal(found.read, read)
    for figures in (found.actions, found.log_probs, found.entropies, found.normalized_entropies):
        assert (figures[~read] == 0).all()
    assert ((found.normalized_entropies >= 0) & (found.normalized_entropies <= 1 + 1e-6)).all()


def test_what_was_drawn_decides_the_heads_to_come():
    own = masks(5)
    own["op_slot_mask"][:] = own["blueprint_slot_mask"][:] = True
    actions = legal_actions(own)
    germinates = actions[actions[:, Head.OP] == Op.GERMINATE]
    found = evaluated(own, germinates).log_probs
    for head, before in ((Head.BLUEPRINT, Head.SLOT), (Head.STYLE, Head.BLUEPRINT), (Head.TEMPO, Head.STYLE)):
        same = germinates[:, head] == 1
        values = {round(float(p), 9) for p in found[same, head]}
        assert len(values) > 1, f"{head.name} does not depend on {before.name}"


def test_the_most_probable_action_is_legal_and_the_best_at_each_head():
    own = masks(8)
    with torch.no_grad():
        found = walk(MODEL, heads().begin(encoded(1)), own, 1, most_probable)
    assert found.actions.tolist()[0] in legal_actions(own).tolist()


def test_masked_values_get_no_gradient_and_nothing_is_not_finite():
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    log_probs = masked_log_softmax(logits, torch.tensor([[True, False, True]]))
    assert log_probs[0, 1] == -torch.inf
    entropy = -(log_probs.exp() * log_probs.masked_fill(torch.tensor([[False, True, False]]), 0)).sum()
    (gradient,) = torch.autograd.grad(entropy, logits)
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_draws_at_the_ends_of_the_unit_interval_are_possible_values(u):
    probs = torch.tensor([[0.0, 0.25, 0.75, 0.0]])
    drawn = sampled(torch.full((1, 1), u, dtype=torch.float64))(0, torch.zeros(1, dtype=torch.int64), probs)
    assert drawn.item() == (1 if u == 0 else 2)


def test_independent_heads_are_masked_by_their_own_part():
    model = IndependentActions((2, 3), key="mask")
    own = {"mask": torch.tensor([[True, False, False, True, True]])}
    policy = heads(model).begin(Encoded(torch.randn(1, SIZE, dtype=torch.float64), None))
    found = walk(model, policy, own, 1, sampled(torch.rand(1, 2, dtype=torch.float64)))
    assert found.choices.tolist() == [[1, 2]]
    assert found.actions[0, 0] == 0
    assert found.actions[0, 1] > 0
