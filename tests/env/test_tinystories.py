"""Real stories: from files or from the hub, checked, encoded once, and never silently replaced."""

import os
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from esper_env import EsperVectorEnv
from esper_env.contracts.streams import Stream, generator
from esper_env.tasks import tinystories, token_cache
from esper_env.tasks.folder import DataUnavailableError, cache_folder
from esper_env.tasks.plot import GRAMMAR, Words
from esper_env.tasks.task import TaskConfig, load_task
from esper_env.tasks.tokenizer import END

CPU = torch.device("cpu")
STORIES = [
    f"Story {i}. " + Words().decode(GRAMMAR.tell(generator(1, Stream.GENERATOR, i))[:-1]) for i in range(60)
]
TRAIN, TEST = STORIES[:50], STORIES[50:]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's cache folder is not that of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(cache, train=TRAIN, test=TEST):
    folder = cache / "tinystories"
    folder.mkdir(parents=True)
    for name, stories in zip(tinystories.FILES, (train, test), strict=True):
        (folder / name).write_text("".join(f"{story}\n{END}\n" for story in stories))
    return folder


def encoded(cache, vocabulary=300, val_fraction=0.1):
    return tinystories.load(cache, "data_dir", 60.0, val_fraction, vocabulary)


def texts(read):
    """The stories of each split."""
    return [read.code.decode(tokens.tolist()).split(END)[:-1] for tokens in read.splits]


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(monkeypatch):
    """Stands in for huggingface_hub; the test sets what hf_hub_download does."""
    module = types.ModuleType("huggingface_hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def fake_download(repo_id, filename, *, repo_type, revision, local_dir, token):
    assert (repo_id, repo_type, token) == ("roneneldan/TinyStories", "dataset", False)
    assert len(revision) == 40
    stories = {"TinyStories-train.txt": TRAIN, "TinyStories-valid.txt": TEST}[filename]
    Path(local_dir).mkdir(parents=True, exist_ok=True)
    (Path(local_dir) / ".cache").mkdir(exist_ok=True)
    raw = f"\r\n{END}\r\n".join(["\n" + story for story in stories] + ["", "A story that is cut o"])
    (Path(local_dir) / filename).write_bytes(raw.encode())
    return str(Path(local_dir) / filename)


def test_the_real_stories_are_split_and_coded_as_documented():
    """The real files, where ESPER_DATA_DIR has them."""
    path, _ = cache_folder(None)
    if not (path / "tinystories" / "train.txt").exists():
        pytest.skip("no real TinyStories in the cache folder: the others test on stand-in files")
    task = load_task(TaskConfig(data="tinystories", vocabulary=256, val_size="full"), CPU, "text", 256)
    total = (path / "tinystories" / "train.txt").read_text().count(END)
    counts = [int((part.tokens == 255).sum()) for part in (task.train, task.validation, task.test)]
    last = round(0.05 * total)
    # A story that is in a later split too, or empty, is in none of these.
    assert 0.99 * last < counts[1] <= last
    assert 0.99 * (total - last) < counts[0] <= total - last
    assert task.provenance.startswith(f"real TinyStories, from {path / 'tinystories'}: {counts[0]} + ")


@pytest.mark.parametrize("vocabulary", [256, 300])
def test_validation_is_the_last_stories_of_train_and_test_the_other_file(tmp_path, vocabulary):
    write(tmp_path)
    read = encoded(tmp_path, vocabulary)
    assert texts(read) == [TRAIN[:45], TRAIN[45:], TEST]
    assert {tokens.dtype for tokens in read.splits} == {np.dtype(np.int16)}
    assert "45 + 5 + 10 stories" in read.provenance
    assert f"real TinyStories, from {tmp_path / 'tinystories'}" in read.provenance


def test_no_story_is_in_two_splits(tmp_path):
    write(tmp_path, [TEST[0], *TRAIN[:20], TRAIN[48], *TRAIN[20:46], TEST[3], TRAIN[48]], TEST)
    assert texts(encoded(tmp_path)) == [TRAIN[:43], [*TRAIN[43:46], TRAIN[48]], TEST]


def test_windows_are_packed_without_padding(tmp_path):
    write(tmp_path)
    config = TaskConfig(data="tinystories", data_dir=str(tmp_path), vocabulary=300, val_fraction=0.1)
    task = load_task(config, CPU, "text", 32)
    stream = encoded(tmp_path).splits[0]
    assert task.train.num_samples == (len(stream) - 1) // 32
    x, y = task.train.windows(torch.arange(task.train.num_samples))
    assert x.flatten().tolist() == stream[: x.numel()].tolist()
    assert y.flatten().tolist() == stream[1 : y.numel() + 1].tolist()
    assert (task.input_shape, task.num_classes, task.family) == ((32,), 300, "text")
    assert task.decode(x.flatten()).startswith(TRAIN[0] + END + TRAIN[1] + END)
    assert "; 32 tokens a window" in task.provenance


def test_a_file_may_have_empty_stories_and_marks_anywhere(tmp_path):
    folder = write(tmp_path)
    ends = [f"\n{END}\n", END, f"{END}\r\n", f"\n{END}\n\n{END}\n", f"  \n{END}"]
    text = "".join(story + ends[i % len(ends)] for i, story in enumerate(TRAIN))
    (folder / "train.txt").write_bytes(text.encode())
    assert texts(encoded(tmp_path)) == [TRAIN[:45], TRAIN[45:], TEST]


def damage_missing(folder):
    (folder / "valid.txt").unlink()
    return "valid.txt"


def damage_cut_off(folder):
    path = folder / "train.txt"
    path.write_bytes(path.read_bytes()[:-9])
    return "train.txt"


def damage_empty(folder):
    (folder / "valid.txt").write_bytes(b"")
    return "valid.txt"


def damage_other_page(folder):
    (folder / "train.txt").write_bytes(b"<html>not found</html>")
    return "train.txt"


def damage_encoding(folder):
    path = folder / "train.txt"
    path.write_bytes(path.read_bytes().replace(b"Story 7", b"Story \xe9"))
    return "train.txt"


def damage_no_stories(folder):
    (folder / "valid.txt").write_text(f"\n{END}\n{END}\n")
    return "valid.txt"


DAMAGES = {
    damage_missing: "missing",
    damage_cut_off: "cut off",
    damage_empty: "no story in it",
    damage_other_page: "cut off",
    damage_encoding: "not UTF-8",
    damage_no_stories: "no story in it",
}


@pytest.mark.parametrize("vocabulary", [256, 300])
@pytest.mark.parametrize(("damage", "what"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
def test_a_damaged_file_is_named_and_left_alone(tmp_path, hub, damage, what, vocabulary):
    hub.hf_hub_download = fake_download
    folder = write(tmp_path)
    name = damage(folder)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=what) as raised:
        encoded(tmp_path, vocabulary)
    assert not isinstance(raised.value, DataUnavailableError)
    assert name in str(raised.value)
    assert str(folder) in str(raised.value)
    assert snapshot(tmp_path) == before


def test_too_few_stories_to_split_are_refused_with_the_numbers(tmp_path):
    write(tmp_path, TRAIN[:4])
    with pytest.raises(
        ValueError, match=r"val_fraction=0.1 of 4 stories .* leaves 4 .* and 0 for validation"
    ):
        encoded(tmp_path)


def test_the_code_is_trained_once_and_then_read_without_the_library(tmp_path, monkeypatch):
    folder = write(tmp_path)
    first = encoded(tmp_path)
    [kept] = folder.glob("tokens-*.npz")
    monkeypatch.setattr(tinystories, "train", None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    second = encoded(tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first.splits, second.splits, strict=True))
    assert second.code.record == first.code.record
    assert second.provenance == first.provenance
    assert f"tokens kept in {kept}" in first.provenance
    assert texts(second) == [TRAIN[:45], TRAIN[45:], TEST]
    assert sorted(path.name for path in folder.iterdir()) == sorted([kept.name, *tinystories.FILES])


def change_train(folder):
    (folder / "train.txt").write_text("".join(f"{story}\n{END}\n" for story in TRAIN[1:]))


def change_test(folder):
    (folder / "valid.txt").write_text("".join(f"{story}\n{END}\n" for story in TEST[1:]))


CHANGES = {
    "train stories": (change_train, {}),
    "test stories": (change_test, {}),
    "vocabulary": (lambda folder: None, {"vocabulary": 301}),
    "split": (lambda folder: None, {"val_fraction": 0.2}),
}


@pytest.mark.parametrize(("change", "settings"), CHANGES.values(), ids=CHANGES)
def test_tokens_of_other_stories_or_settings_are_never_used(tmp_path, change, settings):
    folder = write(tmp_path / "old")
    encoded(tmp_path / "old")
    change(folder)
    fresh = write(tmp_path / "new")
    change(fresh)
    stale, new = encoded(tmp_path / "old", **settings), encoded(tmp_path / "new", **settings)
    assert all(np.array_equal(a, b) for a, b in zip(stale.splits, new.splits, strict=True))
    assert stale.code.record == new.code.record
    assert len(list(folder.glob("tokens-*.npz"))) == 2


def test_another_recipe_makes_other_tokens(tmp_path, monkeypatch):
    folder = write(tmp_path)
    encoded(tmp_path)
    monkeypatch.setattr(tinystories, "RECIPE", tinystories.RECIPE + 1)
    encoded(tmp_path)
    assert len(list(folder.glob("tokens-*.npz"))) == 2


@pytest.mark.parametrize("how", ["cut off", "a bit flipped", "another file"])
def test_a_damaged_file_of_tokens_is_named_and_left_alone(tmp_path, how):
    folder = write(tmp_path)
    encoded(tmp_path)
    [kept] = folder.glob("tokens-*.npz")
    data = bytearray(kept.read_bytes())
    data[2000] ^= 1
    kept.write_bytes({"cut off": data[:-30], "a bit flipped": data, "another file": b"no"}[how])
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"not a whole file of tokens .* remove it") as raised:
        encoded(tmp_path)
    assert str(kept) in str(raised.value)
    assert snapshot(tmp_path) == before
    kept.unlink()
    assert texts(encoded(tmp_path)) == [TRAIN[:45], TRAIN[45:], TEST]


def read_only(folder):
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o555)


