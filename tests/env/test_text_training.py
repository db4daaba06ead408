"""Training and measuring language hosts is plain: the same losses, weights and gradients as by formulas."""

import math

import numpy as np
import pytest
import torch
from engines import ENGINES
from lives import play
from plain import WAIT, same, weights
from scipy.special import expit
from texts import ATTENTION, MLP, VALIDATION, Twin, grow, mean_loss, memory, started, texts
from torch import nn

from esper_env import EsperVectorEnv, Op, Stage, Style, encode
from esper_env.engine.life import Life
from esper_env.engine.optimizer import GradientMeter

DOUBLE = {"engine.precision": "float64", "record.ratio_memory": 0.0, "engine.optimizer.clip_norm": 0.9}
"""In the middle of the norms here, so that some gradients are clipped and some are not."""


def close(first: nn.Module, second: nn.Module) -> None:
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_training_a_host_is_adamw_by_its_formula_over_its_shuffled_windows() -> None:
    env, life = started(seed=7, overrides=DOUBLE)
    twin, norms = Twin(env, largest=0.9), []
    for _ in range(4):  # the third epoch begins the second permutation
        twin.epoch()
        info = env.step(WAIT[None])[-1]
        close(life.model.host, twin.host)
        assert info["train_loss"][0] == pytest.approx(np.mean(twin.losses), rel=1e-9)
        norms += [float(np.linalg.norm(batch)) for batch in twin.norms[-1]]
    assert min(norms) < 0.9 < max(norms)


@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("blueprint", [ATTENTION, MLP])
def test_training_a_grown_network_is_a_plain_loop(style: Style, blueprint: int) -> None:
    env, life = started(seed=7, overrides=DOUBLE)
    twin = Twin(env, largest=0.9)
    script = grow(1, style, blueprint)
    play(env, script[:1])
    twin.epoch()
    twin.adopt(1)
    for action in script[1:5]:
        twin.epoch({1: 0.0}, isolated=True)
        play(env, [action])
        check(env, life, twin)
    if style == Style.GATED:
        twin.add_gate(1)
    fossilize = encode(Op.FOSSILIZE, slot=1)
    for action, time in zip([*script[5:], fossilize, WAIT], (1 / 3, 2 / 3, 1, 1, 1, 1), strict=True):
        low, way, high = expit(-6), expit(12 * (time - 0.5)), expit(6)
        twin.epoch({1: (way - low) / (high - low) if style == Style.SIGMOID_ADD else time}, style)
        play(env, [action])
        check(env, life, twin)


