"""Procedural images: ten classes of shaded shapes and oriented textures, made from a seed in a second.

Class is decided by spatial structure alone. Classes 0-4 are a shape (disk, square, triangle, ring, cross),
classes 5-9 a texture (stripes at four orientations, checks) seen through a window of any shape; place, size,
tilt, colours, shading, background and clutter are drawn in the same way for every class.

Per pixel only +, -, *, /, min, max, abs and floor are used, which IEEE 754 fixes to the bit, and images are
made on the CPU whatever the device: one seed gives one data set everywhere. A change of any pixel is a new
`VERSION`.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_env.contracts.streams import Stream, generator

VERSION = 1
CLASSES = (
    "disk", "square", "triangle", "ring", "cross", "rows", "rising", "columns", "falling", "checks",
)  # fmt: skip
NUM_SHAPES = 5
_CHUNK = 250

Floats = NDArray[np.float32]


class Difficulty(BaseModel):
    """What the images look like. Lengths are fractions of the image's side."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_radius: float = Field(0.25, gt=0, le=0.5)
    """Smallest half-width of the object."""
    max_radius: float = Field(0.40, gt=0, le=0.5)
    """Largest half-width of the object."""
    tilt: float = Field(0.20, ge=0, le=3.15)
    """Largest rotation of a shape or texture either way, radians (stripes are 0.785 apart)."""
    min_period: float = Field(0.20, gt=0)
    """Shortest period of a texture."""
    max_period: float = Field(0.30, gt=0)
    """Longest period of a texture."""
    contrast: float = Field(0.25, ge=0, le=1)
    """Smallest distance between the two colours of a texture, or object and background, per channel mean."""
    shading: float = Field(0.3, ge=0, le=1)
    """Largest change of brightness across the image."""
    clutter: int = Field(2, ge=0, le=16)
    """Distractor strokes behind the object."""
    haze: float = Field(0.9, ge=0, lt=1)
    """Largest veil: the share of contrast an image may lose."""
    noise: float = Field(0.10, ge=0, le=1)
    """Half-width of the uniform noise on each value, colours being in [0, 1]."""


