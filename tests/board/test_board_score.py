"""Scores, harm and targets against hand calculation; who is compared with whom."""

import json
import math

import numpy as np
import pytest
from board import checks, figures, records, score
from board.entries import Register, entries, part_of
from board.instances import find
from board.records import Record, RefusedError, Table
from board.seeds import evaluation_seeds
from made_up_results import CELLS, ORACLE, SECRET, STATIC, luck, play, record, references
from scipy import stats

INSTANCES = ("T1-data-00", "T1-data-01", "T1-seeds-00", "T1-train-00")


@pytest.fixture
def table(tmp_path):
    return records.read(references(tmp_path / "references.json", INSTANCES), Table)


def read(folder):
    return entries(records.read(path, Record) for path in records.found([folder]))


def collected(table, folder):
    played = read(folder)
    groups = figures.collected(table, played, score.Grid(table, played["wait"]))
    return {group["part"]: group for group in groups}


def test_the_static_host_scores_0_and_a_gain_is_a_share_of_the_oracles(table, tmp_path):
    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "schedule", INSTANCES, 0.05)
    play(tmp_path / "r", "best", INSTANCES, ORACLE - STATIC, runs=(1, 2, 3), algo="esper_ppo")
    rows = collected(table, tmp_path / "r")["held-out"]["entries"]
    best = rows["best"]["against"]["schedule"]
    estimates = (
        (rows["wait"]["iqm"], 0),
        (rows["schedule"]["mean"], 0.25),
        (rows["best"]["iqm"], 1),
        (rows["best"]["gain"], 20),
        (best["gap"], 0.75),
        (best["better"], 1),
    )
    for (mean, low, high), value in estimates:
        assert mean == pytest.approx(value, abs=1e-12)
        assert (low, high) == (None, None), "values that are all equal say nothing of how far others are"
    assert rows["schedule"]["invalid_share"] == 0.25
    assert rows["schedule"]["seconds_an_episode"] == 2


def test_the_interquartile_mean_is_scipys_over_instances_runs_and_seeds(table, tmp_path):
    rng = np.random.default_rng(0)
    drawn = {}

    def quality(instance, cell, run, seed):
        key = instance, tuple(cell.values()), run, seed
        return drawn.setdefault(key, STATIC + luck(instance, seed) + float(rng.normal(0.1, 0.1)))

    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "ppo", INSTANCES, quality, runs=(5, 6), algo="ppo")
    group = collected(table, tmp_path / "r")["held-out"]
    own = group["entries"]["ppo"]
    by_key = {}
    for (instance, _, run, seed), q in drawn.items():
        if instance != "T1-train-00":
            by_key.setdefault((instance, run, seed), []).append((q - STATIC - luck(instance, seed)) / 0.2)
    expected = [np.mean(values) for values in by_key.values()]
    assert len(expected) == 3 * 2 * 4
    assert own["iqm"][0] == pytest.approx(stats.trim_mean(expected, 0.25))
    gains = [q - STATIC - luck(i, s) for (i, _, _, s), q in drawn.items() if i != "T1-train-00"]
    assert own["harm"][0] == pytest.approx(np.mean(np.array(gains) < -0.01))
    worst = np.sort(gains)[: round(len(gains) / 10)].mean()
    assert own["worst_decile"] == pytest.approx(100 * worst)
    np.testing.assert_allclose(
        own["profile"]["above"], stats.ecdf(expected).sf.evaluate(own["profile"]["thresholds"]), atol=1e-12
    )


def test_what_is_held_out_is_reported_apart_axis_by_axis(table, tmp_path):
    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    groups = collected(table, tmp_path / "r")
    assert {part: group["instances"] for part, group in groups.items()} == {
        "held-out": ["T1-data-00", "T1-data-01", "T1-seeds-00"],
        "data": ["T1-data-00", "T1-data-01"],
        "seeds": ["T1-seeds-00"],
        "train": ["T1-train-00"],
    }


