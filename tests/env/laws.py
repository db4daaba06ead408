"""What the tests of the laws share: whole lives, priced in every mode.

A life does not depend on what is paid for it, so it is played once and priced in every mode.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scripted import WAIT, Agent, views

from esper_env import EsperVectorEnv, HostFacts
from esper_env.contracts.state import GameState
from esper_env.mdp import reward
from esper_env.mdp.prices import RewardConfig
from esper_env.mdp.reward import StepChange

Floats = NDArray[np.float64]
MODES = ("dense", "sparse", "economy")
KEPT = {
    "credit_at_end": "kept", "credit_basis": "contribution", "outcome": 20.0, "credit": 1.0,
    "compute_rent": 0.0,
}  # fmt: skip
"""On top of economy: fossils keep what they were credited with, and the outcome pays a fifth."""


@dataclass
class Lives:
    """One life in each environment, to its end."""

    facts: HostFacts
    horizon: int
    changes: list[StepChange]
    played: list[NDArray[np.bool_]]
    """(env,) of each step: the life was not over."""
    rewards: Floats
    """(step, env): what the environment itself paid."""
    ends: dict[str, Floats]
    """(env,) each: what the info of the last step said."""
    panics: NDArray[np.int64]
    """(env,)."""

    def only(self, rows: Any) -> "Lives":
        """The lives of these rows."""

        def take(value: Any) -> Any:
            return value[rows] if isinstance(value, np.ndarray) else _taken(value, take)

        changes = [_taken(change, take) for change in self.changes]
        ends = {key: value[rows] for key, value in self.ends.items()}
        played = [step[rows] for step in self.played]
        return Lives(
            self.facts, self.horizon, changes, played, self.rewards[:, rows], ends, self.panics[rows]
        )

    def sums(self, mode: str, gamma: float = 1.0, **prices: Any) -> dict[str, Floats]:
        """(env,) each: what every term adds to the return in this mode, with these prices on top."""
        config = RewardConfig(mode=mode, gamma=gamma, **prices)
        state = GameState.empty(len(self.panics), self.facts.num_slots)
        summed: dict[str, Floats] = {}
        for step, (change, played) in enumerate(zip(self.changes, self.played, strict=True)):
            due = reward.terms(change, self.facts, config, self.horizon)
            paid = reward.pay(state, due, played, change.terminated, config)
            for name, value in paid.items():
                summed[name] = summed.get(name, 0.0) + gamma**step * np.where(played, value, 0.0)
        return summed

    def returns(self, mode: str, gamma: float = 1.0) -> Floats:
        """(env,)."""
        return np.sum(list(self.sums(mode, gamma).values()), axis=0)

    def costs(self) -> Floats:
        """(env,): rent, churn, ops and rollbacks, the same in every mode."""
        summed = self.sums("dense")
        return np.sum([summed[name] for name in ("rent", "churn", "op_cost", "rollback")], axis=0)

    def credit(self) -> Floats:
        """(env,): what the fossils were credited with, in points, as the economy pays it where it is kept."""
        return self.sums("economy", **KEPT)["credit"]

    def points(self, split: str) -> Floats:
        """(env,): accuracy of the harvested models on a split, `harvest` or `test`, in percent."""
        return 100 * self.ends[f"{split}_accuracy"]

    def stages(self) -> NDArray[np.int8]:
        """(step, env, slot)."""
        return np.array([change.after.stage for change in self.changes])


@contextmanager
def watched(changes: list[StepChange]) -> Iterator[None]:
    """Inside, every change that is priced is also kept."""
    real = reward.terms

    def terms(change: StepChange, *others: Any) -> dict[str, Floats]:
        changes.append(copy.deepcopy(change))  # an episode that begins anew clears its arrays in place
        return real(change, *others)

    with mock.patch.object(reward, "terms", terms):
        yield


def live(env: EsperVectorEnv, agents: Agent | Sequence[Agent], seeds: int | Sequence[int]) -> Lives:
    """Play one life in each environment.

    Args:
        env: With autoreset NEXT_STEP where lives may end at different times.
        agents: One for all environments, or one each.
        seeds: As `reset` takes them.
    """
    by_row = [agents] * env.num_envs if callable(agents) else list(agents)
    _, info = env.reset(seed=seeds)
    over, panics = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=np.int64)
    changes: list[StepChange] = []
    played, rewards = [], []
    ends = {key: np.full(env.num_envs, np.nan) for key in ("harvest_accuracy", "test_accuracy")}
    with watched(changes):
        while not over.all():
            seen = zip(by_row, views(env, info, len(played)), over, strict=True)
            _, paid, terminated, _, info = env.step([WAIT if ended else agent(v) for agent, v, ended in seen])
            assert info["action_valid"].all(), "the script asked for something illegal"
            played.append(~over)
            rewards.append(np.where(over, 0.0, paid))
            panics += ~over & changes[-1].panicked
            for key, value in ends.items():
                value[terminated & ~over] = info[key][terminated & ~over]
            over |= terminated
    return Lives(env.facts, env.config.horizon, changes, played, np.array(rewards), ends, panics)


def _taken(record: Any, take: Callable[[Any], Any]) -> Any:
    """A record of arrays with every array replaced."""
    return replace(record, **{field.name: take(getattr(record, field.name)) for field in fields(record)})


def upper(values: Floats, confidence: float = 0.95) -> float:
    """Upper end of the one-sided confidence interval of the mean (Student's t)."""
    n = len(values)
    return float(values.mean() + stats.t.ppf(confidence, n - 1) * values.std(ddof=1) / np.sqrt(n))


def lower(values: Floats, confidence: float = 0.95) -> float:
    """Lower end of the one-sided confidence interval of the mean (Student's t)."""
    return -upper(-values, confidence)
