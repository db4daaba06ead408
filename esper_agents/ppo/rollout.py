"""What was played: steps of several environments, and its episodes as sequences of one length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper_agents.ppo.network import Memory


@dataclass(frozen=True)
class Rollout:
    """As many steps of each environment, (step, env, ...)."""

    obs: Tensor
    masks: Mapping[str, Tensor]
    """Published with `obs`: those that the actions were drawn under."""
    actions: Tensor
    log_probs: Tensor
    """(step, env, head), of the policy that played."""
    values: Tensor
    op_values: Tensor | None
    """(step, env): of the op that was drawn."""
    rewards: Tensor
    following: Tensor
    """Value of what came next: see `advantage.advantages`."""
    ended: Tensor
    """Bool: nothing after this step belongs to its episode."""
    memory: Memory
    """Before the first step, (1, env, size) each."""
    taught: Tensor | None = None
    """(step, env, head): what the teacher would have played; None where there is none."""


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts of as many steps, side by side."""
    first = rollouts[0]
    masks = {name: torch.cat([each.masks[name] for each in rollouts], dim=1) for name in first.masks}
    memory = tuple(torch.cat(parts, dim=1) for parts in zip(*(each.memory for each in rollouts), strict=True))
    rest: dict[str, Any] = {
        name: None if value is None else torch.cat([getattr(each, name) for each in rollouts], dim=1)
        for name, value in vars(first).items()
        if name not in ("masks", "memory")
    }
    return Rollout(**rest, masks=masks, memory=memory)


@dataclass(frozen=True)
class Sequences:
    """Episodes, or the parts of them that were played, side by side and padded to the longest."""

    index: Tensor
    """int64 (step, sequence): step * environments + environment; of padding, any."""
    valid: Tensor
    """Bool (step, sequence): no padding."""
    envs: Tensor
    """int64 (sequence,)."""
    carried: Tensor
    """Bool (sequence,): begins in the middle of an episode, with the rollout's memory."""

    def take(self, values: Tensor) -> Tensor:
        """(step, sequence, ...) of values (step, env, ...)."""
        return values.flatten(0, 1)[self.index]

    def begin(self, memory: Memory) -> Memory:
        """Memory before the first step of each sequence: zeros where an episode begins."""
        return tuple(part[:, self.envs] * self.carried[None, :, None] for part in memory)


def sequences(ended: Tensor, envs: Tensor, fresh: Tensor) -> Sequences:
    """The sequences of some environments.

    Args:
        ended: bool (step, env), of the whole rollout.
        envs: int64 (chosen,).
        fresh: bool (env,): its first step begins an episode.
    """
    steps, num_envs = ended.shape
    over = ended.cpu().numpy()
    parts: list[tuple[int, int, int]] = []
    for env in envs.tolist():
        cuts = [0, *(np.flatnonzero(over[:-1, env]) + 1).tolist(), steps]
        parts += [(env, first, last) for first, last in pairwise(cuts)]
    longest = max(last - first for _, first, last in parts)
    at = torch.arange(longest)[:, None]
    of, first, last = (torch.tensor(column) for column in zip(*parts, strict=True))
    valid = at < last - first
    index = torch.where(valid, (first + at) * num_envs + of, 0)
    carried = (first == 0) & ~fresh.cpu()[of]
    return Sequences(*(each.to(ended.device) for each in (index, valid, of, carried)))
