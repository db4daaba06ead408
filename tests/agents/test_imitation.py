"""A policy that imitates plans: what it is told is what they play, and in the end it plays it itself."""

import json

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from test_start import run, weights

from esper_agents.baselines import baseline
from esper_agents.baselines.moves import germinate
from esper_agents.baselines.random import RandomAgent
from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.config import build
from esper_agents.dry_run import dry_run
from esper_agents.ppo.build import make_learner
from esper_agents.ppo.player import PpoAgent
from esper_agents.ppo.teacher import Teacher
from esper_agents.ppo_config import OwnPpoConfig
from esper_agents.train import train
from esper_env import EsperVectorEnv, Head, Op, Stage, encode

PLANS = (
    ScheduleConfig(blueprint="norm", spacing=2, alpha_target="HALF", rest=1, tempo="FAST"),
    ScheduleConfig(blueprint="conv_light", slots=(1,), start=1, style="SIGMOID_ADD"),
)


def make(num_envs=4, horizon=20, **settings):
    mode = AutoresetMode.SAME_STEP
    return EsperVectorEnv(num_envs, "micro", engine="null", horizon=horizon, autoreset_mode=mode, **settings)


def steps_of(envs, agent, count, seeds):
    """(obs, info, actions, ended) of each step; an agent's memory begins anew where an episode ends."""
    obs, info = envs.reset(seed=list(seeds))
    alone = [agent.begin([seed]) for seed in seeds]
    for _ in range(count):
        played = [
            agent.act(obs[env : env + 1], {k: v[env : env + 1] for k, v in seen(info).items()}, memory)
            for env, memory in enumerate(alone)
        ]
        actions = np.concatenate([own for own, _ in played])
        before, was = info, obs
        obs, _, terminated, truncated, info = envs.step(actions)
        ended = terminated | truncated
        alone = [agent.begin([0]) if over else own for (_, own), over in zip(played, ended, strict=True)]
        yield was, before, actions, ended


def seen(info):
    return {name: info[name] for name in ("op_slot_mask", "blueprint_slot_mask")}


def test_a_teacher_says_what_its_plans_play_through_ends_of_episodes():
    envs = make(4, compute_budget=[1, 1, 3, 3], param_budget=3)
    for number, plan in enumerate(PLANS):
        teacher, ops = Teacher((PLANS[0], PLANS[1]), envs), []
        block = slice(2 * number, 2 * number + 2)
        for obs, info, actions, ended in steps_of(envs, ScheduleAgent.of(plan, envs), 45, range(4)):
            np.testing.assert_array_equal(teacher.advise(obs, info)[block], actions[block])
            teacher.follow(info, actions, ended)
            ops += actions[block, Head.OP].tolist()
        assert ops.count(Op.GERMINATE) >= 4, "two episodes were begun at least"
        assert Op.FOSSILIZE in ops


def test_whoever_plays_is_told_legal_actions_and_no_slot_is_planted_twice():
    envs = make(8, param_budget=3, strict_actions=True)
    teacher, planted = Teacher(PLANS, envs), np.zeros((8, envs.layout.num_slots), dtype=bool)
    told = 0
    for obs, info, actions, ended in steps_of(envs, RandomAgent(envs.layout, 3), 60, range(8)):
        for env, advice in enumerate(teacher.advise(obs, info)):
            op, slot = advice[Head.OP], advice[Head.SLOT]
            if op != Op.WAIT:
                assert info["op_slot_mask"][env, op, slot] == 1
            if op == Op.GERMINATE:
                told += 1
                assert info["blueprint_slot_mask"][env, slot, advice[Head.BLUEPRINT]] == 1
                assert not planted[env, slot]
            if actions[env, Head.OP] == Op.GERMINATE:
                planted[env, actions[env, Head.SLOT]] = True
            if actions[env, Head.OP] == Op.PRUNE:
                planted[env, actions[env, Head.SLOT]] = False
        teacher.follow(info, actions, ended)
        planted[ended] = False
    assert told > 20


@pytest.mark.parametrize("target", ["HALF", "MOST"])
def test_a_module_that_another_left_halfway_is_raised_and_what_it_pruned_planted_again(target):
    """Whatever the pupil did, following the plan from there on ends with the plan's module in its slot."""
    plan = ScheduleConfig(blueprint="conv_light", slots=(1,), tempo="FAST", speed="FAST")
    envs = make(1, horizon=60, strict_actions=True)
    teacher, ops = Teacher([plan], envs), []
    obs, info = envs.reset(seed=[0])
    for step in range(59):
        actions = teacher.advise(obs, info)
        if step == 0:
            kind = actions[0, Head.BLUEPRINT]
            actions = np.array([germinate(1, kind, "LINEAR_ADD", "FAST", target)])
        elif Op.SET_ALPHA_TARGET in ops and Op.PRUNE not in ops and info["op_slot_mask"][0, Op.PRUNE, 1]:
            actions = np.array([encode(Op.PRUNE, slot=1)])
        teacher.follow(info, actions, np.zeros(1, dtype=bool))
        ops.append(Op(actions[0, Head.OP]))
        obs, *_, info = envs.step(actions)
    assert ops.count(Op.GERMINATE) == 2
    assert ops.index(Op.SET_ALPHA_TARGET) < ops.index(Op.PRUNE) < ops.index(Op.GERMINATE, 1)
    assert envs._state.slots.stage[0].tolist() == [Stage.DORMANT, Stage.FOSSILIZED, Stage.DORMANT]


