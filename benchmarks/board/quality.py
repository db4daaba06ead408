"""What a network is worth, as a share: accuracy, or for text 1 - loss / loss of guessing.

Who tells text worse than by guessing is worth what guessing is, 0: anybody can guess, and a network that
broke must not outweigh all others in a mean.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esper_agents.episodes import Episode
from esper_env import HostFacts


def quality(accuracy: ArrayLike, loss: ArrayLike, facts: HostFacts) -> NDArray[np.float64]:
    """Shares in [0, 1]; NaN where not measured.

    Args:
        accuracy: Shares; NaN where the host reads text.
        loss: Nats.
        facts: Of the host, for the loss of guessing.
    """
    shares = np.asarray(accuracy, dtype=np.float64)
    told = np.maximum(1 - np.asarray(loss, dtype=np.float64) / facts.chance_loss, 0)
    return np.where(np.isnan(shares), told, shares)


def qualities(episodes: Sequence[Episode], facts: HostFacts, split: str = "test") -> list[float]:
    """Of every episode: on the test split after the harvest, or with `val` on validation before it.

    A network whose loss is no number tells no better than guessing: 0.
    """
    measured = (
        [episode.measured[f"{split}_{name}"] for episode in episodes] for name in ("accuracy", "loss")
    )
    accuracy, loss = (np.array(values, dtype=np.float64) for values in measured)
    return known(quality(accuracy, loss, facts).tolist())


def known(values: Iterable[float | None]) -> list[float]:
    """Qualities of whole episodes, 0 where they were no numbers: none of them is left out of a mean."""
    return [value if value is not None and math.isfinite(value) else 0.0 for value in values]
