"""A fault in one trained network: it is put back bit for bit, and the others do not change by a bit."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from plain import WAIT, grow, momenta, same, task_of, tiny, weights

from esper_env import EsperVectorEnv, Op, Stage, encode
from esper_env.contracts.streams import Stream, generator
from esper_env.engine import life as life_of
from esper_env.engine.life import Life
from esper_env.engine.optimizer import OptimizerConfig
from esper_env.mdp.infos import END_KEYS

BROKEN, OTHERS = 1, (0, 2)
FAULT, END = 18, 22
"""The step (counted from 1) whose epoch goes wrong, and the horizon. The last snapshot is that of step 14."""
LIVES = [*grow(0), encode(Op.FOSSILIZE, slot=0), *grow(1), *[WAIT] * 3]
"""A fossil in slot 0 from step 10 on; at the fault a module blends in slot 1."""

Fault = Callable[[EsperVectorEnv, pytest.MonkeyPatch], None]


def training(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Iterator[Any]]) -> None:
    """Let `change(batches, seed, epoch)` stand between the data and every network."""
    original = life_of.train_batches

    def batches(task: Any, seed: int, epoch: int, *sizes: int) -> Iterator[Any]:
        return change(original(task, seed, epoch, *sizes), seed, epoch)

    monkeypatch.setattr(life_of, "train_batches", batches)


def nan_batches(monkeypatch: pytest.MonkeyPatch, life: Life, epochs: Sequence[int]) -> None:
    """One sample of the last batch of these epochs (counted from 0) is not a number, for this life alone."""

    def change(batches: Iterator[Any], seed: int, epoch: int) -> Iterator[Any]:
        for index, (x, y) in enumerate(batches):
            if seed == life.seed and epoch in epochs and index == 1:
                x[0, 0, 0, 0] = torch.nan
            yield x, y

    training(monkeypatch, change)


def nan_batch(env: EsperVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_batches(monkeypatch, env._engine.life(BROKEN), [FAULT - 1])


def host_lr(life: Life, lr: float) -> None:
    optimizer: OptimizerConfig = life._config.optimizer.model_copy(update={"host_lr": lr})
    life._config = life._config.model_copy(update={"optimizer": optimizer})


def exploding_lr(env: EsperVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    host_lr(env._engine.life(BROKEN), 1e38)


@torch.no_grad()
def spoil(values: torch.Tensor) -> None:
    """One number of a tensor is none any more."""
    values[(0,) * values.dim()] = torch.nan


def poisoned(slot: int) -> Fault:
    def inject(env: EsperVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
        spoil(next(env._engine.life(BROKEN).planted[slot].graft.parameters()))

    return inject


def poisoned_norm(env: EsperVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(next(env._engine.life(BROKEN).model.host.buffers()))


def poisoned_momentum(env: EsperVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    state = env._engine.life(BROKEN)._host_optimizer.state
    spoil(next(iter(state.values()))["momentum_buffer"])


def collapse(env: EsperVectorEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head forgets everything, of a network that had learned, and hardly learns again."""
    life = env._engine.life(BROKEN)
    env._state.has_learned[BROKEN] = True
    host_lr(life, 1e-6)
    with torch.no_grad():
        for parameter in life.model.host.segments[-1].parameters():
            parameter.zero_()


FAULTS: dict[str, Fault] = {
    "NaN batch": nan_batch,
    "exploding learning rate": exploding_lr,
    "poisoned live module": poisoned(1),
    "poisoned fossil": poisoned(0),
    "poisoned norm statistics": poisoned_norm,
    "poisoned momentum": poisoned_momentum,
    "collapse to chance": collapse,
}


def network(life: Life) -> list[torch.Tensor]:
    """Every number of host and fossils: weights, norm statistics, momenta."""
    values = weights(life.model.host) + momenta(life._host_optimizer)
    for slot in life.fossils:
        planted = life.planted[slot]
        values += weights(planted.graft) + [m for o in planted.optimizers for m in momenta(o)]
    return values


def bits(env: EsperVectorEnv, obs: np.ndarray, reward: np.ndarray) -> list[bytes]:
    """All there is of the other environments: observation, reward, every weight and momentum."""
    seen = []
    for other in OTHERS:
        life = env._engine.life(other)
        values = weights(life.model) + momenta(life._host_optimizer)
        values += [m for planted in life.planted.values() for o in planted.optimizers for m in momenta(o)]
        seen += [obs[other].tobytes(), reward[other].tobytes(), *(v.numpy().tobytes() for v in values)]
    return seen


def step(env: EsperVectorEnv, action: np.ndarray, own: np.ndarray | None = None) -> tuple[Any, ...]:
    actions = np.tile(action, (3, 1))
    actions[BROKEN] = action if own is None else own
    return env.step(actions)


