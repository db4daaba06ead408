"""Episodes in which networks break: their records, their replay, and what is counted anew."""

import math
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from board import rerun
from board.cells import Cell
from board.entrants import AgentSpec, Entrant
from board.play import Job, play
from board.quality import qualities, quality
from board.records import Record
from board.trace import Recorder
from tiny import replay, tiny

from esper_env import EsperVectorEnv

CELL, SEEDS = Cell(params=3, compute=2), tuple(range(8))


def broken(name):
    """A tiny instance whose modules blow up as soon as they train."""
    whole = tiny(name)
    return whole.model_copy(update={"overrides": whole.overrides | {"engine.optimizer.module_lr": 1e38}})


@pytest.fixture(scope="module", params=["T1-data-00", "T1-modality-00"])
def played(request, tmp_path_factory):
    instance, results = broken(request.param), tmp_path_factory.mktemp("results")
    who = Entrant(entry="random", agent=AgentSpec(algo="random"))
    job = Job(entrant=who, instance=instance, cell=CELL, seeds=SEEDS, commitment="00")
    return instance, results, Record.model_validate(play(job, results))


def test_networks_broke_and_three_times_ended_an_episode(played):
    _, _, record = played
    rollbacks = [episode.rollbacks for episode in record.episodes]
    assert max(rollbacks) == 3
    assert all(episode.length < 14 for episode in record.episodes if episode.rollbacks == 3)
    assert all(math.isfinite(episode.total_reward) for episode in record.episodes)
    assert all(0 <= episode.quality <= 1 for episode in record.episodes)


def test_they_are_replayed_to_the_last_bit(played):
    instance, _, record = played
    was = [episode.model_dump() for episode in record.episodes]
    assert replay(instance, CELL, was) == was


def test_they_are_recounted_but_for_the_epochs_that_were_undone(played, monkeypatch):
    instance, results, record = played
    monkeypatch.setattr(rerun, "find", lambda name: instance)
    again = rerun.rerun(record, results)
    assert again.other == []
    assert again.unseen == sum(episode.rollbacks for episode in record.episodes)
    assert again.params.tolist() == [episode.params for episode in record.episodes]
    assert again.flops == pytest.approx([episode.flops for episode in record.episodes], rel=1e-9)


def test_a_network_whose_loss_is_no_number_is_worth_what_guessing_is(tmp_path, monkeypatch):
    measured = Recorder._quality

    def lost(self, step, split):
        return measured(self, step, split) * (np.nan if split == "test" else 1)

    monkeypatch.setattr(Recorder, "_quality", lost)
    who = Entrant(entry="wait", agent=AgentSpec(algo="wait"))
    job = Job(entrant=who, instance=tiny(), cell=CELL, seeds=(1, 2), commitment="00")
    assert [each.quality for each in Record.model_validate(play(job, tmp_path)).episodes] == [0, 0]


def test_text_told_worse_than_by_guessing_is_worth_what_guessing_is():
    with closing(EsperVectorEnv(1, "stories", host="gpt_micro", data="procedural", engine="null")) as envs:
        chance = envs.facts.chance_loss
        found = quality([np.nan] * 4, [0.0, chance / 2, 2 * chance, np.inf], envs.facts)
        broken = SimpleNamespace(measured={"test_accuracy": None, "test_loss": None})
        assert qualities([broken], envs.facts) == [0]
    assert found.tolist() == [1, 0.5, 0, 0]
