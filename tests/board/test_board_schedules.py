"""Which schedules are tried when those of the references are tuned on."""

from agents.board_schedules import CANDIDATES, shorter, wider
from board.cells import CELLS
from board.instances import instances
from board.tuning import ETA

from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.baselines.tuning import rungs


def test_a_plan_is_tried_in_its_first_slots_alone():
    mixed = ScheduleConfig(blueprints=("norm", "conv_light"), slots=(2, 0), epochs=(1, 4), tempo="FAST")
    one, both = shorter(mixed)
    assert one == ScheduleConfig(blueprints=("norm",), slots=(2,), epochs=(1,), tempo="FAST")
    assert both == mixed
    assert [plan.slots for plan in shorter(ScheduleConfig())] == [(0,), (0, 1), (0, 1, 2)]


def test_candidates_are_the_plans_in_all_lengths_and_new_ones_each_once():
    plans = [ScheduleConfig(blueprint="norm", slots=(1,)), ScheduleConfig(blueprint="norm", slots=(1, 2))]
    drawn = [ScheduleConfig(start=number) for number in range(40)]
    found = wider(plans, drawn)
    assert found[:2] == plans
    assert len(found) == len(set(found)) == CANDIDATES
    assert found[2:] == drawn[: CANDIDATES - 2]


def test_tuning_on_costs_more_steps_than_an_agent_learns_from():
    train = instances("T1", ["train"])
    played, steps = 0, 0
    for plans, hosts in rungs(CANDIDATES, len(train), ETA):
        steps += (plans + 1) * (hosts - played) * train[0].overrides["horizon"]
        played = hosts
    assert len(CELLS["T1"]) * steps == 48_960
