"""The game over a language host: its id, infos, governor, costs, export, and what is refused."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from engines import APART, ENGINES, settings
from gymnasium.utils.env_checker import check_env
from lives import play, put
from plain import WAIT, poison, trajectory
from texts import ATTENTION, CONTEXT, MLP, TINY, grow, started, texts
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper_env import EsperVectorEnv, Op, Stage, Style, check_vector_env, encode
from esper_env.contracts.state import Ramp, SlotState
from esper_env.engine import setup

NAME = "EsperTinyStories-v0"
NULL = {"engine": "null", "host": "gpt_micro", "horizon": 3}
KEYWORDS = {"host": "gpt_micro", "data": "procedural", "device": "cpu", "overrides": TINY}


def test_the_id_has_the_numbers_of_the_rules() -> None:
    config = gym.make_vec(NAME, engine="null").config
    assert (config.host.name, config.task.data, config.horizon) == ("gpt_small", "tinystories", 150)
    engine, optimizer = config.engine, config.engine.optimizer
    assert (engine.epoch_size, engine.batch_size, engine.counterfactual_size) == (256, 32, 64)
    assert (optimizer.host_optimizer, optimizer.module_optimizer) == ("adamw", "adamw")
    assert (optimizer.host_lr, optimizer.module_lr, optimizer.warmup_steps) == (1e-3, 1e-3, 100)
    assert (optimizer.adam_beta1, optimizer.adam_beta2) == (0.9, 0.95)
    assert (optimizer.host_weight_decay, optimizer.module_weight_decay) == (0.1, 0.0)


def test_action_and_observation_are_those_of_images() -> None:
    stories, images = (gym.make_vec(name, engine="null") for name in (NAME, "EsperCifar-v0"))
    assert stories.single_action_space == images.single_action_space
    assert stories.single_observation_space == images.single_observation_space
    assert list(stories.features) == list(images.features)


def test_the_observation_says_where_the_slots_are() -> None:
    env = texts()
    obs, _ = env.reset(seed=0)
    expected = {
        "log2_channels": [math.log2(32) / 12] * 3,
        "log2_positions": [math.log2(CONTEXT) / 14] * 3,
        "depth": [1 / 3, 2 / 3, 1],
    }
    for name, values in expected.items():
        shown = [float(obs[0, env.features[f"slot{slot}.{name}"]][0]) for slot in range(3)]
        assert shown == pytest.approx(values, rel=1e-6), name


@pytest.mark.parametrize("arguments", [NULL, KEYWORDS | {"horizon": 1}], ids=["rules alone", "training"])
def test_gymnasiums_checker_has_nothing_to_say(arguments: dict[str, Any]) -> None:
    check_env(gym.make(NAME, **arguments).unwrapped)


def test_our_checker_has_nothing_to_say() -> None:
    check_vector_env(lambda num_envs, mode: gym.make_vec(NAME, num_envs, autoreset_mode=mode, **NULL))


def test_without_training_the_same_rules_are_played_over_losses() -> None:
    env = EsperVectorEnv(1, "stories", engine="null", horizon=12, autoreset_mode="DISABLED")
    env.reset(seed=0)
    infos = [env.step(action[None])[-1] for action in (*grow(0), WAIT, WAIT, WAIT)]
    assert all(np.isnan(info["val_accuracy"]).all() and not info["_val_accuracy"].any() for info in infos)
    losses = [float(info["val_loss"][0]) for info in infos]
    assert losses == sorted(losses, reverse=True)
    assert 0 < losses[-1] < losses[0] < env.facts.chance_loss
    assert env.attribution()["contribution"][0, 0] > 0


def test_a_single_environment_leaves_out_what_text_does_not_have() -> None:
    env = gym.make(NAME, horizon=1, **KEYWORDS)
    env.reset(seed=0)
    info = env.step(WAIT)[-1]
    assert {"val_loss", "train_loss", "harvest_loss", "test_loss"} <= set(info)
    assert not [name for name in info if name.endswith("accuracy")]


@pytest.mark.parametrize("engine", APART)
def test_an_environment_in_a_batch_is_that_environment_alone_bit_for_bit(engine: str) -> None:
    scripts = [[*grow(0, Style.GATED, 12), WAIT], [*grow(2, Style.LINEAR_MULTIPLY, 2), WAIT], [WAIT] * 10]
    batch = trajectory(texts(3, engine=engine), scripts, seed=10)
    for e, script in enumerate(scripts):
        assert trajectory(texts(1, engine=engine), [script], seed=10 + e)[0] == batch[e]
    assert len({bits[1] for bits in batch}) == 3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("at", [-1, 0])
def test_a_host_or_a_blended_module_that_breaks_is_put_back(at: int, engine: str) -> None:
    env, _ = started(seed=4, engine=engine, overrides={"governor.snapshot_every": 1})
    play(env, grow(0, Style.GATED, ATTENTION))
    healthy = float(env._state.val_loss[0])
    poison(env, at=at, name="positions.weight" if at == -1 else "")
    obs, reward, _, _, info = env.step(WAIT[None])
    assert np.isfinite(obs).all()
    assert np.isfinite(reward).all()
    assert info["reward_terms"]["rollback"][0] == -10
    assert info["val_loss"][0] == pytest.approx(healthy, abs=0.2)
    assert not env._engine.life(0).planted
    assert env._state.slots.stage[0, 0] == Stage.PRUNED


def test_a_module_that_breaks_in_isolation_breaks_nothing_but_itself() -> None:
    (env, life), (alone, twin) = started(seed=4), started(seed=4)
    play(env, grow(0, Style.GATED, ATTENTION)[:3])
    play(alone, [WAIT] * 3)
    with torch.no_grad():
        for parameter in life.planted[0].graft.parameters():
            parameter.fill_(math.nan)
    life.train(), twin.train()
    for mine, other in zip(life.model.host.parameters(), twin.model.host.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_learning_rate_that_is_too_large_ends_with_the_third_panic(engine: str) -> None:
    rates = {"engine.optimizer.host_lr": 1e30, "engine.optimizer.warmup_steps": 0}
    env, _ = started(engine=engine, overrides=rates)
    for step in range(3):
        obs, reward, terminated, _, info = env.step(WAIT[None])
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
        assert terminated[0] == (step == 2)
    assert info["rollbacks"][0] == 3
    assert info["test_loss"][0] == pytest.approx(env.facts.chance_loss, abs=0.1)


MIXED = {
    0: (Stage.FOSSILIZED, MLP, Style.GATED, 1.0, Ramp.REST),
    1: (Stage.BLENDING, ATTENTION, Style.GATED, 0.6, Ramp.DOWN),
    2: (Stage.TRAINING, 12, Style.GATED, 0.0, Ramp.REST),
}


@pytest.mark.parametrize("isolation", ["training", "always"])
def test_an_epoch_costs_what_torch_counts(isolation: str) -> None:
    """Attention in plain products, which torch's counter knows."""
    env, life = started(isolation=isolation)
    slots = SlotState.empty(1, 3)
    for slot, (stage, blueprint, style, alpha, ramp) in MIXED.items():
        values = {"stage": stage, "style": style, "alpha": alpha, "ramp": ramp, "planting": 1}
        put(slots, 0, slot, blueprint=blueprint, **values)
    life.sync(slots, 0)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            life.train()
        assert life.training_flops() == counter.get_total_flops() > 64 * env.facts.host_flops
        for subsets in ([2, 0], []):
            with FlopCounterMode(display=False) as counter:
                life.measure(subsets)
            assert sum(life.measuring_flops(subsets)) == counter.get_total_flops()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_reads_tokens_and_gives_the_environments_logits_to_the_last_bit(engine: str) -> None:
    env, _ = started(horizon=40, engine=engine)
    styles = (Style.GATED, Style.LINEAR_MULTIPLY, Style.SIGMOID_ADD)
    for slot, (style, blueprint) in enumerate(zip(styles, (12, ATTENTION, 9), strict=True)):
        play(env, [*grow(slot, style, blueprint), encode(Op.FOSSILIZE, slot=slot)])
    net, (x, y) = env.export(0), env._engine._setup.loaded_task.test.windows(torch.arange(9))
    life = env._engine.life(0)
    with torch.no_grad():
        assert torch.equal(net(x), life.model.eval()(x))
        assert torch.equal(net(x[:1, :3]), life.model(x[:1, :3])), "shorter texts too"
    assert {type(module).__module__.split(".")[0] for module in net.modules()} == {"torch"}
    host, modules = env.facts.host_params, env._state.slots.params.sum()
    assert sum(p.numel() for p in net.parameters()) == host + modules
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)