def check(env: EsperVectorEnv, life: Life, twin: Twin) -> None:
    """Weights, and the root mean square norms of gradients over the epoch's batches, before clipping."""
    slots = env._state.slots
    close(life.model.host, twin.host)
    close(life.model.grafts[1], twin.modules[1])
    if slots.stage[0, 1] == Stage.FOSSILIZED:
        return
    rms = {part: np.sqrt(np.mean(np.square(norms), axis=0)) for part, norms in twin.norms.items()}
    size = {part: np.linalg.norm(norms) for part, norms in rms.items()}
    ratio = size[1] / size[-1] * np.sqrt(env.facts.host_params / slots.params[0, 1])
    assert slots.gradient_norm[0, 1] == pytest.approx(size[1], rel=1e-6)
    assert slots.gradient_ratio[0, 1] == pytest.approx(min(ratio, 10), rel=1e-6)
    assert slots.gradient_health[0, 1] == 1


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rates_warm_up_over_the_batches_of_a_life_those_of_modules_too(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    overrides = {"engine.optimizer.lr_schedule": schedule, "engine.optimizer.module_lr": 3e-3}
    env, life = started(horizon=4, overrides=overrides)
    update = life._update

    def watched(meter: GradientMeter, optimizers: list[torch.optim.Optimizer]) -> None:
        rates = [group["lr"] for each in optimizers for group in each.param_groups]
        seen.append((float(optimizers is life.planted[0].optimizers), *set(rates)))
        update(meter, optimizers)

    monkeypatch.setattr(life, "_update", watched)
    play(env, [encode(Op.GERMINATE, slot=0, blueprint=MLP), encode(Op.ADVANCE, slot=0)])
    annealed = [0.5 + 0.5 * math.cos(math.pi * epoch / 4) if schedule == "cosine" else 1 for epoch in (0, 1)]
    factors = [min(1, (batch + 1) / 6) * annealed[batch // 4] for batch in range(8)]
    expected = [(0.0, 1e-3 * factor) for factor in factors[:4]]
    for factor in factors[4:]:
        expected += [(0.0, 1e-3 * factor), (1.0, 3e-3 * factor)]
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


def test_only_the_hosts_matrices_decay() -> None:
    """Without gradients, weights move by nothing but their decay."""
    _, life = started(overrides={"engine.optimizer.warmup_steps": 0})
    before = {name: p.detach().clone() for name, p in life.model.host.named_parameters()}
    for parameter in life.model.host.parameters():
        parameter.grad = torch.zeros_like(parameter)
    life._host_optimizer.step()
    for name, parameter in life.model.host.named_parameters():
        kept = 1 - 1e-3 * 0.1 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * kept, rtol=1e-7, atol=0, msg=name)
    assert sum(p.dim() == 2 for p in before.values()) == 2 + 3 * 4


@pytest.mark.parametrize("engine", ENGINES)
def test_every_window_counts_the_same_and_there_is_no_accuracy(engine: str) -> None:
    env, _ = started(horizon=6, engine=engine)
    play(env, grow(0)[:5])
    info = env.step(WAIT[None])[-1]
    assert info["val_loss"][0] == pytest.approx(mean_loss(env, "validation", VALIDATION), rel=1e-6)
    assert info["harvest_loss"][0] == pytest.approx(mean_loss(env, "validation", VALIDATION), rel=1e-6)
    assert info["test_loss"][0] == pytest.approx(mean_loss(env, "test", 40), rel=1e-6)
    assert env._engine.life(0).planted == {}
    for name in ("val_accuracy", "harvest_accuracy", "test_accuracy"):
        assert np.isnan(info[name][0])
        assert not info[f"_{name}"][0]


def test_the_return_is_the_share_of_the_chance_loss_that_was_won() -> None:
    env = texts(horizon=5)
    env.reset(seed=3)
    steps = [env.step(WAIT[None])[-1] for _ in range(5)]
    won = sum(float(info["reward_terms"][name][0]) for info in steps for name in ("quality", "harvest"))
    size = env._engine._setup.loaded_task.num_classes
    assert won == pytest.approx(100 * (1 - steps[-1]["harvest_loss"][0] / math.log(size)), rel=1e-6)
    assert won > 0.5, "it learns"


@pytest.mark.parametrize("engine", ENGINES)
def test_contributions_are_those_of_switching_modules_off_on_the_first_windows(engine: str) -> None:
    env = texts(horizon=30, engine=engine)
    env.reset(seed=2)
    first, second = grow(0, Style.GATED, ATTENTION), grow(2, Style.LINEAR_MULTIPLY, MLP)
    play(env, [action for pair in zip(first, second, strict=True) for action in pair])
    chance, worth = env.facts.chance_loss, env.attribution()
    off = {s: mean_loss(env, "validation", 32, frozenset(s)) for s in [(), (0,), (2,), (0, 2)]}
    points = {s: 100 * (1 - loss / chance) for s, loss in off.items()}
    assert worth["contribution"][0, 0] == pytest.approx(points[()] - points[0,], abs=1e-4)
    assert worth["contribution"][0, 2] == pytest.approx(points[()] - points[2,], abs=1e-4)
    both = points[()] - points[0,] - points[2,] + points[0, 2]
    assert worth["interaction"][0, 0, 2] == pytest.approx(both, abs=1e-4)
    assert np.nanmin(abs(worth["contribution"][0])) > 1e-3


def test_while_alpha_falls_weights_and_moments_rest_and_the_host_goes_on() -> None:
    env, life = started()
    play(env, grow(0, Style.GATED, ATTENTION))
    planted = life.planted[0]

    def state() -> list[torch.Tensor]:
        remembered = [v.clone() for o in planted.optimizers for s in o.state.values() for v in s.values()]
        return weights(planted.graft) + remembered

    before, host = state(), weights(life.model.host)
    assert len(before) == 4 * (4 + 4)
    for action in (encode(Op.SET_ALPHA_TARGET, slot=0, alpha_target=0, alpha_speed=1), WAIT):
        play(env, [action])
        assert same(state(), before)
        assert not any(torch.equal(a, b) for a, b in zip(weights(life.model.host), host, strict=True))
    play(env, [WAIT])
    assert not any(torch.equal(a, b) for a, b in zip(state(), before, strict=True))


def test_every_module_has_an_optimizer_of_its_own_that_begins_at_birth() -> None:
    env, life = started()
    play(env, [*grow(0)[:3]])
    steps = {int(state["step"]) for state in life.planted[0].optimizers[0].state.values()}
    assert steps == {2 * 4}, "two epochs of TRAINING"
    assert {int(state["step"]) for state in life._host_optimizer.state.values()} == {3 * 4}
    play(env, [encode(Op.PRUNE, slot=0), *[WAIT] * 7, encode(Op.GERMINATE, slot=0, blueprint=MLP)])
    assert not life.planted[0].optimizers[0].state


def test_fossilizing_at_full_alpha_changes_no_bit() -> None:
    for style in Style:
        env, life = started()
        play(env, grow(1, style, ATTENTION))
        x, _ = env._engine._setup.loaded_task.validation.windows(torch.arange(4))
        before = life.model.eval()(x), life.measure([]).validation[0]
        slots = env._state.slots.copy()
        slots.stage[0, 1] = Stage.FOSSILIZED
        life.sync(slots, 0)
        assert life.fossils == [1]
        assert torch.equal(life.model.eval()(x), before[0]), style
        assert torch.equal(life.measure([]).validation[0], before[1])


def test_planting_and_pruning_in_isolation_leaves_the_twin_that_was_never_planted() -> None:
    grown, life = started(3)
    alone, twin = started(3)
    script = [encode(Op.GERMINATE, slot=s, blueprint=b, style=3) for s, b in ((0, 12), (1, 2), (2, 9))]
    script += [encode(Op.ADVANCE, slot=s) for s in range(3)] + [WAIT] * 2
    script += [encode(Op.PRUNE, slot=s) for s in range(3)] + [WAIT]
    for action in script:
        info, expected = (env.step(a[None])[-1] for env, a in ((grown, action), (alone, WAIT)))
        assert info["action_valid"][0]
        for name in ("val_loss", "train_loss"):
            assert info[name].tobytes() == expected[name].tobytes(), name
        assert same(weights(life.model.host), weights(twin.model.host))
    assert same(memory(life), memory(twin))
