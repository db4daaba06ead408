"""The conditional distribution of the examples, held against the enumeration of every action there is."""

from itertools import product
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch

import esper_env
from esper_env import HEADS_READ, Head, Op

NUM_ENVS = 3


class World(NamedTuple):
    """Environments in unlike states, and every action with whether it may be drawn in each."""

    nvec: list[int]
    op_slot: torch.Tensor
    blueprint_slot: torch.Tensor
    actions: torch.Tensor
    drawn: torch.Tensor


@pytest.fixture(scope="module")
def world():
    """All ops but in unlike slots; a fresh network; a finished one. Three slots, thirteen blueprints."""
    layout = esper_env.ActionLayout(3, 13)
    blueprint_slot = np.zeros((NUM_ENVS, 3, 13), dtype=np.int8)
    blueprint_slot[0, 0, [1, 3]] = blueprint_slot[0, 2, [3, 4, 7]] = blueprint_slot[1, :, 1:8] = 1
    op_slot = np.zeros((NUM_ENVS, len(Op), 3), dtype=np.int8)
    op_slot[:, Op.WAIT] = 1
    op_slot[:, Op.GERMINATE] = blueprint_slot.any(-1)
    op_slot[0, [Op.SET_ALPHA_TARGET, Op.FOSSILIZE, Op.PRUNE, Op.PRUNE, Op.ADVANCE], [1, 1, 1, 2, 2]] = 1
    actions = np.array(list(product(*map(range, layout.nvec))))
    drawn = np.stack([may_be_drawn(actions, op_slot[env], blueprint_slot[env]) for env in range(NUM_ENVS)])
    tensors = map(torch.from_numpy, (op_slot, blueprint_slot, actions, drawn))
    return World(layout.nvec.tolist(), *tensors)


def may_be_drawn(actions, op_slot, blueprint_slot):
    """Legal by the exact masks, with 0 in every head that the op does not read."""
    op, slot, blueprint = (actions[:, head] for head in (Head.OP, Head.SLOT, Head.BLUEPRINT))
    drawn = (op_slot[op, slot] == 1) & ((op != Op.GERMINATE) | (blueprint_slot[slot, blueprint] == 1))
    for each in Op:
        unread = [head for head in Head if head not in (*HEADS_READ[each], Head.OP)]
        drawn &= (op != each) | (actions[:, unread] == 0).all(axis=1)
    return drawn


@pytest.fixture
def made(example, world):
    """A distribution with random logits for every environment of the world."""

    def make(seed):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(NUM_ENVS, sum(world.nvec), generator=generator, dtype=torch.double)
        return example("op_first").OpFirst(logits.requires_grad_(), world.op_slot, world.blueprint_slot)

    return make


@pytest.fixture
def table(example, world):
    """(env, action): the log-probability of every action."""

    def tabulate(dist):
        count, rows = len(world.actions), []
        for env, logits in enumerate(dist.logits):
            masks = world.op_slot[env].expand(count, -1, -1), world.blueprint_slot[env].expand(count, -1, -1)
            rows.append(example("op_first").OpFirst(logits.expand(count, -1), *masks).log_prob(world.actions))
        return torch.stack(rows)

    return tabulate


def test_all_probability_lies_on_legal_actions_that_are_0_where_nothing_is_read(made, world, table):
    probabilities = table(made(0)).exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(NUM_ENVS, dtype=torch.double))
    assert torch.equal(probabilities > 0, world.drawn)
    assert world.drawn.sum(1).tolist()[1:] == [1 + 3 * 7 * 4 * 3 * 3, 1]


def test_entropy_and_divergence_are_those_of_the_enumeration(made, table):
    p, q = made(0), made(1)
    log_p, log_q = table(p), table(q)
    entropy = -(log_p.exp() * log_p).sum(1)
    torch.testing.assert_close(p.entropy(), entropy)
    assert entropy.tolist()[2] == pytest.approx(0), "only WAIT is left"
    assert (entropy[:2] > 2).all()
    torch.testing.assert_close(p.cross_entropy(q) - p.entropy(), (log_p.exp() * (log_p - log_q)).sum(1))


def test_the_gradient_of_the_entropy_is_that_of_the_enumeration(made, table):
    dist = made(0)
    log_p = table(dist)
    [exact] = torch.autograd.grad(-(log_p.exp() * log_p).sum(), dist.logits, retain_graph=True)
    [ours] = torch.autograd.grad(dist.entropy().sum(), dist.logits)
    torch.testing.assert_close(ours, exact)
    assert ours.isfinite().all()
    assert ours.any(0).sum() > 20, "most heads have a say"


def test_draws_follow_the_probabilities(made, world, table):
    torch.manual_seed(0)
    dist, count = made(0), 4000
    drawn = dist.sample((count,))
    assert drawn.shape == (count, NUM_ENVS, len(Head))
    place = np.ravel_multi_index(tuple(drawn.reshape(-1, 8).T.numpy()), world.nvec).reshape(count, NUM_ENVS)
    probabilities = table(dist).exp().detach()
    for env in range(NUM_ENVS):
        assert world.drawn[env, place[:, env]].all()
        ops = world.actions[:, Head.OP]
        for op in Op:
            expected = float(probabilities[env][ops == op].sum())
            share = float((drawn[:, env, Head.OP] == op).double().mean())
            assert abs(share - expected) <= 4 * (expected * (1 - expected) / count) ** 0.5


def test_the_mode_takes_the_likeliest_legal_value_at_every_turn(made, world):
    dist = made(2)
    mode = dist.mode
    assert torch.equal(mode, dist.deterministic_sample)
    for env, action in enumerate(mode):
        legal = world.op_slot[env].any(-1)
        logits = dist.logits[env, -len(Op) :].masked_fill(~legal, -torch.inf)
        assert action[Head.OP] == logits.argmax()
        assert dist.log_prob(mode)[env] > -20


def test_every_observation_holds_the_masks_of_its_moment(example):
    settings = {"num_envs": 2, "engine": "null", "horizon": 3}
    for mode in ("NextStep", "Disabled"):
        plain = gym.make_vec("EsperMicro-v0", autoreset_mode=mode, **settings)
        wrapped = example("op_first").ExactMasksInObservation(
            gym.make_vec("EsperMicro-v0", autoreset_mode=mode, **settings)
        )
        obs, info = plain.reset(seed=1)
        seen, _ = wrapped.reset(seed=1)
        rng = np.random.default_rng(0)
        for _ in range(3):
            assert seen in wrapped.observation_space
            np.testing.assert_array_equal(seen["observations"], obs)
            for key in ("op_slot_mask", "blueprint_slot_mask"):
                np.testing.assert_array_equal(seen[key], info[key])
            actions = plain.sample_valid(rng)
            obs, *_, info = plain.step(actions)
            seen, *_ = wrapped.step(actions)


def test_a_wrapped_batch_keeps_the_contract(example):
    def make(num_envs, mode):
        settings = {"engine": "null", "horizon": 3, "autoreset_mode": mode}
        return example("op_first").ExactMasksInObservation(
            gym.make_vec("EsperMicro-v0", num_envs=num_envs, **settings)
        )

    modes = [gym.vector.AutoresetMode.NEXT_STEP, gym.vector.AutoresetMode.DISABLED]
    esper_env.check_vector_env(make, num_envs=2, steps=6, modes=modes)
