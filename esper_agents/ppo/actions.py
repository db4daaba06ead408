"""Which values of an action's heads are legal, and which heads are read, given what was drawn before."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_env import READS, ActionLayout, Head, Op

Masks = Mapping[str, Tensor]
"""What an environment published with an observation, bool (batch, ...) each, by name."""


class ActionModel(Protocol):
    """The heads of an action: how large they are, the order in which they are drawn, and what is legal."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the heads, as they stand in an action."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of each head."""

    @property
    def order(self) -> tuple[int, ...]:
        """Heads in the order in which they are drawn."""

    @property
    def pointer(self) -> int | None:
        """The head that chooses one of the observation's slots; None if there is none."""

    @property
    def masks(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the masks, without the batch."""

    def published(self, info: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
        """The masks in an environment's info, bool (env, ...)."""

    def legal(self, head: int, drawn: Tensor, masks: Masks) -> Tensor:
        """Bool (batch, value): at least one is legal where the head is read.

        Args:
            head: which.
            drawn: int64 (batch, head), the heads drawn so far; those to come are 0.
            masks: of these observations.
        """

    def read(self, head: int, drawn: Tensor) -> Tensor:
        """Bool (batch,): whether the head means anything after what was drawn."""


class EsperActions:
    """Esper's action: the op first, then a slot in which it is legal, then what the op reads.

    Args:
        layout: the environment's.
    """

    order = (
        Head.OP, Head.SLOT, Head.BLUEPRINT, Head.STYLE,
        Head.TEMPO, Head.ALPHA_TARGET, Head.ALPHA_SPEED, Head.ALPHA_CURVE,
    )  # fmt: skip
    names = tuple(head.name.lower() for head in Head)
    pointer = Head.SLOT

    def __init__(self, layout: ActionLayout) -> None:
        self.sizes = tuple(layout.nvec.tolist())
        slots, blueprints = layout.num_slots, layout.num_blueprints
        self.masks = {"op_slot_mask": (len(Op), slots), "blueprint_slot_mask": (slots, blueprints)}
        self._reads = torch.from_numpy(READS.copy())

    def published(self, info: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
        """See `ActionModel`."""
        return {name: info[name].astype(bool) for name in self.masks}

    def legal(self, head: int, drawn: Tensor, masks: Masks) -> Tensor:
        """See `ActionModel`."""
        row = torch.arange(len(drawn), device=drawn.device)
        if head == Head.OP:
            return masks["op_slot_mask"].any(dim=2)
        if head == Head.SLOT:
            return masks["op_slot_mask"][row, drawn[:, Head.OP]]
        if head == Head.BLUEPRINT:
            return masks["blueprint_slot_mask"][row, drawn[:, Head.SLOT]]
        return torch.ones(len(drawn), self.sizes[head], dtype=torch.bool, device=drawn.device)

    def read(self, head: int, drawn: Tensor) -> Tensor:
        """See `ActionModel`."""
        return self._reads.to(drawn.device)[drawn[:, Head.OP], head]


class IndependentActions:
    """Heads that are always read, with a mask for each: `Discrete` and `MultiDiscrete` of other environments.

    Args:
        sizes: values of each head.
        read_masks: from an info, bool (env, sum(sizes)); None where everything is legal.
    """

    pointer = None

    def __init__(self, sizes: Sequence[int], key: str | None = None) -> None:
        self.sizes, self._key = tuple(sizes), key
        self.names = tuple(f"head{index}" for index in range(len(sizes)))
        self.order = tuple(range(len(sizes)))
        self.masks = {} if key is None else {key: (sum(sizes),)}

    def published(self, info: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
        """See `ActionModel`."""
        return {name: np.asarray(info[name], dtype=bool) for name in self.masks}

    def legal(self, head: int, drawn: Tensor, masks: Masks) -> Tensor:
        """See `ActionModel`."""
        if self._key is None:
            return torch.ones(len(drawn), self.sizes[head], dtype=torch.bool, device=drawn.device)
        start = sum(self.sizes[:head])
        return masks[self._key][:, start : start + self.sizes[head]]

    def read(self, head: int, drawn: Tensor) -> Tensor:
        """See `ActionModel`."""
        return torch.ones(len(drawn), dtype=torch.bool, device=drawn.device)
