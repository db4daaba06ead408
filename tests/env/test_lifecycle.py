"""The life of a slot against an oracle written from the text of the rules, and against clocks by hand."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import GROW, play, rules_only, shared, wandering
from oracle import PRESENT, Clocks, Oracle, curve

from esper_env import NEXT, TRANSITIONS, Curve, EsperVectorEnv, Gate, Op, Stage, Style, encode
from esper_env.contracts.lifecycle import COOL_DOWN, HAS_MODULE, ILLEGAL
from esper_env.slots.schedule import progress

WAIT = encode(Op.WAIT)

CLOCKS = {
    "default": Clocks(),
    "other clocks": Clocks((1, 2, 12), (0, 1, 2, 6), (3, 2, 4), 3),
    "auto": Clocks(auto=("G1", "G3")),
    "auto all": Clocks(auto=("G1", "G2", "G3")),
}


@cache
def ticking(name: str) -> EsperVectorEnv:
    clocks, stages = CLOCKS[name], ("pruned", "embargoed", "resetting")
    overrides = {f"lifecycle.{s}_epochs": n for s, n in zip(stages, clocks.cool_down, strict=True)}
    overrides["lifecycle.min_prune_age"] = clocks.min_prune_age
    overrides |= {"lifecycle.tempo_epochs": clocks.tempo, "lifecycle.speed_epochs": clocks.speed}
    return rules_only(8, overrides=overrides, horizon=99, auto_advance=list(clocks.auto))


def compare(env: EsperVectorEnv, oracles: list[list[Oracle]]) -> None:
    slots, legal = env._state.slots, env._masks.op_slot
    for e, s in np.ndindex(slots.stage.shape):
        oracle = oracles[e][s]
        assert Stage(slots.stage[e, s]).name == oracle.stage
        assert [bool(legal[e, op, s]) for op in Op] == [oracle.legal(op.name) for op in Op], oracle
        if oracle.stage == "DORMANT":
            continue
        assert slots.epochs_in_stage[e, s] == oracle.in_stage, oracle
        assert slots.age[e, s] == oracle.age, oracle
        assert slots.alpha[e, s] == pytest.approx(oracle.alpha, abs=1e-12), oracle
        assert slots.alpha_velocity[e, s] == pytest.approx(oracle.velocity, abs=1e-12), oracle
        ramp = (oracle.ramp.total, oracle.ramp.done, oracle.ramp.target)
        assert (slots.ramp_total[e, s], slots.ramp_done[e, s], slots.alpha_target[e, s]) == ramp
        moving = 0 if not oracle.ramp.moving else 2 if oracle.to_prune or ramp[2] < oracle.ramp.start else 1
        assert slots.ramp[e, s] == moving, oracle


@pytest.mark.parametrize("name", CLOCKS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), waiting=st.floats(0.2, 0.9), illegal=st.floats(0, 0.3))
def test_random_lives_are_those_of_an_oracle_written_from_the_text(
    name: str, seed: int, waiting: float, illegal: float
) -> None:
    clocks, env, num_envs = CLOCKS[name], ticking(name), 8
    rng = np.random.default_rng(seed)
    env.reset(seed=0)
    oracles = [[Oracle(clocks) for _ in range(3)] for _ in range(num_envs)]
    compare(env, oracles)
    for _ in range(50):
        wild = env.action_space.sample()
        wild[:] = rng.integers(env.layout.nvec, size=wild.shape)
        actions = np.where(rng.random((num_envs, 1)) < illegal, wild, wandering(env, rng, waiting))
        valid = env.step(actions)[-1]["action_valid"]
        for e, (slot, blueprint, *heads, op) in enumerate(actions):
            allowed = oracles[e][slot].legal(Op(op).name) and (op != Op.GERMINATE or 1 <= blueprint <= 7)
            assert valid[e] == allowed
            for s, oracle in enumerate(oracles[e]):
                oracle.step(Op(op).name if allowed and s == slot else "WAIT", *heads)
        compare(env, oracles)


def test_the_table_of_transitions_is_that_of_the_rules() -> None:
    D, G, T, B, H, F, P = list(Stage)[:7]  # noqa: N806
    expected = {
        (D, Op.GERMINATE): (G, Gate.G0),
        (G, Op.ADVANCE): (T, Gate.G1),
        (T, Op.ADVANCE): (B, Gate.G2),
        (B, Op.ADVANCE): (H, Gate.G3),
        (H, Op.FOSSILIZE): (F, Gate.G5),
        (B, Op.SET_ALPHA_TARGET): (B, None),
        (H, Op.SET_ALPHA_TARGET): (B, None),
        **{(stage, Op.PRUNE): (P, None) for stage in (G, T, B, H)},
    }
    assert {(row.source, row.op): (row.target, row.gate) for row in TRANSITIONS} == expected
    assert len(TRANSITIONS) == len(expected)
    for stage in Stage:
        for op in list(Op)[1:]:
            assert NEXT[stage, op] == expected.get((stage, op), (ILLEGAL,))[0]
    assert list(NEXT[:, Op.WAIT]) == list(Stage)
    assert [Stage(s).name for s in np.flatnonzero(HAS_MODULE)] == list(PRESENT)
    names = [(a.name, b.name) for a, b in COOL_DOWN]
    assert names == [("PRUNED", "EMBARGOED"), ("EMBARGOED", "RESETTING"), ("RESETTING", "DORMANT")]


def test_after_a_prune_the_slot_can_be_planted_again_eight_steps_later() -> None:
    env = rules_only()
    env.reset(seed=0)
    germinate = encode(Op.GERMINATE, slot=1, blueprint=2)
    play(env, [germinate, WAIT])
    prune = encode(Op.PRUNE, slot=1)
    stages = []
    for action in [prune, *[WAIT] * 7]:
        assert not env._masks.op_slot[0, Op.GERMINATE, 1]
        stages += [Stage(play(env, [action])[0].stage[0, 1]).name]
    assert stages == ["PRUNED", *["EMBARGOED"] * 5, "RESETTING", "DORMANT"]
    assert play(env, [germinate])[0].stage[0, 1] == Stage.GERMINATED
    assert env._state.slots.planting[0, 1] == 2


def test_a_ramp_ticks_in_the_step_that_starts_it_and_clocks_from_the_next() -> None:
    env = rules_only()
    env.reset(seed=0)
    seen = play(env, GROW)
    assert [s.stage[0, 0] for s in seen] == [1, 2, 2, 2, 2, 3, 3, 3, 4]
    assert [s.epochs_in_stage[0, 0] for s in seen] == [0, 0, 1, 2, 3, 0, 1, 2, 0]
    assert [s.age[0, 0] for s in seen] == list(range(9))
    assert [s.alpha[0, 0] for s in seen] == pytest.approx([0, 0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1])
    assert seen[7].alpha[0, 0] == 1.0


@pytest.mark.parametrize("style", Style)
def test_the_first_ramp_takes_the_chosen_tempo_to_the_chosen_target(style: Style) -> None:
    for tempo, epochs in enumerate((3, 5, 8)):
        env = shared(1)
        env.reset(seed=0)
        germinate = encode(Op.GERMINATE, slot=0, blueprint=1, style=style, tempo=tempo, alpha_target=1)
        seen = play(env, [germinate, *GROW[1:6], *[WAIT] * epochs])
        name = "SIGMOID" if style == Style.SIGMOID_ADD else "LINEAR"
        expected = [0.7 * curve(name, min(1, n / epochs)) for n in range(1, epochs + 2)]
        assert [s.alpha[0, 0] for s in seen[5:]] == pytest.approx(expected, abs=1e-12)
        assert seen[-1].stage[0, 0] == Stage.BLENDING
        assert not env._masks.op_slot[0, Op.ADVANCE, 0], "alpha rests at 0.7, not at 1"


def test_instant_retarget_and_prune_take_effect_in_the_same_step() -> None:
    env = rules_only()
    env.reset(seed=0)
    play(env, GROW)
    slots = play(env, [encode(Op.SET_ALPHA_TARGET, slot=0, alpha_target=0, alpha_speed=0)])[0]
    assert (slots.stage[0, 0], slots.alpha[0, 0], slots.ramp[0, 0]) == (Stage.BLENDING, 0.5, 0)
    slots = play(env, [encode(Op.PRUNE, slot=0, alpha_speed=0)])[0]
    assert (slots.stage[0, 0], slots.alpha[0, 0], slots.module_params[0, 0]) == (Stage.PRUNED, 0, 0)
    assert slots.alpha_velocity[0, 0] == -0.5


def test_a_fading_prune_cannot_be_recalled_and_ends_in_pruned() -> None:
    env = rules_only()
    env.reset(seed=0)
    play(env, GROW)
    alphas = []
    for action in [encode(Op.PRUNE, slot=0, alpha_speed=1), WAIT]:
        slots = play(env, [action])[0]
        alphas += [slots.alpha[0, 0]]
        assert slots.stage[0, 0] == Stage.BLENDING
        assert list(env._masks.op_slot[0, 1:, 0]) == [0] * 5
    assert alphas == pytest.approx([2 / 3, 1 / 3])
    assert play(env, [WAIT])[0].stage[0, 0] == Stage.PRUNED


@pytest.mark.parametrize("name", [c.name for c in Curve])
def test_curves_are_the_logistic_and_cosine_of_another_library(name: str) -> None:
    t = np.linspace(0, 1, 101)
    values = progress(np.full(101, Curve[name], dtype=np.int8), t, (6.0, 12.0, 24.0))
    assert values == pytest.approx([curve(name, x) for x in t], abs=1e-14)
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert (np.diff(values) > 0).all()