def test_beside_a_folder_that_is_read_only_the_users_cache_keeps_the_tokens(tmp_path, home, monkeypatch):
    folder = write(tmp_path)
    read_only(folder)
    before = snapshot(folder)
    first = encoded(tmp_path)
    [kept] = (home / ".cache" / "esper" / "tinystories").iterdir()
    assert f"tokens kept in {kept}" in first.provenance
    monkeypatch.setattr(tinystories, "train", None)
    assert encoded(tmp_path).provenance == first.provenance
    assert snapshot(folder) == before
    assert not tinystories.cached(str(home / ".cache" / "esper")), "tokens alone are no data set"


def test_where_nothing_can_be_written_the_tokens_stay_in_memory_and_that_is_said(tmp_path, home):
    folder = write(tmp_path)
    read_only(folder)
    read_only(home / ".cache" / "esper" / "tinystories")
    read = encoded(tmp_path)
    assert "tokens kept in memory" in read.provenance
    assert str(home / ".cache" / "esper" / "tinystories") in read.provenance
    assert texts(read) == [TRAIN[:45], TRAIN[45:], TEST]
    assert snapshot(home) == {}


def test_a_full_disk_leaves_no_half_a_file(tmp_path, home, monkeypatch):
    folder = write(tmp_path)
    before = snapshot(folder)
    save, tried = np.savez, []

    def full(file, **arrays):
        tried.append(file.name)
        file.write(b"half")
        if len(tried) == 1:
            raise OSError("no space left on device")
        file.seek(0)
        save(file, **arrays)

    monkeypatch.setattr(token_cache.np, "savez", full)
    assert f"tokens kept in {home}" in encoded(tmp_path).provenance
    assert snapshot(folder) == before
    assert [path.suffix for path in (home / ".cache" / "esper" / "tinystories").iterdir()] == [".npz"]


