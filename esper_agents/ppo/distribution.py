"""The probability of a factored action: head after head, each given what was drawn before.

A head that is not read has the value 0 and no probability: it is in no ratio, no entropy and no divergence.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from esper_agents.ppo.actions import ActionModel, Masks


class Conditional(Protocol):
    """Logits of the heads of a batch of actions, which are drawn one after another."""

    def logits(self, head: int, rows: Tensor) -> Tensor:
        """(row, value) of the next head, of these rows of the batch, int64 (row,)."""

    def drawn(self, head: int, value: Tensor, rows: Tensor) -> None:
        """Go on from a value of the head in each of these rows, int64 (row,) both."""


class Evaluated(NamedTuple):
    """Actions and how probable they are, (batch, head) each, heads as they stand in an action."""

    actions: Tensor
    """int64."""
    log_probs: Tensor
    """Of the values drawn, in nats; 0 where the head is not read."""
    entropies: Tensor
    """Of the head given what was drawn before, in nats; 0 where it is not read."""
    choices: Tensor
    """int64: how many values were legal; 0 where the head is not read."""

    @property
    def read(self) -> Tensor:
        """Bool (batch, head)."""
        return self.choices > 0

    @property
    def normalized_entropies(self) -> Tensor:
        """Entropies over that of a uniform choice, in [0, 1]; 0 where there is no choice."""
        most = self.choices.clamp(min=2).log()
        return torch.where(self.choices > 1, self.entropies / most, 0.0)


Choose = Callable[[int, Tensor, Tensor], Tensor]
"""From a head, rows of the batch and its probabilities there, (row, value), to values, int64 (row,)."""


def walk(model: ActionModel, policy: Conditional, masks: Masks, batch: int, choose: Choose) -> Evaluated:
    """Draw, or look up, one action for each row.

    Args:
        model: What is legal.
        policy: Logits.
        masks: Of the observations.
        batch: Rows.
        choose: `sampled`, `most_probable` or `given`.

    Raises:
        ValueError: Masks that leave a head nothing.
    """
    device = next(iter(masks.values())).device if masks else None
    drawn = torch.zeros(batch, len(model.sizes), dtype=torch.int64, device=device)
    columns: list[tuple[Tensor, ...]] = [()] * len(model.sizes)
    for head in model.order:
        # Most actions are WAIT, which reads nothing: a head's layers run for the rows that read it alone.
        rows = model.read(head, drawn).nonzero()[:, 0]
        legal = model.legal(head, drawn, masks)[rows]
        if not legal.any(dim=1).all():
            raise ValueError(f"nothing is legal for {model.names[head]!r}: the masks leave no value")
        log_probs = masked_log_softmax(policy.logits(head, rows).float(), legal)
        probs = log_probs.exp()
        value = choose(head, rows, probs)
        own = log_probs.gather(1, value[:, None])[:, 0]
        entropy = -(probs * log_probs.masked_fill(~legal, 0)).sum(dim=1)
        columns[head] = tuple(_spread(each, rows, batch) for each in (own, entropy, legal.sum(dim=1)))
        drawn = drawn.index_put((rows, torch.tensor(head, device=device)), value)
        policy.drawn(head, value, rows)
    return Evaluated(drawn, *(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))


def _spread(values: Tensor, rows: Tensor, batch: int) -> Tensor:
    """(batch,): values in their rows, 0 elsewhere."""
    return values.new_zeros(batch).index_put((rows,), values)


def masked_log_softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Log-probabilities of the allowed values; -inf for the others, which get no gradient."""
    return logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)


def given(actions: Tensor) -> Choose:
    """The values of these actions, int64 (batch, head)."""
    return lambda head, rows, probs: actions[rows, head]


def sampled(uniforms: Tensor) -> Choose:
    """By inversion, one number in [0, 1) for every row and head, (batch, head): no value of probability 0."""

    def choose(head: int, rows: Tensor, probs: Tensor) -> Tensor:
        edges = probs.double().cumsum(dim=1)
        below = edges <= uniforms[rows, head, None].to(edges) * edges[:, -1:]
        last = torch.where(probs > 0, torch.arange(probs.shape[1], device=probs.device), -1).amax(dim=1)
        return torch.minimum(below.sum(dim=1), last)

    return choose


def most_probable(head: int, rows: Tensor, probs: Tensor) -> Tensor:
    """The first of the most probable values."""
    return probs.argmax(dim=1)
