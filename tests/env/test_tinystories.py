"""Real stories in files: checked, split, and cut into windows."""

import sys
import types

import numpy as np
import pytest
import torch
from stored import CPU, TEST, TRAIN, encoded, fake_download, snapshot, texts, write

from esper_env import EsperVectorEnv
from esper_env.tasks.folder import DataUnavailableError, cache_folder
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
