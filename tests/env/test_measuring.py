"""What the engines measure: contributions, harvests and costs, against counts made by hand."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from engines import ENGINES
from lives import GROW, play
from plain import WAIT, accuracy, begun, grow, same, started, task_of, tiny, trajectory
from torch import nn

from esper_env import REWARD_MODES, HostFacts, Op, StepChange, Style, encode, register_reward_term
from esper_env.engine import evaluate, setup
from esper_env.engine import life as life_module
from esper_env.engine.life import Life
from esper_env.mdp.prices import OWN_TERMS
from esper_env.tasks.task import ImageTask, Split


@pytest.mark.parametrize("engine", ENGINES)
def test_a_contribution_is_the_accuracy_with_less_that_without_on_the_same_samples(
    engine: str,
) -> None:
    env = begun(2, engine)
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
        assert not slots.contribution_age[0, [0, 2]].any()
        assert 100 * env._state.val_accuracy[0] == pytest.approx(
            accuracy(env, task_of(env).validation, alphas)
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_harvest_keeps_the_fossils_and_the_norm_statistics_and_measures_what_is_left(engine: str) -> None:
    env, unended = begun(4, engine, horizon=13), begun(4, engine, horizon=14)
    script = [*GROW, encode(Op.FOSSILIZE, slot=0)]
    script += [encode(Op.GERMINATE, slot=1, blueprint=7), encode(Op.GERMINATE, slot=2, blueprint=1)]
    play(env, script)
    play(unended, [*script, WAIT])
    assert sorted(env._engine.life(0).planted) == [0, 1, 2]
    info = env.step(WAIT[None])[-1]
    life, twin = env._engine.life(0), unended._engine.life(0)
    assert sorted(life.planted) == [0]
    assert [g is not None for g in life.model.grafts] == [True, False, False]
    assert same(list(life.model.host.buffers()), list(twin.model.host.buffers()))
    for name, split in (("harvest_accuracy", task_of(env).validation), ("test_accuracy", task_of(env).test)):
        assert 100 * info[name][0] == pytest.approx(accuracy(env, split, {0: 1.0}))
    assert info["param_ratio"][0] == pytest.approx(1 + 152 / 1102)
    spent = env._state.train_flops[0] / (13 * 128 * 276_960)
    assert 1 < spent == pytest.approx(info["flops_ratio"][0])
    assert info["reward_terms"]["harvest"][0] == pytest.approx(
        100 * (info["harvest_accuracy"][0] - env._state.quality[0])
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_the_harvest_of_a_live_module_takes_its_contribution_away(engine: str) -> None:
    env = begun(4, engine, horizon=10)
    play(env, GROW)
    info = env.step(WAIT[None])[-1]
    assert 100 * info["harvest_accuracy"][0] == pytest.approx(accuracy(env, task_of(env).validation, {}))
    assert info["param_ratio"][0] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_flops_of_every_stage_are_those_counted_by_hand(engine: str) -> None:
    env = begun(0, engine)
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


@pytest.mark.parametrize("engine", ENGINES)
def test_measuring_is_reported_apart_the_whole_and_what_is_behind_each_module_again(
    engine: str,
) -> None:
    env = begun(0, engine)
    behind = 36_864 + 18_432 + 160
    forward, branch = 55_296 + behind, 2 * 16 * 16 * 4 * 4 * 9
    spent = variants = 0.0
    for index, action in enumerate(GROW):
        play(env, [action])
        live = index >= 5
        state = env._state
        assert state.counterfactual_flops[0] - variants == live * 64 * behind
        assert state.measure_flops[0] - spent == 128 * (forward + live * branch) + live * 64 * behind
        spent, variants = state.measure_flops[0], state.counterfactual_flops[0]


@pytest.mark.parametrize("size", [50, 64, 128])
def test_variants_are_plain_passes_over_the_first_samples_and_validation_is_not_changed_by_them(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small that the sizes end within a batch.
    monkeypatch.setattr(evaluate, "evaluation_batches", partial(evaluate.evaluation_batches, batch_size=30))
    env, life = started(2, horizon=40)
    play(env, grow(0, Style.LINEAR_MULTIPLY, 7))
    play(env, [encode(Op.FOSSILIZE, slot=0), *grow(2)])
    play(env, grow(1, Style.GATED))
    task = task_of(env)
    assert life.live == [1, 2]
    whole = evaluate.measure(life.model, task, (1, 2), (), size)
    asked = [0b110, -1, 0b100, 0b010, 0]
    measured = evaluate.measure(life.model, task, (1, 2), asked, size)
    assert torch.equal(measured.validation, whole.validation)
    assert whole.subsets.shape == (2, 0)
    for subset, found in zip(asked, measured.subsets.T, strict=True):
        off = frozenset(slot for slot in (1, 2) if not subset >> slot & 1)
        losses, correct = evaluate.predict(life.model, task, task.validation, size, off)
        expected = [losses.double().mean(), correct.double().mean()] if subset >= 0 else [math.nan] * 2
        assert found.tolist() == pytest.approx([float(e) for e in expected], rel=1e-12, nan_ok=True)
    expected = [float(each.double().mean()) for each in evaluate.predict(life.model, task, task.validation)]
    assert whole.validation.tolist() == pytest.approx(expected, rel=1e-6)


def test_an_engine_fills_a_column_for_every_subset_of_every_environment_that_played() -> None:
    env = tiny(3)
    env.reset(seed=4)
    still, script = np.tile(WAIT, (len(grow(1)), 1)), np.stack(grow(1))
    for actions in zip(script, still, script, strict=True):
        env.step(np.stack(actions))
    engine, playing = env._engine, np.array([True, True, False])
    engine.epoch(playing)
    stats = engine.evaluate(playing, np.array([[2, 0], [-1, -1], [2, 0]]))
    measured = ~np.isnan([stats.subset_loss, stats.subset_accuracy])
    assert (measured == np.array([[True, True], [False, False], [False, False]])).all()
    assert (~np.isnan([stats.val_loss, stats.train_loss]) == playing).all()
    assert stats.finite.tolist() == playing.tolist()
    task = task_of(env)
    for column, off in enumerate(((), (1,))):
        losses, correct = evaluate.predict(engine.life(0).model, task, task.validation, 64, frozenset(off))
        assert stats.subset_loss[0, column] == pytest.approx(float(losses.double().mean()), rel=1e-12)
        assert stats.subset_accuracy[0, column] == float(correct.double().mean())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_harvest_of_fossils_alone_has_the_quality_of_the_last_epoch_to_the_last_bit(engine: str) -> None:
    script = [*GROW, encode(Op.FOSSILIZE, slot=0), WAIT]
    env = begun(3, engine, horizon=len(script), overrides={"engine.counterfactual_size": 50})
    play(env, script[:-1])
    info = env.step(script[-1][None])[-1]
    assert info["harvest_loss"][0] == info["val_loss"][0]
    assert info["reward_terms"]["harvest"][0] == 0


def passes(part: Callable[[Life], torch.Tensor], steps: int, value: float) -> bool:
    """Whether the network counts as finite when, after so many steps, one value is this."""
    env, life = started()
    play(env, [*grow(0, Style.GATED), encode(Op.SET_ALPHA_TARGET, slot=0, alpha_speed=1)][:steps])
    tensor = part(life).data
    tensor[(-1,) * tensor.ndim] = value
    return bool(life._finite([]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_value_that_is_not_finite_is_seen_where_it_can_do_harm(value: float) -> None:
    def branch(life: Life) -> torch.Tensor:
        return next(life.planted[0].graft.branch.parameters())

    def gate(life: Life) -> torch.Tensor:
        assert life.planted[0].graft.gate is not None
        return next(life.planted[0].graft.gate.parameters())

    for host in ("segments.0.0.weight", "segments.6.linear.bias", "segments.4.1.running_var"):
        assert not passes(lambda life, name=host: life.model.host.state_dict()[name], 1, value), host
    assert passes(branch, 1, value), "GERMINATED: it is not in the graph"
    assert not passes(branch, 2, value), "TRAINING"
    assert not passes(gate, 9, value), "HOLDING"
    assert not passes(branch, 10, value), "alpha falls"
    assert passes(branch, 10, 3e38), "as large as they come, but finite"


def test_a_gradient_that_is_not_finite_in_one_batch_is_seen_though_the_weights_recover() -> None:
    """A norm that overflows: clipping makes zeros of the gradient."""
    for slot, bad in ((None, 0), (None, 1), (0, 0), (None, 2)):
        env, life = started()
        play(env, grow(0)[:3])
        part = life.model.host if slot is None else life.planted[slot].graft
        calls = itertools.count()

        def burst(gradient: torch.Tensor, calls: Any = calls, bad: int = bad) -> torch.Tensor:
            return torch.full_like(gradient, 1e30) if next(calls) == bad else gradient

        next(part.parameters()).register_hook(burst)
        trained, _ = life.train()
        assert next(calls) == 2
        assert all(value.isfinite().all() for value in life.model.state_dict().values())
        assert bool(trained[2]) == (bad == 2), (slot, bad)


def test_seconds_are_kept_apart_for_training_validation_and_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is the number of convolutions that ran."""
    ran = [0]

    def count(layer: nn.Module, *_: Any) -> None:
        ran[0] += isinstance(layer, nn.Conv2d)

    for module in (life_module, evaluate):
        monkeypatch.setattr(module, "perf_counter", lambda: float(ran[0]))
    env, _ = started(horizon=11)
    hook = nn.modules.module.register_module_forward_hook(count)
    expected = dict.fromkeys(("train_seconds", "validation_seconds", "counterfactual_seconds"), 0)
    for index, action in enumerate(GROW):
        play(env, [action])
        expected["train_seconds"] += 2 * (3 + (index > 0))
        expected["validation_seconds"] += 2 * (3 + (index >= 5))
        expected["counterfactual_seconds"] += 2 * (index >= 5)
        assert {name: value[0] for name, value in env._engine.seconds().items()} == expected
        assert expected.items() <= {name: value[0] for name, value in env.ledger().items()}.items()
    play(env, [WAIT, WAIT])
    env.reset(seed=0)
    hook.remove()
    assert set(env._engine.seconds()) == set(expected)
    assert not np.any(list(env._engine.seconds().values())), "a new episode"


