"""Masks are exact: what is masked in does what it says, what is masked out becomes WAIT and is counted."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import GROW, facts, game, play, put, rules_only, shared, wandering
from numpy.typing import NDArray

from esper_env import HEADS_READ, ActionLayout, EsperVectorEnv, Head, Op, Stage, encode
from esper_env.contracts.action import Actions
from esper_env.contracts.state import Ramp
from esper_env.mdp import masks
from esper_env.mdp.gates import GateConfig, judge
from esper_env.mdp.transition import LifecycleConfig

SETTINGS = {
    "default": {},
    "budgets": {"param_budget": 2.0, "max_modules": 2},
    "auto": {"auto_advance": ("G1", "G3")},
    "strict": {"gates": "strict", "overrides": (("gates.strict_blending_epochs", 4),)},
}
PAIRS = [(op, slot, 0) for op in Op for slot in range(3) if op != Op.GERMINATE]
PAIRS += [(Op.GERMINATE, slot, blueprint) for slot in range(3) for blueprint in range(13)]
"""Every (op, slot, blueprint) that can be meant."""


def environment(name: str, num_envs: int) -> EsperVectorEnv:
    arguments = {k: list(v) if k == "auto_advance" else v for k, v in SETTINGS[name].items()}
    if "overrides" in arguments:
        arguments["overrides"] = dict(arguments["overrides"])
    return ENVS.setdefault((name, num_envs), rules_only(num_envs, horizon=60, **arguments))


ENVS: dict[tuple[str, int], EsperVectorEnv] = {}


def noisy(env: EsperVectorEnv, actions: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The same actions with random values in every head that their op does not read."""
    noise = rng.integers(env.layout.nvec, size=actions.shape)
    read = np.array([[h == Head.OP or h in HEADS_READ[Op(a[Head.OP])] for h in Head] for a in actions])
    return np.where(read, actions, noise)


def check_forms(env: EsperVectorEnv, info: dict[str, NDArray[np.int8]]) -> None:
    """The flat mask is the union of the two true ones, no head is empty, WAIT is always there."""
    op_slot, blueprints = info["op_slot_mask"], info["blueprint_slot_mask"]
    heads = {h: info["action_mask"][:, env.layout.part(h)] for h in Head}
    for e in range(env.num_envs):
        legal = [
            p for p in PAIRS if op_slot[e, p[0], p[1]] and (p[0] != Op.GERMINATE or blueprints[e, p[1], p[2]])
        ]
        wanted = {h: {0} if h in (Head.SLOT, Head.BLUEPRINT) else set() for h in Head}
        wanted[Head.OP] = {op for op, _, _ in legal}
        wanted[Head.SLOT] = {slot for op, slot, _ in legal if op != Op.WAIT} or {0}
        wanted[Head.BLUEPRINT] = {b for op, _, b in legal if op == Op.GERMINATE} or {0}
        for h in (Head.STYLE, Head.TEMPO, Head.ALPHA_TARGET, Head.ALPHA_SPEED, Head.ALPHA_CURVE):
            read = any(h in HEADS_READ[op] for op in wanted[Head.OP])
            wanted[h] = set(range(env.layout.nvec[h])) if read else {0}
        assert {h: set(np.flatnonzero(heads[h][e])) for h in Head} == wanted
        assert op_slot[e, Op.WAIT].all()
    assert (op_slot[:, Op.GERMINATE] == blueprints.any(axis=2)).all()
    assert not blueprints[:, :, 0].any(), "noop is never legal"
    assert (env.action_masks() == info["action_mask"]).all()
    assert {m.dtype for m in (op_slot, blueprints, info["action_mask"])} == {np.dtype(np.int8)}


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), waiting=st.floats(0.1, 0.8))
def test_random_legal_lives_never_get_an_invalid_action(name: str, seed: int, waiting: float) -> None:
    env, rng = environment(name, 8), np.random.default_rng(seed)
    info = env.reset(seed=seed)[1]
    for _ in range(40):
        check_forms(env, info)
        actions = wandering(env, rng, waiting)
        before = env._state.slots.stage.copy()
        info = env.step(noisy(env, actions, rng))[-1]
        assert info["action_valid"].all()
        for e, action in enumerate(actions):
            check_effect(env, before, e, action)


