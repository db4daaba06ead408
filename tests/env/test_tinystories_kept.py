"""Real stories are encoded once, and tokens of others are never taken for theirs."""

import sys
import threading

import numpy as np
import pytest
from stored import TEST, TRAIN, encoded, snapshot, texts, write

from esper_env.tasks import tinystories, token_cache
from esper_env.tasks.tokenizer import END


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's cache folder is not that of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


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
