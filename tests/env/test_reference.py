"""Lives in the reference engine: repeatable, apart from each other, and isolated as the rules say."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from lives import GROW, play
from plain import WAIT, grow, momenta, same, started, tiny, trajectory, weights
from torch import nn

from esper_env import Head, Op, Place, Stage, Style, encode
from esper_env.blueprints import catalogue
from esper_env.slots.grown import probe

SCRIPTS = [
    [*grow(0, Style.GATED), encode(Op.FOSSILIZE, slot=0), WAIT],
    [*grow(2, Style.LINEAR_MULTIPLY, 7), encode(Op.PRUNE, slot=2, alpha_speed=1), WAIT],
    [WAIT] * 11,
]


def test_the_same_seed_gives_the_same_bits_whatever_torch_was_asked_in_between() -> None:
    first = tiny(3)
    before = trajectory(first, SCRIPTS, seed=5)
    torch.manual_seed(99)
    torch.rand(10)
    state = torch.random.get_rng_state()
    second = tiny(3)
    assert trajectory(second, SCRIPTS, seed=5) == before
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    for e in range(3):
        assert same(weights(first._engine.life(e).model), weights(second._engine.life(e).model))


def test_an_environment_in_a_batch_is_that_environment_alone_bit_for_bit() -> None:
    batch = trajectory(tiny(3), SCRIPTS, seed=10)
    for e, script in enumerate(SCRIPTS):
        assert trajectory(tiny(1), [script], seed=10 + e)[0] == batch[e]
    assert batch[0][0] == batch[1][0], "nothing is measured at a reset"
    assert len({bits[1] for bits in batch}) == 3


@pytest.mark.parametrize("style", Style)
def test_planting_and_pruning_in_isolation_leaves_the_twin_that_was_never_planted(style: Style) -> None:
    grown, life = started(3)
    alone, twin = started(3)
    heads = {"style": style, "alpha_target": 2}
    script = [encode(Op.GERMINATE, slot=s, blueprint=b, **heads) for s, b in ((0, 7), (1, 2), (2, 5))]
    script += [encode(Op.ADVANCE, slot=s) for s in range(3)] + [WAIT] * 2
    script += [encode(Op.PRUNE, slot=s) for s in range(3)] + [WAIT]
    for action in script:
        info = grown.step(action[None])[-1]
        expected = alone.step(WAIT[None])[-1]
        assert info["action_valid"][0]
        for name in ("val_loss", "val_accuracy", "train_loss"):
            assert info[name].tobytes() == expected[name].tobytes(), name
        assert same(weights(life.model.host), weights(twin.model.host))
        assert same(momenta(life._host_optimizer), momenta(twin._host_optimizer))
    assert not life.planted
    assert not any(life.model.grafts)


def test_every_module_gets_fresh_weights_and_an_optimizer_of_its_own() -> None:
    env, life = started()
    plant = encode(Op.GERMINATE, slot=0, blueprint=1)
    play(env, [plant, encode(Op.ADVANCE, slot=0)])
    first = life.planted[0]
    start = weights(first.graft.branch)
    assert len(momenta(first.optimizers[0])) == 3
    assert not set(first.parameters) & set(life._host_parameters)
    play(env, [encode(Op.PRUNE, slot=0), *[WAIT] * 7, plant])
    second = life.planted[0]
    assert second.optimizers[0] is not first.optimizers[0]
    assert not second.optimizers[0].state, "no momentum at birth"
    twin, other = started()
    play(twin, [plant])
    assert not same(weights(second.graft.branch), weights(other.planted[0].graft.branch))
    assert not same(weights(second.graft.branch), start)
    host_ids = {id(p) for group in life._host_optimizer.param_groups for p in group["params"]}
    assert host_ids == {id(p) for p in life.model.host.parameters()}


def test_while_alpha_falls_weights_and_momentum_rest_and_the_host_goes_on() -> None:
    env, life = started()
    play(env, grow(0, Style.GATED))
    planted = life.planted[0]

    def state() -> list[torch.Tensor]:
        return weights(planted.graft) + [m for o in planted.optimizers for m in momenta(o)]

    before, host = state(), weights(life.model.host)
    fall = encode(Op.SET_ALPHA_TARGET, slot=0, alpha_target=0, alpha_speed=1)
    for action in (fall, WAIT):
        play(env, [action])
        assert same(state(), before)
        assert not same(weights(life.model.host), host)
        slots = env._state.slots
        assert np.isnan([slots.gradient_norm[0, 0], slots.gradient_health[0, 0]]).all()
        assert not np.isnan(slots.contribution[0, 0])
    play(env, [WAIT])
    assert env._state.slots.alpha[0, 0] == 0.5
    assert not same(state(), before), "alpha rests: the module learns on"
    assert not np.isnan(env._state.slots.gradient_norm[0, 0])


def test_a_fossil_keeps_its_bits_and_its_optimizer_and_goes_on_learning() -> None:
    env, life = started()
    play(env, GROW)
    planted = life.planted[0]
    memory = planted.optimizers[0]
    for action in (encode(Op.FOSSILIZE, slot=0), WAIT):
        before = weights(planted.graft)
        play(env, [action])
        assert life.planted[0] is planted
        assert planted.optimizers == [memory]
        assert not same(weights(planted.graft), before)
    slots = env._state.slots
    assert (slots.alpha[0, 0], slots.stage[0, 0]) == (1.0, Stage.FOSSILIZED)
    assert np.isnan(slots.gradient_norm[0, 0])
    assert not env._masks.op_slot[0, 1:, 0].any()


def test_the_gate_of_a_gated_module_is_born_with_blending_and_learns() -> None:
    env, life = started()
    script = grow(0, Style.GATED)
    play(env, script[:5])
    graft = life.planted[0].graft
    assert graft.gate is None
    assert env._state.slots.gate_params[0, 0] == 0
    play(env, script[5:6])
    assert graft.gate is not None
    assert env._state.slots.gate_params[0, 0] == sum(p.numel() for p in graft.gate.parameters()) == 49
    for _ in range(2):
        before = weights(graft.gate)
        play(env, [WAIT])
        assert all(not torch.equal(a, b) for a, b in zip(weights(graft.gate), before, strict=True))


def test_a_whole_life_is_possible_through_step_alone() -> None:
    """One slot to FOSSILIZED, one through PRUNED back to DORMANT, by what observation and masks show."""
    env = tiny(horizon=30)
    obs, info = env.reset(seed=1)
    wanted = {0: [Op.GERMINATE, Op.ADVANCE, Op.FOSSILIZE], 2: [Op.GERMINATE, Op.ADVANCE, Op.PRUNE]}
    lived: dict[int, list[str]] = {0: ["DORMANT"], 2: ["DORMANT"]}
    for step in range(29):
        slot = 0 if step % 2 else 2
        legal = [op for op in wanted[slot] if info["op_slot_mask"][0, op, slot]]
        if Op.PRUNE in legal and "HOLDING" not in lived[2]:
            legal.remove(Op.PRUNE)
        if Op.GERMINATE in legal and set(lived[slot]) != {"DORMANT"}:
            legal.remove(Op.GERMINATE)
        op = legal[0] if legal else Op.WAIT
        action = np.zeros((1, 8), dtype=int)
        action[0, [Head.SLOT, Head.OP, Head.ALPHA_TARGET, Head.BLUEPRINT, Head.ALPHA_SPEED]] = (
            slot,
            op,
            2,
            1,
            1,
        )
        obs, _, terminated, _, info = env.step(action)
        assert info["action_valid"][0]
        assert not terminated[0]
        for s, stages in lived.items():
            shown = obs[0, env.features[f"slot{s}.stage"]]
            stages.append(Stage(int(shown.argmax()) + 1).name if shown.any() else "DORMANT")
    entered = {s: [b for a, b in zip(["", *x], x, strict=False) if a != b] for s, x in lived.items()}
    assert entered[0] == ["DORMANT", "GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"]
    assert entered[2] == [
        *entered[0][:5], "BLENDING", "PRUNED", "EMBARGOED", "RESETTING", "DORMANT",
    ]  # fmt: skip


def test_a_module_that_gives_nan_fails_its_probe_and_cannot_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * math.nan

    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    index = catalogue.register_blueprint(
        "broken", {"cnn": lambda place: Broken(place.channels, place.channels, 1)}
    )
    env, _ = started()
    obs, _, _, _, info = env.step(encode(Op.GERMINATE, slot=0, blueprint=index)[None])
    assert not info["op_slot_mask"][0, Op.ADVANCE, 0]
    assert env._gates[1].failed(0, 0) == ("probe_passed",)
    assert np.isfinite(obs).all()


class Permuting(nn.Module):
    """Buffers and no parameters; it notes what it is given."""

    def __init__(self, buffer: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", buffer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.given = (x.device.type, x.dtype)
        return torch.zeros(x.shape, device="cpu")


@pytest.mark.parametrize(
    ("buffer", "given"),
    [
        (torch.zeros(4, device="meta"), ("meta", torch.float32)),
        (torch.zeros(4, device="meta", dtype=torch.float64), ("meta", torch.float64)),
        (torch.arange(4, device="meta"), ("meta", torch.float32)),
        (torch.arange(4), ("cpu", torch.float32)),
    ],
)
def test_a_branch_without_parameters_is_probed_where_its_buffers_are(
    buffer: torch.Tensor, given: tuple[str, torch.dtype]
) -> None:
    branch = Permuting(buffer)
    assert probe(branch, Place("here", "cnn", (4, 2, 2), 0.5))
    assert branch.given == given


def test_harvests_and_rollbacks_copy_from_the_device_once_for_all_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, copies = tiny(3), []
    env.reset(seed=0)
    play(env, [WAIT])
    twins = [env._engine.life(e).measure([]).validation.tolist() for e in range(3)]

    def counted(name: str) -> Any:
        plain = getattr(torch.Tensor, name)
        return lambda tensor, *more, **named: copies.append(name) or plain(tensor, *more, **named)

    for name in ("cpu", "tolist", "item", "numpy", "__float__", "__bool__", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    harvest = env._engine.harvest(np.array([True, False, True]))
    assert copies == ["cpu", "numpy"]
    restored = env._engine.restore(np.array([True, True, False]))
    assert copies == ["cpu", "numpy"] * 2
    monkeypatch.undo()
    for e in (0, 2):
        assert [harvest.val_loss[e], harvest.val_accuracy[e]] == twins[e]
    assert (np.isnan(harvest.test_loss) == [False, True, False]).all()
    assert (np.isnan(restored.val_loss) == [False, False, True]).all()
    assert env._engine.life(1).measure([]).validation.tolist() == [
        restored.val_loss[1],
        restored.val_accuracy[1],
    ]


def test_a_host_that_diverges_leaves_observation_and_reward_finite_and_ends_with_the_third_panic() -> None:
    env, life = started(overrides={"engine.optimizer.host_lr": 1e30})
    first = weights(life.model.host)
    for step, action in enumerate(GROW[:3]):
        obs, reward, terminated, _, info = env.step(action[None])
        assert np.isfinite(obs).all()
        assert np.isfinite(reward).all()
        assert info["reward_terms"]["rollback"][0] == -10
        assert same(weights(life.model.host), first), "the only snapshot is that of the reset"
        assert terminated[0] == (step == 2)
    assert info["rollbacks"][0] == 3
    assert 0 <= info["test_accuracy"][0] <= 1


def test_a_closed_engine_says_so() -> None:
    env, _ = started()
    env.close()
    with pytest.raises(RuntimeError, match="environment 0 has no network"):
        env._engine.life(0)