def test_torch_export_takes_it() -> None:
    env, _ = started()
    net, tokens = env.export(0), torch.zeros(2, CONTEXT, dtype=torch.int64)
    program = torch.export.export(
        net, (tokens,), dynamic_shapes={"tokens": {0: torch.export.Dim("batch", min=1)}}
    )
    x, _ = env._engine._setup.loaded_task.test.windows(torch.arange(5))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("preset", "arguments", "message"),
    [
        ("stories", {"host": "baseline"}, "data='tinystories' is not allowed"),
        ("cifar", {"host": "gpt_micro"}, "data='cifar10' is not allowed"),
        ("stories", {"slots": 5}, "slots=5.*1 to 4"),
    ],
)
def test_what_cannot_be_played_is_refused_by_name_before_data_are_read(
    preset: str, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> None:
        raise AssertionError("data was touched")

    monkeypatch.setattr(setup, "load_task", load)
    with pytest.raises(ValueError, match=message):
        EsperVectorEnv(1, preset, **arguments)


@pytest.mark.parametrize("engine", ENGINES)
def test_images_are_learned_with_adamw_too(engine: str) -> None:
    optimizer = {"host_optimizer": "adamw", "module_optimizer": "adamw", "host_lr": 1e-2, "warmup_steps": 2}
    overrides = {f"engine.optimizer.{name}": value for name, value in optimizer.items()}
    env = EsperVectorEnv(1, "micro", device="cpu", horizon=6, overrides=overrides | settings(engine))
    env.reset(seed=0)
    infos = [env.step(WAIT[None])[-1] for _ in range(6)]
    assert infos[-1]["train_loss"][0] < infos[0]["train_loss"][0] - 0.05
    assert np.isfinite([info["val_accuracy"][0] for info in infos]).all()


def test_what_windows_are_computed_by_is_reported() -> None:
    assert texts().metadata["engine"] == "reference, float32, windows by SDPA"
    fused = texts(engine="fused/torch").metadata["engine"]
    assert fused == "fused, torch kernels, float32, windows by SDPA"


def test_the_fused_engine_is_the_default() -> None:
    env = EsperVectorEnv(1, "stories", overrides=TINY, **{"host": "gpt_micro", "data": "procedural"})
    assert env.metadata["engine"].startswith("fused")


def test_stories_of_ones_own_are_read_byte_by_byte(tmp_path: Path) -> None:
    """From files to figures, with a context of one's own."""
    (tmp_path / "tinystories").mkdir()
    for name, first, last in (("train", 0, 200), ("valid", 200, 230)):
        stories = [
            f"Tom had {i} red balls. He gave {i % 7} to Amy.\n<|endoftext|>\n" for i in range(first, last)
        ]
        (tmp_path / "tinystories" / f"{name}.txt").write_text("".join(stories))
    overrides = {"task.vocabulary": 256, "task.context": 16, "engine.optimizer.warmup_steps": 0}
    overrides |= {"engine.epoch_size": 128, "engine.batch_size": 16, "engine.counterfactual_size": 8}
    arguments = {"host": "gpt_micro", "horizon": 6, "device": "cpu", "data_dir": str(tmp_path)}
    env = EsperVectorEnv(1, "stories", autoreset_mode="DISABLED", overrides=overrides, **arguments)
    assert env.facts.chance_loss == pytest.approx(math.log(256))
    env.reset(seed=0)
    losses = [float(env.step(WAIT[None])[-1]["val_loss"][0]) for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * math.log(256)