def check_effect(env: EsperVectorEnv, before: NDArray[np.int8], e: int, action: NDArray[np.int64]) -> None:
    """What was masked in has done what it says, to this slot alone."""
    op, slot, after = Op(action[Head.OP]), action[Head.SLOT], env._state.slots
    was, now = Stage(before[e, slot]), Stage(after.stage[e, slot])
    instant = action[Head.ALPHA_SPEED] == 0
    expected = {
        Op.GERMINATE: Stage.GERMINATED,
        Op.SET_ALPHA_TARGET: Stage.BLENDING,
        Op.PRUNE: Stage.PRUNED if was <= Stage.TRAINING or instant else Stage.BLENDING,
        Op.FOSSILIZE: Stage.FOSSILIZED,
        Op.ADVANCE: Stage(min(was + 1, Stage.HOLDING)),
    }
    if op == Op.WAIT:
        return
    assert now == expected[op]
    if op == Op.GERMINATE:
        heads = [action[h] for h in (Head.BLUEPRINT, Head.STYLE)]
        assert [after.blueprint[e, slot], after.style[e, slot]] == heads
        assert after.tempo[e, slot] == (3, 5, 8)[action[Head.TEMPO]]
        assert after.module_params[e, slot] == env.facts.module_params[slot, heads[0]]
    if op == Op.SET_ALPHA_TARGET:
        assert after.alpha_target[e, slot] == (0.5, 0.7, 1.0)[action[Head.ALPHA_TARGET]]
    if op == Op.PRUNE and now == Stage.BLENDING:
        assert (after.alpha_target[e, slot], after.ramp[e, slot]) == (0, Ramp.DOWN)


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), waiting=st.floats(0.1, 0.8), length=st.integers(0, 40))
def test_every_pair_tried_in_the_same_life_is_played_or_becomes_a_counted_wait(
    name: str, seed: int, waiting: float, length: int
) -> None:
    env, rng = environment(name, len(PAIRS)), np.random.default_rng(seed)
    info = env.reset(seed=[7] * env.num_envs)[1]
    for _ in range(length):
        info = env.step(np.tile(wandering(env, rng, waiting)[0], (env.num_envs, 1)))[-1]
    before = env._state.slots.stage.copy()
    actions = rng.integers(env.layout.nvec, size=(env.num_envs, 8))
    for row, (op, slot, blueprint) in enumerate(PAIRS):
        actions[row, [Head.OP, Head.SLOT]] = op, slot
        if op == Op.GERMINATE:
            actions[row, Head.BLUEPRINT] = blueprint
    legal = [
        bool(
            info["op_slot_mask"][0, op, slot]
            and (op != Op.GERMINATE or info["blueprint_slot_mask"][0, slot, b])
        )
        for op, slot, b in PAIRS
    ]
    obs, rewards, _, _, info = env.step(actions)
    assert list(info["action_valid"]) == legal
    success = env.features["last_success"]
    assert (obs[:, success].ravel() == legal).all()
    obs[:, success] = 0
    waited = next(row for row, pair in enumerate(PAIRS) if pair[0] == Op.WAIT)
    for row, (op, *_) in enumerate(PAIRS):
        if op == Op.WAIT or not legal[row]:
            assert obs[row].tobytes() == obs[waited].tobytes()
            assert rewards[row] == rewards[waited]
        elif op != Op.WAIT:
            assert obs[row].tobytes() != obs[waited].tobytes()
            check_effect(env, before, row, actions[row])


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_heads_that_an_op_does_not_read_change_nothing(seed: int) -> None:
    env, rng = environment("default", 16), np.random.default_rng(seed)
    env.reset(seed=[1] * 16)
    for _ in range(40):
        actions = np.tile(wandering(env, rng, 0.5)[0], (16, 1))
        obs, reward, _, _, info = env.step(noisy(env, actions, rng))
        assert info["action_valid"].all()
        assert (obs == obs[0]).all()
        assert (reward == reward[0]).all()


