"""Lives that are trained for real: a restored one goes on as the first, wherever and however often."""

import hashlib
from collections import Counter
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from numpy.typing import NDArray
from plain import tiny

from esper_env import EsperVectorEnv, Op, Style, encode
from esper_env.mdp import masks

WAIT, GROW, WILD, POISON = range(4)
ENV = st.integers(0, 1)
CHOICE = st.sampled_from((WAIT, GROW, GROW, WILD))
History = tuple[int, ...]
"""Seed of the first episode, then what was chosen in every step; it decides everything else."""


@cache
def trained() -> EsperVectorEnv:
    return tiny(2, horizon=20, reward="economy")


def digest(value: Any) -> str:
    """Of every bit in nested dicts and lists."""
    total = hashlib.sha256()
    if isinstance(value, torch.Tensor):
        total.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        total.update("".join(f"{key}{digest(part)}" for key, part in value.items()).encode())
    elif isinstance(value, list | tuple):
        total.update("".join(map(digest, value)).encode())
    else:
        total.update(repr(value).encode())
    return total.hexdigest()


class Saved(NamedTuple):
    """What `get_state` gave and what was seen then."""

    history: History
    state: dict[str, Any]
    obs: bytes


class Lives(RuleBasedStateMachine):
    """What follows a history is looked up: it must be the same in either environment, before and after."""

    states = Bundle("states")
    known: ClassVar[dict[History, tuple[bytes, float, str]]] = {}
    seen: ClassVar[Counter[str]] = Counter()

    @initialize(seed=st.integers(0, 1))
    def begin(self, seed: int) -> None:
        self.env, self.poisoned = trained(), [False, False]
        self.histories: list[History] = [(seed,), (seed + 1,)]
        self.look(self.env.reset(seed=seed)[0], np.zeros(2))

    def look(self, obs: NDArray[np.float32], reward: NDArray[np.float64]) -> None:
        for e, history in enumerate(self.histories):
            now = (obs[e].tobytes(), float(reward[e]), digest(self.env.get_state(e)))
            self.seen["known before"] += history in self.known
            assert self.known.setdefault(history, now) == now
        self.obs = obs

    @property
    def over(self) -> NDArray[np.bool_]:
        return self.env._terminated

    def action(self, e: int, choice: int) -> NDArray[np.int64]:
        legal, blueprints = self.env._masks.op_slot[e], self.env._masks.blueprint_slot[e]
        if choice == WILD:
            rng = np.random.default_rng(len(self.histories[e]))
            return masks._sample_one(legal, blueprints, self.env.layout, rng)
        for op in (Op.ADVANCE, Op.FOSSILIZE, Op.GERMINATE) if choice == GROW else ():
            if legal[op].any():
                slot = int(legal[op].argmax())
                heads = {"blueprint": 1 + slot, "style": Style.GATED, "tempo": 0, "alpha_target": 2}
                return encode(op, slot=slot, **(heads if op == Op.GERMINATE else {}))
        return encode(Op.WAIT)

    @precondition(lambda self: not self.over.any())
    @rule(first=CHOICE, second=CHOICE, epochs=st.integers(1, 4))
    def play(self, first: int, second: int, epochs: int) -> None:
        for _ in range(epochs):
            self.step((first, second))

    def step(self, choices: tuple[int, int]) -> None:
        if self.over.any():
            return
        actions = [self.action(e, choice) for e, choice in enumerate(choices)]
        self.histories = [(*h, choice) for h, choice in zip(self.histories, choices, strict=True)]
        obs, reward, terminated, _, info = self.env.step(np.stack(actions))
        self.seen["rollback"] += (info["reward_terms"]["rollback"] < 0).sum()
        self.seen["fossil"] += (self.env._state.slots.stage == 5).any()
        self.seen["end"] += terminated.any()
        self.look(obs, reward)

    @precondition(lambda self: not self.over.any())
    @rule(e=ENV)
    def poison(self, e: int) -> None:
        """One weight of the host is no number; the governor finds it in the next epoch."""
        with torch.no_grad():
            next(self.env._engine.life(e).model.host.parameters())[0] = torch.nan
        other = self.histories[1 - e]
        self.histories[e] = (*self.histories[e], POISON)
        self.step((WAIT, WAIT))
        assert self.over[e] or self.env._state.rollbacks[e] > 0
        assert self.histories[1 - e] == (*other, WAIT), "it was looked up, and knew of nothing"

    @rule(e=ENV, target=states)
    def save(self, e: int) -> Saved:
        return Saved(self.histories[e], self.env.get_state(e), self.obs[e].tobytes())

    @rule(e=ENV, saved=states)
    def restore(self, e: int, saved: Saved) -> None:
        other = digest(self.env.get_state(1 - e))
        obs, _ = self.env.set_state(e, saved.state)
        assert obs[e].tobytes() == saved.obs
        assert obs[1 - e].tobytes() == self.obs[1 - e].tobytes()
        assert digest(self.env.get_state(1 - e)) == other
        assert digest(self.env.get_state(e)) == digest(saved.state) == self.known[saved.history][2]
        self.histories[e], self.obs = saved.history, obs

    @rule(e=ENV, saved=states)
    def repeat(self, e: int, saved: Saved) -> None:
        """What came after a state was saved comes again when it is restored."""
        self.restore(e, saved)
        begun = len(saved.history)
        longest = max((h for h in self.known if h[:begun] == saved.history), key=len)
        for choice in longest[begun:]:
            if choice == POISON:
                break
            self.step((choice, WAIT) if e == 0 else (WAIT, choice))

    @precondition(lambda self: self.over.any())
    @rule(seed=st.integers(0, 1))
    def start_again(self, seed: int) -> None:
        ended = self.over.copy()
        obs, _ = self.env.reset(seed=[seed] * 2, options={"reset_mask": ended})
        self.histories = [(seed,) if over else h for over, h in zip(ended, self.histories, strict=True)]
        for e in np.flatnonzero(ended):
            now = (obs[e].tobytes(), 0.0, digest(self.env.get_state(e)))
            assert self.known.setdefault((seed,), now) == now
        self.obs = obs


@pytest.mark.slow
def test_a_restored_life_goes_on_to_the_same_bits_in_any_environment() -> None:
    Lives.known.clear()
    limits = settings(max_examples=12, stateful_step_count=14, deadline=None, derandomize=True)
    run(Lives, settings=settings(limits, phases=[Phase.generate]))
    assert Lives.seen >= Counter(["known before", "rollback", "fossil", "end"]), "these lives see all of it"
