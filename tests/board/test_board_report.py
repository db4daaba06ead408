"""Reports from files: what is shown, what is left out and why."""

import argparse
import json

import numpy as np
import pytest
from board import figures, headroom, pledge, records, report, tables
from board.canonical import sealed
from board.instances import find
from board.records import Record, RefusedError, Table
from board.seeds import commitment, evaluation_seeds
from made_up_results import (
    CELLS,
    HARDWARE,
    SECRET,
    STATIC,
    VERSION,
    luck,
    play,
    record,
    reference,
    references,
    write,
)
from scipy import stats

INSTANCES = ("T1-seeds-00", "T1-seeds-01", "T1-data-00", "T1-data-01", "T1-reach-00", "T1-train-00")


@pytest.fixture
def folder(tmp_path):
    """Four agents; the second learns, and wins more than the schedule, but harms."""
    rng = np.random.default_rng(1)

    def learned(instance, cell, run, seed):
        return STATIC + luck(instance, seed) + float(rng.normal(0.16, 0.06)) + 0.01 * (run - 3)

    references(tmp_path / "references.json", INSTANCES, {("T1-data-01", 1.5, 1.0)})
    play(tmp_path / "r", "wait", INSTANCES, 0.0)
    play(tmp_path / "r", "schedule", INSTANCES, 0.1)
    play(
        tmp_path / "r",
        "heuristic",
        INSTANCES,
        lambda i, c, r, s: STATIC + luck(i, s) + 0.1 * (c["params"] > 2),
    )
    play(tmp_path / "r", "esper_ppo", INSTANCES, learned, runs=(1, 2, 3, 4, 5))
    return tmp_path


def run(module, *words):
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    args = parser.parse_args([*map(str, words)])
    return args.main(args)


def made(folder, *words):
    words = (
        "report",
        folder / "r",
        "--references",
        folder / "references.json",
        "--out",
        folder / "o",
        *words,
    )
    return run(report, *words), json.loads((folder / "o" / "report.json").read_text())


def row(text, agent, column):
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()]
    header = next(line for line in lines if line[0] == "agent")
    return next(line for line in lines if line[0] == agent)[header.index(column)]


def test_a_report_says_who_wins_what_and_at_which_price(folder, capsys):
    code, values = made(folder)
    text = (folder / "o" / "report.md").read_text()
    assert code == 0
    assert capsys.readouterr().out.startswith("# Leaderboard")
    assert [group["part"] for group in values["groups"]] == ["held-out", "seeds", "data", "reach", "train"]
    assert row(text, "schedule", "score, IQM") == "0.500"  # nothing varied, nothing was drawn
    assert row(text, "schedule", "harm %") == "0.0"
    assert row(text, "heuristic", "score, mean") == "0.267"  # nor within an instance
    assert row(text, "heuristic", "points") == "+5.00"
    own = values["groups"][0]["entries"]["esper_ppo"]
    assert row(text, "esper_ppo", "score, IQM").startswith(f"{own['iqm'][0]:.3f} (")
    assert own["iqm"][1] < own["iqm"][0] < own["iqm"][2]
    assert row(text, "esper_ppo", "less schedule").startswith(
        f"{own['against']['schedule']['gap'][0]:+.3f} ("
    )
    assert row(text, "wait", "target reached %") == "0"
    assert "Of 24 pairs of instance\nand budgets 1 were refused" in text
    assert "## T1, held-out (5 instances, 19 with budgets; 5 and 20 were played; 4 hosts)" in text
    assert "## T1, seeds (2 instances, 8 with budgets; 4 hosts)" in text
    assert "| budgets | esper_ppo | schedule | heuristic | wait |" in text
    assert "| 0.50, +10.0, 0% | 0.00, +0.0, 0% | 0.00, +0.0, 0% |" in text
    each = text[text.index("On each instance: mean score, where anything was admitted, points, harm:") :]
    assert "| T1-seeds-00 | " in each
    assert "| 0.50, +10.0, 0% | 0.25, +5.0, 0% | 0.00, +0.0, 0% |" in each
    assert "| T1-data-01 | " in each
    assert "| 0.50, +10.0, 0% | 0.33, +5.0, 0% | 0.00, +0.0, 0% |" in each  # 1.5x1 was refused
    assert "not revealed yet" in text
    assert own["harm"][0] <= 0.05
    assert "+0.05, interval and score above 0, harm of at most 5%: **yes**" in text
    assert row(text, "esper_ppo", "machine") == "1"
    assert "Machine 1: made up, 1 thread, torch 2, native kernels." in text
    for name in ("scores_T1.png", "profile_T1.png"):
        assert (folder / "o" / name).stat().st_size > 5000
        assert f"({name})" in text


