"""The policy's network: an encoder, a core with or without memory, a value, and logits head after head."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from esper_agents.ppo.actions import ActionModel
from esper_agents.ppo.ranges import Ranges, in_blocks

SLOT_WIDTH = 64
"""Numbers that stand for a slot."""

Memory = tuple[Tensor, ...]
"""What a core carries from step to step, (1, batch, size) each; empty without memory."""


class Encoded(NamedTuple):
    """What an encoder makes of observations."""

    features: Tensor
    """(..., width)."""
    slots: Tensor | None
    """(..., slot, SLOT_WIDTH); None where observations have none."""


class Encoder(Protocol):
    """From observations (..., feature) to what the core sees."""

    width: int

    def __call__(self, obs: Tensor) -> Encoded:
        """See `Encoded`."""


class FlatEncoder(nn.Module):
    """One layer, for observations without structure.

    Args:
        size: Features of an observation.
        width: Of the result.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.layer = nn.Sequential(linear(size, width), nn.Tanh())

    def forward(self, obs: Tensor) -> Encoded:
        """See `Encoder`."""
        return Encoded(self.layer(obs), None)


class Core(Protocol):
    """From encoded observations to features, step by step."""

    width: int

    def begin(self, batch: int) -> Memory:
        """The memory before a first step."""

    def __call__(self, features: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Features (step, batch, width) of as many steps, and the memory after the last."""


EMBEDDED = 0.1
"""Deviation of the numbers that stand for a drawn value at first: later heads still see the core's output."""


class LstmCore(nn.Module):
    """One layer of LSTM (S. Hochreiter, J. Schmidhuber, 1997).

    Args:
        size: Of its input.
        width: Of its state.
        blocks: Of its input, each of that size.
    """

    def __init__(self, size: int, width: int, blocks: int = 1) -> None:
        super().__init__()
        self.width = width
        self.lstm = nn.LSTM(size * blocks, width)
        for name, parameter in self.lstm.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            else:
                orthogonal(parameter, blocks=blocks if "weight_ih" in name else 1)

    def begin(self, batch: int) -> Memory:
        """See `Core`."""
        weight: Tensor = self.lstm.weight_hh_l0  # type: ignore[assignment]
        return weight.new_zeros(1, batch, self.width), weight.new_zeros(1, batch, self.width)

    def forward(self, features: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See `Core`."""
        out: tuple[Tensor, Memory] = self.lstm(features, memory)
        return out


class MlpCore(nn.Module):
    """One layer without memory.

    Args:
        size: Of its input.
        width: Of the result.
        blocks: Of its input, each of that size.
    """

    def __init__(self, size: int, width: int, blocks: int = 1) -> None:
        super().__init__()
        self.width = width
        self.layer = nn.Sequential(linear(size, width, blocks=blocks), nn.Tanh())

    def begin(self, batch: int) -> Memory:
        """See `Core`."""
        return ()

    def forward(self, features: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See `Core`."""
        return self.layer(features), memory


class Heads(nn.Module):
    """Logits of every head, given the features and what was drawn before.

    What was drawn is added to a context: an embedding of the value, or what stands for the slot.

    Args:
        model: The heads.
        size: Of the features.
        width: Of the context.
        blocks: Of features, each of that size.
    """

    def __init__(self, model: ActionModel, size: int, width: int, blocks: int = 1) -> None:
        super().__init__()
        self.pointer = model.pointer
        self.enter = linear(size, width, blocks=blocks)
        last = model.order[-1]
        self.logits = nn.ModuleList(
            nn.Identity() if head == model.pointer else linear(width, count, gain=0.01)
            for head, count in enumerate(model.sizes)
        )
        self.embeddings = nn.ModuleList(
            nn.Identity() if head in (model.pointer, last) else nn.Embedding(count, width)
            for head, count in enumerate(model.sizes)
        )
        for embedding in self.embeddings:
            if isinstance(embedding, nn.Embedding):  # as large as what the core says, not larger
                nn.init.normal_(embedding.weight, std=EMBEDDED)
        if model.pointer is not None:
            self.slot_key = linear(SLOT_WIDTH, width)
            self.slot_score = linear(width, 1, gain=0.01)
            self.slot_value = linear(SLOT_WIDTH, width)
        self._last = last

    def begin(self, encoded: Encoded) -> "Walk":
        """Logits for rows of features (batch, size) and, where there is a pointer, their slots."""
        return Walk(self, encoded)


class Walk:
    """See `Conditional`.

    Args:
        heads: Layers.
        encoded: Features (batch, size) and slots (batch, slot, SLOT_WIDTH).
    """

    def __init__(self, heads: Heads, encoded: Encoded) -> None:
        self._heads, self._slots = heads, encoded.slots
        self._context = heads.enter(encoded.features)

    def logits(self, head: int, rows: Tensor) -> Tensor:
        """See `Conditional`."""
        heads, context = self._heads, self._context[rows]
        if head != heads.pointer:
            logits: Tensor = heads.logits[head](torch.tanh(context))
            return logits
        assert self._slots is not None, "a model with a pointer has slots"
        scores = each_slot(
            lambda slot: heads.slot_score(torch.tanh(context + heads.slot_key(slot))), self._slots[rows]
        )
        return scores[:, :, 0]

    def drawn(self, head: int, value: Tensor, rows: Tensor) -> None:
        """See `Conditional`."""
        heads = self._heads
        if head == heads._last:
            return
        if head == heads.pointer and self._slots is not None:
            chosen = heads.slot_value(self._slots[rows, value])
        else:
            chosen = heads.embeddings[head](value)
        self._context = self._context.index_add(0, rows, chosen.to(self._context.dtype))


class Policy(nn.Module):
    """Encoder, core, value and heads.

    Args:
        encoder: See `Encoder`.
        core: See `Core`; it reads as many blocks as there are ranges.
        model: The heads.
        op_values: Whether there is a value of each op as well, for the ablation.
        ranges: What is encoded, and what the core makes of it, goes into the block of the observation's
            range: whatever reads it has weights of its own for each. None for one range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        core: nn.Module,
        model: ActionModel,
        op_values: bool,
        ranges: Ranges | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.core, self.model, self.ranges = encoder, core, model, ranges
        width: int = core.width  # type: ignore[assignment]
        blocks = 1 if ranges is None else ranges.count
        self.heads = Heads(model, width, width, blocks)
        self.value = linear(width, 1, 1.0, blocks)
        self.op_value = linear(width, model.sizes[model.order[0]], 1.0, blocks) if op_values else None

    def begin(self, batch: int) -> Memory:
        """The memory before a first step."""
        memory: Memory = self.core.begin(batch)  # type: ignore[operator]
        return memory

    def features(self, obs: Tensor, memory: Memory) -> tuple[Encoded, Memory]:
        """Of observations (step, batch, feature), and the memory after the last step."""
        encoded: Encoded = self.encoder(obs)
        if self.ranges is None:
            features, memory = self.core(encoded.features, memory)
            return Encoded(features, encoded.slots), memory
        number, count = self.ranges(obs), self.ranges.count
        features, memory = self.core(in_blocks(encoded.features, number, count), memory)
        return Encoded(in_blocks(features, number, count), encoded.slots), memory

    def values(self, features: Tensor) -> Tensor:
        """(...,): what is expected from here on."""
        value: Tensor = self.value(features)
        return value[..., 0]


def each_slot(layers: Callable[[Tensor], Tensor], slots: Tensor) -> Tensor:
    """The same layers for every slot (..., slot, size), one after another.

    In one product for all of them a slot's result would depend, by rounding, on where it stands.
    """
    return torch.stack([layers(slot.contiguous()) for slot in slots.unbind(dim=-2)], dim=-2)


def linear(size: int, width: int, gain: float = 2**0.5, blocks: int = 1) -> nn.Linear:
    """A layer with orthogonal weights of this gain for each block of its input, and without bias at first."""
    layer = nn.Linear(size * blocks, width)
    orthogonal(layer.weight, gain, blocks)
    nn.init.zeros_(layer.bias)
    return layer


def orthogonal(weight: Tensor, gain: float = 1.0, blocks: int = 1) -> None:
    """Fill a weight (out, blocks * in) in place."""
    with torch.no_grad():
        for block in weight.tensor_split(blocks, dim=1):
            block.copy_(nn.init.orthogonal_(torch.empty_like(block), gain))
