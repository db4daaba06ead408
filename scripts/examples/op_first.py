"""What a library needs for a conditional action: every mask in the observation, and the op drawn first.

Shared by the examples for RLlib and TorchRL.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, Distribution

from esper_env import HEADS_READ, READS, ActionLayout, EsperVectorEnv, Head, Op

OBS, OP_SLOT, BLUEPRINT_SLOT = "observations", "op_slot_mask", "blueprint_slot_mask"
ORDER = sorted(Head, key=lambda head: head != Head.OP)
"""The op, then the slot, then what may depend on both."""
NEVER = -1e8
"""The logit of what is illegal; finite, so that no gradient is NaN."""


class ExactMasksInObservation(VectorWrapper):
    """A Dict observation: `observations`, `op_slot_mask` (op, slot), `blueprint_slot_mask` (slot, blueprint).

    Args:
        envs: With autoreset NEXT_STEP or DISABLED: there, what `step` returns is of one moment.
    """

    def __init__(self, envs: EsperVectorEnv) -> None:
        super().__init__(envs)
        self.autoreset_mode, self.features = envs.autoreset_mode, envs.features
        slots, blueprints = envs.layout.num_slots, envs.layout.num_blueprints
        self.single_observation_space = Dict(
            {
                OBS: envs.single_observation_space,
                OP_SLOT: Box(0, 1, (len(Op), slots), np.int8),
                BLUEPRINT_SLOT: Box(0, 1, (slots, blueprints), np.int8),
            }
        )
        self.observation_space = batch_space(self.single_observation_space, envs.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """As the environment's, with the masks in the observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        return _joined(obs, info), info

    def step(self, actions: Any) -> tuple[dict[str, NDArray[Any]], Any, Any, Any, dict[str, Any]]:
        """As the environment's, with the masks in the observation."""
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        return _joined(obs, info), rewards, terminated, truncated, info


def _joined(obs: NDArray[np.float32], info: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {OBS: obs, OP_SLOT: info[OP_SLOT].copy(), BLUEPRINT_SLOT: info[BLUEPRINT_SLOT].copy()}


class OpFirst(Distribution):
    """Actions (..., 8): a legal op, a slot where it is legal, then the other heads that the op reads.

    Heads that it does not read are 0 with certainty. So no probability falls on an illegal action, and none
    is spent on choices that change nothing.

    Args:
        logits: (..., sum(nvec)), the heads one after the other.
        op_slot_mask: (..., op, slot), 0 or 1.
        blueprint_slot_mask: (..., slot, blueprint), 0 or 1.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor, op_slot_mask: Tensor, blueprint_slot_mask: Tensor) -> None:
        self._op_slot, self._blueprint_slot = op_slot_mask.bool(), blueprint_slot_mask.bool()
        self.logits = logits
        self._heads = logits.split(ActionLayout(*blueprint_slot_mask.shape[-2:]).nvec.tolist(), dim=-1)
        self._reads = torch.tensor(READS, device=logits.device)
        super().__init__(logits.shape[:-1], torch.Size([len(Head)]), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Actions (*sample_shape, ..., 8)."""
        if sample_shape:
            first, *rest = sample_shape
            return torch.stack([self.sample(rest) for _ in range(first)])
        return self._walk(lambda log_probs: Categorical(logits=log_probs).sample())

    @property
    def mode(self) -> Tensor:
        """The likeliest op, its likeliest slot, and the likeliest values of the rest, (..., 8)."""
        return self._walk(lambda log_probs: log_probs.argmax(-1))

    deterministic_sample = mode
    """The same under the name that TorchRL asks for."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Of actions (..., 8): (...,); about `NEVER` for an action that is never drawn."""
        drawn = [self._head(head, value[..., Head.OP], value[..., Head.SLOT]) for head in Head]
        return sum(
            log_probs.gather(-1, value[..., head, None]).squeeze(-1)
            for head, log_probs in zip(Head, drawn, strict=True)
        )

    def entropy(self) -> Tensor:
        """Of whole actions, exact, (...,)."""
        return self.cross_entropy(self)

    def cross_entropy(self, other: "OpFirst") -> Tensor:
        """The mean of -log q of another distribution with the same masks, exact, (...,).

        Less the entropy, it is the Kullback-Leibler divergence of the other from this one.
        """
        ops = self._head(Head.OP)
        after = torch.stack([self._after(op, other) for op in Op], dim=-1)
        return _cross_entropy(ops, other._head(Head.OP)) + (ops.exp() * after).sum(-1)

    def _after(self, op: Op, other: "OpFirst") -> Tensor:
        """(...,): the part of the cross-entropy that lies in the heads after an op."""
        total = self.logits.new_zeros(self.batch_shape)
        ops = torch.full(self.batch_shape, op, device=total.device)
        slots = self._head(Head.SLOT, ops).exp()
        for head in HEADS_READ[op]:
            if head != Head.BLUEPRINT:
                total = total + _cross_entropy(self._head(head, ops), other._head(head, ops))
                continue
            for slot in range(slots.shape[-1]):
                here = torch.full_like(ops, slot)
                parts = self._head(head, ops, here), other._head(head, ops, here)
                total = total + slots[..., slot] * _cross_entropy(*parts)
        return total

    def _walk(self, choose: Callable[[Tensor], Tensor]) -> Tensor:
        action = torch.zeros(self._extended_shape(), dtype=torch.long, device=self._reads.device)
        for head in ORDER:
            action[..., head] = choose(self._head(head, action[..., Head.OP], action[..., Head.SLOT]))
        return action

    def _head(self, head: Head, op: Tensor | None = None, slot: Tensor | None = None) -> Tensor:
        """Log-probabilities (..., size) of a head after that op and slot."""
        logits = self._heads[head]
        if head == Head.OP:
            legal = self._op_slot.any(-1)
        else:
            legal = torch.ones_like(logits, dtype=torch.bool)
            if head == Head.SLOT:
                legal = _row(self._op_slot, op)
            elif head == Head.BLUEPRINT:
                legal = _row(self._blueprint_slot, slot)
            only_zero = torch.arange(logits.shape[-1], device=logits.device) == 0
            legal = torch.where(self._reads[op, head][..., None], legal, only_zero)
        return torch.where(legal, logits, NEVER).log_softmax(-1)


def _row(table: Tensor, index: Tensor) -> Tensor:
    """(..., k, m) and (...,) -> (..., m)."""
    return torch.take_along_dim(table, index[..., None, None], dim=-2).squeeze(-2)


def _cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    return -(log_p.exp() * log_q).sum(-1)
