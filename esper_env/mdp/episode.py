"""When an episode begins and ends, and with which seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.state import GameState
from esper_env.contracts.streams import Stream, key

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class EpisodeSeeds:
    """The seed of every episode: a function of the environment's reset seed and the number of the episode."""

    def __init__(self, num_envs: int) -> None:
        self._roots: list[int | None] = [None] * num_envs
        self._episodes = [0] * num_envs

    def next(self, env: int, seed: int | None) -> int:
        """Seed of the episode that begins now; a `seed` starts a new series, None goes on with the last one.

        An environment that was never given a seed draws one from the operating system.
        """
        root = self._roots[env]
        if seed is not None or root is None:
            root = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
            self._roots[env], self._episodes[env] = root, 0
        number = self._episodes[env]
        self._episodes[env] += 1
        return key(root, Stream.EPISODE, number)

    def row(self, env: int) -> tuple[int | None, int]:
        """Where the series of an environment stands: its root, None before the first episode, and a count."""
        return self._roots[env], self._episodes[env]

    def set_row(self, env: int, row: tuple[int | None, int]) -> None:
        """Go on with the series that `row` gave."""
        self._roots[env], self._episodes[env] = row


@dataclass(frozen=True)
class Limits:
    """What ends an episode, and how large a network may grow."""

    horizon: int
    """Epochs, after which it is terminated."""
    params: Floats
    """(env,): most parameters, as a multiple of the host's; infinite without a budget."""
    compute: Floats
    """(env,): training FLOPs, after which it is terminated; infinite without a budget."""
    static_flops: float
    """Training FLOPs of the static host over the whole horizon."""
    max_steps: int | None
    """Steps after which it is truncated."""
    max_panics: int
    """Panic with which the governor ends it."""

    @classmethod
    def of(
        cls,
        facts: HostFacts,
        epoch_size: int,
        *,
        horizon: int,
        params: Floats,
        compute: Floats,
        max_steps: int | None,
        max_panics: int,
    ) -> "Limits":
        """The limits of environments whose budgets are multiples of the static host's size and cost."""
        static = float(facts.host_flops) * epoch_size * horizon
        return cls(horizon, params, compute * static, static, max_steps, max_panics)

    def compute_beyond_static(self, state: GameState) -> Floats:
        """(env,): training FLOPs spent so far beyond the static host's, as a share of its whole horizon's."""
        return (state.train_flops - state.epoch * (self.static_flops / self.horizon)) / self.static_flops

    def terminated(self, state: GameState, played: Bools) -> Bools:
        """(env,): the task itself ended with this epoch."""
        spent = (state.epoch >= self.horizon) | (state.train_flops >= self.compute)
        return played & (spent | (state.rollbacks >= self.max_panics))

    def truncated(self, state: GameState, played: Bools) -> Bools:
        """(env,): a limit from outside was reached."""
        return played & (state.epoch >= (np.inf if self.max_steps is None else self.max_steps))