@pytest.fixture
def _own_term() -> Iterator[None]:
    """A term that reads all qualities that a step knows of, forgotten after the test."""

    def won(change: StepChange, facts: HostFacts) -> np.ndarray:
        harvested = np.nan_to_num(change.harvested, nan=facts.chance_quality)
        return change.quality_after - change.quality_before + harvested

    kept = dict(OWN_TERMS)
    register_reward_term("won", won)
    yield
    OWN_TERMS.clear()
    OWN_TERMS.update(kept)


@pytest.mark.usefixtures("_own_term")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", REWARD_MODES)
def test_labels_of_the_test_split_reach_neither_observation_nor_reward(
    mode: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [*GROW, encode(Op.FOSSILIZE, slot=0)]
    ends, seen, load = [], [], setup.load_task

    def wrong(*arguments: Any) -> ImageTask:
        task = load(*arguments)
        return replace(task, test=Split(task.test.images, (task.test.labels + 1) % 10))

    for loader in (load, wrong):
        monkeypatch.setattr(setup, "load_task", loader)
        env = tiny(1, {"reward.own": {"won": 3.0}}, engine, horizon=len(script), reward=mode)
        seen.append(trajectory(env, [script[:-1]], seed=0))
        obs, reward, terminated, _, info = env.step(script[-1][None])
        assert terminated[0]
        terms = info["reward_terms"]
        assert terms["won"][0] != 0
        seen[-1].append([obs.tobytes(), reward.tobytes(), *(value.tobytes() for value in terms.values())])
        ends.append(float(info["test_accuracy"][0]))
    assert seen[0] == seen[1]
    assert ends[0] != ends[1]


def test_the_three_splits_share_no_image() -> None:
    task = task_of(tiny())
    images = torch.cat([split.images.flatten(1) for split in (task.train, task.validation, task.test)])
    assert len(images.unique(dim=0)) == len(images) == 512 + 128 + 128


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ledger_is_public_and_keeps_measuring_apart(engine: str) -> None:
    env = begun(3, engine)
    play(env, GROW[:2])
    ledger = env.ledger()
    assert ledger["params"][0] == 1102 + env.facts.module_params[0, 1]
    assert ledger["train_flops"][0] > 2 * 128 * env.facts.host_flops, "an isolated module trains too"
    # Two validations of 128 images through the host alone: the module is not live yet.
    assert ledger["measure_flops"][0] == 2 * 128 * sum(env._engine._setup.segment_flops)
    assert ledger["counterfactual_flops"][0] == 0
    assert env._engine.life(0).live == []