def test_entries_are_compared_with_others_too(folder):
    code, values = made(folder, "--against", "esper_ppo")
    text = (folder / "o" / "report.md").read_text()
    assert (code, values["rivals"]) == (0, ["schedule", "heuristic", "esper_ppo"])
    own = values["groups"][0]["entries"]
    assert row(text, "esper_ppo", "less esper_ppo") == "-"
    ours, theirs = (own[name]["mean"][0] for name in ("schedule", "esper_ppo"))
    assert own["schedule"]["against"]["esper_ppo"]["gap"][0] == pytest.approx(ours - theirs)
    assert row(text, "schedule", "less esper_ppo").startswith(f"{ours - theirs:+.3f} (")
    assert row(text, "schedule", "better than esper_ppo").startswith("0.")
    with pytest.raises(RefusedError, match=r"--against \['nobody'\]: there are results of \['wait', "):
        made(folder, "--against", "nobody")


def test_a_report_names_the_instances_on_which_learning_pays(folder):
    """On the first it is 10 points above the schedule, on the second 10 below, on the third it harms."""
    gains = {"T1-seeds-00": 0.2, "T1-data-00": 0.0, "T1-data-01": 0.2}

    def learned(instance, cell, run, seed):
        harm = instance == "T1-data-01" and seed % 3 == 0
        return STATIC + luck(instance, seed) + gains.get(instance, 0.2) + 0.001 * run - (0.25 if harm else 0)

    seeds = evaluation_seeds(SECRET, find("T1-data-01"), 4)
    assert 0 < sum(seed % 3 == 0 for seed in seeds) < 4
    play(folder / "r", "mine", INSTANCES, learned, runs=(1, 2, 3), algo="ppo")
    made(folder)
    text = (folder / "o" / "report.md").read_text()
    block = text[text.index("mine, instance by instance") :].split("\n\n")[:2]
    assert block[0].startswith(f"mine, instance by instance; {len(INSTANCES) - 3} of {len(INSTANCES) - 1}: ")
    said = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in block[1].splitlines()[2:]}
    assert said["T1-seeds-00"][0].startswith("+0.51 (+0.5")
    assert said["T1-seeds-00"][3].startswith("yes")
    assert said["T1-data-00"][3].startswith("no")
    assert said["T1-data-01"][2:] == [f"{25 * sum(seed % 3 == 0 for seed in seeds)}", "no |"]


def test_what_a_difference_consists_of_adds_up_to_it(folder):
    """One refused pair makes an instance's others weigh more; the tables show the same sum."""
    _, values = made(folder)
    text = (folder / "o" / "report.md").read_text()
    rows = values["groups"][0]["entries"]
    for rival in ("schedule", "heuristic"):
        of = tables.contributions(rows, "esper_ppo", rival)
        assert list(of) == ["seeds", "data", "reach"]
        gap = rows["esper_ppo"]["against"][rival]["gap"][0]
        assert sum(sum(axis.values()) for axis in of.values()) == pytest.approx(gap)
    gap = rows["esper_ppo"]["against"]["schedule"]["gap"][0]
    block = text[text.index("What esper_ppo less schedule consists of") :].split("\n\n")[1]
    assert block.splitlines()[-1].endswith(f"| {gap:+.3f} |")
    # the heuristic wins under budgets of 3, half of what the oracle wins: of 5 instances of 4 pairs, but one
    scores = [figures["score"] for figures in rows["schedule"]["each"]["T1-data-01"].values()]
    assert scores == [None, *[pytest.approx(0.5)] * 3]
    won = tables.contributions(rows, "heuristic", "wait")["data"]
    assert won == pytest.approx(
        {"1.5x1": 0, "1.5x2": 0, "3x1": 0.5 / 15 + 0.1 / 4, "3x2": 0.5 / 15 + 0.1 / 4}
    )


