"""What is planted where nobody says it, whatever the host reads."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esper_env import HostFacts

PREFERENCE = (
    *("conv_heavy", "conv_light", "bottleneck", "depthwise", "conv_small"),
    *("mlp", "mlp_small", "attention", "flex_attention", "lora_large", "lora", "norm"),
)
"""What is tried first, where several blueprints fit; those that are not named here come last."""


def ranks(preference: Sequence[str] | None, blueprints: Sequence[str]) -> NDArray[np.float64]:
    """(blueprint,): place in the order of preference, infinite for what is not to be planted.

    Args:
        preference: Names, the first one first; None for `PREFERENCE`.
        blueprints: Names, in the order of the action's blueprint index.
    """
    order = [*preference] if preference is not None else [*PREFERENCE, *blueprints[1:]]
    return np.array([order.index(name) if name in order else np.inf for name in blueprints])


def preferred(facts: HostFacts, slot: int) -> str:
    """The blueprint that is tried first in a slot.

    Raises:
        ValueError: None fits there.
    """
    places = np.where(facts.fits[slot], ranks(None, facts.blueprints), np.inf)
    if not np.isfinite(places).any():
        raise ValueError(f"no blueprint fits slot {slot} ({facts.places[slot].name})")
    return facts.blueprints[int(places.argmin())]
