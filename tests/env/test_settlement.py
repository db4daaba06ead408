"""Credit at the harvest: the fossils are valued anew, together, whatever they were credited on the way."""

import numpy as np
import pytest
from economies import DUPLICATES, HORIZON, JOINT, WAIT, economy, live_pair, to_the_end, worth
from lives import GROW, game, play, put
from plain import accuracy, grow, task_of, tiny
from world import tempered

from esper_env import Op, Stage, Style, encode
from esper_env.contracts.state import SlotState
from esper_env.mdp.credit import settled

NAN = float("nan")


def value(slots: SlotState, harvested: float, bare: float) -> float:
    return float(settled(slots, np.array([harvested]), np.array([bare]))[0])


def fossil(born: float) -> SlotState:
    """One slot, whose module was planted when quality was this and credited 99 points since."""
    slots = game(num_slots=1).slots
    put(slots, 0, 0, stage=Stage.FOSSILIZED, quality_at_germination=born, credit=99.0)
    return slots


@pytest.mark.parametrize(
    ("born", "harvested", "bare", "expected"),
    [
        (0.20, 0.50, 0.44, 6.0),
        (0.46, 0.50, 0.38, 6.0),
        (0.50, 0.50, 0.38, 0.0),
        (0.60, 0.50, 0.38, 0.0),
        (0.20, 0.50, 0.50, 0.0),
        (0.10, 0.30, 0.36, -6.0),
        (0.29, 0.30, 0.36, -6.0),
        (0.50, 0.30, 0.36, -6.0),
    ],
    ids=["help", "more than was won", "nothing won", "lost", "no help", "harm", "much harm", "harm and loss"],
)
def test_fossils_are_worth_what_the_harvest_loses_without_them_held_against_what_was_won(
    born: float, harvested: float, bare: float, expected: float
) -> None:
    assert value(fossil(born), harvested, bare) == pytest.approx(expected, abs=1e-12)


def test_without_fossils_nothing_is_settled() -> None:
    held = fossil(0.2)
    put(held, 0, 0, stage=Stage.HOLDING)
    assert value(held, 0.5, 0.4) == 0


@pytest.mark.parametrize(("harvested", "bare"), [(NAN, NAN), (NAN, 0.4), (0.5, NAN)])
def test_what_was_not_measured_settles_to_a_number(harvested: float, bare: float) -> None:
    assert value(fossil(0.2), harvested, bare) == 0


def test_what_was_won_counts_from_the_first_planting_of_a_fossil_and_of_no_other_module() -> None:
    slots = game(num_slots=3).slots
    put(slots, 0, 0, stage=Stage.HOLDING, quality_at_germination=0.1)
    put(slots, 0, 1, stage=Stage.FOSSILIZED, quality_at_germination=0.46)
    assert value(slots, 0.50, 0.38) == pytest.approx(6), "12 points, of which 4 were won: 2 x 4 x 12 / 16"
    put(slots, 0, 2, stage=Stage.FOSSILIZED, quality_at_germination=0.20)
    assert value(slots, 0.50, 0.38) == pytest.approx(12), "30 were won since the first of the two"


def test_environments_are_settled_apart() -> None:
    slots = game(num_envs=3, num_slots=2).slots
    for env, slot in ((0, 1), (2, 0)):
        put(slots, env, slot, stage=Stage.FOSSILIZED, quality_at_germination=0.2)
    both = np.array([0.5, 0.5, 0.3]), np.array([0.44, 0.44, 0.31])
    assert settled(slots, *both) == pytest.approx([6, 0, -1])


FIRST, SECOND = encode(Op.FOSSILIZE, slot=0), encode(Op.FOSSILIZE, slot=1)
PRUNE = encode(Op.PRUNE, slot=1, alpha_speed=0)
PAID = {
    "xor": {"both": JOINT, "one": 0, "partner pruned": 0, "none": 0},
    "duplicates": {"both": JOINT, "one": JOINT, "partner pruned": JOINT, "none": 0},
    "additive": {"both": JOINT, "one": 0.6 * JOINT, "partner pruned": 0.6 * JOINT, "none": 0},
    "harmful": {"both": -JOINT, "one": -0.6 * JOINT, "partner pruned": -0.6 * JOINT, "none": 0},
}
ENDINGS = {"both": [FIRST, SECOND], "one": [FIRST], "partner pruned": [FIRST, PRUNE], "none": []}


