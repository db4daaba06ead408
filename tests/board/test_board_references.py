"""References: tuned on the train part, searched on hosts of their own, judged on fresh ones."""

import json
import math
from contextlib import closing

import leaderboard
import numpy as np
import pytest
from board import references, run
from board.admission import difference, judged
from board.canonical import sealed
from board.cells import CELLS, Cell
from board.instances import find, instances
from board.larger import LargerJob, of_size, sizes
from board.oracle import ChoiceJob
from board.quality import known
from board.references import waves
from board.seeds import RANGES, WIDTH, commitment, public_seeds
from board.trace import world
from board.tuning import TuneJob, candidates, tune
from scipy import stats
from tiny import tiny

from esper_agents.baselines import ScheduleConfig, WaitAgent
from esper_agents.evaluate import evaluate
from esper_env import EsperVectorEnv
from esper_env.hosts import build, cnn, gpt

CELL = Cell(params=3, compute=2)


@pytest.fixture
def hosts(monkeypatch):
    """Hosts that are registered are forgotten after the test."""
    for module in (cnn, gpt, build):
        monkeypatch.setattr(module, "HOSTS", module.HOSTS.copy())


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    better, worse = rng.normal(0.5, 0.1, 16), rng.normal(0.45, 0.1, 16)
    found = difference(better.tolist(), worse.tolist())
    # the paired t statistic is the mean in standard errors
    assert found["sigma"] == pytest.approx(stats.ttest_rel(better, worse).statistic)
    assert found["mean"] == pytest.approx(better.mean() - worse.mean())
    assert found["error"] == pytest.approx(stats.sem(better - worse))


def reference(*quality):
    return {"seeds": list(range(len(quality))), "quality": list(quality)}


def of_sigma(sigma):
    """Eight hosts whose difference is so many standard errors above 0: errors of 1, means of sigma."""
    return reference(*[sigma - math.sqrt(7), sigma + math.sqrt(7)] * 4)


def test_admission_asks_for_five_errors_above_static_and_two_above_the_schedule():
    for static, schedule, admitted in (
        (5.1, 2.1, True),
        (4.9, 2.1, False),
        (5.1, 1.9, False),
        (-9, 9, False),
    ):
        zero = reference(*[0] * 8)
        found = judged({"oracle": zero, "static": of_sigma(-static), "schedule": of_sigma(-schedule)})
        assert found["admitted"] is admitted
        assert found["differences"]["oracle_static"]["sigma"] == pytest.approx(static)
        assert found["differences"]["oracle_schedule"]["sigma"] == pytest.approx(schedule)


def test_a_difference_without_spread_has_no_sigma_and_equals_are_refused():
    same = reference(*[0.5] * 8)
    found = judged({"oracle": same, "static": same, "schedule": reference(*[0.4] * 8)})
    assert found["admitted"] is False
    assert found["differences"]["oracle_schedule"]["sigma"] is None
    with pytest.raises(ValueError, match="no pairs"):
        judged({"oracle": same, "static": reference(1, 2, 3), "schedule": same})


def test_fewer_than_eight_hosts_admit_nothing():
    for count in (7, 8):
        better, worse = reference(*np.linspace(0.6, 0.61, count)), reference(*[0.2] * count)
        found = judged({"oracle": better, "static": worse, "schedule": worse})
        assert found["differences"]["oracle_static"]["sigma"] > 100
        assert found["admitted"] is (count == 8)


def test_a_network_whose_loss_is_no_number_is_worth_what_guessing_is():
    assert known([0.5, None, math.nan, -math.inf]) == [0.5, 0, 0, 0]


def test_a_static_host_that_makes_no_errors_leaves_nothing_to_divide_by():
    train = instances("T1", ["train"])[:2]
    gains = iter([0.0, -0.02] * 2)

    def play(todo):
        return [{"static": 1.0, "quality": [1 + next(gains) for _ in job.plans]} for job in todo]

    (last,) = tune(CELL, train, [ScheduleConfig(), ScheduleConfig(start=1)], play)
    assert [entry.mean for entry in last.entries] == pytest.approx([0, -2])


def test_smaller_budgets_come_first():
    assert [[cell.id for cell in wave] for wave in waves(CELLS["T1"])] == [
        ["1.5x1"],
        ["1.5x2", "3x1"],
        ["3x2"],
    ]
    assert [[cell.id for cell in wave] for wave in waves(CELLS["T1"][::3])] == [["1.5x1"], ["3x2"]]