class Untroubled:
    """Three environments in which nothing goes wrong, played to the end."""

    def __init__(self) -> None:
        env = tiny(3, horizon=END)
        self._life, self._keep = env._engine.life, env._engine.keep
        env._engine.keep = self.keep  # type: ignore[method-assign]
        env.reset(seed=5)
        for action in LIVES[: FAULT - 1]:
            step(env, action)
        self.states = [env.get_state(each) for each in range(3)]
        """Just before the fault."""
        self.kept = self._last
        """What the snapshot of the one that will break holds then."""
        self.bits = [bits(env, *step(env, action)[:2]) for action in LIVES[FAULT - 1 :]]
        """What the others show in every step from then on."""

    def keep(self, envs: np.ndarray, fossils_only: np.ndarray) -> None:
        self._keep(envs, fossils_only)
        assert not (envs & fossils_only).any(), "nothing diverges here"
        if envs[BROKEN]:
            self._last = network(self._life(BROKEN))


untroubled = cache(Untroubled)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_one_environment_is_undone_there_and_changes_no_bit_elsewhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, env = untroubled(), tiny(3, horizon=END)
    for each in range(3):
        env.set_state(each, calm.states[each])
    life = env._engine.life(BROKEN)
    assert not same(network(life), calm.kept), "it has learned since the snapshot"
    FAULTS[name](env, monkeypatch)
    for number, action in enumerate(LIVES[FAULT - 1 :]):
        obs, reward, terminated, _, info = step(env, action, own=WAIT)
        assert bits(env, obs, reward) == calm.bits[number], f"{number} steps after the fault"
        panicked = info["reward_terms"]["rollback"] < 0
        assert panicked.tolist() == [False, number == 0, False]
        assert np.isfinite(reward).all()
        if number == 0:
            assert same(network(life), calm.kept), "put back bit for bit"
            assert [Stage(s).name for s in env._state.slots.stage[BROKEN]] == [
                "FOSSILIZED",
                "PRUNED",
                "DORMANT",
            ]
            assert list(life.planted) == [0]
            life._config = env._engine.life(0)._config
    assert terminated.all()
    assert info["rollbacks"].tolist() == [0, 1, 0]
    assert all(np.isfinite(info[key]).all() for key in END_KEYS), "it reports its outcome"


def test_after_a_rollback_the_data_stream_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    env = tiny()
    env.reset(seed=3)
    life, read = env._engine.life(0), []

    def listen(batches: Iterator[Any], seed: int, epoch: int) -> Iterator[Any]:
        labels = []
        for x, y in batches:
            labels.append(y)
            yield x, y
        read.append((epoch, torch.cat(labels)))

    training(monkeypatch, listen)
    nan_batches(monkeypatch, life, [1])
    for _ in range(4):
        env.step(WAIT[None])
    assert env._state.rollbacks[0] == 1
    order = generator(life.seed, Stream.DATA, 0).permutation(512)
    for index, (epoch, labels) in enumerate(read):
        assert epoch == index
        assert torch.equal(labels, task_of(env).train.labels[order[128 * index :][:128]])


def test_a_poisoned_module_that_is_not_in_the_network_yet_is_no_panic() -> None:
    env = tiny()
    env.reset(seed=0)
    env.step(grow(0)[0][None])
    with torch.no_grad():
        next(env._engine.life(0).planted[0].graft.parameters()).fill_(torch.nan)
    env.step(WAIT[None])
    assert env._state.rollbacks[0] == 0
    *_, info = env.step(encode(Op.ADVANCE, slot=0)[None])
    assert info["action_valid"][0]
    assert env._state.rollbacks[0] == 1, "in TRAINING it is"
    assert env._state.slots.stage[0, 0] == Stage.PRUNED


def test_a_loss_that_runs_away_is_a_panic_in_its_third_epoch() -> None:
    env = tiny(overrides={"governor.divergence_sigmas": 0.0, "governor.divergence_factor": 1.5})
    env.reset(seed=0)
    for _ in range(11):
        env.step(WAIT[None])
    assert env._state.divergent[0] == 0
    life = env._engine.life(0)
    calm = life._config
    host_lr(life, 1e3)
    losses, panics = [], []
    for _ in range(3):
        losses.append(float(env.step(WAIT[None])[-1]["val_loss"][0]))
        panics.append(int(env._state.rollbacks[0]))
    assert panics == [0, 0, 1]
    assert min(losses[:2]) > 1.5 * np.nanmean(env._state.good_losses)
    assert losses[2] < 3, "that of the snapshot"
    life._config = calm
    env.step(WAIT[None])
    assert env._state.divergent[0] == 0


def test_the_third_fault_ends_the_episode_with_its_outcome_and_the_next_one_is_sound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, twin = (tiny(3, autoreset_mode="NEXT_STEP") for _ in range(2))
    for each in (env, twin):
        each.reset(seed=5)
    nan_batches(monkeypatch, env._engine.life(BROKEN), [2, 4, 5])
    twin._engine.life(BROKEN)._seed += 1  # or it would read the broken batches too
    for number in range(9):
        obs, reward, terminated, _, info = step(env, WAIT)
        assert bits(env, obs, reward) == bits(twin, *step(twin, WAIT)[:2])
        assert terminated.tolist() == [False, number == 5, False]
        if number == 5:
            assert all(np.isfinite(info[key][BROKEN]) for key in END_KEYS)
            assert info["rollbacks"][BROKEN] == 3
    assert (env._state.rollbacks[BROKEN], env._state.epoch[BROKEN]) == (0, 2)
