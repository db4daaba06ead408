"""The five curves of an alpha ramp. numpy only: the rules of the game read them too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _logistic(t: Floats, k: float) -> Floats:
    """Logistic of k(t - 1/2), rescaled so that 0 maps to 0 and 1 to 1."""
    low, high = 1 / (1 + np.exp(k / 2)), 1 / (1 + np.exp(-k / 2))
    return (1 / (1 + np.exp(-k * (t - 0.5))) - low) / (high - low)


def progress(curve: NDArray[np.int8], t: Floats, steepness: Sequence[float]) -> Floats:
    """Share of the way gone after the share t in [0, 1] of the time, elementwise; exact at 0 and 1.

    Args:
        curve: `Curve` of each ramp.
        t: Share of its time that is over.
        steepness: Slope k of SIGMOID_GENTLE, SIGMOID and SIGMOID_SHARP, over a ramp of length 1.
    """
    values = [t, (1 - np.cos(np.pi * t)) / 2, *(_logistic(t, k) for k in steepness)]
    shaped = np.choose(curve, values)
    return np.where(t >= 1, 1.0, np.where(t <= 0, 0.0, shaped))
