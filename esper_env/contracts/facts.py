"""What never changes while a host lives: its slots, its size, and what each module would add to it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Place:
    """A point between two layers of a host where a slot can be."""

    name: str
    """Unique within the host, such as `block1.relu`."""
    family: str
    """`cnn` or `transformer`: which builders of a blueprint can serve here."""
    shape: tuple[int, ...]
    """Shape of one sample there: (channels, height, width), or (context, width) for a transformer."""
    depth: float
    """Fraction in (0, 1] of the host's blocks that lie before this place."""

    @property
    def channels(self) -> int:
        """Number of features of one position."""
        return self.shape[0] if self.family == "cnn" else self.shape[-1]

    @property
    def positions(self) -> int:
        """Number of positions: pixels or tokens."""
        return int(np.prod(self.shape)) // self.channels


@dataclass(frozen=True, eq=False)
class HostFacts:
    """Sizes and costs that rules, masks, rewards and the ledger read. All arrays are read-only.

    It is equal to itself alone, so that what follows from it can be kept by it.
    """

    places: tuple[Place, ...]
    """Where the slots are, in the order of the action's slot index."""
    host_params: int
    """Parameters of the host alone."""
    host_flops: int
    """Training FLOPs of the host alone, per sample (forward and backward, 2 per multiply-add)."""
    fits: NDArray[np.bool_]
    """(slot, blueprint): a blueprint can be built there. Column 0 (noop) is False."""
    module_params: NDArray[np.int64]
    """(slot, blueprint): parameters of the branch, 0 where it does not fit."""
    gate_params: NDArray[np.int64]
    """(slot,): parameters of the gate of style GATED."""
    blueprints: tuple[str, ...]
    """Names, in the order of the action's blueprint index."""
    chance_quality: float
    """Quality of guessing: 1 / classes, or 0 for language."""
    chance_loss: float
    """Cross-entropy of guessing in nats: ln(classes), or ln(vocabulary)."""
    frequency_loss: float | None = None
    """Cross-entropy in nats, at most `chance_loss`, of knowing how frequent each token is and nothing else;
    None for images, and where no text was read."""

    @property
    def uninformed_loss(self) -> float:
        """Cross-entropy in nats of a network that looks at no input, as one that has lost everything."""
        return self.chance_loss if self.frequency_loss is None else self.frequency_loss

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return len(self.places)

    @property
    def num_blueprints(self) -> int:
        """Number of blueprint indices, noop included."""
        return len(self.blueprints)
