"""What the engine keeps for a rollback comes back to the last bit, whatever the network has become since."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from lives import GROW, play
from plain import WAIT, grow, same, started, tiny, weights
from torch import nn

from esper_env import EsperVectorEnv, Op, Stage, Style, encode
from esper_env.blueprints import catalogue
from esper_env.engine.life import Life

ALL = np.array([True])
FOSSILIZE = encode(Op.FOSSILIZE, slot=0)


def everything(life: Life) -> list[torch.Tensor]:
    """Weights, norm statistics and momenta of host and fossils."""
    parts = [life.parts()[at] for at in (-1, *sorted(life.fossils))]
    found = [value for module, _ in parts for value in weights(module)]
    for _, optimizers in parts:
        for optimizer in optimizers:
            for parameter in optimizer.param_groups[0]["params"]:
                found.append(optimizer.state[parameter]["momentum_buffer"].clone())
    return found


def with_fossil() -> tuple[EsperVectorEnv, Life]:
    """A gated fossil in slot 0, and a module in training in slot 1; the governor keeps nothing by itself."""
    env, life = started(seed=2, horizon=30, overrides={"governor.snapshot_every": 99})
    plant = encode(Op.GERMINATE, slot=1, blueprint=2)
    play(env, [*grow(0, Style.GATED), FOSSILIZE, plant, encode(Op.ADVANCE, slot=1)])
    return env, life


def train(life: Life) -> list[bytes]:
    """One epoch more: the bits of what it showed and of what it came to."""
    shown = [value.clone() for value in life.train()]
    return [value.numpy().tobytes() for value in shown + everything(life)]


def poison(life: Life, value: float) -> None:
    """Every weight, statistic, momentum and gradient of the network."""
    for module, optimizers in life.parts().values():
        for tensor in module.state_dict().values():
            tensor.fill_(value if tensor.is_floating_point() else 7)
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, value)
        for optimizer in optimizers:
            for state in optimizer.state.values():
                state["momentum_buffer"].fill_(value)


def test_host_and_fossils_come_back_and_everything_else_goes() -> None:
    env, life = with_fossil()
    env._engine.keep(ALL)
    kept, fossil, epochs = everything(life), life.planted[0], life.epochs
    assert len(kept) == 20 + 11 + 7 + 7, "values and momenta of the host, and of the fossil's branch and gate"
    play(env, [WAIT] * 2)
    assert not any(torch.equal(a, b) for a, b in zip(kept, everything(life), strict=True))
    env._engine.restore(ALL)
    assert same(everything(life), kept)
    assert life.planted == {0: fossil}
    assert [graft is not None for graft in life.model.grafts] == [True, False, False]
    assert life.epochs == epochs + 2, "the data stream goes on"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_nothing_of_a_broken_network_survives_a_rollback(value: float) -> None:
    (env, life), (_, twin) = with_fossil(), with_fossil()
    twin.remove(1)
    env._engine.keep(ALL)
    poison(life, value)
    env._engine.restore(ALL)
    for _ in range(2):
        assert train(life) == train(twin)
        assert all(torch.isfinite(tensor).all() for tensor in everything(life))


def test_an_optimizer_that_had_not_stepped_is_fresh_again() -> None:
    env, life = started(seed=4)
    assert not life._host_optimizer.state
    play(env, [WAIT] * 2)
    assert len(life._host_optimizer.state) == 11
    env._engine.restore(ALL)  # what the environment had kept at reset
    assert not life._host_optimizer.state
    life.epochs = 0
    _, fresh = started(seed=4)
    assert train(life) == train(fresh)


def test_what_is_kept_stays_as_it_was_while_the_network_learns_on() -> None:
    env, life = with_fossil()
    env._engine.keep(ALL)
    life.remove(1)
    kept, epochs = everything(life), life.epochs
    runs = []
    for _ in range(3):
        env._engine.restore(ALL)
        assert same(everything(life), kept)
        life.epochs = epochs
        runs.append(train(life))
    assert runs[0] == runs[1] == runs[2]


def test_a_rollback_of_one_environment_changes_no_bit_of_another() -> None:
    env, twin = tiny(2), tiny(2)
    for one in (env, twin):
        one.reset(seed=[5, 6])
        play(one, GROW[:6])
    poison(env._engine.life(0), math.nan)
    env._engine.restore(np.array([True, False]))
    neighbor, alone = env._engine.life(1), twin._engine.life(1)
    assert list(neighbor.planted) == [0]
    assert train(neighbor) == train(alone)
    assert same(weights(neighbor.planted[0].graft), weights(alone.planted[0].graft))


def broken_at(env: EsperVectorEnv, script: list[Any], value: float = math.nan) -> dict[str, Any]:
    """Play, break the host, wait one step; the info of that step."""
    play(env, script)
    with torch.no_grad():
        next(env._engine.life(0).model.host.parameters()).fill_(value)
    obs, reward, _, _, info = env.step(WAIT[None])
    assert np.isfinite(obs).all()
    assert np.isfinite(reward).all()
    return info


def test_the_step_after_a_break_shows_the_network_that_was_kept_at_fossilization() -> None:
    env, life = started(seed=2, horizon=30)
    play(env, [*grow(0, Style.GATED), encode(Op.GERMINATE, slot=1, blueprint=2)])
    start = weights(life.model.host), weights(life.planted[0].graft)
    info = broken_at(env, [FOSSILIZE, WAIT])
    slots = env._state.slots
    assert slots.stage[0].tolist() == [Stage.FOSSILIZED, Stage.PRUNED, Stage.DORMANT]
    assert same(weights(life.model.host), start[0]), "kept before the epoch of the step that fossilized"
    assert same(weights(life.planted[0].graft), start[1])
    assert env._state.rollbacks[0] == 1
    assert info["reward_terms"]["rollback"][0] == -10
    after = env.step(WAIT[None])[-1]
    assert np.isfinite(after["val_loss"][0])
    assert not same(weights(life.model.host), start[0]), "and it learns on"


def push(env: EsperVectorEnv, value: float = 30.0) -> None:
    """Make the host insist on one class, so that its loss is far above what it was."""
    with torch.no_grad():
        env._engine.life(0).model.host.state_dict()["segments.6.linear.bias"][0] = value


def test_a_module_fossilized_amid_a_divergence_comes_back_with_the_host_of_before_it() -> None:
    often = {"governor.snapshot_every": 1, "governor.min_window": 2, "governor.window": 3}
    env, life = started(seed=2, horizon=30, overrides=often)
    play(env, [*grow(0, Style.GATED), FOSSILIZE, *grow(1)])
    good, older = weights(life.model.host), weights(life.planted[0].graft)
    for step, action in enumerate((WAIT, encode(Op.FOSSILIZE, slot=1), WAIT)):
        push(env)
        assert env._state.divergent[0] == step
        if step == 1:
            module = weights(life.planted[1].graft)
        play(env, [action])
        assert (env._state.rollbacks[0], env._state.since_snapshot[0]) == (step == 2, 0)
    assert env._state.slots.stage[0].tolist() == [Stage.FOSSILIZED, Stage.FOSSILIZED, Stage.DORMANT]
    assert same(weights(life.model.host), good), "never the diverging host"
    assert same(weights(life.planted[0].graft), older)
    assert same(weights(life.planted[1].graft), module), "as it was when it was fossilized"
    assert 0 < env._state.val_loss[0] < 3
    play(env, [WAIT] * 2)
    assert env._state.rollbacks[0] == 1


class Counting(nn.Conv2d):
    """It remembers how many batches it has seen, and a mean, in buffers that its state_dict leaves out."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("mean", torch.zeros(channels, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
            self.mean += 0.1 * (x.detach().mean((0, 2, 3))[:, None, None] - self.mean)
        return super().forward(x - self.mean)


