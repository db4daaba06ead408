import numpy as np
import pytest
import torch

from esper_env.tasks.loader import augmentation, crop_flip, evaluation_batches, order, train_batches
from esper_env.tasks.task import ImageTask, Split

CPU = torch.device("cpu")


def make_task(crop_padding=2, flip=True, num_train=50, size=6, channels=3):
    rng = np.random.default_rng(0)

    def split(count):
        images = torch.from_numpy(rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8))
        return Split(images, torch.arange(count) % 4)

    return ImageTask(
        name="test",
        provenance="random numbers",
        train=split(num_train),
        validation=split(23),
        test=split(7),
        num_classes=4,
        mean=torch.linspace(0.4, 0.5, channels),
        std=torch.linspace(0.2, 0.3, channels),
        crop_padding=crop_padding,
        flip=flip,
    )


def epochs(task, seed, count, epoch_size, batch_size):
    batches = [b for e in range(count) for b in train_batches(task, seed, e, epoch_size, batch_size)]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_every_permutation_of_the_stream_holds_each_sample_once():
    stream = order(seed=7, start=0, count=150, num_samples=50)
    laps = stream.reshape(3, 50)
    assert all(sorted(lap) == list(range(50)) for lap in laps.tolist())
    assert not np.array_equal(laps[0], laps[1])
    assert not np.array_equal(laps[1], laps[2])


@pytest.mark.parametrize(("start", "count"), [(0, 50), (49, 1), (50, 50), (37, 120), (100, 3), (149, 2)])
def test_any_window_of_the_stream_is_a_slice_of_it(start, count):
    whole = order(3, 0, 300, 50)
    assert np.array_equal(order(3, start, count, 50), whole[start : start + count])


def test_an_epoch_longer_than_the_split_goes_on_in_the_next_permutation():
    assert np.bincount(order(0, 0, 120, 50), minlength=50).min() == 2


def test_two_environments_read_in_different_orders():
    assert not np.array_equal(order(0, 0, 50, 50), order(1, 0, 50, 50))


def test_any_window_of_the_augmentation_is_a_slice_of_it():
    whole = augmentation(3, 0, 300, 50, 4, True)
    part = augmentation(3, 45, 120, 50, 4, True)
    for all_of_it, window in zip(whole, part, strict=True):
        assert np.array_equal(window, all_of_it[45:165])


def test_crops_and_flips_are_uniform_and_independent():
    """Chi-square over the 9 x 9 x 2 cells: 161 degrees of freedom, 230 is the 0.9997 quantile."""
    down, right, mirror = augmentation(0, 0, 81_000, 1000, 4, True)
    counts = np.bincount((down * 9 + right) * 2 + mirror, minlength=162)
    assert len(counts) == 162
    assert ((counts - 500.0) ** 2 / 500).sum() < 230


def test_without_flip_nothing_is_mirrored():
    assert not augmentation(0, 0, 1000, 100, 4, False)[2].any()


def test_crop_flip_equals_a_plain_loop():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 7, 5, 3), dtype=np.uint8)
    down, right, mirror = rng.integers(0, 7, 40), rng.integers(0, 7, 40), rng.integers(0, 2, 40)
    expected = np.empty_like(images)
    for i, image in enumerate(images):
        crop = np.pad(image, ((3, 3), (3, 3), (0, 0)))[down[i] : down[i] + 7, right[i] : right[i] + 5]
        expected[i] = crop[:, ::-1] if mirror[i] else crop
    got = crop_flip(torch.from_numpy(images), 3, *map(torch.from_numpy, (down, right, mirror)))
    assert np.array_equal(got.numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_the_normalized_samples_of_the_stream(channels):
    task = make_task(crop_padding=0, flip=False, channels=channels)
    x, y = epochs(task, seed=5, count=2, epoch_size=32, batch_size=8)
    rows = order(5, 0, 64, 50)
    images = task.train.images.numpy()[rows].astype(np.float64) / 255
    expected = ((images - task.mean.numpy()) / task.std.numpy()).transpose(0, 3, 1, 2)
    assert x.shape == (64, channels, 6, 6)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), expected, atol=2e-6)
    assert torch.equal(y, task.train.labels[torch.from_numpy(rows)])


def test_augmented_entries_do_not_depend_on_epoch_or_batch_size():
    task = make_task()
    x, y = epochs(task, seed=9, count=2, epoch_size=48, batch_size=48)
    for count, epoch_size, batch_size in ((2, 48, 16), (4, 24, 8), (1, 96, 32), (8, 12, 4)):
        other_x, other_y = epochs(task, 9, count, epoch_size, batch_size)
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_augmentation_reaches_the_batches():
    plain, _ = epochs(make_task(0, False), 0, 1, 48, 16)
    cropped, _ = epochs(make_task(2, False), 0, 1, 48, 16)
    mirrored, _ = epochs(make_task(0, True), 0, 1, 48, 16)
    assert not torch.equal(plain, cropped)
    is_same = (mirrored == plain).flatten(1).all(1)
    is_flipped = (mirrored == plain.flip(3)).flatten(1).all(1)
    assert (is_same | is_flipped).all()
    assert is_same.any()
    assert is_flipped.any()


def test_environments_do_not_disturb_each_other():
    task = make_task()
    alone = [x for x, _ in train_batches(task, 1, 0, 48, 16)]
    beside = zip(train_batches(task, 1, 0, 48, 16), train_batches(task, 2, 0, 48, 16), strict=True)
    for first, ((mine, _), (other, _)) in zip(alone, beside, strict=True):
        assert torch.equal(first, mine)
        assert not torch.equal(mine, other)


def test_torch_and_numpy_global_random_states_stay():
    task = make_task()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    epochs(task, 0, 1, 48, 16)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_the_task_is_never_written_to():
    task = make_task()
    before = task.train.images.clone(), task.validation.images.clone()
    for x, _ in train_batches(task, 0, 0, 48, 16):
        x.zero_()
    for x, _ in evaluation_batches(task, task.validation):
        x.zero_()
    assert torch.equal(task.train.images, before[0])
    assert torch.equal(task.validation.images, before[1])


@pytest.mark.parametrize(("limit", "expected"), [(None, 23), (10, 10), (1000, 23)])
def test_evaluation_is_in_order_whole_and_never_augmented(limit, expected):
    task = make_task()
    batches = list(evaluation_batches(task, task.validation, limit, batch_size=9))
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    images = task.validation.images[:expected].double() / 255
    reference = ((images - task.mean) / task.std).permute(0, 3, 1, 2)
    torch.testing.assert_close(x.double(), reference, atol=2e-6, rtol=0)
    assert torch.equal(y, task.validation.labels[:expected])


@pytest.mark.parametrize(("epoch_size", "batch_size"), [(100, 16), (0, 16), (16, 0), (-16, 16)])
def test_an_epoch_that_is_no_multiple_of_the_batch_is_refused(epoch_size, batch_size):
    with pytest.raises(ValueError, match=f"epoch_size={epoch_size}"):
        next(train_batches(make_task(), 0, 0, epoch_size, batch_size))
