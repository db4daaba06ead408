"""What another agent would have done: two agents compared op by op on the episodes that one of them plays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Agent
from esper_agents.evaluate import waves
from esper_env import EsperVectorEnv, Head, Op

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """How often two agents chose what, on the same hosts."""

    player: str
    """Who played."""
    adviser: str
    """Who was asked."""
    counts: Ints
    """(op, op): steps in which the player chose the row's op and the adviser the column's."""
    same_slot: Ints
    """(op,): those of the diagonal in which they meant the same slot; WAIT means none, which is the same."""
    forced: int
    """Those in which nothing but WAIT was legal."""

    @property
    def steps(self) -> int:
        """Steps that were compared."""
        return int(self.counts.sum())

    @property
    def share(self) -> float:
        """Share of the steps in which both chose the same op."""
        return float(np.trace(self.counts)) / self.steps

    @property
    def kappa(self) -> float:
        """The same beyond chance: 1 for always, 0 for as often as two that choose on their own.

        NaN where both always chose one and the same op.
        Reference: J. Cohen, "A Coefficient of Agreement for Nominal Scales" (1960).
        """
        chance = float(self.counts.sum(axis=1) @ self.counts.sum(axis=0)) / self.steps**2
        return (self.share - chance) / (1 - chance) if chance < 1 else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; None for a kappa that is not defined."""
        kappa = None if np.isnan(self.kappa) else self.kappa
        return {
            "player": self.player,
            "adviser": self.adviser,
            "ops": [op.name for op in Op],
            "counts": self.counts.tolist(),
            "same_slot": self.same_slot.tolist(),
            "forced": self.forced,
            "share": self.share,
            "kappa": kappa,
        }

    def lines(self) -> list[str]:
        """A Markdown table: a row for each op of the player, a column for each op of the adviser."""
        names = [op.name for op in Op]
        corner = f"{self.player} \\ {self.adviser}"
        rows = [[corner, *names, "same slot"], ["---"] * (len(names) + 2)]
        for op in Op:
            rows.append([op.name, *map(str, self.counts[op]), str(self.same_slot[op])])
        total = f"same op in {self.share:.1%} of {self.steps} steps, {self.forced} of them without a choice"
        return [*("| " + " | ".join(row) + " |" for row in rows), "", f"{total}; kappa {self.kappa:.2f}"]


def agreement(player: Agent, adviser: Agent, env: EsperVectorEnv, seeds: Sequence[int]) -> Agreement:
    """Play whole episodes with one agent, and ask another at every step what it would do.

    The adviser has a memory of its own, in which it sees what happens, but not what was chosen in its stead.

    Args:
        player: Who plays.
        adviser: Who is asked.
        env: With autoreset NEXT_STEP; it is reset by this call.
        seeds: Of the episodes.

    Raises:
        ValueError: no seeds, or an environment with another autoreset mode.
    """
    counts, same_slot = np.zeros((len(Op), len(Op)), np.int64), np.zeros(len(Op), np.int64)
    forced = 0
    for wave, wanted in waves(env, seeds):
        obs, info = env.reset(seed=wave)
        memory, opinion = player.begin(wave), adviser.begin(wave)
        playing = np.arange(env.num_envs) < wanted
        while playing.any():
            actions, memory = player.act(obs, info, memory)
            advice, opinion = adviser.act(obs, info, opinion)
            mine, theirs = (chosen[playing][:, [Head.OP, Head.SLOT]].T for chosen in (actions, advice))
            same = (mine == theirs).all(axis=0) | ((mine[0] == Op.WAIT) & (theirs[0] == Op.WAIT))
            np.add.at(counts, (mine[0], theirs[0]), 1)
            np.add.at(same_slot, mine[0][same], 1)
            forced += int((~info["op_slot_mask"][playing][:, Op.WAIT + 1 :].any(axis=(1, 2))).sum())
            obs, _, terminated, truncated, info = env.step(actions)
            playing &= ~(terminated | truncated)
    return Agreement(player.name, adviser.name, counts, same_slot, forced)
