"""Which stories a run takes, and what it and its dry run say where there are none or no library."""

import sys
from types import SimpleNamespace

import pytest
from gymnasium.vector import AutoresetMode
from test_stories import SMALL, TINY

from esper_agents.config import build
from esper_agents.dry_run import dry_run
from esper_agents.environment import make_world
from esper_env import DataUnavailableError


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache folder, and a hub that nobody reaches."""

    def unreachable(*args, **kwargs):
        raise OSError("no route")

    hub = SimpleNamespace(hf_hub_download=unreachable)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path / "cache"))


@pytest.fixture
def own_stories(monkeypatch, tmp_path):
    """Files of TinyStories' form in the cache folder."""
    folder = tmp_path / "cache" / "tinystories"
    folder.mkdir(parents=True)
    for name, count in (("train", 300), ("valid", 40)):
        told = (f"Tom had {i} balls. He gave {i % 7} to Amy.\n<|endoftext|>\n" for i in range(count))
        (folder / f"{name}.txt").write_text("".join(told))
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path / "cache"))
    return folder


BYTES = {**TINY, "task.vocabulary": 256}


@pytest.mark.usefixtures("own_stories")
def test_auto_takes_stories_that_are_there():
    world = make_world(build({**SMALL, "data": None, "overrides": BYTES}), 1, AutoresetMode.NEXT_STEP)
    assert world.provenance.startswith("real TinyStories")
    assert "as bytes" in world.provenance
    for per_token in world.envs.metadata["characters_per_token"].values():
        assert per_token == pytest.approx(36 / 37, abs=0.02)


@pytest.mark.usefixtures("offline")
def test_auto_says_what_it_fell_back_to_and_why():
    world = make_world(build({**SMALL, "data": "auto", "overrides": BYTES}), 1, AutoresetMode.NEXT_STEP)
    assert world.provenance.startswith("procedural stories")
    assert "not real, because TinyStories is not in" in world.provenance
    assert "no route" in world.provenance


@pytest.mark.usefixtures("offline")
def test_real_stories_that_were_asked_for_by_name_are_never_replaced():
    config = build({**SMALL, "data": "tinystories", "overrides": BYTES})
    with pytest.raises(DataUnavailableError, match="no route"):
        make_world(config, 1, AutoresetMode.NEXT_STEP)


@pytest.mark.usefixtures("offline")
def test_a_dry_run_downloads_no_stories(tmp_path):
    lines = dry_run(build({**SMALL, "data": None, "algo": "esper_ppo"}))
    assert any("tinystories is not in the cache: a run would first download it; failing" in t for t in lines)
    assert "1 update" in lines[-2]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_with_stories_that_are_there_writes_nothing(own_stories):
    before = sorted(own_stories.iterdir())
    changes = {key: value for key, value in TINY.items() if key != "task.train_size"}
    lines = dry_run(build({**SMALL, "data": None, "overrides": changes, "algo": "heuristic"}))
    assert any(line == "data: tinystories, from the cache" for line in lines)
    assert "played 8 steps" in lines[-2]
    assert sorted(own_stories.iterdir()) == before


@pytest.mark.usefixtures("own_stories")
def test_stories_that_are_there_are_not_replaced_because_a_library_is_missing(monkeypatch):
    """A run says so, and so does the dry run before it."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    config = build({**SMALL, "data": None, "overrides": TINY | {"task.vocabulary": 300}})
    for ask in (lambda: make_world(config, 1, AutoresetMode.NEXT_STEP), lambda: dry_run(config)):
        with pytest.raises(ValueError, match=r"vocabulary=300 .* needs the library tokenizers"):
            ask()