def test_schedules_are_judged_by_the_errors_that_they_remove_on_the_train_part():
    train = instances("T1", ["train"])[:2]
    plans = [ScheduleConfig(start=start) for start in range(5)]
    asked = []

    def play(todo):
        asked.extend(todo)
        assert all(job.instance.part == "train" for job in todo)
        assert all(job.seed in public_seeds("tuning", job.instance, 20) for job in todo)
        # the later, the better, on data with little to win as on others
        static = {train[0].id: 0.9, train[1].id: 0.2}
        return [
            {
                "static": (s := static[job.instance.id]),
                "quality": [s + (1 - s) * plan.start / 10 for plan in job.plans],
            }
            for job in todo
        ]

    found = tune(CELL, train, plans, play)
    assert found[-1].entries[0].schedule.start == 4
    assert found[-1].entries[0].mean == pytest.approx(0.4)
    assert len({(job.instance.id, job.seed) for job in asked}) == len(asked)
    assert len(found) == 2
    with pytest.raises(ValueError, match="not on \\['T1-data-00'\\]"):
        tune(CELL, [*train, find("T1-data-00")], plans, play)


def test_plans_side_by_side_are_each_as_alone(tmp_path):
    instance = tiny("T1-train-00")
    plans = tuple(candidates(instance, CELL, 3))
    assert plans[0] == ScheduleConfig()
    both = TuneJob(instance=instance, cell=CELL, seed=5, plans=plans).work(tmp_path)
    alone = TuneJob(instance=instance, cell=CELL, seed=5, plans=plans[2:]).work(tmp_path)
    assert both["quality"][2:] == alone["quality"]
    with closing(world(instance, CELL, 1)) as envs:
        assert evaluate(WaitAgent(), envs, [5]).values("test_accuracy") == [both["static"]]


@pytest.mark.parametrize("name", ["micro", "minimal", "impaired"])
def test_a_larger_host_has_the_size_that_was_asked_for(hosts, name):
    with closing(EsperVectorEnv(1, "micro", host=name, engine="null")) as small:
        params = small.facts.host_params
    for factor in (1, 1.5, 2.7):
        larger = of_size(name, (3, 16, 16), 10, round(factor * params))
        with closing(EsperVectorEnv(1, "micro", host=larger, engine="null")) as envs:
            found = envs.facts.host_params
        assert found == pytest.approx(factor * params, rel=0.08)
        assert (found == params) == (factor == 1)


def test_a_larger_host_is_one_in_which_every_blueprint_can_be_built(hosts):
    """(9, 18, 35) channels have 7,855 parameters; GroupNorm can't split the 35, in two groups."""
    assert not any(width == 35 for recipe in sizes(cnn.HOSTS["baseline"]) for width in recipe.widths)
    larger = of_size("baseline", (3, 32, 32), 10, 7_855)
    with closing(EsperVectorEnv(1, "cifar", data="procedural", host=larger, engine="null")) as envs:
        assert envs.facts.host_params == pytest.approx(7_855, rel=0.03)


def test_a_larger_language_host_may_be_wider_or_deeper(hosts):
    larger = of_size("gpt_micro", (64,), 163, 70_000)
    with closing(EsperVectorEnv(1, "stories", host=larger, data="procedural", engine="null")) as envs:
        assert envs.facts.host_params == pytest.approx(70_000, rel=0.01)


def test_a_larger_host_costs_what_the_grown_one_did(hosts, tmp_path):
    instance = tiny()
    static = 276_960 * 16 * 14  # FLOPs of micro a sample, samples an epoch, epochs
    job = LargerJob(instance=instance, cell=CELL, seeds=(1, 2), params=2_000, flops=1.5 * static)
    found = job.work(tmp_path)
    with closing(EsperVectorEnv(1, "micro", host=found["host"], engine="null")) as envs:
        assert found["param_ratio"] == [envs.facts.host_params / 1102] * 2
        assert envs.facts.host_params == pytest.approx(2_000, rel=0.1)
        ratio = envs.facts.host_flops * found["horizon"] / (276_960 * 14)
    assert found["flops_ratio"] == [ratio] * 2
    assert ratio == pytest.approx(1.5, abs=envs.facts.host_flops / (2 * 276_960 * 14))  # half an epoch
    assert all(0 <= quality <= 1 for quality in found["quality"])


@pytest.fixture
def small(monkeypatch):
    """Everything in small."""
    chosen, drawn = run.select, references.instances
    monkeypatch.setattr(run, "select", lambda *names: tuple(tiny(each.id) for each in chosen(*names)))
    few = {"T1": [tiny(each.id) for each in drawn("T1", ["train"])[:2]]}
    monkeypatch.setattr(references, "instances", lambda tier, parts: few[tier])


