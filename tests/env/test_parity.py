"""The fused engine is the reference engine: in float64 through whole lives, in float32 up to rounding."""

from typing import Any

import numpy as np
import pytest
from apart import agree, distances, moved, trained
from engines import FUSED
from parity import DOUBLE, EXACT, QUICK, Pair, lively, small
from plain import poison

from esper_env import Op, Stage, Style, encode
from esper_env.contracts.state import Ramp
from esper_env.engine.life import HOST
from esper_env.presets import stories

ADAM = {
    "engine.optimizer.host_optimizer": "adamw", "engine.optimizer.module_optimizer": "adamw",
    "engine.optimizer.host_lr": 0.005, "engine.optimizer.module_lr": 0.005,
    "engine.optimizer.warmup_steps": 7, "engine.optimizer.module_weight_decay": 0.1,
}  # fmt: skip

OWN = {
    f"engine.optimizer.{name}": getattr(stories().engine.optimizer, name)
    for name in ("host_lr", "module_lr", "warmup_steps", "clip_norm")
}
"""Rates, warm-up and clipping of EsperTinyStories, which the small texts here have others of."""
AUGMENTED = {"task.augment": True, "task.crop_padding": 1}
"""With a wider black border the reference engine is itself 1e-3 from a twin whose weights an ulp had moved,
in float64; presumably a host pools values that are equal to the bit, and rounding chooses among them."""
ONE_STEP = {"engine.epoch_size": 16}
"""A batch an epoch."""


def live(pair: Pair, steps: int, seed: int = 1) -> None:
    """Lively games, in which both sides agree after the first step, after the last, and at every end."""
    pair.reset(seed=3)
    for number, (first, second) in enumerate(pair.live(steps, seed), start=1):
        agree(first, second, EXACT)
        if number in (1, steps):
            pair.agree(EXACT)


FITTING = {"micro": range(1, 8), "stories": (2, 3, *range(8, 13))}
"""Blueprints that serve a family."""


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("preset", FITTING)
def test_in_double_precision_whole_lives_agree_to_a_billionth(preset: str, engine: str) -> None:
    pair = Pair(6, engine, DOUBLE | QUICK, preset=preset)
    live(pair, 20)
    wanted = [stage.name for stage in Stage] + [f"{style.name} at 1" for style in Style]
    wanted += [f"{joint} {blueprint}" for joint in ("isolated", "blended") for blueprint in FITTING[preset]]
    assert set(+pair.seen) >= {*wanted, "frozen", "retargeted"}


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("host", ["baseline", "deep", "blind", "impaired", "minimal"])
def test_every_host_agrees_in_double_precision(host: str, engine: str) -> None:
    size = {"task.image_size": 32 if host == "deep" else 8, "engine.epoch_size": 16}
    pair = Pair(2, engine, DOUBLE | QUICK | size, host=host)
    live(pair, 6)
    assert pair.seen["BLENDING"] > 1


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize(
    "arguments",
    [
        {"isolation": "always"},
        {"auto_advance": ["G1", "G2", "G3"]},
        {"overrides": {"engine.rows_at_once": 2, "attribution.lattice_up_to": 1}},
        {"overrides": AUGMENTED | {"engine.optimizer.host_momentum": 0.0}, "reward": "economy"},
        {"overrides": ADAM},
        {"overrides": ADAM | {"engine.optimizer.module_optimizer": "sgd"}},
        {"preset": "stories", "isolation": "always", "overrides": {"engine.rows_at_once": 2}},
        {"preset": "stories", "overrides": {"engine.optimizer.module_optimizer": "sgd"}},
        {"preset": "stories", "overrides": {"engine.optimizer.host_optimizer": "sgd"}},
    ],
    ids=[
        "isolation", "auto-advance", "shards", "augmented", "AdamW", "AdamW and SGD",
        "stories, isolation and shards", "stories, AdamW and SGD", "stories, SGD and AdamW",
    ],
)  # fmt: skip
def test_other_rules_agree_in_double_precision(arguments: dict[str, Any], engine: str) -> None:
    overrides = DOUBLE | QUICK | arguments.get("overrides", {})
    pair = Pair(3, engine, **arguments | {"overrides": overrides})
    live(pair, 10)
    assert pair.seen["BLENDING"] > 3


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize(
    ("mode", "preset"), [("NEXT_STEP", "micro"), ("SAME_STEP", "micro"), ("SAME_STEP", "stories")]
)
def test_episodes_at_different_times_agree_in_double_precision(mode: str, preset: str, engine: str) -> None:
    """Learning rates of environments are then at different places of their schedules and warm-ups."""
    pair = Pair(3, engine, DOUBLE | QUICK, preset=preset, autoreset_mode=mode, horizon=9)
    live(pair, 5)
    pair.reset(seed=[7, 8, 9], options={"reset_mask": np.array([False, True, False])})
    for first, second in pair.live(12, seed=4):
        agree(first, second, EXACT)
    pair.agree(EXACT)
    assert pair.seen["out of step"] > 9