def test_buffers_that_a_state_dict_leaves_out_are_kept_and_handed_on_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    index = catalogue.register_blueprint("counting", {"cnn": lambda place: Counting(place.channels)})
    env, life = started(seed=2, horizon=30, overrides={"governor.snapshot_every": 99})
    play(env, [*grow(0, Style.LINEAR_ADD, index), FOSSILIZE])
    env._engine.keep(ALL)
    branch, state = life.planted[0].graft.branch, env.get_state(0)
    seen, mean = int(branch.seen), branch.mean.clone()
    assert seen == 2 * 9
    play(env, [WAIT])
    assert int(branch.seen) == seen + 2
    env._engine.restore(ALL)
    assert (int(branch.seen), torch.equal(branch.mean, mean)) == (seen, True)
    other = tiny(horizon=30, overrides={"governor.snapshot_every": 99})
    other.set_state(0, state)
    copy = other._engine.life(0)
    assert (int(copy.planted[0].graft.branch.seen), copy.epochs) == (seen, 10)
    copy.epochs = life.epochs
    assert train(copy) == train(life)


def test_a_break_before_any_good_snapshot_brings_back_the_weights_of_the_reset() -> None:
    env, life = started(seed=8)
    start = weights(life.model.host)
    broken_at(env, GROW[:3])
    assert same(weights(life.model.host), start)
    assert not life._host_optimizer.state
    assert not life.planted
