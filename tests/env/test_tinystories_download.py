"""Real stories that are not there are downloaded, and never silently replaced."""

import os
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from stored import CPU, TEST, TRAIN, encoded, fake_download, texts, write

from esper_env.tasks import tinystories
from esper_env.tasks.folder import DataUnavailableError
from esper_env.tasks.task import TaskConfig, load_task
from esper_env.tasks.tokenizer import END


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's cache folder is not that of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch):
    """Stands in for huggingface_hub; the test sets what hf_hub_download does."""
    module = types.ModuleType("huggingface_hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_absent_stories_are_downloaded_converted_and_kept(tmp_path, hub):
    hub.hf_hub_download = fake_download
    assert not tinystories.cached(str(tmp_path))
    assert texts(encoded(tmp_path)) == [TRAIN[:45], TRAIN[45:], TEST]
    assert tinystories.cached(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["tinystories"]
    folder = tmp_path / "tinystories"
    assert (folder / "train.txt").read_bytes().decode() == "".join(f"{story}\n{END}\n" for story in TRAIN)
    assert (folder / "valid.txt").read_bytes().decode() == "".join(f"{story}\n{END}\n" for story in TEST)


def test_a_download_leaves_other_files_of_the_folder(tmp_path, hub):
    hub.hf_hub_download = fake_download
    (tmp_path / "tinystories").mkdir()
    (tmp_path / "tinystories" / "README.md").write_text("mine")
    assert texts(encoded(tmp_path))[2] == TEST
    assert (tmp_path / "tinystories" / "README.md").read_text() == "mine"


def assert_three_ways_out(message, tmp_path):
    assert str(tmp_path / "tinystories") in message
    for way in ("huggingface_hub", "esper-env[text]", "train.txt", "ESPER_DATA_DIR", 'data="procedural"'):
        assert way in message


def refuse(*arguments, **settings):
    raise OSError("connection refused")


def no_stories(repo_id, filename, *, local_dir, **others):
    Path(local_dir).mkdir(parents=True, exist_ok=True)
    (Path(local_dir) / filename).write_text("<html>please log in</html>")
    return str(Path(local_dir) / filename)


@pytest.mark.parametrize(
    ("download", "what"), [(refuse, "connection refused"), (no_stories, "no story in it")]
)
def test_a_failed_download_names_three_ways_out_and_leaves_nothing(tmp_path, hub, download, what):
    hub.hf_hub_download = download
    with pytest.raises(DataUnavailableError, match=what) as raised:
        load_task(TaskConfig(data="tinystories", data_dir=str(tmp_path)), CPU, "text", 16)
    assert_three_ways_out(str(raised.value), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hanging_network_is_given_up_in_time(tmp_path, hub):
    released = threading.Event()

    def hang(*arguments, **settings):
        released.wait(30)
        raise OSError("too late")

    hub.hf_hub_download = hang
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match=r"no data came for 0.3 s") as raised:
        load_task(TaskConfig(data="tinystories", data_dir=str(tmp_path), patience=0.3), CPU, "text", 16)
    released.set()
    assert time.monotonic() - start < 5
    assert_three_ways_out(str(raised.value), tmp_path)


def test_the_library_takes_what_it_is_asked_and_when_offline_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataUnavailableError, match="LocalEntryNotFoundError") as raised:
        encoded(tmp_path)
    assert_three_ways_out(str(raised.value), tmp_path)


def test_a_missing_huggingface_hub_names_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataUnavailableError, match="huggingface_hub") as raised:
        encoded(tmp_path)
    assert_three_ways_out(str(raised.value), tmp_path)


def test_a_missing_tokenizers_names_three_ways_out_and_bytes_need_none(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for ask in (encoded, lambda cache: tinystories.check(str(cache), 300, 0.1)):
        with pytest.raises(ValueError, match=r"vocabulary=300 .* needs the library tokenizers") as raised:
            ask(tmp_path)
        assert not isinstance(raised.value, DataUnavailableError), "they are there"
        for way in ("esper-env[text]", "vocabulary=256", 'data="procedural"'):
            assert way in str(raised.value)
    tinystories.check(str(tmp_path), 256, 0.1)
    tinystories.check(str(tmp_path / "elsewhere"), 300, 0.1)
    assert texts(encoded(tmp_path, vocabulary=256))[2] == TEST


def test_tokens_that_are_kept_need_no_library(tmp_path, monkeypatch):
    write(tmp_path)
    encoded(tmp_path, val_fraction=0.05)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tinystories.check(str(tmp_path), 300, None)
    with pytest.raises(ValueError, match="tokenizers"):
        tinystories.check(str(tmp_path), 300, 0.1)


def test_the_package_needs_neither_library(tmp_path):
    code = (
        "import sys; sys.modules['tokenizers'] = sys.modules['huggingface_hub'] = None\n"
        "import torch, esper_env\n"
        "from esper_env.tasks.task import TaskConfig, load_task\n"
        "task = load_task(TaskConfig(data='procedural', train_size=4), torch.device('cpu'), 'text', 16)\n"
        "assert task.train.num_samples == 4"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
