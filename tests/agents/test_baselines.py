"""Baselines live by what is published: masks, info and the epoch of the observation."""

from typing import get_args

import gymnasium as gym
import numpy as np
import pytest

from esper_agents.baselines import BASELINES, RandomAgent, ScheduleConfig, baseline, moves
from esper_agents.baselines.side_by_side import SideBySide
from esper_agents.evaluate import evaluate
from esper_env import Curve, Head, Op, Stage, Style, encode
from esper_env.contracts.action import ALPHA_TARGETS, SPEEDS, TEMPOS


def make(num_envs=2, **settings):
    return gym.make_vec("EsperMicro-v0", num_envs=num_envs, **{"engine": "null", **settings})


def life(agent, env, steps, seed=0):
    """Actions (step, env, 8) and the stages (step, env, slot) seen after each."""
    obs, info = env.reset(seed=seed)
    memory, actions, stages = agent.begin([seed] * env.num_envs), [], []
    for _ in range(steps):
        action, memory = agent.act(obs, info, memory)
        obs, _, _, _, info = env.step(action)
        assert info["action_valid"].all()
        actions.append(action)
        stages.append(stage_of(obs, env))
    return np.array(actions), np.array(stages)


def stage_of(obs, env):
    parts = [obs[:, env.features[f"slot{slot}.stage"]] for slot in range(env.facts.num_slots)]
    present = [part.any(axis=1) for part in parts]
    return np.stack(
        [np.where(p, part.argmax(axis=1) + 1, 0) for p, part in zip(present, parts, strict=True)], axis=1
    )


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    "settings", [{}, {"gates": "strict"}, {"param_budget": 1.5}, {"auto_advance": ["G1"]}]
)
def test_no_baseline_ever_plays_an_illegal_action(name, settings):
    env = make(**settings)
    blueprint = ScheduleConfig(blueprint="norm")
    life(baseline(name, env, blueprint), env, env.config.horizon - 1)


def test_schedule_brings_every_slot_from_dormant_to_fossilized():
    env = make()
    _, stages = life(baseline("schedule", env), env, 29)
    for slot in range(env.facts.num_slots):
        visited = list(dict.fromkeys(stages[:, 0, slot].tolist()))
        assert [Stage(stage).name for stage in visited if stage] == [
            "GERMINATED",
            "TRAINING",
            "BLENDING",
            "HOLDING",
            "FOSSILIZED",
        ]


def test_schedule_plants_what_it_was_told_when_it_was_told():
    env = make()
    plan = ScheduleConfig(
        blueprint="attention", slots=(2, 0), epochs=(4, 9), style="GATED", tempo="SLOW", fossilize=False
    )
    actions, stages = life(baseline("schedule", env, plan), env, 29)
    planted = {int(a[Head.SLOT]): (t, a) for t, a in enumerate(actions[:, 1]) if a[Head.OP] == Op.GERMINATE}
    assert {slot: t for slot, (t, _) in planted.items()} == {2: 4, 0: 9}
    names = env.facts.blueprints
    for _, action in planted.values():
        assert names[action[Head.BLUEPRINT]] == "attention"
        assert action[Head.STYLE] == 3
        assert action[Head.TEMPO] == 2
    assert not (stages == Stage.FOSSILIZED).any()
    assert (stages[:, :, 1] == Stage.DORMANT).all()


def test_schedule_does_not_plant_again_where_a_module_was_removed():
    env = make(num_envs=1)
    agent = baseline("schedule", env, ScheduleConfig(slots=(0,)))
    obs, info = env.reset(seed=0)
    memory = agent.begin([0])
    action, memory = agent.act(obs, info, memory)
    assert action[0, Head.OP] == Op.GERMINATE
    again, _ = agent.act(obs, info, memory)
    assert again[0, Head.OP] == Op.WAIT


def test_a_schedule_plants_a_blueprint_of_its_own_in_each_slot():
    env = make()
    plan = ScheduleConfig(blueprints=("norm", "attention"), slots=(2, 0))
    actions, _ = life(baseline("schedule", env, plan), env, 5)
    planted = [(a[Head.SLOT], env.facts.blueprints[a[Head.BLUEPRINT]]) for a in actions[:2, 0]]
    assert planted == [(2, "norm"), (0, "attention")]