def test_random_legal_actions_come_to_play_every_op_slot_blueprint_and_argument() -> None:
    env, rng = environment("default", 64), np.random.default_rng(0)
    env.reset(seed=0)
    played, last = [], np.array([])
    for _ in range(50):
        last = wandering(env, rng, 0.6)
        played += [last]
        env.step(last)
    actions = np.concatenate(played)
    for op, heads in HEADS_READ.items():
        mine = actions[actions[:, Head.OP] == op]
        for head in Head:
            values = set(mine[:, head])
            missing = 1 if (op, head) == (Op.GERMINATE, Head.BLUEPRINT) else 0
            if head in heads:
                assert values == set(range(missing, env.layout.nvec[head] - 5 * missing)), (op, head)
            elif head != Head.OP:
                assert values == {0}, "unread heads are canonical"


def test_the_parameter_budget_counts_gates_to_come_and_reserves_one_for_what_is_planted() -> None:
    sizes, state = facts(), game()
    put(state.slots, 0, 0, stage=Stage.TRAINING, style=3, module_params=100, gate_params=0)

    def fits(budget: float) -> list[bool]:
        return list(masks.fitting(state.slots, sizes, np.full(len(state.epoch), budget), None)[0, 1])

    # Host 1,000, branch 100, its gate 50 although there is none yet; then 200 or 1,000, and a gate of 50.
    assert fits(1.399) == [False, False, False]
    assert fits(1.4) == [False, True, False]
    assert fits(2.199) == [False, True, False]
    assert fits(2.2) == [False, True, True]
    state.slots.style[0, 0] = 0
    assert fits(1.35) == [False, True, False], "a module that is not GATED will have no gate"
    assert masks.committed_params(state.slots, sizes)[0] == 1100
    put(state.slots, 0, 0, style=3, gate_params=50, stage=Stage.FOSSILIZED)
    assert masks.committed_params(state.slots, sizes)[0] == 1150
    free = np.full(len(state.epoch), np.inf)
    assert not masks.fitting(state.slots, sizes, free, None)[0, 0].any(), "slot 0 is taken"


def test_a_budget_is_never_exceeded_by_any_legal_life() -> None:
    env, rng = environment("budgets", 32), np.random.default_rng(3)
    env.reset(seed=0)
    for _ in range(50):
        actions = wandering(env, rng, 0.5)
        actions[:, Head.STYLE] = np.where(actions[:, Head.OP] == Op.GERMINATE, 3, actions[:, Head.STYLE])
        env.step(actions)
        slots = env._state.slots
        assert (env.facts.host_params + slots.params.sum(axis=1)).max() <= 2 * 1102
        assert (slots.module_params > 0).sum(axis=1).max() <= 2
    assert (slots.gate_params > 0).any()


@pytest.mark.parametrize("count", [1, 2])
def test_max_modules_closes_every_slot_when_that_many_are_present_fossils_included(count: int) -> None:
    env = rules_only(max_modules=count)
    env.reset(seed=0)
    play(env, [*GROW, encode(Op.FOSSILIZE, slot=0)])
    assert list(env._masks.op_slot[0, Op.GERMINATE]) == ([0, 0, 0] if count == 1 else [0, 1, 1])
    if count == 2:
        play(env, [encode(Op.GERMINATE, slot=2, blueprint=1)])
        assert list(env._masks.op_slot[0, Op.GERMINATE]) == [0, 0, 0]
        assert list(env._masks.flat[0, env.layout.part(Head.BLUEPRINT)]) == [1, *[0] * 12]