def test_whoever_does_nothing_is_not_paid_for_a_schedule_that_loses():
    gap, harm = [0.11, 0.02, 0.21], [0.0, None, None]
    assert tables.pays_off(0.01, gap, harm)
    assert not tables.pays_off(0.0, gap, harm)


def test_the_interval_over_instances_is_students():
    values = np.random.default_rng(0).normal(size=(7, 3, 4))
    means = values.mean(axis=(1, 2))
    wanted = stats.t.interval(0.95, 6, means.mean(), stats.sem(means))
    assert figures.over_instances(values) == pytest.approx(wanted, rel=1e-3)
    assert figures.over_instances(values[:1]) == [None, None]


def test_who_was_pledged_is_said(folder, tmp_path, capsys):
    play(folder / "r", "mine", INSTANCES, 0.1, runs=(1, 2), algo="ppo")
    agents = {
        str(each.training_seed): pledge.digest(each.agent)
        for each in records.readable([folder / "r"])[0]
        if each.entry == "mine"
    }
    paths = []
    for name, changes in (("good", {}), ("bad", {"2": "0" * 64})):
        values = pledge.Pledge(
            entry="mine", environment_version=VERSION, agents=agents | changes
        ).model_dump()
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(sealed(values)))
    code, values = made(folder, "--pledges", paths[0])
    assert (code, values["pledged"]) == (0, ["mine"])
    assert "as pledged: mine." in (folder / "o" / "report.md").read_text()
    code, values = made(folder, "--pledges", paths[1])
    assert (code, values["pledged"]) == (1, [])
    [problem] = values["not_as_pledged"]
    assert problem == "mine: training seed 2 is not the agent pledged: algorithm, settings and checkpoint"
    assert values["left_out"] == []
    shown = (folder / "o" / "report.md").read_text()
    assert f"**Not as pledged**, and shown all the same:\n\n- {problem}" in shown
    with pytest.raises(RefusedError, match=r"pledged more than once: \['mine'\]"):
        made(folder, "--pledges", *paths)


def test_a_report_repeats(folder):
    _, values = made(folder)
    assert report.made([folder / "r"], [folder / "references.json"], None) == values


def test_a_secret_that_is_revealed_is_checked(folder):
    code, values = made(folder, "--secret", SECRET)
    assert (code, values["revealed"], values["checked"]) == (0, False, True)
    assert "not revealed yet, checked by whoever made" in (folder / "o" / "report.md").read_text()
    with pytest.raises(RefusedError, match="'another' is not what was committed to"):
        made(folder, "--secret", "another")


CHANGES = {
    "an edited result": (lambda v: v["episodes"][0].update(quality=0.9), "was changed after it was written"),
    "another environment": (
        lambda v: v.update(environment_version="9"),
        "environment version '9' is not known",
    ),
    "another instance": (lambda v: v.update(instance_hash="x"), "another instance of that name"),
    "other seeds": (lambda v: v.update(commitment="x"), "host seeds by another secret"),
    "no such cell": (lambda v: v["cell"].update(params=7.0), "no such instance and budgets"),
    "a missing figure": (lambda v: v["episodes"][1].pop("params"), "episodes.1.params: Field required"),
    "a step less": (lambda v: v["episodes"][1]["actions"].pop(), "actions has 3 steps, the episode of seed"),
    "another form": (lambda v: v.update(version=2), "is of the form 2, only 1 is known"),
}


def sorted_out(folder, secret=None):
    table = records.read(folder / "references.json", Table)
    return report.sorted_out([folder / "r"], table, secret)


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_belong_is_left_out_and_named(tmp_path, change):
    edit, message = CHANGES[change]
    references(tmp_path / "references.json", INSTANCES)
    values = record("maskable_ppo", "T1-seeds-00", CELLS[0], 0.1, run=1)
    edit(values)
    write(tmp_path / "r" / "bad", values if "edited" in change else sealed(values))
    write(tmp_path / "r" / "good", record("wait", "T1-seeds-00", CELLS[0], 0.1))
    good, [reason] = sorted_out(tmp_path)
    assert message in reason
    assert [each.entry for each in good] == ["wait"]