def test_a_policy_learns_the_plan_of_each_budget():
    envs = make(16, horizon=12, param_budget=np.repeat([1.5, 3.0], 8).tolist())
    plans = (PLANS[1], ScheduleConfig(blueprint="conv_heavy", tempo="FAST"))
    settings = {"policy_weight": 0, "imitation": 1, "target_kl": None, "entropy": 0, "learning_rate": 3e-3}
    config = OwnPpoConfig(memory_size=32, hidden_size=32, **settings)
    own = make_learner(envs, config, seed=0)
    own.teacher = Teacher(plans, envs)
    figures = [own.round() for _ in range(70)]
    assert figures[0]["train/imitation_loss"] > 1
    assert figures[-1]["train/imitation_loss"] < 0.1
    teacher = Teacher(plans, envs)
    played = list(steps_of(envs, PpoAgent(own.policy, "pupil", deterministic=True), 12, range(90, 106)))
    for obs, info, actions, ended in played:
        np.testing.assert_array_equal(actions, teacher.advise(obs, info))
        teacher.follow(info, actions, ended)
    planted = np.stack([actions[actions[:, Head.OP] == Op.GERMINATE].shape[0] for _, _, actions, _ in played])
    assert planted.sum() >= 16, "each environment planted at least once"


def test_a_teacher_alone_changes_no_gradient():
    """Of a run without imitation: what is told is noted beside what is played."""
    policies = []
    for taught in (False, True):
        own = make_learner(make(), OwnPpoConfig(memory_size=8, hidden_size=8), seed=1)
        own.teacher = Teacher(PLANS, own.envs) if taught else None
        assert ("train/imitation_loss" in own.round()) is False
        policies.append(own.policy.state_dict())
    assert all(torch.equal(policies[0][name], policies[1][name]) for name in policies[0])


def test_a_taught_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tmp_path):
    taught = {
        "algo": "esper_ppo", "imitation": 1, "rounds_per_update": 2, "episode_length": 8,
        "teachers": [json.loads(plan.model_dump_json()) for plan in PLANS],
    }  # fmt: skip
    whole = weights(run(tmp_path / "whole", **taught, rounds=4))
    first = run(tmp_path / "parts", **taught, rounds=2)
    parts = weights(run(tmp_path / "parts", first, **taught, rounds=4))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


REFUSED = {
    "a weight without plans": ({"imitation": 1}, "imitation=1.0 with 0 teachers: both or none"),
    "plans without a weight": ({"teachers": [{}]}, "imitation=0 with 1 teachers: both or none"),
    "nothing to learn": ({"policy_weight": 0}, "policy_weight=0 without imitation"),
    "another algorithm": ({"teachers": [{}], "imitation": 1, "algo": "ppo"}, "not 'ppo' and 4"),
    "blocks of two sizes": ({"teachers": [{}] * 3, "imitation": 1}, "3 teachers: .* not 'esper_ppo' and 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_nobody_can_be_taught_is_refused(case):
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build({"env": "EsperMicro-v0", "algo": "esper_ppo", "num_envs": 4, **changes})


def test_a_plan_that_does_not_fit_the_host_is_refused():
    with pytest.raises(ValueError, match=r"blueprint: .*'nothing'.* not known"):
        Teacher((ScheduleConfig(blueprint="nothing"),), make())
    with pytest.raises(ValueError, match="3 teachers: they do not divide num_envs=4"):
        Teacher((PLANS[0],) * 3, make())


def test_a_plan_that_does_not_fit_a_later_instance_is_refused_before_the_run(tmp_path):
    hosts = {"overrides": {"host.name": "micro"}}, {"overrides": {"host.name": "gpt_micro"}}
    config = build({
        "env": "EsperMicro-v0", "algo": "esper_ppo", "num_envs": 2, "imitation": 1, "logdir": str(tmp_path),
        "teachers": [{"blueprint": "conv_light"}], "overrides": {"engine.name": "null"}, "instances": hosts,
    })  # fmt: skip
    for check in (dry_run, train):
        with pytest.raises(ValueError, match=r"conv_light.* fits no slot|conv_light"):
            check(config)
    assert not list(tmp_path.iterdir())


def test_a_plan_goes_on_from_what_another_played():
    """A slot that somebody else planted is not planted again, and the plan then cares for it."""
    envs = make(1, param_budget=3)
    agent, other = ScheduleAgent.of(PLANS[1], envs), baseline("schedule", envs, ScheduleConfig(slots=(1,)))
    memory, theirs, ops = agent.begin([0]), other.begin([0]), []
    obs, info = envs.reset(seed=[0])
    for step in range(20):
        actions, theirs = other.act(obs, info, theirs)
        advice = agent.advise(obs, info, memory)
        ops.append(int(advice[0, Head.OP]))
        played = actions if step == 0 else advice
        memory = agent.follow(info, memory, played)
        obs, _, _, _, info = envs.step(played)
    assert Op.GERMINATE not in ops[1:]
    assert Op.FOSSILIZE in ops
