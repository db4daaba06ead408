"""How good a network is, in [0, 1], whatever it is trained for."""

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.facts import HostFacts

Floats = NDArray[np.float64]


def quality(loss: Floats, accuracy: Floats, facts: HostFacts) -> Floats:
    """Accuracy where there is one, else 1 - loss / ln(vocabulary), of any shape; NaN if not measured.

    Args:
        loss: Mean cross-entropy in nats; an infinite one counts as guessing.
        accuracy: Share in [0, 1], NaN for language.
        facts: Chance loss and quality.
    """
    language = np.where(np.isinf(loss), facts.chance_quality, 1 - loss / facts.chance_loss)
    return np.where(np.isnan(accuracy), language, accuracy)
