import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from esper_env.tasks.procedural import CLASSES, SHAPES, Difficulty, _shape, generate

PLAIN = Difficulty(haze=0, noise=0, clutter=0, shading=0, contrast=0.3)
CHECKSUMS = {16: "1676412d5e7e728d", 32: "2283136cf04a571e"}


def gray(images):
    return images.astype(np.float64).mean(axis=3)


def linear_accuracy(train_x, train_y, test_x, test_y):
    """Ridge regression onto one-hot labels: the strongest closed-form linear reader."""
    mean, std = train_x.mean(axis=0), train_x.std(axis=0) + 1e-9
    train_x, test_x = (np.c_[(x - mean) / std, np.ones(len(x))] for x in (train_x, test_x))
    target = np.eye(len(CLASSES))[train_y]
    gram = train_x.T @ train_x + 10 * np.eye(train_x.shape[1])
    weights = np.linalg.solve(gram, train_x.T @ target)
    return float(((test_x @ weights).argmax(axis=1) == test_y).mean())


@pytest.mark.parametrize("size", [16, 32])
def test_version_1_draws_the_same_pixels_for_ever(size):
    images, labels = generate(size, 500, seed=0, split=0, difficulty=Difficulty())
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest[:16] == CHECKSUMS[size]


def test_an_image_does_not_depend_on_how_many_are_drawn():
    few, few_labels = generate(16, 260, 3, 1, Difficulty())
    many, many_labels = generate(16, 777, 3, 1, Difficulty())
    assert np.array_equal(few, many[:260])
    assert np.array_equal(few_labels, many_labels[:260])


def test_splits_and_seeds_share_no_image():
    sets = [
        generate(16, 500, seed, split, Difficulty())[0] for seed, split in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]
    distinct = {image.tobytes() for images in sets for image in images}
    assert len(distinct) == 2000


def test_classes_come_in_equal_shares():
    _, labels = generate(16, 1000, 0, 0, Difficulty())
    assert np.bincount(labels, minlength=10).tolist() == [100] * 10
    assert labels.dtype == np.int64


def test_colour_says_nothing_about_the_class():
    """An image's mean colour, read linearly, is within 4 standard errors of chance."""
    train_x, train_y = generate(16, 8000, 0, 0, Difficulty())
    test_x, test_y = generate(16, 4000, 0, 2, Difficulty())
    accuracy = linear_accuracy(train_x.mean(axis=(1, 2)), train_y, test_x.mean(axis=(1, 2)), test_y)
    assert abs(accuracy - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)


def test_raw_pixels_read_linearly_say_little():
    train_x, train_y = generate(16, 8000, 0, 0, Difficulty())
    test_x, test_y = generate(16, 2000, 0, 2, Difficulty())
    accuracy = linear_accuracy(train_x.reshape(8000, -1), train_y, test_x.reshape(2000, -1), test_y)
    assert accuracy < 0.2


def test_brightness_of_every_class_has_the_same_mean():
    images, labels = generate(16, 20_000, 0, 0, Difficulty())
    brightness = gray(images).mean(axis=(1, 2))
    for kind in range(10):
        of_kind = brightness[labels == kind]
        error = of_kind.std() / np.sqrt(len(of_kind))
        assert abs(of_kind.mean() - brightness.mean()) < 4.5 * error


def test_stripes_vary_across_their_orientation_and_not_along_it():
    """Least mean squared difference of neighbours along the four directions names the orientation."""
    images, labels = generate(32, 2000, 0, 0, PLAIN.model_copy(update={"tilt": 0.0}))
    pixels = images.astype(np.float64)
    steps = {"rows": (0, 1), "falling": (1, 1), "columns": (1, 0), "rising": (1, -1)}
    change = np.stack([_change(pixels, *step) / np.hypot(*step) for step in steps.values()])
    for index, name in enumerate(steps):
        of_kind = change[:, labels == CLASSES.index(name)]
        assert (of_kind.argmin(axis=0) == index).mean() > 0.95, name


def _change(pixels, down, right):
    moved = np.roll(pixels, (-down, -right), axis=(1, 2))
    return np.abs(pixels - moved)[:, 2:-2, 2:-2].mean(axis=(1, 2, 3))


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("disk", np.pi),
        ("square", 1.7**2),
        ("triangle", 0.5 * 2 * 1.65 / 1.73 * 1.65),
        ("ring", np.pi * (1.0**2 - 0.44**2)),
        ("cross", 2 * 2 * 0.6 - 0.6**2),
    ],
)
def test_shapes_cover_their_area(shape, area):
    """Areas by hand, in squared radii."""
    axis = (np.arange(400, dtype=np.float32) + 0.5) / 200 - 1
    v, u = np.meshgrid(axis, axis, indexing="ij")
    inside = _shape(np.array([SHAPES.index(shape)]), u[None], v[None]) > 0
    assert inside.sum() / 200**2 == pytest.approx(area, rel=0.01)


def test_haze_takes_contrast_away_and_nothing_else_moves():
    clear = generate(16, 500, 0, 0, PLAIN)[0]
    hazy = generate(16, 500, 0, 0, PLAIN.model_copy(update={"haze": 0.9}))[0]
    spread_clear, spread_hazy = (gray(images).std(axis=(1, 2)) for images in (clear, hazy))
    share = np.median(spread_hazy / np.maximum(spread_clear, 1e-9))
    assert share == pytest.approx(0.55, abs=0.05)


def test_noise_has_the_stated_width():
    quiet, loud = (
        generate(32, 500, 0, 0, PLAIN.model_copy(update={"noise": noise}))[0].astype(np.float64)
        for noise in (0.0, 0.2)
    )
    unclipped = (quiet > 55) & (quiet < 200)
    assert (loud - quiet)[unclipped].std() == pytest.approx(0.4 * 255 / np.sqrt(12), rel=0.02)


def test_every_size_works():
    for size in (8, 17, 64):
        assert generate(size, 30, 0, 0, Difficulty())[0].shape == (30, size, size, 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("haze", 1.0), ("clutter", -1), ("min_radius", 0.46), ("max_period", 0.1), ("blur", 1)],
)
def test_a_wrong_difficulty_is_refused_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        Difficulty(**{field: value})