def test_two_at_once_make_one_whole_file(tmp_path):
    folder = write(tmp_path)
    results = []
    threads = [threading.Thread(target=lambda: results.append(encoded(tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({read.provenance for read in results}) == 1
    assert len(results) == 3
    assert len(list(folder.iterdir())) == 3
    assert texts(encoded(tmp_path)) == [TRAIN[:45], TRAIN[45:], TEST]


def test_a_process_holds_the_tokens_once(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path))
    settings = [{}, {"data_dir": str(tmp_path)}, {"patience": 3.0}]
    configs = [TaskConfig(data="tinystories", vocabulary=300, **each) for each in settings]
    tasks = [load_task(config, CPU, "text", context) for config in configs for context in (16, 64)]
    assert len({task.train.tokens.data_ptr() for task in tasks}) == 1


def test_asked_for_fewer_windows_a_task_keeps_the_first(tmp_path):
    write(tmp_path)
    config = {"data": "tinystories", "data_dir": str(tmp_path), "vocabulary": 300}
    whole = load_task(TaskConfig(**config), CPU, "text", 16)
    part = load_task(TaskConfig(**config, train_size=20, val_size=3, test_size=2), CPU, "text", 16)
    assert [each.num_samples for each in (part.train, part.validation, part.test)] == [20, 3, 2]
    assert torch.equal(part.validation.tokens, whole.validation.tokens[: 3 * 16 + 1])
    with pytest.raises(
        ValueError, match=r"task.val_size=9000 .* val split has \d+ tokens, which make \d+ win"
    ):
        load_task(TaskConfig(**config, val_size=9000), CPU, "text", 16)
    with pytest.raises(ValueError, match=r"context=9000 .* 0 windows of 9000 tokens"):
        load_task(TaskConfig(**config, context=9000), CPU, "text", 16)


def test_unless_one_says_otherwise_losses_are_measured_on_few_windows(tmp_path):
    """So that the whole data set can be played: 100 times the training of an epoch is its validation else."""
    write(tmp_path)
    config = {"data": "tinystories", "data_dir": str(tmp_path), "vocabulary": 300, "val_fraction": 0.2}

    def task(context, **sizes):
        return load_task(TaskConfig(**config, **sizes), CPU, "text", context)

    def sizes(task):
        return [each.num_samples for each in (task.train, task.validation, task.test)]

    few, every = task(2), task(2, train_size="full", val_size="full", test_size="full")
    whole = [(len(each.tokens) - 1) // 2 for each in (every.train, every.validation, every.test)]
    assert sizes(every) == whole
    assert sizes(few) == [whole[0], 512, 1024]
    assert whole[1] > 512 < 1024 < whole[2]
    assert torch.equal(few.validation.tokens, every.validation.tokens[: 512 * 2 + 1])
    told = (
        f"; 2 tokens a window, the first 512 of {whole[1]:,} for validation, the first 1,024 of {whole[2]:,}"
    )
    assert few.provenance.endswith(f"{told} for test")
    assert every.provenance.endswith("; 2 tokens a window")
    assert sizes(task(64)) == [(2 * count) // 64 for count in whole]
    assert task(64).provenance.endswith("; 64 tokens a window"), "there are fewer"


def test_procedural_stories_have_the_sizes_of_their_kind_where_all_are_asked_for():
    assert TaskConfig(data="procedural", val_size="full").sizes("text") == (2_048, 128, 128)
    for size in (0, "all"):
        with pytest.raises(ValueError, match=rf"task\.val_size={size!r}"):
            EsperVectorEnv(1, "stories", engine="null", overrides={"task.val_size": size})


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