@pytest.mark.parametrize("engine", FUSED)
def test_a_module_whose_share_is_nothing_is_only_looked_at(engine: str) -> None:
    pair = Pair(2, engine, DOUBLE | QUICK)
    pair.reset(seed=0)
    for op in (encode(Op.GERMINATE, slot=1, blueprint=1, alpha_target=2), *[encode(Op.ADVANCE, slot=1)] * 3):
        pair.step(np.tile(op, (2, 1)))
    for env in pair.sides:
        env._state.slots.alpha[1, 1], env._state.slots.ramp[1, 1] = 0.0, Ramp.REST
    before = trained(pair.fused, 1)["life"]["parts"][1]
    first, second = pair.step(np.zeros((2, 8), dtype=np.int64))
    agree(first, second, EXACT)
    pair.agree(EXACT)
    agree(trained(pair.fused, 1)["life"]["parts"][1], before, 0.0)
    assert np.isfinite(pair.fused._state.slots.delta_ratio[1, 1])


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("preset", FITTING)
def test_rollbacks_agree_in_double_precision(preset: str, engine: str) -> None:
    """The host breaks, then a live module; a fossil stays."""
    pair = Pair(4, engine, DOUBLE | QUICK, preset=preset)
    pair.reset(seed=3)
    for number, (first, second) in enumerate(pair.live(16, seed=9)):
        agree(first, second, EXACT)
        for env in pair.sides if number in (7, 13) else ():
            at = max(env._engine.get_state(1)["life"]["parts"])
            # The first weight of a language host is held under two names.
            poison(env, 1, at, "positions.weight" if (preset, at) == ("stories", HOST) else "")
    assert pair.reference._state.rollbacks.tolist() == [0, 2, 0, 0]
    pair.agree(EXACT)


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("preset", FITTING)
def test_a_single_step_of_descent_agrees_to_a_ten_thousandth(preset: str, engine: str) -> None:
    """A step an epoch, and before each the weights of the reference. By SGD; for AdamW see below."""
    plain = {f"engine.optimizer.{name}_optimizer": "sgd" for name in ("host", "module")}
    pair = Pair(6, engine, QUICK | plain | ONE_STEP, preset=preset)
    pair.reset(seed=3)
    for first, second in pair.live(14, seed=2):
        agree(first[4]["train_loss"], second[4]["train_loss"], 1e-4)
        agree(first[4]["val_loss"], second[4]["val_loss"], 1e-4)
        pair.agree(1e-4)
        for env in range(6):
            pair.fused._engine.set_state(env, pair.reference._engine.get_state(env))
    assert pair.seen["HOLDING"] > 3


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("warmup", [OWN["engine.optimizer.warmup_steps"], 0])
def test_a_single_step_of_the_presets_adamw_agrees_to_a_ten_thousandth(warmup: int, engine: str) -> None:
    """At its own rates, in its warm-up and beyond; but for a first step of full length.

    That is as long where the gradient is almost 0 as anywhere, and goes by the gradient's sign.
    """
    pair = Pair(
        6, engine, QUICK | OWN | ONE_STEP | {"engine.optimizer.warmup_steps": warmup}, preset="stories"
    )
    pair.reset(seed=3)
    for number, (first, second) in enumerate(pair.live(14, seed=2)):
        agree(first[4]["train_loss"], second[4]["train_loss"], 1e-4)
        agree(first[4]["val_loss"], second[4]["val_loss"], 1e-4)
        pair.agree(1e-4 if warmup or number else OWN["engine.optimizer.host_lr"])
        for env in range(6):
            pair.fused._engine.set_state(env, pair.reference._engine.get_state(env))
    assert pair.seen["HOLDING"] > 3


@pytest.mark.parametrize("engine", FUSED)
@pytest.mark.parametrize("preset", FITTING)
def test_single_precision_is_no_further_off_than_three_times_what_one_ulp_brings(
    preset: str, engine: str
) -> None:
    """Of weights, and of losses, which have an ulp of 1 of room, as they are means of few; of weights by the
    geometric mean over environments, as some of them are chaotic."""
    pair, other = Pair(6, engine, preset=preset), small(6, "reference", preset=preset)
    pair.reset(seed=0)
    other.reset(seed=0)
    moved(other)
    rng = np.random.default_rng(0)
    for number in range(1, 21):
        actions = lively(pair.reference, pair.info, rng)
        first, second = pair.step(actions)
        twin = other.step(actions)
        if number in (1, 20):
            off, ulp = (distances(pair.reference, env) for env in (pair.fused, other))
            assert 0 < np.exp(np.log(off / ulp).mean()) < 3
            loss, twins = (
                abs(shown[4]["val_loss"] - first[4]["val_loss"]).mean() for shown in (second, twin)
            )
            assert loss < 3 * twins + np.finfo(np.float32).eps
    assert pair.seen["FOSSILIZED"] > 0