def test_seeds_that_do_not_follow_from_the_secret_are_left_out(tmp_path):
    references(tmp_path / "references.json", INSTANCES)
    values = record("maskable_ppo", "T1-seeds-00", CELLS[0], 0.1, run=1)
    values["episodes"][0]["seed"] = 5
    write(tmp_path / "r", sealed(values))
    _, [reason] = sorted_out(tmp_path, SECRET)
    assert "maskable_ppo, training seed 1 on T1-seeds-00 (1.5x1): host seeds [5, " in reason
    assert sorted_out(tmp_path)[1] == []


def test_a_report_names_what_it_left_out(folder, capsys):
    write(folder / "r" / "bad", record("maskable_ppo", "T1-seeds-00", CELLS[0], 0.1) | {"seconds": 1.0})
    code, values = made(folder)
    [reason] = values["left_out"]
    assert code == 1
    assert reason in (folder / "o" / "report.md").read_text()
    assert f"left out: {reason}" in capsys.readouterr().err
    assert all("maskable_ppo" not in group["entries"] for group in values["groups"])


def test_a_copy_of_a_result_counts_once(tmp_path):
    references(tmp_path / "references.json", INSTANCES)
    values = record("wait", "T1-seeds-00", CELLS[0], 0.0)
    write(tmp_path / "r" / "a", values)
    write(tmp_path / "r" / "b", values)
    good, left_out = sorted_out(tmp_path)
    assert (len(good), left_out) == (1, [])


def counted(tmp_path, *folders):
    table = records.read(references(tmp_path / "references.json", INSTANCES), Table)
    return report.sorted_out([tmp_path / folder for folder in folders], table, None)


def test_of_two_results_of_a_job_the_first_folders_counts(tmp_path):
    for folder, gain, cpu in (("a", 0.0, "one"), ("b", -0.3, "another")):
        machine = HARDWARE | {"cpu": cpu}
        write(tmp_path / folder, record("wait", "T1-seeds-00", CELLS[0], gain, hardware=machine))
    for first, second in (("a", "b"), ("b", "a")):
        [kept], left_out = counted(tmp_path, first, second)
        assert left_out == []
        assert kept == records.read(tmp_path / first / "episodes.json", Record)
    # from the same machine two results can't differ
    other = record("wait", "T1-seeds-00", CELLS[0], 0.0, hardware=HARDWARE | {"cpu": "one"})
    other["episodes"][2]["chain"] = "f" * 64
    write(tmp_path / "b", sealed(other))
    [kept], [reason] = counted(tmp_path, "a", "b")
    assert kept.hardware.cpu == "one"
    assert f"two results of one job differ, on host seeds [{other['episodes'][2]['seed']}]" in reason


def test_in_a_folder_what_has_most_host_seeds_counts(tmp_path):
    for seeds in (4, 6, 2):
        write(tmp_path / "a" / str(seeds), record("wait", "T1-seeds-00", CELLS[0], 0.0, seeds=seeds))
    [kept], left_out = counted(tmp_path, "a")
    assert (len(kept.episodes), left_out) == (6, [])


def test_a_name_that_is_taken_is_left_to_whom_it_belongs(tmp_path):
    write(tmp_path / "a", record("mine", "T1-seeds-00", CELLS[0], 0.1, algo="esper_ppo"))
    write(tmp_path / "b" / "1", record("mine", "T1-seeds-00", CELLS[1], 0.3, algo="ppo"))
    write(tmp_path / "b" / "2", record("heuristic", "T1-seeds-00", CELLS[0], -0.3, algo="wait"))
    [kept], left_out = counted(tmp_path, "a", "b")
    assert kept.agent.algo == "esper_ppo"
    assert sum("the name of a baseline, lent to 'wait'" in reason for reason in left_out) == 1
    assert sum("an entry is one agent" in reason for reason in left_out) == 1


