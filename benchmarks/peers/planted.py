"""The modules of one slot in all environments, grouped by blueprint, for the stacked peers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState
from esper_env.slots.blend import isolate
from peers.stack import Row, Stack

Apply = Callable[[nn.Module, Stack, str, int, torch.Tensor], torch.Tensor]
"""(module, stack, prefix of its names, first row, input (batch, row, ...)) -> output (batch, row, ...)."""
ISOLATED = -1
"""In place of a style: how an isolated module joins the host."""


class _StopRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, rows: int) -> torch.Tensor:
        ctx.rows = rows
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        stopped = gradients[0].clone()
        stopped[:, : ctx.rows] = 0
        return stopped, None


@dataclass
class Group:
    """The modules of one blueprint, the isolated ones first, then by style."""

    stack: Stack
    kinds: list[int]
    """How each joins the host: `ISOLATED`, or its style."""
    alpha: torch.Tensor
    """(row, 1, 1, 1)."""

    @property
    def isolated(self) -> int:
        """How many are."""
        return self.kinds.count(ISOLATED)

    def runs(self) -> list[tuple[int, int, int]]:
        """(kind, first row, last row + 1) of neighbours that join the host in the same way."""
        starts = [index for index, kind in enumerate(self.kinds) if kind not in self.kinds[:index]]
        ends = [*starts[1:], len(self.kinds)]
        return [(self.kinds[start], start, end) for start, end in zip(starts, ends, strict=True)]


class SlotModules:
    """All modules of one slot.

    Args:
        state: what the slots hold.
        slot: which one.
        rows: what each module has become, by environment, and its gate's.
        apply: how a peer runs stacked modules.
    """

    def __init__(
        self, state: SlotState, slot: int, rows: Mapping[int, Row], gates: Mapping[int, Row], apply: Apply
    ) -> None:
        self.slot, self._apply = slot, apply
        self.groups = [
            self._group(state, [env for env in rows if state.blueprint[env, slot] == blueprint], rows)
            for blueprint in sorted({int(state.blueprint[env, slot]) for env in rows})
        ]
        gated = [env for group in self.groups for env in group.stack.envs.tolist() if env in gates]
        self.gate = Stack([gates[env] for env in gated], gated) if gated else None

    def _group(self, state: SlotState, envs: Sequence[int], rows: Mapping[int, Row]) -> Group:
        def kind(env: int) -> int:
            isolated = state.stage[env, self.slot] == Stage.TRAINING
            style = Style(state.style[env, self.slot])
            # Both ADD styles join in the same way: only their ramps differ.
            return ISOLATED if isolated else int(style if style != Style.SIGMOID_ADD else Style.LINEAR_ADD)

        ordered = sorted(envs, key=kind)
        stack = Stack([rows[env] for env in ordered], ordered)
        alpha = torch.tensor([state.alpha[env, self.slot] for env in ordered], device=stack.flat.device)
        return Group(stack, [kind(env) for env in ordered], alpha.float().view(-1, 1, 1, 1))

    @property
    def stacks(self) -> list[Stack]:
        """Everything that is trained."""
        return [group.stack for group in self.groups] + ([self.gate] if self.gate else [])

    def rows(self) -> tuple[dict[int, Row], dict[int, Row]]:
        """What each module and each gate has become, by environment."""
        branches = [
            (int(e), g.stack.row(i)) for g in self.groups for i, e in enumerate(g.stack.envs.tolist())
        ]
        gates = [(e, self.gate.row(i)) for i, e in enumerate(self.gate.envs.tolist())] if self.gate else []
        return dict(branches), dict(gates)

    def __call__(self, h: torch.Tensor, on: torch.Tensor | None) -> torch.Tensor:
        """The slot's values of all networks.

        Args:
            h: the hosts', (batch, env, channels, height, width).
            on: in evaluation, (env,): 1 where a module that is not isolated runs; None in training.
        """
        opened = None if self.gate is None else self._open(h)
        values, envs, start = [], [], 0
        for group in self.groups:
            gated = group.kinds.count(Style.GATED)
            part = None if opened is None else opened[:, start : start + gated]
            first = 0 if on is None else group.isolated
            if first < len(group.stack):
                values.append(self._through(group, h, part, on, first))
                envs.append(group.stack.envs[first:])
            start += gated
        if not envs:
            return h
        if sum(map(len, envs)) == h.shape[1]:
            return torch.cat(values, dim=1).index_select(1, torch.cat(envs).argsort())
        return h.index_copy(1, torch.cat(envs), torch.cat(values, dim=1).to(h.dtype))

    def _open(self, h: torch.Tensor) -> torch.Tensor:
        """How far each gate opens, (batch, gated row, 1, 1, 1)."""
        assert self.gate is not None
        squeezed = h.index_select(1, self.gate.envs).mean(dim=(3, 4))
        opened = self._apply(self.gate.module.get_submodule("layers"), self.gate, "layers.", 0, squeezed)
        return opened[..., None, None]

    def _through(
        self, group: Group, h: torch.Tensor, opened: torch.Tensor | None, on: torch.Tensor | None, first: int
    ) -> torch.Tensor:
        """The values of one blueprint's rows from `first` on, (batch, row, channels, height, width)."""
        here = h.index_select(1, group.stack.envs[first:])
        source = here if first or not group.isolated else _StopRows.apply(here, group.isolated)
        d = self._apply(group.stack.module, group.stack, "", first, source)
        alpha = group.alpha if on is None else group.alpha * on[group.stack.envs].view(-1, 1, 1, 1)
        values = []
        for kind, start, end in group.runs():
            if start < first:
                continue
            own, delta = here[:, start - first : end - first], d[:, start - first : end - first]
            values.append(_join(kind, own, delta, alpha[start:end], opened))
        return torch.cat(values, dim=1)


def _join(
    kind: int, h: torch.Tensor, d: torch.Tensor, alpha: torch.Tensor, opened: torch.Tensor | None
) -> torch.Tensor:
    if kind == ISOLATED:
        return isolate(h, d.to(h.dtype))
    if kind == Style.LINEAR_MULTIPLY:
        return h * (1 + alpha * torch.tanh(d))
    return h + alpha * d if opened is None or kind == Style.LINEAR_ADD else h + alpha * opened * d