@pytest.mark.parametrize(
    ("target", "rest", "speed", "alphas"),
    [
        # Blending begins in step 5; tempo FAST is 3 epochs, speed MEDIUM 5.
        ("FULL", 4, "MEDIUM", [1 / 3, 2 / 3, 1, 1]),
        ("HALF", 0, "MEDIUM", [1 / 6, 1 / 3, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1]),
        ("HALF", 2, "FAST", [1 / 6, 1 / 3, 0.5, 0.5, 0.5, 2 / 3, 5 / 6, 1, 1]),
        ("MOST", 1, "INSTANT", [0.7 / 3, 1.4 / 3, 0.7, 0.7, 1, 1]),
    ],
)
def test_a_schedule_takes_alpha_to_1_on_the_way_it_was_told(target, rest, speed, alphas):
    env = make(num_envs=1)
    plan = ScheduleConfig(slots=(0,), alpha_target=target, rest=rest, speed=speed)
    agent = baseline("schedule", env, plan)
    obs, info = env.reset(seed=0)
    memory, seen, ops = agent.begin([0]), [], []
    for _ in range(20):
        action, memory = agent.act(obs, info, memory)
        obs, _, _, _, info = env.step(action)
        assert info["action_valid"].all()
        seen.append(obs[0, env.features["slot0.alpha"].start])
        ops.append(Op(action[0, Head.OP]))
    np.testing.assert_allclose(seen[5 : 5 + len(alphas)], alphas, atol=1e-6)
    assert seen[4] == 0
    assert ops.count(Op.SET_ALPHA_TARGET) == (target != "FULL")
    assert ops.count(Op.FOSSILIZE) == 1


def test_a_second_ramp_has_the_curve_it_was_told():
    env = make(num_envs=1)
    plan = ScheduleConfig(slots=(0,), alpha_target="HALF", speed="SLOW", curve="SIGMOID_SHARP")
    actions, _ = life(baseline("schedule", env, plan), env, 12)
    [sent] = actions[actions[:, 0, Head.OP] == Op.SET_ALPHA_TARGET]
    expected = encode(Op.SET_ALPHA_TARGET, slot=0, alpha_target=2, alpha_speed=3, alpha_curve=4)
    np.testing.assert_array_equal(sent[0], expected)


def test_names_stand_for_the_values_of_their_heads():
    names = ((moves.TempoName, TEMPOS), (moves.TargetName, ALPHA_TARGETS), (moves.SpeedName, SPEEDS))
    for ours, theirs in names:
        assert get_args(ours) == theirs
    assert get_args(moves.StyleName) == tuple(Style.__members__)
    assert get_args(moves.CurveName) == tuple(Curve.__members__)


def test_side_by_side_everyone_plays_as_if_alone():
    plans = [
        ScheduleConfig(slots=(1,), start=3),
        ScheduleConfig(blueprint="norm"),
        ScheduleConfig(fossilize=False),
    ]
    env, seeds = make(num_envs=4), [5, 6, 7, 8]
    agents = [*(baseline("schedule", env, plan) for plan in plans), RandomAgent(env.layout)]
    together = evaluate(SideBySide(agents), env, seeds)
    for agent, seed, episode in zip(agents, seeds, together.episodes, strict=True):
        assert evaluate(agent, make(num_envs=1), [seed]).episodes == [episode]
    with pytest.raises(ValueError, match="shorter"):
        SideBySide(agents).begin([1, 2])


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"blueprint": "convy"}, "convy"),
        ({"blueprint": "noop"}, "noop"),
        ({"slots": (0, 3)}, r"\[3\]"),
        ({"epochs": (1, 2)}, "epochs"),
        ({"blueprints": ("norm", "convy", "norm")}, "convy"),
        ({"blueprints": ("norm", "attention")}, "2 entries for 3 slots"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_name(plan, named):
    with pytest.raises(ValueError, match=named):
        baseline("schedule", make(), ScheduleConfig(**plan))


def test_random_draws_ops_evenly_among_the_legal_ones():
    env = make(num_envs=1)
    agent = RandomAgent(env.layout)
    obs, info = env.reset(seed=0)
    memory = agent.begin([0])
    ops = [int(agent.act(obs, info, memory)[0][0, Head.OP]) for _ in range(2000)]
    # Only WAIT and GERMINATE are legal at first: 2000 fair draws, 4.5 standard deviations.
    assert set(ops) == {Op.WAIT, Op.GERMINATE}
    assert abs(ops.count(Op.WAIT) - 1000) < 100


def test_random_plays_an_episode_alike_whatever_is_played_beside_it():
    alone = evaluate(RandomAgent(make().layout), make(num_envs=1), [3])
    beside = evaluate(RandomAgent(make().layout), make(num_envs=3), [1, 2, 3])
    assert alone.episodes[0] == beside.episodes[2]
    assert beside.episodes[0].ops != beside.episodes[1].ops


def test_an_unknown_baseline_is_refused_by_name():
    with pytest.raises(ValueError, match="greedy"):
        baseline("greedy", make())