def test_what_was_not_admitted_counts_for_harm_alone(tmp_path):
    refused = {("T1-data-00", 1.5, 1.0), *(("T1-data-01", *cell.values()) for cell in CELLS)}
    table = records.read(references(tmp_path / "t.json", INSTANCES, refused), Table)

    def quality(instance, cell, run, seed):
        bad = (instance, *cell.values()) in refused
        return STATIC + luck(instance, seed) + (-0.3 if bad else 0.1)

    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "schedule", INSTANCES, quality)
    group = collected(table, tmp_path / "r")["data"]
    assert (group["instances"], group["cells"]) == (["T1-data-00"], 3)
    assert group["played"] == {"instances": 2, "cells": 8}
    own = group["entries"]["schedule"]
    assert own["mean"][0] == pytest.approx(0.5)
    assert own["harm"][0] == pytest.approx((1 / 4 + 1) / 2)
    assert own["harm_each"] == {"T1-data-00": [0.25, None, None], "T1-data-01": [1, None, None]}
    assert own["gain"][0] == pytest.approx(np.mean([-30, 10, 10, 10, -30, -30, -30, -30]))
    kept, lost = ({"score": 0.5, "gain": 10, "harm": 0}, {"score": None, "gain": -30, "harm": 1})
    wanted = {"1.5x1": lost, "1.5x2": kept, "3x1": kept, "3x2": kept}
    assert list(own["each"]["T1-data-00"]) == list(wanted)
    for budgets, figures_of in wanted.items():
        assert own["each"]["T1-data-00"][budgets] == pytest.approx(figures_of)
        assert own["each"]["T1-data-01"][budgets] == pytest.approx(lost)
    assert [each["part"] for each in figures.collected(table, {}, score.Grid(table, None))] == [
        "held-out",
        "data",
        "seeds",
        "train",
    ], "of what nobody has played, too"


def test_every_instance_weighs_the_same_in_score_and_harm(tmp_path):
    """Of one instance a single budget was admitted, of the other four."""
    refused = {("T1-data-01", *cell.values()) for cell in CELLS[1:]}
    table = records.read(references(tmp_path / "t.json", INSTANCES[:2], refused), Table)

    def quality(instance, cell, run, seed):
        return STATIC + luck(instance, seed) + (-0.1 if instance == "T1-data-01" else 0.1)

    play(tmp_path / "r", "wait", INSTANCES[:2], 0.0)
    play(tmp_path / "r", "schedule", INSTANCES[:2], quality)
    own = collected(table, tmp_path / "r")["held-out"]["entries"]["schedule"]
    assert own["harm"][0] == 0.5
    assert own["mean"][0] == pytest.approx(0)
    assert own["harm_each"] == {"T1-data-00": [0, None, None], "T1-data-01": [1, None, None]}
    assert own["worst_decile"] == pytest.approx(-10)  # of the episodes


def test_in_every_tier_an_entry_has_training_seeds_and_hosts_of_its_own(tmp_path):
    tiers = {"T1": ("T1-data-00", "T1-seeds-00"), "T2": ("T2-data-00", "T2-seeds-00")}
    cells = {"T1": CELLS, "T2": CELLS[-1:]}
    files = [references(tmp_path / f"{tier}.json", names, cells=cells[tier]) for tier, names in tiers.items()]
    for tier, runs, seeds in (("T1", (1, 2, 3), 4), ("T2", (2, 9), 4)):
        play(tmp_path / tier, "wait", tiers[tier], 0.0, cells=cells[tier], seeds=seeds)
        play(tmp_path / tier, "ppo", tiers[tier], 0.1, runs=runs, cells=cells[tier], seeds=seeds)
    table = records.table(files)
    played = entries(
        records.read(path, Record) for path in records.found([tmp_path / tier for tier in tiers])
    )
    groups = figures.collected(table, played, score.Grid(table, played["wait"]))
    held_out = {group["tier"]: group for group in groups if group["part"] == "held-out"}
    assert {tier: group["entries"]["ppo"]["runs"] for tier, group in held_out.items()} == {"T1": 3, "T2": 2}
    assert all(not group["missing"] for group in groups)
    assert checks.absent(played["ppo"].records, table) == []
    [problem, *_] = checks.absent(
        [each for each in played["ppo"].records if each.training_seed != 9][1:], table
    )
    assert problem == "T1-data-00 (1.5x1) was not played by every training run"