def test_nobody_replaces_the_static_host_or_joins_a_row_from_a_later_folder(tmp_path):
    """Whoever leads with their own folder is paired with their own static host, and is a row of their own."""
    write(tmp_path / "a" / "wait", record("wait", "T1-seeds-00", CELLS[0], 0.0))
    write(tmp_path / "a" / "mine", record("mine", "T1-seeds-00", CELLS[0], 0.1, run=1))
    strangers = {
        "no checkpoint": record("wait", "T1-seeds-00", CELLS[0], -0.2, run=None) | {"training_seed": 7},
        "a new run": record("mine", "T1-seeds-00", CELLS[0], 0.5, run=2),
        "a name of their own": record("theirs", "T1-seeds-00", CELLS[0], 0.1, run=1),
        "another job of a known run": record("mine", "T1-seeds-00", CELLS[1], 0.1, run=1),
    }
    for name, values in strangers.items():
        write(tmp_path / "b" / name, sealed(values))
    kept, left_out = counted(tmp_path, "a", "b")
    assert sorted((each.entry, each.training_seed or 0) for each in kept) == [
        ("mine", 1), ("mine", 1), ("theirs", 1), ("wait", 0),
    ]  # fmt: skip
    assert sum("a training seed without a checkpoint" in reason for reason in left_out) == 1
    assert sum("a folder before this one has that name" in reason for reason in left_out) == 1, left_out


def test_host_seeds_of_different_numbers_are_missing_and_stop_no_report(folder):
    write(folder / "r" / "more", record("wait", "T1-reach-00", CELLS[0], 0.0, seeds=5))
    code, values = made(folder)
    assert code == 0
    [reach] = [group for group in values["groups"] if group["part"] == "reach"]
    assert "'wait' played from other host seeds under other budgets" in str(reach["missing"]["esper_ppo"])
    assert "esper_ppo" in next(group for group in values["groups"] if group["part"] == "seeds")["entries"]
    for cell in CELLS:
        write(folder / "r" / str(cell), record("wait", "T1-reach-00", cell, 0.0, seeds=5))
        play(folder / "r" / f"more{cell}", "heuristic", ["T1-reach-00"], 0.1, cells=[cell], seeds=5)
    _, values = made(folder)
    held_out = next(group for group in values["groups"] if group["part"] == "held-out")
    assert "as many host seeds everywhere" in str(held_out["missing"]["heuristic"])


HOSTILE = {
    "a number that JSON has not": ('"seconds": 8.0', '"seconds": 1e999', "can't be read"),
    "half a character": ('"seconds": 8.0', '"seconds": 8.0, "x": "\\ud800"', "can't be read"),
    "depth": ('"seconds": 8.0', '"seconds": 8.0, "x": ' + "[" * 100_000, "can't be read"),
    "a count of no memory": ('"rollbacks": 0', '"rollbacks": 1' + "0" * 400, "rollbacks"),
    "a row of one's own": ('"cpu": "made up"', '"cpu": "x |\\n| mine | 9.9 |"', "hardware.cpu"),
    "fewer than none": ('"params": 1375', '"params": -1', "params"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_left_out_and_changes_no_report(tmp_path, what):
    old, new, message = HOSTILE[what]
    references(tmp_path / "references.json", INSTANCES)
    text = json.dumps(record("mine", "T1-seeds-00", CELLS[0], 0.1, run=1))
    assert old in text
    text = text.replace(old, new, 1)
    (tmp_path / "r" / "bad").mkdir(parents=True)
    (tmp_path / "r" / "bad" / "episodes.json").write_text(text)
    good, [reason] = sorted_out(tmp_path)
    assert good == []
    assert message in reason


def test_a_rival_is_the_one_that_the_references_were_measured_with(tmp_path):
    path, plan = references(tmp_path / "references.json", INSTANCES), {"start": 3}
    plans = {"1.5x1": plan, "1.5x2": {}, "3x1": {}, "3x2": {}}
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | {"plans": plans})))
    for number, (algo, config, entry) in enumerate(
        [
            ("schedule", {"plans": plans}, "schedule"),
            ("schedule", {"schedule": {"start": 9}}, "mine"),
            ("schedule", None, "schedule"),
            ("schedule", {"schedule": {"no": 1}}, "schedule"),
            ("heuristic", {"heuristic": {"x": 1}}, "heuristic"),
        ]
    ):
        agent = {"algo": algo, "config": config, "checkpoint": None}
        write(tmp_path / "r" / str(number), record(entry, "T1-seeds-00", CELLS[0], 0.0, agent=agent))
    table = records.table([path])
    good, left_out = report.sorted_out([tmp_path / "r"], table, None)
    assert sorted(each.entry for each in good) == ["mine", "schedule"]
    assert sum("has other settings than the reference of that name" in reason for reason in left_out) == 3


