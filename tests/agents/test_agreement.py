"""Two agents compared op by op: who plays, who is asked, and what is counted."""

import json

import numpy as np
import pytest
from made_up import everywhere, make, networks

from esper_agents.agreement import Agreement, agreement
from esper_agents.baselines import ScheduleConfig, baseline
from esper_agents.evaluate import evaluate
from esper_env import Op


class Constant:
    """Would always do the same, legal or not."""

    def __init__(self, op, slot=0):
        self.name, self.op, self.slot = op.name.lower(), op, slot

    def begin(self, seeds):
        return None

    def act(self, obs, info, memory):
        return np.tile([self.slot, 0, 0, 0, 0, 0, 0, self.op], (len(obs), 1)), None


@pytest.mark.parametrize("name", ["wait", "random", "schedule", "heuristic"])
def test_everyone_agrees_with_themselves(name):
    env = make(3, networks(everywhere(2.0)))
    found = agreement(baseline(name, env), baseline(name, env), env, range(5))
    ops = [episode.ops for episode in evaluate(baseline(name, env), env, range(5)).episodes]
    np.testing.assert_array_equal(np.diag(found.counts), [sum(o[op.name] for o in ops) for op in Op])
    np.testing.assert_array_equal(found.same_slot, np.diag(found.counts))
    assert (found.share, found.steps) == (1.0, 5 * 30)
    assert np.isnan(found.kappa) if name == "wait" else found.kappa == 1.0


def test_the_player_stands_in_the_rows_and_the_one_who_is_asked_in_the_columns():
    env = make(2)
    found = agreement(baseline("schedule", env), Constant(Op.ADVANCE, slot=1), env, [0, 1, 2])
    played = evaluate(baseline("schedule", env), env, [0, 1, 2]).episodes
    expected = np.zeros((6, 6), int)
    expected[:, Op.ADVANCE] = [sum(episode.ops[op.name] for episode in played) for op in Op]
    np.testing.assert_array_equal(found.counts, expected)
    # Three modules, each advanced three times: those in slot 1 are a third.
    assert found.counts[Op.ADVANCE, Op.ADVANCE] == 3 * 9
    assert found.same_slot.tolist() == [0, 0, 0, 0, 0, 3 * 3]
    assert (found.player, found.adviser) == ("schedule", "advance")


def test_who_is_asked_changes_nothing_and_remembers_what_they_would_have_done():
    env = make(2)
    later = baseline("schedule", env, ScheduleConfig(start=5, spacing=1))
    found = agreement(baseline("wait", env), later, env, [3])
    # On hosts where nothing grows, the schedule would plant each of its three slots once.
    assert found.counts[Op.WAIT].tolist() == [27, 3, 0, 0, 0, 0]
    assert found.counts[1:].sum() == 0


def test_steps_without_a_choice_are_counted():
    env = make(1, slots=1, max_modules=1)
    found = agreement(Constant(Op.WAIT), Constant(Op.WAIT), env, [0])
    assert found.forced == 0
    plan = ScheduleConfig(slots=(0,), fossilize=True)
    env = make(1, slots=1, max_modules=1)
    found = agreement(baseline("schedule", env, plan), Constant(Op.WAIT), env, [0])
    # Two epochs of the first ramp, in which alpha moves, and all after the fossil stands, in step 10.
    assert found.forced == 2 + 20


def test_episodes_that_end_early_and_places_left_over_are_not_counted():
    env = make(4, compute_budget=0.5)
    assert agreement(Constant(Op.WAIT), Constant(Op.WAIT), env, range(6)).steps == 6 * 15


def test_shares_by_hand():
    counts = np.zeros((6, 6), int)
    counts[:2, :2] = [[20, 5], [10, 15]]  # Cohen's kappa of this table is 0.4
    found = Agreement("a", "b", counts, np.array([20, 9, 0, 0, 0, 0]), 3)
    assert (found.share, found.kappa) == pytest.approx((0.7, 0.4))
    lines = found.lines()
    assert lines[0].split(" | ")[0] == "| a \\ b"
    assert lines[3] == "| GERMINATE | 10 | 15 | 0 | 0 | 0 | 0 | 9 |"
    assert lines[-1] == "same op in 70.0% of 50 steps, 3 of them without a choice; kappa 0.40"
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (values["counts"][1], values["ops"][1]) == ([10, 15, 0, 0, 0, 0], "GERMINATE")


def test_it_refuses_what_evaluation_refuses():
    wait = Constant(Op.WAIT)
    with pytest.raises(ValueError, match="seeds"):
        agreement(wait, wait, make(), [])
    with pytest.raises(ValueError, match="SameStep"):
        agreement(wait, wait, make(autoreset_mode="SameStep"), [0])