def test_what_is_missing_is_named_and_not_averaged(table, tmp_path):
    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "ppo", INSTANCES, 0.1, runs=(1, 2))
    gone = next(
        path for path in sorted((tmp_path / "r").rglob("*.json"))
        if (values := json.loads(path.read_text()))["instance"] == "T1-data-01"
        and values["entry"] == "ppo" and values["training_seed"] == 2 and values["cell"] == CELLS[3]
    )  # fmt: skip
    gone.unlink()
    groups = collected(table, tmp_path / "r")
    assert "ppo" not in groups["held-out"]["entries"]
    assert groups["data"]["missing"] == {"ppo": ["T1-data-01 (3x2), training seed 2"]}
    assert "ppo" in groups["seeds"]["entries"]


def test_seeds_that_the_static_host_has_not_played_are_no_way_out(table, tmp_path):
    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "ppo", INSTANCES, 0.1, seeds=3)
    assert "ppo" not in collected(table, tmp_path / "r")["data"]["entries"]


@pytest.mark.parametrize(
    ("quality", "wanted", "spent", "expected"),
    [
        ([0.1, 0.3, 0.5], 0.4, [1.0, 2.0, 3.0], 2.5),
        ([0.1, 0.3, 0.5], 0.3, [0.2, 0.4, 1.0], 0.4),
        ([0.5, 0.6], 0.4, [1.0, 2.0], 1.0),
        ([0.1, 0.3, 0.2], 0.4, [1.0, 2.0, 3.0], math.inf),
        ([0.1, None, 0.5], 0.4, [1.0, 2.0, 3.0], 3.0),
        ([0.1, 0.3, 0.5], math.nan, [1.0, 2.0, 3.0], math.inf),
        ([0.1, 0.6, 0.2, 0.7], 0.35, [1.0, 2.0, 3.0, 4.0], 1.5),
    ],
)
def test_a_target_is_reached_on_the_line_between_epochs(quality, wanted, spent, expected):
    assert score.reached(quality, wanted, spent) == pytest.approx(expected)


def test_targets_are_above_the_own_static_host_and_who_never_got_there_took_all(table, tmp_path):
    """Half of the oracle's 20 points above it: 0.5 and the host's luck, of episodes of 4 epochs."""

    def quality(instance, cell, run, seed):
        return 0.8 if cell["params"] == 3 else 0.4

    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "heuristic", INSTANCES, quality)
    play(tmp_path / "r", "schedule", INSTANCES, 0.09)
    rows = collected(table, tmp_path / "r")["seeds"]["entries"]
    seeds = evaluation_seeds(SECRET, find("T1-seeds-00"), 4)
    after = np.mean([(0.5 + luck("T1-seeds-00", seed)) / 0.2 for seed in seeds])  # 0.8 n / 4 after n epochs
    own = rows["heuristic"]["target"]
    assert own["reached"] == [0.5, None, None]
    assert own["epochs"][0] == pytest.approx((after + 30) / 2)
    assert own["flops"][0] == pytest.approx((after / 4 + (1 + 2) / 2) / 2)
    assert own["epochs"][1] < own["epochs"][0] < own["epochs"][2]
    never = {"reached": [0, None, None], "epochs": [30, None, None], "flops": [1.5, None, None]}
    assert rows["schedule"]["target"] == rows["wait"]["target"] == never


def test_a_figure_without_spread_within_an_instance_has_no_interval():
    constant = np.array([0.0, 1.0])[:, None, None] * np.ones((2, 3, 4))
    assert figures.with_interval(constant) == [0.5, None, None]