def one_row(folder):
    """Options of a table with a single row."""
    places = ["--out", str(folder / "out"), "--table", str(folder / "t.json")]
    return ["--instances", "T1-data-00", "--cells", "3x2", *places]


def test_a_table_from_nothing_and_again_from_what_is_there(tmp_path, capsys, small, hosts):
    where = one_row(tmp_path)
    size = ["--seeds", "3", "--plans", "3", "--search-steps", "400", "--search-seeds", "2"]
    assert leaderboard.main(["references", *where, *size]) == 0
    table = json.loads((tmp_path / "t.json").read_text())
    assert sealed(table) == table
    assert table["commitment"] == commitment("local")
    (row,) = table["rows"]
    assert set(row["references"]) == {"static", "static_large", "schedule", "heuristic", "random", "oracle"}
    seeds = public_seeds("reference", tiny(), 3)
    for found in row["references"].values():
        assert found["seeds"] == seeds
        lists = ("quality", "val_quality", "param_ratio", "flops_ratio")
        assert all(len(found[name]) == 3 and all(map(math.isfinite, found[name])) for name in lists)
    gap = row["differences"]["oracle_static"]["mean"]
    better, worse = (row["references"][name]["quality"] for name in ("oracle", "static"))
    assert gap == pytest.approx(np.mean(better) - np.mean(worse))
    assert set(table["plans"]) == {"3x2"}
    assert all(seed // WIDTH == RANGES["reference"] for seed in seeds)

    capsys.readouterr()
    assert leaderboard.main(["references", *where, *size]) == 0
    assert "jobs to play" not in capsys.readouterr().out
    assert json.loads((tmp_path / "t.json").read_text()) == table
    for words in (["--commitment", "0" * 64], ["--cells", "3x1"]):
        with pytest.raises(SystemExit):
            leaderboard.main(["references", *where, *size, *words])
        assert "t.json has other rows, or is committed to another secret" in capsys.readouterr().err
    assert json.loads((tmp_path / "t.json").read_text()) == table
    shown = ["--references", str(tmp_path / "t.json"), "--out", str(tmp_path / "h.md")]
    assert leaderboard.main(["headroom", *shown]) == 0
    shown = (tmp_path / "h.md").read_text()
    assert "of 1 pairs of instance and budgets are admitted" in shown
    large, oracle = (row["references"][name] for name in ("static_large", "oracle"))
    ratios = [large[name][0] / np.mean(oracle[name]) for name in ("param_ratio", "flops_ratio")]
    assert ", ".join(f"{ratio:.2f}" for ratio in ratios) in shown
    assert "gpu" not in table["hardware"]
    assert table["hardware"]["threads"] == 1


def test_the_last_choice_is_the_best_on_all_hosts_of_the_search(tmp_path):
    """Of lives that plant nothing, or too late, or a module from the start, and the schedule."""
    life = {"slot": 2, "blueprint": "conv_small", "epoch": 0}
    lives = ({"plantings": []}, {"plantings": [life]}, {"plantings": [life | {"epoch": 9}]})
    seeds = (5, 6, 7)
    plan = ScheduleConfig(blueprint="norm", slots=(0,))
    made = ChoiceJob(instance=tiny(), cell=CELL, seeds=seeds, schedule=plan, lives=lives)
    found = made.work(tmp_path)
    assert len(found["lives"]) == len(found["means"]) == 4
    assert found["life"] == found["lives"][int(np.argmax(found["means"]))]
    assert [each["blueprint"] for each in found["lives"][3]["plantings"]] == ["norm"]
    with closing(world(tiny(), CELL, 3)) as envs:
        alone = evaluate(WaitAgent(), envs, seeds).episodes
    waited = 100 * np.mean([episode.measured["harvest_accuracy"] for episode in alone])
    assert found["means"][0] == pytest.approx(waited)
    assert made.steps == 4 * 3 * 14


def test_a_table_with_gaps_is_not_written(tmp_path, capsys, small, monkeypatch):
    monkeypatch.setattr(references.Job, "work", lambda self, results: 1 / 0)
    where = one_row(tmp_path)
    assert leaderboard.main(["references", *where, "--seeds", "2"]) == 1
    told = capsys.readouterr().out
    assert "FAILED: static on T1-data-00, cell 3x2" in told
    assert "3 of 3 jobs are not played" in told
    assert not (tmp_path / "t.json").exists()
