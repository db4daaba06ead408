"""Whatever is done, in whatever order, the fused engine does what the reference does."""

from collections import Counter
from functools import cache
from typing import ClassVar

import numpy as np
from apart import agree
from engines import FUSED
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from parity import DOUBLE, EXACT, QUICK, Pair, lively
from plain import poison

from esper_env.engine.life import HOST

ENV = st.integers(0, 2)


@cache
def pair(engine: str) -> Pair:
    return Pair(3, engine, DOUBLE | QUICK | {"governor.snapshot_every": 2}, horizon=12)


class SideBySide(RuleBasedStateMachine):
    """Three environments on either side, whose episodes begin whenever they like."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(engine=st.sampled_from(FUSED), seed=st.integers(0, 9))
    def begin(self, engine: str, seed: int) -> None:
        self.pair, self.rng = pair(engine), np.random.default_rng(seed)
        self.pair.seen.clear()
        self.pair.reset(seed)

    @property
    def over(self) -> np.ndarray:
        return self.pair.reference._terminated

    @precondition(lambda self: not self.over.any())
    @rule(epochs=st.integers(1, 4))
    def play(self, epochs: int) -> None:
        for _ in range(epochs):
            if not self.over.any():
                actions = lively(self.pair.reference, self.pair.info, self.rng)
                first, second = self.pair.step(actions)
                agree(first, second, EXACT)
                self.seen["rollback"] += int((first[4]["reward_terms"]["rollback"] < 0).sum())
                self.seen["end"] += int(self.over.sum())
        self.pair.agree(EXACT)

    @precondition(lambda self: not self.over.any())
    @rule(env=ENV, last=st.booleans())
    def breaks(self, env: int, last: bool) -> None:
        """The host, or the module in the last slot that has one; each side breaks by itself."""
        planted = self.pair.reference._engine.get_state(env)["life"]["modules"]
        for side in self.pair.sides:
            poison(side, env, max(planted, default=HOST) if last else HOST)

    @rule(giver=ENV, taker=ENV, swapped=st.booleans())
    def hands_on(self, giver: int, taker: int, swapped: bool) -> None:
        """A state to another environment, of the same game on either side, out of either engine."""
        states = [env.get_state(giver) for env in self.pair.sides]
        if swapped:
            states[0]["engine"], states[1]["engine"] = states[1]["engine"], states[0]["engine"]
        shown = [env.set_state(taker, state) for env, state in zip(self.pair.sides, states, strict=True)]
        agree(*shown, EXACT)
        self.pair.info = shown[0][1]
        self.seen["swapped"] += swapped

    @rule(env=ENV, seed=st.integers(0, 9))
    def begins_anew(self, env: int, seed: int) -> None:
        again = self.over | (np.arange(3) == env)
        self.pair.reset([seed + number for number in range(3)], options={"reset_mask": again})

    def teardown(self) -> None:
        self.seen.update(+self.pair.seen)


def test_random_lives_side_by_side() -> None:
    SideBySide.seen.clear()
    limits = settings(max_examples=8, stateful_step_count=12, deadline=None, derandomize=True)
    run(SideBySide, settings=settings(limits, phases=[Phase.generate]))
    assert {"BLENDING", "rollback", "swapped"} <= set(+SideBySide.seen)
