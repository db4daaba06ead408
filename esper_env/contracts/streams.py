"""Counter-based randomness: every random number is a pure function of (episode seed, stream, counters).

Nothing here has a state that could be forgotten in a snapshot, shared by two environments or moved by
another library. Reference: D. Steele, G. Lea, C. Flood, "Fast splittable pseudorandom number generators"
(OOPSLA 2014), whose finalizer mixes the key; numpy's Philox turns a key into numbers.
"""

from enum import IntEnum

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Stream(IntEnum):
    """What a random number is for; two streams of one episode never share a number."""

    EPISODE = 0
    """Seed of the next episode of an environment."""
    DATA = 1
    """Order of the training samples."""
    AUGMENT = 2
    """Crops and flips."""
    HOST_INIT = 3
    """Initial weights of a host."""
    MODULE_INIT = 4
    """Initial weights of the n-th module of a slot, and of its gate."""
    SHAPLEY = 5
    """Permutations of the sampled Shapley value."""
    GENERATOR = 6
    """Procedural data."""
    FORWARD = 7
    """What a network draws in its forward passes, such as a blueprint's dropout."""


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key(seed: int, stream: Stream, *counters: int) -> int:
    """A 63-bit key for one use of one stream (63, so that it is a valid torch and numpy seed alike)."""
    value = _mix((seed + _GOLDEN) & _MASK)
    for part in (int(stream), *counters):
        value = _mix((value + _GOLDEN + (part & _MASK)) & _MASK)
    return value >> 1


def generator(seed: int, stream: Stream, *counters: int) -> np.random.Generator:
    """A numpy generator that belongs to this use alone."""
    return np.random.Generator(np.random.Philox(key=key(seed, stream, *counters)))