def test_the_name_of_a_baseline_is_not_lent_to_others():
    values = record("schedule", "T1-data-00", CELLS[0], 0.1, algo="esper_ppo")
    with pytest.raises(RefusedError, match="the name of a baseline, lent to 'esper_ppo'"):
        entries([Record.model_validate(values)])


def test_a_result_counts_once():
    few, many = (record("ppo", "T1-data-00", CELLS[0], 0.1, seeds=seeds) for seeds in (2, 4))
    assert [len(one.episodes) for one in entries(map(Record.model_validate, (few, many)))["ppo"].records] == [
        4
    ]
    values = [record("ppo", "T1-data-00", CELLS[0], gain) for gain in (0.1, 0.2)]
    with pytest.raises(RefusedError, match=r"ppo on T1-data-00 .*: two results of one job differ"):
        entries(map(Record.model_validate, values))
    register, (one, other) = Register(), map(Record.model_validate, values)
    register.add(one)
    with pytest.raises(RefusedError, match=r"ppo on T1-data-00 .*: was played twice"):
        register.add(other)


def test_a_host_seed_stands_once_in_a_result():
    values = record("ppo", "T1-data-00", CELLS[0], 0.1)
    with pytest.raises(ValueError, match="a host seed stands twice among"):
        Record.model_validate(values | {"episodes": [values["episodes"][0]] * 2})


def agent(algo="esper_ppo", number=0, **config):
    return {"algo": algo, "config": config or None, "checkpoint": {"path": "x", "sha256": str(number)}}


PATCHWORK = {
    "a specialist for an instance": ({"agent": agent(number=1)}, "a training run has one checkpoint"),
    "other settings": ({"agent": agent(deterministic=True)}, "an entry is one agent, and this one is"),
    "another algorithm": ({"agent": agent("ppo")}, "an entry is one agent, and this one is esper_ppo with"),
    "one run as two": ({"agent": agent(), "run": 2}, "the checkpoint of another training seed"),
}


@pytest.mark.parametrize("fraud", PATCHWORK)
def test_an_entry_is_one_agent_and_a_run_one_checkpoint(fraud):
    changes, message = PATCHWORK[fraud]
    first = record("mine", "T1-data-00", CELLS[0], 0.1, run=1, agent=agent())
    second = record("mine", "T1-data-01", CELLS[0], 0.1, **({"run": 1} | changes))
    with pytest.raises(RefusedError, match=message):
        entries(map(Record.model_validate, (first, second)))


def test_where_the_static_host_was_not_played_nobody_is_compared(table, tmp_path):
    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "ppo", INSTANCES, 0.1)
    for path in sorted((tmp_path / "r").rglob("*.json")):
        values = json.loads(path.read_text())
        if (values["entry"], values["instance"], values["cell"]) == ("wait", "T1-data-01", CELLS[3]):
            path.unlink()
    groups = collected(table, tmp_path / "r")
    assert groups["data"]["entries"] == {}
    assert groups["data"]["missing"]["ppo"] == ["T1-data-01 (3x2), which 'wait' has not played"]
    assert "ppo" in groups["seeds"]["entries"]


def test_the_static_host_is_to_be_played_on_the_same_seeds_everywhere(table, tmp_path):
    for number, cell in enumerate(CELLS):
        play(tmp_path / str(number), "wait", INSTANCES, 0.0, cells=[cell], seeds=2 + number // 3)
    group = collected(table, tmp_path)["data"]
    assert group["entries"] == {}
    for instance in INSTANCES[:2]:
        uneven = f"{instance}, which 'wait' played from other host seeds under other budgets"
        assert uneven in group["missing"]["wait"]


def test_ids_say_tier_and_part():
    assert part_of("T2-reach-11") == ("T2", "reach")
    with pytest.raises(RefusedError, match="'T1-x'"):
        part_of("T1-x")
