"""Baselines live by what is published: masks, info and the epoch of the observation."""

import gymnasium as gym
import numpy as np
import pytest

from esper_agents.baselines import BASELINES, RandomAgent, ScheduleConfig, baseline
from esper_agents.evaluate import evaluate
from esper_env import Head, Op, Stage


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


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"blueprint": "convy"}, "convy"),
        ({"blueprint": "noop"}, "noop"),
        ({"slots": (0, 3)}, r"\[3\]"),
        ({"epochs": (1, 2)}, "epochs"),
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
