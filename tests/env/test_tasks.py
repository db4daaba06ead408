import os
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from esper_env.contracts.streams import Stream, generator
from esper_env.tasks import cifar10
from esper_env.tasks.folder import FILES, DataUnavailableError, cache_folder
from esper_env.tasks.task import SPLIT_SEED, TaskConfig, load_task

CPU = torch.device("cpu")
SMALL = {"data": "procedural", "image_size": 16, "train_size": 200, "val_size": 50, "test_size": 60}


def write(folder, num_train=40, num_test=12, size=8, channels=3, num_classes=4):
    """A small data set whose images are all distinct: pixel (0, 0) counts them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for kind, count in (("train", num_train), ("test", num_test)):
        images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
        images[:, 0, 0, 0] = np.arange(count)
        np.save(folder / f"{kind}_images.npy", images)
        np.save(folder / f"{kind}_labels.npy", (np.arange(count) % num_classes).astype(np.uint8))
    return folder


@pytest.fixture
def small_cifar(monkeypatch):
    """CIFAR-10 with 40 + 12 images, so that its checks run in milliseconds."""
    monkeypatch.setattr(cifar10, "SHAPES", ((40, 8, 8, 3), (40,), (12, 8, 8, 3), (12,)))


@pytest.fixture
def torchvision(monkeypatch):
    """Stands in for torchvision.datasets; the test sets what CIFAR10 does."""
    module = types.ModuleType("torchvision.datasets")
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    return module


def fake_cifar10(root, train, download):
    assert download
    count = 40 if train else 12
    Path(root).mkdir(exist_ok=True)
    (Path(root) / "archive").write_bytes(b"raw")
    images = np.full((count, 8, 8, 3), 7 if train else 9, dtype=np.uint8)
    return types.SimpleNamespace(data=images, targets=[i % 10 for i in range(count)])


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_real_cifar10_is_split_by_the_fixed_permutation():
    """The real files where ESPER_DATA_DIR has them; else the same claim on stand-in files, said aloud."""
    path, _ = cache_folder(None)
    if not (path / "cifar10" / FILES[0]).exists():
        print("no real CIFAR-10 in the cache folder: checked on procedural images instead")  # noqa: T201
        task = load_task(TaskConfig(**SMALL), CPU)
        assert task.provenance.startswith("procedural images")
        return
    task = load_task(TaskConfig(), CPU)
    images, labels = (
        np.load(path / "cifar10" / f"train_{kind}.npy", mmap_mode="r") for kind in ("images", "labels")
    )
    drawn = generator(SPLIT_SEED, Stream.DATA).permutation(50_000)
    assert (task.train.num_samples, task.validation.num_samples, task.test.num_samples) == (
        45_000,
        5_000,
        10_000,
    )
    for position in (0, 17, 4_999):
        assert np.array_equal(task.validation.images[position], images[drawn[position]])
        assert task.validation.labels[position] == labels[drawn[position]]
    # Means and deviations that the literature gives for CIFAR-10.
    np.testing.assert_allclose(task.mean, [0.4914, 0.4822, 0.4465], atol=1e-3)
    np.testing.assert_allclose(task.std, [0.2470, 0.2435, 0.2616], atol=1e-3)
    assert task.provenance == f"real CIFAR-10, from {path / 'cifar10'}"
    assert task.crop_padding == 4
    assert task.flip


def test_validation_and_train_share_no_image_and_lose_none(tmp_path):
    write(tmp_path / "mine")
    task = load_task(TaskConfig(data="folder:mine", data_dir=str(tmp_path)), CPU)
    train, validation = (split.images[:, 0, 0, 0].tolist() for split in (task.train, task.validation))
    assert len(train) == 36
    assert len(validation) == 4
    assert sorted(train + validation) == list(range(40))
    assert validation == generator(SPLIT_SEED, Stream.DATA).permutation(40)[:4].tolist()
    assert task.validation.labels.tolist() == [index % 4 for index in validation]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_the_user_becomes_a_task(tmp_path, channels):
    write(tmp_path / "mine", channels=channels, num_classes=3)
    task = load_task(TaskConfig(data="folder:mine", data_dir=str(tmp_path)), CPU)
    images = np.load(tmp_path / "mine" / FILES[0])[sorted(task.train.images[:, 0, 0, 0].tolist())]
    assert task.input_shape == (channels, 8, 8)
    assert task.num_classes == 3
    np.testing.assert_allclose(task.mean, images.mean(axis=(0, 1, 2)) / 255, atol=1e-6)
    np.testing.assert_allclose(task.std, images.std(axis=(0, 1, 2)) / 255, atol=1e-6)
    assert task.crop_padding == 0
    assert not task.flip


def test_augmentation_is_off_where_orientation_may_be_the_class_unless_asked_for():
    assert load_task(TaskConfig(**SMALL), CPU).crop_padding == 0
    asked = load_task(TaskConfig(**SMALL, augment=True, crop_padding=2, flip=False), CPU)
    assert asked.crop_padding == 2
    assert not asked.flip


def test_a_process_holds_the_images_once():
    first, second = load_task(TaskConfig(**SMALL), CPU), load_task(TaskConfig(**SMALL, augment=True), CPU)
    other = load_task(TaskConfig(**SMALL, generator_seed=1), CPU)
    assert first.train.images.data_ptr() == second.train.images.data_ptr()
    assert first.train.images.data_ptr() != other.train.images.data_ptr()
    assert not torch.equal(first.train.images, other.train.images)


def test_a_folder_is_held_once_however_it_was_named(tmp_path, monkeypatch):
    write(tmp_path / "mine")
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path))
    configs = [{}, {"data_dir": str(tmp_path)}, {"data_dir": str(tmp_path / "mine" / ".."), "patience": 1.0}]
    tasks = [load_task(TaskConfig(data="folder:mine", **config), CPU) for config in configs]
    assert len({task.train.images.data_ptr() for task in tasks}) == 1


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    folder = write(tmp_path / "mine")
    for name in (FILES[0], FILES[2]):
        images = np.load(folder / name)
        images[..., 2] = 90
        np.save(folder / name, images)
    task = load_task(TaskConfig(data="folder:mine", data_dir=str(tmp_path)), CPU)
    assert task.std[2].item() == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    "data",
    [
        "cifar",
        "folder:",
        "folder:..",
        "folder:a/b",
        "folder:../x",
        "folder:.hidden",
        "folder:a\\b",
        "CIFAR10",
        "",
    ],
)
def test_unknown_data_are_refused_with_what_is_allowed(data):
    with pytest.raises(ValidationError, match=r"allowed are 'cifar10', 'procedural' and 'folder:NAME'"):
        TaskConfig(data=data)


@pytest.mark.parametrize("field", ["train_size", "val_size", "test_size", "image_size", "generator_seed"])
def test_negative_sizes_are_refused_by_name(field):
    with pytest.raises(ValidationError, match=field):
        TaskConfig(**{field: -1})


def test_the_cache_folder_is_data_dir_then_the_variable_then_home(monkeypatch):
    monkeypatch.setenv("ESPER_DATA_DIR", "/from/variable")
    assert cache_folder("/from/argument") == (Path("/from/argument"), "data_dir")
    assert cache_folder(None) == (Path("/from/variable"), "ESPER_DATA_DIR")
    monkeypatch.delenv("ESPER_DATA_DIR")
    assert cache_folder(None)[0] == Path(os.path.expanduser("~")) / ".cache" / "esper"


def damage_missing(folder):
    (folder / FILES[1]).unlink()


def damage_truncated(folder):
    path = folder / FILES[0]
    path.write_bytes(path.read_bytes()[:-1])


def damage_empty(folder):
    (folder / FILES[3]).write_bytes(b"")


def damage_no_array(folder):
    (folder / FILES[2]).write_bytes(b"<html>not found</html>")


def damage_pickle(folder):
    np.save(folder / FILES[1], np.array([{}] * 40, dtype=object), allow_pickle=True)


def damage_shape(folder):
    np.save(folder / FILES[0], np.zeros((40, 3, 8, 8), dtype=np.uint8))


def damage_dtype(folder):
    np.save(folder / FILES[2], np.zeros((12, 8, 8, 3), dtype=np.float32))


def damage_label_dtype(folder):
    np.save(folder / FILES[3], np.zeros(12))


def damage_labels_high(folder):
    np.save(folder / FILES[3], np.full(12, 10, dtype=np.uint8))


def damage_labels_negative(folder):
    np.save(folder / FILES[1], np.full(40, -1))


def damage_length(folder):
    np.save(folder / FILES[1], np.zeros(39, dtype=np.uint8))


def damage_mixed_sizes(folder):
    np.save(folder / FILES[2], np.zeros((12, 9, 9, 3), dtype=np.uint8))


DAMAGES = [
    (damage_missing, FILES[1], "missing"),
    (damage_truncated, FILES[0], "not a readable"),
    (damage_empty, FILES[3], "not a readable"),
    (damage_no_array, FILES[2], "not a readable"),
    (damage_pickle, FILES[1], "not a readable"),
    (damage_shape, FILES[0], r"shape \(40, 3, 8, 8\), expected"),
    (damage_dtype, FILES[2], "dtype float32, expected uint8"),
    (damage_label_dtype, FILES[3], "dtype float64, expected integers"),
    (damage_labels_high, FILES[3], "labels from 10 to 10, expected 0 to"),
    (damage_labels_negative, FILES[1], "labels from -1 to -1, expected 0 to"),
    (damage_length, FILES[1], "39"),
    (damage_mixed_sizes, FILES[2], r"\(.*9, 9, 3\), expected"),
]


@pytest.mark.parametrize(("damage", "name", "what"), DAMAGES, ids=[damage[0].__name__ for damage in DAMAGES])
@pytest.mark.parametrize("data", ["cifar10", "folder:mine"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path, small_cifar, torchvision, data, damage, name, what):
    torchvision.CIFAR10 = fake_cifar10
    folder = write(tmp_path / data.removeprefix("folder:"))
    damage(folder)
    before = snapshot(folder)
    with pytest.raises(ValueError, match=what) as raised:
        load_task(TaskConfig(data=data, data_dir=str(tmp_path)), CPU)
    assert name in str(raised.value)
    assert str(folder) in str(raised.value)
    assert snapshot(folder) == before


def test_a_folder_too_small_to_split_is_refused(tmp_path):
    write(tmp_path / "mine", num_train=4)
    with pytest.raises(ValueError, match=r"val_fraction=0.1 of 4 training images"):
        load_task(TaskConfig(data="folder:mine", data_dir=str(tmp_path)), CPU)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataUnavailableError, match="folder:mine") as raised:
        load_task(TaskConfig(data="folder:mine", data_dir=str(tmp_path)), CPU)
    assert str(tmp_path / "mine") in str(raised.value)


def test_absent_cifar10_is_downloaded_converted_and_kept(tmp_path, small_cifar, torchvision):
    torchvision.CIFAR10 = fake_cifar10
    task = load_task(TaskConfig(data_dir=str(tmp_path)), CPU)
    assert (task.train.images == 7).all()
    assert (task.test.images == 9).all()
    assert task.test.labels.tolist() == [i % 10 for i in range(12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10"]
    assert sorted(path.name for path in (tmp_path / "cifar10").iterdir()) == sorted(FILES)
    assert np.load(tmp_path / "cifar10" / FILES[1]).dtype == np.uint8


def test_a_download_leaves_other_files_of_the_folder(tmp_path, small_cifar, torchvision):
    torchvision.CIFAR10 = fake_cifar10
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "README.md").write_text("mine")
    assert load_task(TaskConfig(data_dir=str(tmp_path)), CPU).train.num_samples == 36
    assert (tmp_path / "cifar10" / "README.md").read_text() == "mine"


def assert_three_ways_out(message, tmp_path):
    assert str(tmp_path / "cifar10") in message
    assert "torchvision" in message
    for way in (FILES[0], "ESPER_DATA_DIR", 'data="procedural"'):
        assert way in message


def test_a_refused_download_names_three_ways_out_and_leaves_nothing(tmp_path, torchvision):
    def refuse(root, train, download):
        raise OSError("connection refused")

    torchvision.CIFAR10 = refuse
    with pytest.raises(DataUnavailableError, match="connection refused") as raised:
        load_task(TaskConfig(data_dir=str(tmp_path)), CPU)
    assert_three_ways_out(str(raised.value), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_hanging_network_is_given_up_in_time(tmp_path, torchvision):
    released = threading.Event()

    def hang(root, train, download):
        released.wait(30)
        raise OSError("too late")

    torchvision.CIFAR10 = hang
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match=r"no data came for 0.3 s") as raised:
        load_task(TaskConfig(data_dir=str(tmp_path), patience=0.3), CPU)
    released.set()
    assert time.monotonic() - start < 3
    assert_three_ways_out(str(raised.value), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert TaskConfig().patience <= 15


def test_a_slow_download_that_goes_on_is_not_given_up(tmp_path, small_cifar, torchvision):
    def slow(root, train, download):
        Path(root).mkdir(exist_ok=True)
        for step in range(8):
            with (Path(root) / "part").open("ab") as file:
                file.write(b"x" * (step + 1))
            time.sleep(0.1)
        return fake_cifar10(root, train, download)

    torchvision.CIFAR10 = slow
    assert load_task(TaskConfig(data_dir=str(tmp_path), patience=0.6), CPU).num_classes == 10


def test_a_missing_torchvision_names_three_ways_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(DataUnavailableError, match="torchvision") as raised:
        load_task(TaskConfig(data_dir=str(tmp_path)), CPU)
    assert_three_ways_out(str(raised.value), tmp_path)


def test_a_cache_folder_that_cannot_be_made_names_three_ways_out(tmp_path, torchvision):
    torchvision.CIFAR10 = fake_cifar10
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataUnavailableError, match="ESPER_DATA_DIR"):
        load_task(TaskConfig(data_dir=str(tmp_path / "file")), CPU)


def test_procedural_images_say_what_they_are():
    task = load_task(TaskConfig(**SMALL), CPU)
    assert task.provenance == "procedural images 16x16, generator v1, seed 0"
    assert task.family == "image"
    assert task.input_shape == (3, 16, 16)
    assert task.num_classes == 10
    assert [len(split.images) for split in (task.train, task.validation, task.test)] == [200, 50, 60]
    changed = load_task(TaskConfig(**SMALL, difficulty={"noise": 0.3}), CPU)
    assert "noise=0.3" in changed.provenance
