"""What the tests of the economy share: pairs of modules of known worth, on the engine that trains nothing."""

from functools import cache

import numpy as np
from lives import GROW, play, rules_only, wandering
from numpy.typing import NDArray

from esper_env import EsperVectorEnv, Head, Op, encode
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.engine.null import Script, plausible

WAIT = encode(Op.WAIT)
HORIZON = 30
JOINT = 10.0
"""What the pairs below are worth together, in points."""
XOR = np.array([[0, 0], [0, JOINT]])
"""Neither helps without the other."""
DUPLICATES = np.array([[0, JOINT], [JOINT, JOINT]])
"""Each does what the other does."""
ADDITIVE = np.array([[0, 0.4 * JOINT], [0.6 * JOINT, JOINT]])
HARMFUL = -ADDITIVE
GAMES = {"xor": XOR, "duplicates": DUPLICATES, "additive": ADDITIVE, "harmful": HARMFUL}


def worth(value: NDArray[np.float64], memory: float = 0.0) -> Script:
    """Everything as the null engine makes it up, but the quality: 50% and `value[a, b]` points, a and b
    saying whether the modules of slots 0 and 1 are on; they learn it over `memory` epochs, 0 for at once.
    """

    def script(slots: SlotState, epochs: NDArray[np.int64]) -> EpochStats:
        stats, on = plausible(slots, epochs), (slots.alpha > 0).astype(int)
        learned = 1 - np.exp(-epochs / memory) if memory else 1.0
        stats.val_accuracy = 0.5 + learned * value[on[:, 0], on[:, 1]] / 100
        stats.val_loss = -np.log(stats.val_accuracy)
        return stats

    return script


def moved(slot: int) -> list[NDArray[np.int64]]:
    """GROW in another slot."""
    actions = [action.copy() for action in GROW]
    for action in actions:
        action[Head.SLOT] = slot
    return actions


@cache
def world(basis: str, bonus: float, at_end: str) -> EsperVectorEnv:
    changes = {"credit_basis": basis, "interaction_bonus": bonus, "credit_at_end": at_end}
    overrides = {f"reward.{name}": value for name, value in changes.items()}
    return rules_only(reward="economy", horizon=HORIZON, overrides=overrides)


def economy(
    script: Script, basis: str = "contribution", bonus: float = 0.0, at_end: str = "lost"
) -> EsperVectorEnv:
    """An episode that has just begun."""
    env = world(basis, bonus, at_end)
    env._engine.script = script
    env.reset(seed=0)
    return env


def live_pair(
    game: str, basis: str = "contribution", bonus: float = 0.0, at_end: str = "lost"
) -> EsperVectorEnv:
    """Both modules in HOLDING, the first planted before anything was learned: the gain tempers nothing."""
    env = economy(worth(GAMES[game]), basis, bonus, at_end)
    play(env, [GROW[0], *moved(1), *GROW[1:]])
    return env


def credit_paid(env: EsperVectorEnv, *actions: NDArray[np.int64]) -> list[float]:
    """The credit term of every step."""
    paid = []
    for action in actions:
        info = env.step(action[None])[4]
        assert info["action_valid"][0]
        paid.append(float(info["reward_terms"]["credit"][0]))
    return paid


def to_the_end(env: EsperVectorEnv, *actions: NDArray[np.int64]) -> float:
    """What credit pays over the whole episode if it goes on with these actions, then with WAIT."""
    held = env._state.slots.credit.sum()
    waiting = [WAIT] * (HORIZON - int(env._state.epoch[0]) - len(actions))
    summed = held + sum(credit_paid(env, *actions, *waiting))
    assert env._terminated[0]
    return float(summed)


def fickle(slots: SlotState, epochs: NDArray[np.int64]) -> EpochStats:
    """Quality depends on time, modules, and pairs of them, with either sign; some networks break."""
    stats, on = plausible(slots, epochs), np.where(slots.alpha > 0, slots.alpha, 0.0)
    value = on @ np.array([3.0, -1.0, 2.0]) + 4 * on[:, 0] * on[:, 2] - 3 * on[:, 0] * on[:, 1]
    stats.val_accuracy = 0.4 + (value + 5 * np.sin(epochs)) / 100
    stats.val_loss = -np.log(stats.val_accuracy)
    stats.finite = (epochs % 13 < 12) | (slots.planting.sum(axis=1) % 3 != 1)
    return stats


def committing(env: EsperVectorEnv, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random legal actions (env, 8) of lives that wait often, prune seldom and commit what they hold."""
    actions = wandering(env, rng, 0.4)
    seldom = (actions[:, Head.OP] == Op.PRUNE) & (rng.random(env.num_envs) < 0.8)
    actions[seldom] = WAIT
    actions[:, Head.ALPHA_TARGET] = 2
    for row, slot in np.argwhere(env._masks.op_slot[:, Op.FOSSILIZE] > 0):
        if rng.random() < 0.3:
            actions[row] = encode(Op.FOSSILIZE, slot=int(slot))
    return actions
