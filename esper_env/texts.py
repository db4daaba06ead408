"""What can be asked of environments whose hosts read text: what tokens say, and what a network tells."""

from abc import abstractmethod
from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from esper_env.engine.engine import Engine
from esper_env.engine.precision import own_modes
from esper_env.engine.setup import Setup
from esper_env.engine.tell import harvested, tell
from esper_env.tasks.stories import StoryTask


class TextVectorEnv(VectorEnv):
    """The questions about text that `EsperVectorEnv` answers."""

    _engine: Engine
    _setup: Setup

    @property
    def _stories(self) -> StoryTask | None:
        """What hosts that read text learn; None for images, and where nothing is trained."""
        return self._setup.story_task

    @abstractmethod
    def _ready_row(self, env: int) -> int:
        """The index of an environment that was reset."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens; the end of a story is `<|endoftext|>`.

        Args:
            tokens: Such as the class of the largest logit that an exported network gives.

        Raises:
            ValueError: The host reads images, the engine trains nothing (`null`), or these are no tokens.
        """
        if self._stories is None:
            raise ValueError("decode() is not allowed: the host reads no text, or the engine trains nothing")
        size = self._stories.num_classes
        try:
            asked = [index(token) for token in tokens]
        except TypeError:
            raise ValueError(f"tokens={tokens!r} is not allowed: a row of integers is") from None
        if unknown := [token for token in asked if not 0 <= token < size]:
            raise ValueError(f"tokens {unknown} are not allowed: 0 to {size - 1} are")
        return self._stories.decode(asked)

    @own_modes()
    def tell(self, env: int, tokens: int = 200, temperature: float = 0.8, seed: int = 0) -> str | None:
        """A story that the network of one environment tells, as the harvest would leave it.

        It begins where a story begins, and the same network and seed tell the same. Nothing of the
        environment changes.

        Args:
            env: Index of the environment.
            tokens: Most tokens; a story may be over before.
            temperature: What logits are divided by before a token is drawn: 1 draws as the network expects,
                less draws what is probable more often, 0 takes the most probable token.
            seed: Of the draws.

        Returns:
            The text; None for a host that reads none, and for an engine that trains nothing (`null`).

        Raises:
            ValueError: no such environment, or an argument out of range.
            ResetNeeded: it was never reset.
            ClosedEnvironmentError: after `close`.
        """
        env = self._ready_row(env)
        _refuse("tokens", tokens, 1, np.inf, int, np.integer)
        _refuse("temperature", temperature, 0, np.inf, int, float, np.integer, np.floating)
        _refuse("seed", seed, 0, 2**63, int, np.integer)
        if self._stories is None:
            return None
        life = harvested(self._engine, self._setup, env)
        with life.measuring():
            told = tell(life.model, self._stories, int(tokens), float(temperature), int(seed))
        return self._stories.decode(told)


def _refuse(name: str, value: Any, least: int, beyond: float, *kinds: type) -> None:
    other = isinstance(value, bool) or not isinstance(value, kinds)
    if other or not least <= value < beyond:
        what = "a number" if float in kinds else "an integer"
        limit = "" if beyond == np.inf else f" and below {beyond}"
        raise ValueError(f"{name}={value!r} is not allowed: {what} of at least {least}{limit} is")
