"""When training steps are recorded; the recording itself, which only CUDA can do, is stood in for."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from plain import WAIT, tiny
from texts import grow, texts

from esper_env import EsperVectorEnv
from esper_env.engine import programs
from esper_env.engine.feed import batch
from esper_env.engine.programs import WARM_UP, WORTH_IT, Programs, Recording, most_recordings
from esper_env.presets import PRESETS


@dataclass
class Counted:
    """What was done how often."""

    recorded: int = 0
    replayed: int = 0
    usual: int = 0
    """Steps that could have been replayed, and were not."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Engines on a CPU that record as on CUDA; a recording does the step on what lies in `part` then."""
    counts = Counted()

    def record(self: Programs, recording: Recording, part: Any) -> None:
        recording.part = part.clone()

        def replay() -> None:
            counts.replayed += 1
            recording.program.step(*batch(self._task, self._kernels, recording.part))

        recording.graph = SimpleNamespace(replay=replay)
        counts.recorded += 1

    def warm_up(self: Programs, recording: Recording, part: Any) -> None:
        counts.usual += 1
        recording.warm += 1
        recording.program.step(*batch(self._task, self._kernels, part))

    monkeypatch.setattr(programs, "most_recordings", lambda setup, device: 16)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(Programs, "_record", record)
    monkeypatch.setattr(Programs, "_warm_up", warm_up)
    return counts


def envs_of(preset: str, **changes: Any) -> EsperVectorEnv:
    """Two environments with 8 batches an epoch, as EsperTinyStories and EsperMicro have them."""
    size = {"engine.epoch_size": 64, "engine.batch_size": 8}
    build = texts if preset == "stories" else tiny
    envs = build(2, engine="fused", overrides=size | changes)
    envs.reset(seed=3)
    return envs


def waited(envs: EsperVectorEnv, epochs: int) -> list[Any]:
    actions = np.stack([WAIT, WAIT])
    infos = [envs.step(actions)[-1] for _ in range(epochs)]
    return [[info[name].tolist() for name in ("train_loss", "val_loss")] for info in infos]


@pytest.mark.parametrize("preset", ["stories", "micro"])
def test_epochs_of_eight_batches_are_recorded_once_and_replayed_from_then_on(
    preset: str, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of an epoch never is; 8 others are done as usual, the 7 of the first epoch and one."""
    figures = waited(envs_of(preset), epochs=4)
    assert counted == Counted(recorded=1, replayed=4 * 7 - 8, usual=8)
    monkeypatch.undo()
    assert waited(envs_of(preset), epochs=4) == figures, "the stand-in does what is not recorded"


def test_other_modules_need_another_recording_and_hosts_keep_theirs(counted: Counted) -> None:
    envs, alone = envs_of("stories"), np.stack([WAIT, WAIT])
    waited(envs, epochs=2)
    for action in grow(0)[:5]:  # in training for 3 epochs
        envs.step(np.stack([action, WAIT]))
    assert counted.recorded == 2
    envs.reset(seed=4)
    usual = counted.usual
    envs.step(alone)
    assert (counted.recorded, counted.usual) == (2, usual), "a new episode of the same hosts"


def steps_before(epochs: int, batches: int) -> int | None:
    """Steps done as usual before one is recorded; None if none is."""
    recording = Recording(program=None)
    for to_come in [*range(batches - 1, 0, -1)] * epochs:
        if recording.pays(to_come):
            return recording.warm
        recording.warm += 1
    return None


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_recorded_by_their_second_epoch(preset: str) -> None:
    config = PRESETS[preset]().engine
    assert steps_before(2, int(config.epoch_size) // config.batch_size) in range(WARM_UP, WORTH_IT + 1)


@pytest.mark.parametrize(
    ("epochs", "batches", "usual"), [(1, 64, 2), (1, 8, None), (3, 4, 8), (2, 4, None), (100, 1, None)]
)
def test_a_step_is_recorded_once_it_has_been_done_so_often_that_it_pays(
    epochs: int, batches: int, usual: int | None
) -> None:
    assert steps_before(epochs, batches) == usual


def test_where_the_only_step_of_an_epoch_is_its_last_nothing_is_recorded_or_counted() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    setups = [texts(overrides={"engine.epoch_size": size})._engine._setup for size in (16, 32)]
    assert [most_recordings(setup, cuda) for setup in setups] == [0, setups[0].config.cuda_graphs]
    assert [most_recordings(setup, cpu) for setup in setups] == [0, 0]
