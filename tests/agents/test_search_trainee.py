"""A search as a training run: it learns, saves, goes on exactly, and plays again."""

import io
import json
import zipfile

import pytest
from test_train import events

from esper_agents import checkpoint
from esper_agents.compare import build as build_comparison
from esper_agents.compare import compare
from esper_agents.config import build
from esper_agents.dry_run import dry_run
from esper_agents.search import Life, Planting
from esper_agents.search.trainee import LIFE, SEARCH, saved_life
from esper_agents.train import train

SMALL = {
    "env": "EsperMicro-v0",
    "algo": "search",
    "num_envs": 5,
    "episode_length": 20,
    "rounds": 3,
    "eval_episodes": 2,
    "compare": ["wait"],
    "overrides": {"engine.name": "null"},
}


def run(folder, resume=None, **changes):
    return train(build({**SMALL, "logdir": str(folder), **changes}), resume, io.StringIO())


def saved(folder):
    """All that a checkpoint keeps of the search."""
    with zipfile.ZipFile(folder / checkpoint.CHECKPOINT) as archive:
        return [json.loads(archive.read(name)) for name in (LIFE, SEARCH)]


def test_it_searches_saves_and_plays_again(tmp_path):
    summary = run(tmp_path)
    assert summary.steps == 3 * 5 * 20
    assert [e.agent for e in summary.evaluations] == ["search", "wait"]
    values = build_comparison({"agents": [str(summary.folder)], "episodes": 2})
    again = compare(values).evaluations[0]
    assert again.episodes == summary.evaluations[0].episodes
    assert all(episode.invalid == 0 for episode in again.episodes)
    best, search = saved(summary.folder)
    assert Life.model_validate(best) == saved_life(summary.folder / checkpoint.CHECKPOINT)
    assert len(search["results"]) == 15
    # The first lives are those of wait, schedule and heuristic.
    assert search["lives"][0] == {}
    assert [each["blueprint"] for each in search["lives"][1]["plantings"]] == ["conv_heavy"] * 3


def test_its_curves_are_those_of_other_runs_and_its_own(tmp_path):
    shown = events(run(tmp_path, eval_every=1).folder)
    tags = set(shown.Tags()["scalars"])
    own = {"search/lives", "search/best_mean", "search/best_hosts"}
    assert own | {"charts/episodic_return", "host/test_accuracy", "eval/mean_reward"} <= tags
    assert [event.value for event in shown.Scalars("search/lives")] == sorted(
        event.value for event in shown.Scalars("search/lives")
    )
    assert [event.step for event in shown.Scalars("charts/episodic_return")] == [100, 200, 300]


@pytest.mark.parametrize("stop", [1, 2])
def test_a_search_that_was_stopped_finds_what_one_finds_that_was_not(tmp_path, stop):
    whole = run(tmp_path / "whole", rounds=4)
    first = run(tmp_path / "parts", rounds=stop)
    assert saved(first.folder) != saved(whole.folder)
    second = run(tmp_path / "parts", first.folder, rounds=4)
    assert second.folder == first.folder
    assert saved(second.folder) == saved(whole.folder)
    assert saved(run(tmp_path / "other", rounds=4, seed=1).folder) != saved(whole.folder)


def test_what_it_searches_for_and_begins_with_can_be_said(tmp_path):
    first = run(tmp_path, rounds=1, search={"starts": ["schedule"], "objective": "quality"})
    _, search = saved(first.folder)
    assert len(search["lives"][0]["plantings"]) == 3
    assert all(10 <= value <= 100 for _, _, value in search["results"])
    second = run(tmp_path, start_from=str(first.folder), seed=1, rounds=1)
    assert Life.model_validate(saved(second.folder)[1]["lives"][0]) == Life.model_validate(
        saved(first.folder)[0]
    )


def test_a_dry_run_plays_and_writes_nothing(tmp_path):
    lines = dry_run(build({**SMALL, "logdir": str(tmp_path)}))
    assert any(line.startswith("agent: search with 0 parameters, played 8 steps") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="beam"):
        build({**SMALL, "search": {"method": "beam"}})
    with pytest.raises(ValueError, match="is not allowed"):
        build({**SMALL, "search": {"again": 1.0}})
    summary = run(tmp_path, rounds=1)
    path = summary.folder / checkpoint.CHECKPOINT
    far = Life.of([Planting(slot=2, blueprint="norm")])
    content = rewritten(path, far)
    path.write_bytes(content)
    slots = {"engine.name": "null", "host.slots": 2}
    with pytest.raises(ValueError, match=r"plantings\.0\.slot=2"):
        compare(build_comparison({"agents": [str(summary.folder)], "episodes": 1, "overrides": slots}))


def rewritten(path, life):
    """A checkpoint with another life."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            new.writestr(name, life.model_dump_json() if name == LIFE else old.read(name))
    return content.getvalue()