@pytest.mark.parametrize("basis", ["contribution", "shapley"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", PAID)
def test_an_episode_pays_for_a_pair_what_it_is_worth_at_the_harvest(
    name: str, ending: str, basis: str
) -> None:
    env = live_pair(name, basis, bonus=0.1)
    assert to_the_end(env, *ENDINGS[ending]) == pytest.approx(PAID[name][ending], abs=1e-9)


MEMORY = 20.0
COMMITTED_IN = (9, 20, HORIZON - 1)
"""As early as it may be, later, and in the last step."""


def learned(epochs: int) -> float:
    return 1 - float(np.exp(-epochs / MEMORY))


def committed_in(step: int, settle: bool) -> tuple[float, float]:
    """Credit and return of a life that plants one module, which learns on, and fossilizes it in this step."""
    env = economy(worth(DUPLICATES, MEMORY), "shapley", settle=settle)
    credit = paid = 0.0
    commit = encode(Op.FOSSILIZE, slot=0)
    for action in [*GROW, *[WAIT] * (step - len(GROW)), commit, *[WAIT] * (HORIZON - step - 1)]:
        _, reward, _, _, info = env.step(action[None])
        assert info["action_valid"][0]
        credit, paid = credit + info["reward_terms"]["credit"][0], paid + reward[0]
    assert env._terminated[0]
    return credit, paid


def test_when_a_module_is_fossilized_changes_nothing_in_what_the_same_network_pays() -> None:
    lives = [committed_in(step, settle=True) for step in COMMITTED_IN]
    assert [credit for credit, _ in lives] == pytest.approx([JOINT * learned(HORIZON)] * 3, abs=1e-9)
    assert [paid for _, paid in lives] == pytest.approx([lives[0][1]] * 3, abs=1e-9)


def test_without_a_settlement_waiting_with_it_pays() -> None:
    lives = [committed_in(step, settle=False) for step in COMMITTED_IN]
    assert [credit for credit, _ in lives] == pytest.approx([JOINT * learned(step) for step in COMMITTED_IN])


def test_the_host_alone_is_measured_with_all_fossils_off_and_settles_the_credit() -> None:
    env = tiny(reward="economy", horizon=30, overrides={"reward.credit": 1.0})
    env.reset(seed=2)
    script = [*grow(0, Style.LINEAR_MULTIPLY, 7), FIRST, *grow(2), encode(Op.FOSSILIZE, slot=2), *grow(1)[:3]]
    paid, born = 0.0, {}
    for action in [*script, *[WAIT] * (30 - len(script))]:
        before = float(env._state.quality[0])
        info = env.step(action[None])[4]
        assert info["action_valid"][0]
        for slot in (0, 2):
            if env._state.slots.stage[0, slot] == Stage.GERMINATED:
                born.setdefault(slot, before)
        paid += float(info["reward_terms"]["credit"][0])
    validation = task_of(env).validation
    whole, bare = accuracy(env, validation, {0: 1.0, 2: 1.0}), accuracy(env, validation, {})
    stats = env._engine.harvest(np.array([True]))
    assert 100 * stats.val_accuracy[0] == pytest.approx(whole)
    assert 100 * stats.bare_accuracy[0] == pytest.approx(bare)
    assert whole != bare
    assert paid == pytest.approx(tempered(whole - bare, whole - 100 * min(born.values())), abs=1e-9)


def test_a_network_without_fossils_is_its_host() -> None:
    env = tiny(reward="economy", horizon=12)
    env.reset(seed=2)
    play(env, [*GROW, *[WAIT] * 3])
    stats = env._engine.harvest(np.array([True]))
    assert stats.bare_accuracy[0] == stats.val_accuracy[0]
    assert stats.bare_loss[0] == stats.val_loss[0]
