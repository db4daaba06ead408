"""What the reference engine measures: contributions, harvests and costs, against counts made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lives import GROW, play
from plain import WAIT, accuracy, grow, same, started, task_of, tiny, trajectory

from esper_env import Op, Style, encode
from esper_env.engine import setup
from esper_env.tasks.task import ImageTask, Split


def test_a_contribution_is_the_accuracy_with_less_the_accuracy_without_on_the_same_samples() -> None:
    env, _ = started(2)
    play(env, grow(0, Style.LINEAR_MULTIPLY, 7))
    script = grow(2)
    play(env, script[:5])
    assert np.isnan(env._state.slots.contribution[0, 2]), "alpha is 0"
    few = Split(*(part[:64] for part in task_of(env).validation))
    for action in script[5:]:
        play(env, [action])
        slots = env._state.slots
        alphas = {s: float(slots.alpha[0, s]) for s in (0, 2)}
        full = accuracy(env, few, alphas)
        for slot, other in ((0, 2), (2, 0)):
            expected = full - accuracy(env, few, {other: alphas[other]})
            assert slots.contribution[0, slot] == pytest.approx(expected, abs=1e-9)
        assert 100 * slots.contribution_age[0, [0, 2]].sum() == 0
        assert 100 * env._state.val_accuracy[0] == pytest.approx(
            accuracy(env, task_of(env).validation, alphas)
        )


def test_harvest_keeps_the_fossils_and_the_norm_statistics_and_measures_what_is_left() -> None:
    env, life = started(4, horizon=13)
    unended, twin = started(4, horizon=14)
    script = [*GROW, encode(Op.FOSSILIZE, slot=0)]
    script += [encode(Op.GERMINATE, slot=1, blueprint=7), encode(Op.GERMINATE, slot=2, blueprint=1)]
    play(env, script)
    play(unended, [*script, WAIT])
    assert sorted(life.planted) == [0, 1, 2]
    info = env.step(WAIT[None])[-1]
    assert sorted(life.planted) == [0]
    assert [g is not None for g in life.model.grafts] == [True, False, False]
    assert same(list(life.model.host.buffers()), list(twin.model.host.buffers()))
    task = task_of(env)
    for name, split in (("harvest_accuracy", task.validation), ("test_accuracy", task.test)):
        assert 100 * info[name][0] == pytest.approx(accuracy(env, split, {0: 1.0}))
    assert info["param_ratio"][0] == pytest.approx(1 + 152 / 1102)
    spent = env._state.train_flops[0] / (13 * 128 * 276_960)
    assert info["flops_ratio"][0] == pytest.approx(spent)
    assert spent > 1
    assert info["reward_terms"]["harvest"][0] == pytest.approx(
        100 * (info["harvest_accuracy"][0] - env._state.quality[0])
    )


def test_the_harvest_of_a_live_module_takes_its_contribution_away() -> None:
    env, _ = started(4, horizon=10)
    play(env, GROW)
    info = env.step(WAIT[None])[-1]
    assert 100 * info["harvest_accuracy"][0] == pytest.approx(accuracy(env, task_of(env).validation, {}))
    assert info["param_ratio"][0] == 1


def test_flops_of_every_stage_are_those_counted_by_hand() -> None:
    env, _ = started()
    host = 2 * 55_296 + 3 * 36_864 + 3 * 18_432 + 3 * 160  # the first layer's input needs no gradient
    branch = 2 * 16 * 16 * 4 * 4 * 9
    prune = encode(Op.PRUNE, slot=0, alpha_speed=1)
    # GERMINATED does not run; TRAINING has no input gradient; a frozen branch no weight gradient.
    factors = [0, 2, 2, 2, 2, 3, 3, 3, 3, 2, 2, 0]
    spent = 0.0
    for action, factor in zip([*GROW, prune, WAIT, WAIT], factors, strict=True):
        play(env, [action])
        now = env._state.train_flops[0]
        assert now - spent == 128 * (host + factor * branch)
        spent = now


def test_measuring_is_reported_apart_whole_for_validation_and_once_more_without_each_live_module() -> None:
    env, _ = started()
    forward, branch = 55_296 + 36_864 + 18_432 + 160, 2 * 16 * 16 * 4 * 4 * 9
    spent = 0.0
    for index, action in enumerate(GROW):
        play(env, [action])
        live = index >= 5
        now = env._state.measure_flops[0]
        assert now - spent == 128 * (forward + live * branch) + live * 64 * forward
        spent = now


def test_labels_of_the_test_split_reach_neither_observation_nor_reward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = [*GROW, encode(Op.FOSSILIZE, slot=0)]
    ends, seen, load = [], [], setup.load_task

    def wrong(*arguments: Any) -> ImageTask:
        task = load(*arguments)
        return replace(task, test=Split(task.test.images, (task.test.labels + 1) % 10))

    for loader in (load, wrong):
        monkeypatch.setattr(setup, "load_task", loader)
        env = tiny(horizon=len(script))
        seen.append(trajectory(env, [script[:-1]], seed=0))
        obs, reward, terminated, _, info = env.step(script[-1][None])
        assert terminated[0]
        seen[-1].append([obs.tobytes(), reward.tobytes()])
        ends.append(float(info["test_accuracy"][0]))
    assert seen[0] == seen[1]
    assert ends[0] != ends[1]


def test_the_three_splits_share_no_image() -> None:
    task = task_of(tiny())
    images = torch.cat([split.images.flatten(1) for split in (task.train, task.validation, task.test)])
    assert len(images.unique(dim=0)) == len(images) == 512 + 128 + 128


def test_the_ledger_is_public_and_keeps_measuring_apart() -> None:
    env, life = started(3)
    play(env, GROW[:2])
    ledger = env.ledger()
    assert ledger["params"][0] == 1102 + env.facts.module_params[0, 1]
    assert ledger["train_flops"][0] > 2 * 128 * env.facts.host_flops, "an isolated module trains too"
    # Two validations of 128 images through the host alone: the module is not live yet.
    assert ledger["measure_flops"][0] == 2 * 128 * env._engine._setup.host_forward_flops
    assert life.live == []