def test_the_compute_budget_ends_the_episode_with_the_first_epoch_that_reaches_it() -> None:
    # The null engine's epochs cost what the static host's cost: 30 of them are the whole horizon.
    for budget, last in ((0.1, 3), (0.11, 4), (1.0, 30)):
        env = rules_only(compute_budget=budget)
        env.reset(seed=0)
        for epoch in range(1, last + 1):
            obs, _, terminated, truncated, info = env.step(encode(Op.WAIT)[None])
            left = 1 - epoch / (30 * budget)
            assert obs[0, env.features["compute_left"]] == pytest.approx(max(left, 0), abs=1e-6)
            assert not truncated[0]
            assert terminated[0] == (epoch == last)
        assert info["flops_ratio"][0] == pytest.approx(last / 30)


def test_at_the_end_of_an_episode_nothing_but_waiting_is_legal() -> None:
    env = rules_only(horizon=3)
    info = env.reset(seed=0)[1]
    for _ in range(3):
        assert info["op_slot_mask"][0, 1:].any()
        info = env.step(encode(Op.WAIT)[None])[-1]
    assert not info["op_slot_mask"][0, 1:].any()
    assert not info["blueprint_slot_mask"].any()
    assert list(np.flatnonzero(info["action_mask"][0])) == [env.layout.part(h).start for h in Head]


def test_gates_that_fire_by_themselves_take_advance_away_and_spare_the_slot_just_addressed() -> None:
    env = rules_only(auto_advance=["G1", "G2", "G3"])
    env.reset(seed=0)
    germinate = encode(Op.GERMINATE, slot=0, blueprint=1, tempo=0, alpha_target=2)
    stages = [play(env, [action])[0].stage[0, 0] for action in [germinate, *[encode(Op.WAIT)] * 8]]
    assert [Stage(s).name for s in stages] == [
        "GERMINATED", *["TRAINING"] * 4, *["BLENDING"] * 3, "HOLDING",
    ]  # fmt: skip
    assert not env._masks.op_slot[0, Op.ADVANCE].any()
    play(env, [encode(Op.SET_ALPHA_TARGET, slot=0, alpha_target=2, alpha_speed=0)])
    again = encode(Op.SET_ALPHA_TARGET, slot=0, alpha_target=2, alpha_speed=0)
    assert play(env, [again])[0].stage[0, 0] == Stage.BLENDING, "the op addressed this slot"
    elsewhere = encode(Op.GERMINATE, slot=1, blueprint=1)
    assert play(env, [elsewhere])[0].stage[0, 0] == Stage.HOLDING, "the op addressed another slot"


def test_legality_reads_only_what_the_op_reads() -> None:
    layout, state = ActionLayout(2, 3), game()
    put(state.slots, 0, 0, stage=Stage.HOLDING, alpha=1.0, age=1)
    config = LifecycleConfig()
    fits = masks.fitting(state.slots, facts(), np.full(len(state.epoch), np.inf), None)
    legal = masks.build(state, judge(state, fits, GateConfig()), fits, config, layout)
    for heads in itertools.product(*(range(n) for n in (2, 3, 1, 1, 1, 1, 1, 6))):
        op, slot, blueprint = Op(heads[-1]), heads[0], heads[1]
        expected = {
            Op.WAIT: True,
            Op.GERMINATE: slot == 1 and blueprint > 0,
            Op.SET_ALPHA_TARGET: slot == 0,
            Op.PRUNE: slot == 0,
            Op.FOSSILIZE: False,  # nothing was measured
            Op.ADVANCE: False,
        }
        assert legal.legal(Actions(*np.array(heads)[:, None]))[0] == expected[op], heads


def test_strict_actions_name_what_was_illegal_and_change_nothing() -> None:
    env = rules_only(2, strict_actions=True)
    env.reset(seed=0)
    twin = shared(2)
    twin.reset(seed=0)
    bad = np.stack([encode(Op.WAIT), encode(Op.GERMINATE, slot=1, blueprint=9)])
    with pytest.raises(ValueError, match=r"environment 1, slot 1.*DORMANT.*GERMINATE.*lora_large.*not legal"):
        env.step(bad)
    good = np.stack([encode(Op.WAIT)] * 2)
    assert (env.step(good)[0] == twin.step(good)[0]).all()
