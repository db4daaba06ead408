"""Procedural images: ten classes of shaded shapes and oriented textures, drawn from a seed.

The class is decided by spatial structure alone. The first five are a shape in one colour, the others a
pattern in two colours, seen through a disk or a square. Place, size, tilt, colours, shading, clutter and
haze are drawn in the same way for every class.

Beyond the sine of a tilt, which is rounded, images come from + - * / sqrt floor and comparisons, which
IEEE 754 fixes to the last bit, and they are made on the CPU whatever the device: a seed is one data set
everywhere. A change of any pixel is a new `VERSION`. What a static and a grown host reach on the defaults
is published with the environments. Most of the difference between them comes from haze: it scales the
contrast of each image, and asks for features that adapt to that.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_env.contracts.streams import Stream, generator

VERSION = 1
SHAPES = ("disk", "square", "triangle", "ring", "cross")
TEXTURES = ("rows", "falling", "columns", "rising", "checks")
CLASSES = SHAPES + TEXTURES

_CHUNK = 250
"""Images drawn at a time, whatever the count: so the first n of a split do not depend on its size."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Difficulty(BaseModel):
    """What the images look like. Lengths are fractions of the image's side, colours lie in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_radius: float = Field(default=0.25, gt=0, le=0.5)
    """Smallest half-width of the object."""
    max_radius: float = Field(default=0.45, gt=0, le=0.5)
    """Largest half-width of the object."""
    tilt: float = Field(default=0.2, ge=0, le=0.4)
    """Largest rotation either way, in radians; neighbouring orientations are 0.785 apart."""
    min_period: float = Field(default=0.16, gt=0, le=1)
    """Shortest period of a texture."""
    max_period: float = Field(default=0.2, gt=0, le=1)
    """Longest period of a texture."""
    contrast: float = Field(default=0.25, ge=0, le=0.5)
    """Smallest difference in brightness of object and background, and of a texture's two colours, before
    haze."""
    shading: float = Field(default=0.4, ge=0, le=1)
    """Largest relative change of brightness per image side, along each axis."""
    clutter: int = Field(default=2, ge=0, le=16)
    """Strokes behind the object."""
    haze: float = Field(default=0.95, ge=0, lt=1)
    """Largest share of an image's contrast that a veil of one colour takes away."""
    noise: float = Field(default=0.01, ge=0, le=1)
    """Half-width of the uniform noise on every value."""

    @model_validator(mode="after")
    def _ordered(self) -> "Difficulty":
        for name in ("radius", "period"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low > high:
                raise ValueError(f"min_{name}={low} is above max_{name}={high}")
        return self


def generate(
    image_size: int, count: int, seed: int, split: int, difficulty: Difficulty
) -> tuple[NDArray[np.uint8], Ints]:
    """The first `count` images of a split, classes in equal shares in every 250.

    Args:
        image_size: height and width in pixels.
        count: number of images.
        seed: which data set.
        split: 0 train, 1 validation, 2 test: streams of their own, so no image is in two of them.
        difficulty: what the images look like.

    Returns:
        images uint8 (count, image_size, image_size, 3) and labels int64 (count,), indices of `CLASSES`.
    """
    images = np.empty((count, image_size, image_size, 3), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for start in range(0, count, _CHUNK):
        brush = _Brush(generator(seed, Stream.GENERATOR, VERSION, split, start // _CHUNK), image_size)
        kinds = brush.rng.permutation(np.arange(_CHUNK) % len(CLASSES))
        drawn = _draw(brush, kinds, difficulty)
        images[start : start + _CHUNK] = drawn[: count - start]
        labels[start : start + _CHUNK] = kinds[: count - start]
    return images, labels


class _Brush:
    """A canvas of `_CHUNK` images, float32 (_CHUNK, 3, size, size), and the random numbers to paint it with.

    Per-image numbers have the shape (_CHUNK, 1, 1) and colours (_CHUNK, 3, 1, 1), so that they broadcast.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = np.float32(size)
        center = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / self.size
        self.x, self.y = center[None, None, :], center[None, :, None]
        self.canvas = np.zeros((_CHUNK, 3, size, size), dtype=np.float32)

    def number(self, low: float, high: float) -> Floats:
        """One uniform number per image."""
        return np.float32(low) + np.float32(high - low) * self.rng.random((_CHUNK, 1, 1), dtype=np.float32)

    def color(self, apart_from: Floats | None = None, contrast: float = 0) -> Floats:
        """One colour per image, its brightness at least `contrast` from that of another."""
        color = self.rng.random((_CHUNK, 3, 1, 1), dtype=np.float32)
        if apart_from is None:
            return color
        difference = (color - apart_from).mean(axis=1, keepdims=True)
        missing = np.maximum(np.float32(contrast) - np.abs(difference), 0)
        return color + np.where(difference < 0, -missing, missing)

    def frame(self, x: Floats, y: Floats, angle: Floats) -> tuple[Floats, Floats]:
        """Coordinates centered at (x, y) and turned by an angle."""
        return _turn(self.x - x, self.y - y, angle)

    def paint(self, inside: Floats, color: Floats) -> None:
        """Paints where `inside` (_CHUNK, size, size; image sides) is positive; edges are one pixel soft."""
        cover = np.clip(inside * self.size + np.float32(0.5), 0, 1)
        self.canvas += cover[:, None] * (color - self.canvas)


def _turn(u: Floats, v: Floats, angle: NDArray[np.floating]) -> tuple[Floats, Floats]:
    # Rounded, because the last bits of a sine differ between C libraries.
    cos, sin = (np.round(f(angle.astype(np.float64)) * 65536) / 65536 for f in (np.cos, np.sin))
    c, s = cos.astype(np.float32), sin.astype(np.float32)
    return c * u + s * v, c * v - s * u


def _draw(brush: _Brush, kinds: Ints, d: Difficulty) -> NDArray[np.uint8]:
    background = brush.color()
    brush.canvas += background
    for _ in range(d.clutter):
        _stroke(brush)
    _object(brush, kinds, background, d)
    _light(brush, d)
    levels = np.clip(brush.canvas * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def _stroke(brush: _Brush) -> None:
    u, v = brush.frame(brush.number(0, 1), brush.number(0, 1), brush.number(0, np.pi))
    length, width = brush.number(0.15, 0.5), brush.number(0.03, 0.08)
    brush.paint(np.minimum(length - np.abs(u), width - np.abs(v)), brush.color())


def _object(brush: _Brush, kinds: Ints, background: Floats, d: Difficulty) -> None:
    radius = brush.number(d.min_radius, d.max_radius)
    x, y = (radius + (1 - 2 * radius) * brush.number(0, 1) for _ in range(2))
    u, v = brush.frame(x, y, brush.number(-d.tilt, d.tilt))
    windows = np.where(kinds < len(SHAPES), kinds, brush.rng.integers(2, size=_CHUNK))
    fill = brush.color(background, d.contrast)
    other = brush.color(fill, d.contrast)
    share = _texture(brush, kinds, u, v, d)[:, None]
    brush.paint(_shape(windows, u / radius, v / radius) * radius, fill + share * (other - fill))


def _shape(windows: Ints, u: Floats, v: Floats) -> Floats:
    """Distance to the edge in radii, positive inside; u, v (_CHUNK, size, size) in radii."""
    inside = np.empty_like(u)
    for index, shape in enumerate(SHAPES):
        rows = windows == index
        inside[rows] = _EDGES[shape](np.abs(u[rows]), np.abs(v[rows]), v[rows])
    return inside


_EDGES = {
    "disk": lambda a, b, v: 1 - np.sqrt(a * a + b * b),
    "square": lambda a, b, v: 0.85 - np.maximum(a, b),
    "triangle": lambda a, b, v: np.minimum(0.65 - v, (v + 1 - 1.73 * a) / 2),
    "ring": lambda a, b, v: 0.28 - np.abs(np.sqrt(a * a + b * b) - 0.72),
    "cross": lambda a, b, v: np.minimum(0.3 - np.minimum(a, b), 1 - np.maximum(a, b)),
}


def _texture(brush: _Brush, kinds: Ints, u: Floats, v: Floats, d: Difficulty) -> Floats:
    """Share of the second colour in [0, 1], (_CHUNK, size, size): stripes or checks, 0 for plain shapes."""
    period = brush.number(d.min_period, d.max_period)
    phases = brush.number(0, 1), brush.number(0, 1)
    pattern = (kinds - len(SHAPES))[:, None, None]
    p, q = _turn(u, v, np.where((pattern > 0) & (pattern < 4), pattern, 0) * (np.pi / 4))
    wave = _wave(q / period + phases[0])
    wave = np.where(pattern == 4, wave * _wave(p / period + phases[1]), wave)
    return np.where(pattern < 0, np.float32(0), np.clip(wave + np.float32(0.5), 0, 1))


def _wave(t: Floats) -> Floats:
    """Triangle wave between -1 and 1 of period 1."""
    return np.abs(t - np.floor(t) - np.float32(0.5)) * 4 - 1


def _light(brush: _Brush, d: Difficulty) -> None:
    """Shading across the image, then the veil, then noise."""
    slopes = brush.number(-d.shading, d.shading), brush.number(-d.shading, d.shading)
    shade = 1 + slopes[0] * (brush.x - np.float32(0.5)) + slopes[1] * (brush.y - np.float32(0.5))
    veil, clear = brush.color(), 1 - brush.number(0, d.haze)[:, None]
    brush.canvas = veil + clear * (brush.canvas * shade[:, None] - veil)
    noise = brush.rng.random(brush.canvas.shape, dtype=np.float32) - np.float32(0.5)
    brush.canvas += noise * np.float32(2 * d.noise)