def generate(
    image_size: int, count: int, seed: int, split: int, difficulty: Difficulty
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((count, image_size, image_size, 3), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for chunk, start in enumerate(range(0, count, _CHUNK)):
        rng = generator(seed, Stream.GENERATOR, VERSION, split, chunk)
        lab = rng.permutation(np.arange(_CHUNK) % len(CLASSES))
        n = min(_CHUNK, count - start)
        images[start : start + n] = _draw(rng, lab, image_size, difficulty)[:n]
        labels[start : start + n] = lab[:n]
    return images, labels


def _u(rng, low, high, *shape):
    return (low + (high - low) * rng.random(shape, dtype=np.float32)).astype(np.float32)


def _turn(x, y, angle):
    c = np.round(np.cos(angle.astype(np.float64)) * 2**16) / 2**16
    s = np.round(np.sin(angle.astype(np.float64)) * 2**16) / 2**16
    c, s = c.astype(np.float32)[:, None, None], s.astype(np.float32)[:, None, None]
    return c * x + s * y, c * y - s * x


def _window(kind, u, v):
    """Signed value, positive inside, in units of radius."""
    out = np.empty_like(u)
    for k in range(NUM_SHAPES):
        m = kind == k
        a, b = np.abs(u[m]), np.abs(v[m])
        rho = np.sqrt(a * a + b * b)
        if k == 0:
            w = 1 - rho
        elif k == 1:
            w = 0.85 - np.maximum(a, b)
        elif k == 2:
            w = np.minimum(0.65 - v[m], (v[m] + 1.0 - 1.73 * a) * 0.5)
        elif k == 3:
            w = 0.28 - np.abs(rho - 0.72)
        else:
            w = np.minimum(0.3 - np.minimum(a, b), 1 - np.maximum(a, b))
        out[m] = w
    return out


def _fold(t):
    """Triangle wave in [-1,1], period 1."""
    return np.abs(t - np.floor(t) - 0.5) * 4 - 1


def _draw(rng, lab, S, d):
    n = len(lab)
    g = ((np.arange(S, dtype=np.float32) + 0.5) / S)
    X = g[None, None, :]
    Y = g[None, :, None]
    r = _u(rng, d.min_radius, d.max_radius, n)
    cx = r + (1 - 2 * r) * _u(rng, 0, 1, n)
    cy = r + (1 - 2 * r) * _u(rng, 0, 1, n)
    is_tex = lab >= NUM_SHAPES
    kind = np.where(is_tex, rng.integers(NUM_SHAPES if False else 2, size=n), lab)
    x = X - cx[:, None, None]
    y = Y - cy[:, None, None]
    # colours
    base = _u(rng, 0.0, 1.0, n, 3)
    def contrasting(ref):
        # a colour whose mean differs from ref's mean by >= contrast
        c = _u(rng, 0.0, 1.0, n, 3)
        delta = c.mean(1) - ref.mean(1)
        sign = np.where(delta >= 0, 1, -1).astype(np.float32)
        need = np.maximum(0, d.contrast - np.abs(delta)) * sign
        return c + need[:, None]
    fg = contrasting(base)
    alt = contrasting(fg)
    # background gradient
    gx, gy = _u(rng, -1, 1, n), _u(rng, -1, 1, n)
    shade = 1 + d.shading * (gx[:, None, None] * (X - 0.5) + gy[:, None, None] * (Y - 0.5))
    px = np.float32(S)
    img = np.broadcast_to(base[:, None, None, :], (n, S, S, 3)).copy()
    for _ in range(d.clutter):
        a = _u(rng, 0, 3.1416, n)
        ux, uy = _u(rng, 0, 1, n), _u(rng, 0, 1, n)
        p, q = _turn(X - ux[:, None, None], Y - uy[:, None, None], a)
        L, W = _u(rng, 0.15, 0.5, n)[:, None, None], _u(rng, 0.03, 0.08, n)[:, None, None]
        m = np.clip(np.minimum(L - np.abs(p), W - np.abs(q)) * px + 0.5, 0, 1)
        col = _u(rng, 0, 1, n, 3)
        img += m[..., None] * (col[:, None, None, :] - img)
    tilt = _u(rng, -d.tilt, d.tilt, n)
    u, v = _turn(x, y, np.where(is_tex, 0, tilt))
    w = _window(kind, u / r[:, None, None], v / r[:, None, None])
    m = np.clip(w * r[:, None, None] * px + 0.5, 0, 1)
    # texture
    angle = np.where(lab == 9, 0, (lab - 5) * (np.pi / 4)) + tilt
    p, q = _turn(x, y, np.where(is_tex, angle, 0.0))
    f = 1 / _u(rng, d.min_period, d.max_period, n)[:, None, None]
    ph = _u(rng, 0, 1, n)[:, None, None]
    ph2 = _u(rng, 0, 1, n)[:, None, None]
    a = _fold(q * f + ph)
    b = np.where((lab == 9)[:, None, None], _fold(p * f + ph2), 1)
    t = np.clip(2 * a * b, -1, 1) * 0.5 + 0.5
    t *= is_tex[:, None, None]
    obj = fg[:, None, None, :] + t[..., None] * (alt - fg)[:, None, None, :]
    img += m[..., None] * (obj - img)
    img *= shade[..., None]
    veil = _u(rng, 0, 1, n, 3)[:, None, None, :]
    img = veil + (img - veil) * (1 - _u(rng, 0, d.haze, n))[:, None, None, None]
    noise = rng.random(img.shape, dtype=np.float32) * (2 * d.noise) - d.noise
    img += noise
    return np.clip(img * 255 + 0.5, 0, 255).astype(np.uint8)
