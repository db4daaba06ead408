"""The search for a schedule finds the best where it is known, is fair to all, and repeats from its seed."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from made_up import make, networks

from esper_agents import compare, tune
from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.baselines.side_by_side import SideBySide
from esper_agents.baselines.space import SpaceConfig, draw_schedules
from esper_agents.baselines.tuning import rungs, successive_halving
from esper_agents.config import build as build_run
from esper_agents.evaluate import evaluate
from esper_env import Style

SMALL = SpaceConfig(
    blueprints=("conv_small", "norm"),
    latest_start=0.0,
    spacing=0,
    styles=("LINEAR_ADD", "GATED"),
    tempos=("FAST",),
    alpha_targets=("FULL",),
)
"""On three slots: 6 schedules of one slot, 24 of two and 48 of three in all orders, in two styles."""
SIZE = 2 * (3 * 2 + 6 * 4 + 6 * 8)
BEST = ScheduleConfig(slots=(1,), blueprint="conv_small", style="GATED")


@cache
def facts():
    return make(1).facts


def worth(slots):
    """conv_small helps in slot 1, more so gated; everything else harms."""
    small = slots.blueprint == facts().blueprints.index("conv_small")
    here = np.arange(slots.stage.shape[1]) == 1
    return np.where(small & here, np.where(slots.style == Style.GATED, 20.0, 10.0), -2.0)


@pytest.fixture
def scripted(monkeypatch):
    """The worlds of a search are made of networks whose modules have this worth."""
    made = tune.make_world

    def make_world(*args, **kwargs):
        world = made(*args, **kwargs)
        world.envs._engine.script = networks(worth)
        return world

    monkeypatch.setattr(tune, "make_world", make_world)


def returns(plans):
    """What each plan earns."""
    env = make(len(plans), networks(worth))
    agents = [ScheduleAgent.of(plan, env) for plan in plans]
    return evaluate(SideBySide(agents), env, [0] * len(plans)).values("total_reward")


def config(tmp_path, **settings):
    values = {"env": "EsperMicro-v0", "overrides": {"engine.name": "null"}, "logdir": str(tmp_path)}
    small = {"candidates": 60, "space": SMALL.model_dump(mode="json"), "num_envs": 32, "eval_episodes": 2}
    small["first_seeds"] = 2
    return tune.build(values | small | settings)


def test_the_best_of_all_is_known_by_playing_all():
    every = draw_schedules(SMALL, facts(), 30, 1000, seed=0)
    assert len(every) == len(set(every)) == SIZE
    won = dict(zip(every, returns(every), strict=True))
    best = max(won, key=won.get)
    assert (best.slots, best.blueprint, best.style) == ((1,), "conv_small", "GATED")
    second = sorted(won.values())[-2]
    assert won[best] > second + 1


@pytest.mark.usefixtures("scripted")
def test_a_search_over_the_whole_space_finds_the_best(tmp_path):
    found = tune.tune(config(tmp_path, candidates=1000, eta=10, first_seeds=1))
    assert found.best == BEST
    assert [len(rung.entries) for rung in found.rungs] == [SIZE + 1, 16, 2]
    assert [len(rung.seeds) for rung in found.rungs] == [1, 10, 100]


@pytest.mark.usefixtures("scripted")
def test_a_search_over_a_part_finds_the_best_of_what_it_drew(tmp_path):
    found = tune.tune(config(tmp_path, seed=3))
    first = found.rungs[0]
    assert len(first.entries) == 60
    drawn = [entry.schedule for entry in first.entries]
    won = returns(drawn)
    assert found.best == drawn[int(np.argmax(won))]
    np.testing.assert_allclose([entry.mean for entry in first.entries], won, atol=1e-9)
    assert [entry.mean for entry in first.entries] == sorted((e.mean for e in first.entries), reverse=True)


@pytest.mark.usefixtures("scripted")
def test_a_search_repeats_from_its_seed_however_many_play_side_by_side(tmp_path):
    few, many, other = (
        tune.tune(config(tmp_path, candidates=12, **changes))
        for changes in ({"num_envs": 5}, {"num_envs": 32}, {"num_envs": 32, "seed": 1})
    )
    assert few.rungs == many.rungs
    assert few.evaluations == many.evaluations
    assert other.rungs != many.rungs
    assert (few.folder / "schedule.json").read_text() == (many.folder / "schedule.json").read_text()


@pytest.mark.usefixtures("scripted")
def test_the_plan_it_writes_is_accepted_by_the_other_scripts(tmp_path):
    said = []
    found = tune.tune(config(tmp_path, candidates=9, episode_length=20), said.append)
    assert said[0].startswith("data: ")
    assert len(said) == 1 + len(found.rungs)
    plan = json.loads((found.folder / "schedule.json").read_text())
    assert compare.build(plan | {"agents": ["schedule"]}).schedule == found.best
    run = build_run(plan | {"algo": "schedule"})
    assert (run.schedule, run.episode_length, run.env) == (found.best, 20, "EsperMicro-v0")
    record = json.loads((found.folder / "tuning.json").read_text())
    assert [len(rung["entries"]) for rung in record["rungs"]] == [9, 3]
    assert ScheduleConfig.model_validate_json(json.dumps(record["rungs"][-1]["entries"][0]["schedule"])) == (
        found.best
    )
    table = (found.folder / "tuning.md").read_text()
    assert table.count("\n## Rung ") == 2
    assert sum(line.startswith("| 1 | ") for line in table.splitlines()) == 2
    second = found.rungs[-1].entries[1]
    behind = np.mean(np.array(found.rungs[-1].entries[0].returns) - second.returns)
    assert f"\n| 2 | {second.number} | {second.mean:.2f} | {behind:.2f} (" in table


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tuning_seed": 10_001}, "10001 to .* overlap those of evaluation, 10000 to 10001"),
        ({"eval_seed": 20_005, "candidates": 9, "first_seeds": 2}, "20000 to 20005"),
        ({"candidates": 1}, "candidates=1"),
        ({"space": {"styles": ["PLAID"]}}, r"space\.styles\.0='PLAID'"),
        ({"space": {"tempos": []}}, r"space\.tempos"),
    ],
)
def test_a_wrong_search_is_refused_by_name(tmp_path, settings, named):
    with pytest.raises(ValueError, match=named):
        config(tmp_path, **settings)


def test_blueprints_that_do_not_exist_are_refused_before_anything_is_played(tmp_path):
    with pytest.raises(ValueError, match="convy"):
        tune.tune(config(tmp_path, space={"blueprints": ["convy"]}))
    with pytest.raises(ValueError, match="convy"):
        tune.tune(config(tmp_path, schedule={"blueprint": "convy"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("candidates", "first", "eta", "expected"),
    [
        (27, 2, 3, [(27, 2), (9, 6), (3, 18)]),
        (81, 1, 3, [(81, 1), (27, 3), (9, 9), (3, 27)]),
        (10, 1, 2, [(10, 1), (5, 2), (3, 4), (2, 8)]),
        (2, 3, 4, [(2, 3)]),
    ],
)
def test_every_rung_has_fewer_schedules_and_more_seeds(candidates, first, eta, expected):
    assert rungs(candidates, first, eta) == expected


def test_halving_plays_every_seed_once_and_judges_all_by_the_same():
    candidates = draw_schedules(SMALL, facts(), 30, 27, seed=1)
    good = np.random.default_rng(0).permutation(27)
    luck = np.random.default_rng(1).normal(0, 1000, size=100)
    asked = Counter()

    def play(schedules, seeds):
        asked.update((plan, seed) for plan in schedules for seed in seeds)
        numbers = [candidates.index(plan) for plan in schedules]
        return good[numbers][:, None] + luck[list(seeds)]

    found = successive_halving(candidates, range(18), 2, 3, play)
    # Luck that all share is a hundred times what they differ by, and decides nothing.
    assert found[-1].entries[0].number == int(good.argmax())
    assert set(asked.values()) == {1}
    assert [len(rung.entries) for rung in found] == [27, 9, 3]
    assert [rung.seeds for rung in found] == [tuple(range(n)) for n in (2, 6, 18)]
    for before, after in pairwise(found):
        kept = {entry.number for entry in before.entries[: before.kept]}
        assert {entry.number for entry in after.entries} == kept
    for rung in found:
        for entry in rung.entries:
            np.testing.assert_array_equal(entry.returns, good[entry.number] + luck[: len(rung.seeds)])


def test_a_tie_goes_to_the_earlier_candidate():
    candidates = draw_schedules(SMALL, facts(), 30, 9, seed=1)
    found = successive_halving(candidates, range(9), 1, 3, lambda s, seeds: np.zeros((len(s), len(seeds))))
    assert [entry.number for entry in found[-1].entries] == [0, 1, 2]


def test_draws_reach_every_value_and_nothing_that_does_not_fit():
    drawn = draw_schedules(SpaceConfig(), facts(), 30, 2000, seed=0)
    assert len(set(drawn)) == 2000
    seen = {name: Counter(getattr(plan, name) for plan in drawn) for name in type(drawn[0]).model_fields}
    assert set(seen["start"]) == set(range(16))
    assert set(seen["spacing"]) == set(range(6))
    fitting = facts().fits.any(axis=0)
    assert set(seen["blueprint"]) - {None} == {
        n for n, fits in zip(facts().blueprints, fitting, strict=True) if fits
    }
    assert len(seen["slots"]) == 3 + 6 + 6
    assert (len(seen["style"]), len(seen["tempo"]), len(seen["alpha_target"])) == (4, 3, 3)
    below = [plan for plan in drawn if plan.alpha_target != "FULL"]
    assert {plan.rest for plan in below} == set(range(6))
    assert (len({plan.speed for plan in below}), len({plan.curve for plan in below})) == (4, 5)
    assert {(p.rest, p.speed, p.curve) for p in drawn if p.alpha_target == "FULL"} == {(0, "FAST", "LINEAR")}
    # Values are as likely as each other: 500 of each style expected, 4.5 standard deviations.
    assert all(abs(count - 500) < 88 for count in seen["style"].values())
    env = make(1)
    for plan in drawn[:100]:
        ScheduleAgent.of(plan, env)


def test_draws_are_the_same_for_the_same_seed():
    first, again, other = (draw_schedules(SpaceConfig(), facts(), 30, 20, seed) for seed in (4, 4, 5))
    assert first == again
    assert not set(first) & set(other)