def test_a_table_says_what_an_entry_is_and_no_name_changes_it(folder):
    play(folder / "r", "mine", INSTANCES, 0.1, algo="esper_ppo")
    made(folder)
    assert row((folder / "o" / "report.md").read_text(), "mine (esper_ppo)", "score, IQM").startswith("0.500")
    for name in ("a | b", "[a](b)", "a\nb", ""):
        with pytest.raises(ValueError, match="entry"):
            Record.model_validate(record(name, "T1-seeds-00", CELLS[0], 0.1))


def test_the_secret_that_everybody_knows_is_checked_though_nobody_tells_it(tmp_path):
    path = references(tmp_path / "references.json", INSTANCES)
    table = records.read(path, Table)
    local = table.model_copy(update={"commitment": commitment("local")})
    assert (report.revealed(None, local), report.revealed(None, table)) == ("local", None)


def test_figures_that_are_none_are_refused(folder):
    path = folder / "references.json"
    path.write_text(path.read_text().replace('"mean": 0.1', '"mean": NaN', 1))
    with pytest.raises(RefusedError, match="NaN is no figure"):
        made(folder)


def test_a_folder_without_results_is_refused(tmp_path):
    path = references(tmp_path / "references.json", INSTANCES)
    with pytest.raises(RefusedError, match=r"holds no episodes\.json"):
        run(report, "report", tmp_path, "--references", path)


def test_the_headroom_is_shown_before_anybody_plays(folder):
    out = folder / "headroom.md"
    assert run(headroom, "headroom", "--references", folder / "references.json", "--out", out) == 0
    text = out.read_text()
    assert "23 of 24 pairs of instance and budgets are admitted" in text
    assert "| oracle - static, all | 24 | 20.0 | 20.0 | 20.0 | 20.0 | 20.0 |" in text
    assert "| T1-data-01 | 1.5x1 | 40.0 | - | - | - | +10.0 | +20.0 +- 1.0, 20.0 sigma |" in text
    assert (folder / "headroom.png").stat().st_size > 5000


def test_who_played_fewer_hosts_is_held_against_the_static_host_on_those(tmp_path):
    """On two of four hosts, the easier ones: 15% and 25% there, where the static host has 10% and 20%."""
    path = references(tmp_path / "references.json", ("T1-seeds-00",))
    values = json.loads(path.read_text())
    for row in values["rows"]:
        row["references"]["static"]["quality"] = [0.8, 0.1, 0.2, 0.7]
        row["references"]["random"] = reference(0.15, seeds=(2, 3)) | {"quality": [0.15, 0.25]}
    path.write_text(json.dumps(sealed(values)))
    out = tmp_path / "headroom.md"
    assert run(headroom, "headroom", "--references", path, "--out", out) == 0
    assert "| T1-seeds-00 | 1.5x1 | 45.0 | - | +5.0 | - | +5.0 | +20.0" in out.read_text()


def test_a_tier_that_nobody_played_is_not_reported(tmp_path):
    tables_of = [references(tmp_path / f"{tier}.json", (f"{tier}-seeds-00",)) for tier in ("T1", "T2")]
    play(tmp_path / "r", "wait", ("T1-seeds-00",), 0.0)
    values = report.made([tmp_path / "r"], tables_of, None)
    assert {group["tier"] for group in values["groups"]} == {"T1"}
    assert [row["instance"] for row in values["room"]] == ["T1-seeds-00"] * 4


def test_tables_of_several_tiers_are_one(tmp_path):
    first = references(tmp_path / "1.json", INSTANCES[:1])
    second = references(tmp_path / "2.json", ("T2-seeds-00",))
    together = records.table([first, second])
    assert [row.instance for row in together.rows] == ["T1-seeds-00"] * 4 + ["T2-seeds-00"] * 4
    assert together.seconds == 7200
    assert together.sha256 not in {records.table([path]).sha256 for path in (first, second)}
    with pytest.raises(RefusedError, match="rows of the same instance and budgets"):
        records.table([first, first])
    values = json.loads(second.read_text()) | {"commitment": "x"}
    second.write_text(json.dumps(sealed(values)))
    with pytest.raises(RefusedError, match=r"2\.json has another commitment than"):
        records.table([first, second])
