"""Verification of real results: what is honest passes, to the last bit; every kind of fraud is named."""

import copy
import hashlib
import json
import zipfile
from argparse import Namespace

import leaderboard
import pytest
from board import checks, pledge, records
from board.canonical import sealed
from board.entrants import entrant, entrants
from board.instances import find
from board.seeds import evaluation_seeds
from entered import INSTANCE, call, paths, refused, tamper
from made_up_results import SECRET


def test_what_is_honest_is_verified_to_the_last_bit(folder, capsys):
    code, out = call(folder, capsys, "--secret", SECRET, "--share", 0.1)
    assert code == 0, out
    assert out.count("ok: ") == 2
    assert out.count(", 2 episodes, to the last bit; about ") == 2
    assert "; about 0 s left" in out
    assert "2 results, 0 things wrong, 2 played again: verified, to the last bit\n" in out
    code, out = call(folder, capsys, "--entry", "heuristic", "--draw", 3)
    assert (code, out.count("ok: ")) == (0, 1)
    assert "1 results, 0 things wrong, 1 played again: verified, but for the host seeds, to the last" in out
    assert "--draw 3 plays the same jobs again" in out


def test_host_seeds_that_nobody_can_check_are_not_passed_over(folder, capsys):
    """The secret is not revealed: whoever verifies has to say that the rest is enough."""
    with pytest.raises(SystemExit) as ended:
        leaderboard.main(["verify", str(folder / "results"), "--references", str(folder / "table.json")])
    assert ended.value.code == 2
    assert "host seeds can't be checked before the secret" in capsys.readouterr().err


def test_an_edited_result_is_found(folder, capsys):
    tamper(folder, "heuristic", lambda v: v["episodes"][0].update(quality=0.9), seal=False)
    assert "was changed after it was written: its digest is that of something else" in refused(folder, capsys)


@pytest.mark.parametrize("entry", ["heuristic", "esper_ppo"])
def test_an_edited_result_with_a_new_digest_is_found(folder, capsys, entry):
    tamper(folder, entry, lambda v: v["episodes"][1].update(quality=0.9))
    wrong = refused(folder, capsys, "--share", 1)
    seed = evaluation_seeds(SECRET, find(INSTANCE), 2)[1]
    assert f"host seed {seed}: the trace leads elsewhere (quality); quality 0.9 was reported, played" in wrong
    assert wrong.count("WRONG") == 1


def test_a_swapped_checkpoint_is_found(folder, capsys):
    _, values = paths(folder, "esper_ppo")
    kept = folder / "results" / values["agent"]["checkpoint"]["path"]
    kept.write_bytes(next((folder / "run2").rglob("checkpoint.zip")).read_bytes())
    assert f"checkpoint agents/{kept.name} was swapped: its SHA-256 is" in refused(folder, capsys)
    kept.unlink()
    assert f"checkpoint agents/{kept.name} is missing" in refused(folder, capsys)


def test_a_swapped_checkpoint_with_a_new_digest_is_found(folder, capsys):
    other = entrant(str(folder / "run2"), folder / "results", {})
    tamper(folder, "esper_ppo", lambda v: v.update(agent=other.agent.model_dump(mode="json")))
    assert "the checkpoint was trained with seed 2, 1 is reported" in refused(folder, capsys)
    tamper(folder, "esper_ppo", lambda v: v.update(training_seed=2))
    assert "the agent would have done something else in" in refused(folder, capsys, "--share", 1)


def test_a_trace_of_another_seed_is_found(folder, capsys):
    def swap(values):
        first, second = values["episodes"]
        first["seed"], second["seed"] = second["seed"], first["seed"]

    tamper(folder, "heuristic", swap)
    wrong = refused(folder, capsys, "--share", 1)
    for seed in evaluation_seeds(SECRET, find(INSTANCE), 2):
        assert f"host seed {seed}: the trace leads elsewhere (" in wrong
    assert "chain" in wrong


def test_host_seeds_of_ones_own_are_found(folder, capsys):
    tamper(folder, "heuristic", lambda v: v["episodes"][0].update(seed=7))
    assert "host seeds [7, " in refused(folder, capsys, "--secret", SECRET)
    tamper(folder, "heuristic", lambda v: v.update(commitment="x"))
    assert "host seeds by another secret, committed to as x" in refused(folder, capsys)


def test_an_underreported_parameter_count_is_found(folder, capsys):
    tamper(folder, "heuristic", lambda v: v["episodes"][0].update(params=1100, param_ratio=1100 / 1102))
    wrong = refused(folder, capsys, "--share", 1)
    assert "1100 parameters are reported, counted anew there are" in wrong
    assert "params 1100 was reported, played again it is" in wrong


def test_underreported_flops_are_found(folder, capsys):
    def lower(values):
        for episode in values["episodes"]:
            episode["flops"] *= 0.9
            episode["flops_ratio"] *= 0.9
            episode["epoch_flops"] = [0.9 * flops for flops in episode["epoch_flops"]]

    tamper(folder, "heuristic", lower)
    assert "FLOPs are reported, counted anew there are" in refused(folder, capsys, "--share", 1)


FROM_THE_FILE = {
    "an unknown environment version": (
        lambda v: v.update(environment_version="9.9"), "environment version '9.9' is not known, only"
    ),
    "another instance": (lambda v: v.update(instance_hash="x"), "another instance of that name"),
    "no checkpoint": (lambda v: v["agent"].update(checkpoint=None), "no checkpoint of 'esper_ppo'"),
    "a lent name": (
        lambda v: v.update(
            agent={"algo": "wait", "config": None, "checkpoint": None}, training_seed=None
        ),
        "something else in",
    ),
    "too large": (lambda v: v["episodes"][0].update(param_ratio=3.5), "3.500x parameters, 3x is the most"),
    "too large for a while": (lambda v: v["episodes"][0].update(most_params=3500), "3.176x parameters, 3x"),
    "more than all there is": (
        lambda v: v["episodes"][0]["val_quality"].__setitem__(0, 1.01), "0.val_quality.0: Input should"
    ),
    "a missing trace": (lambda v: v["episodes"][0].pop("actions"), "episodes.0.actions: Field required"),
    "a missing digest": (lambda v: v.pop("sha256"), "sha256: Field required"),
    "costs that do not agree": (
        lambda v: v["episodes"][1].update(flops_ratio=0.5), "its epochs and of the whole do not agree"
    ),
    "a seed of no training": (
        lambda v: v.update(agent={"algo": "random", "config": None, "checkpoint": None}),
        "training seed 1 of 'random', which is not trained",
    ),
    "no such action": (
        lambda v: v["episodes"][0]["actions"][0].__setitem__(7, 99), "can't be played again: "
    ),
    "another way to choose": (
        lambda v: v["agent"]["config"].update(deterministic=True), "the agent would have done something else"
    ),
    "half an action": (
        lambda v: v["episodes"][0]["actions"].__setitem__(0, [0, 0]), "can't be played again: ValueError"
    ),
    "a seed twice": (
        lambda v: v["episodes"][0].update(seed=v["episodes"][1]["seed"]), "a host seed stands twice among"
    ),
    "epochs beyond the budget": (
        lambda v: v["episodes"][0]["epoch_flops"].__setitem__(-2, 2.5), "went on after 2x FLOPs were spent"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fraud", FROM_THE_FILE)
def test_whatever_is_wrong_or_missing_is_refused(folder, capsys, fraud):
    edit, message = FROM_THE_FILE[fraud]
    path, values = paths(folder, "esper_ppo")
    values = sealed(values)
    edit(values)
    path.write_text(json.dumps(values if "digest" in fraud else sealed(values)))
    assert message in refused(folder, capsys, "--share", 1)


def test_a_job_that_was_not_played_is_missed(folder, capsys):
    table = json.loads((folder / "table.json").read_text())
    more = copy.deepcopy(table["rows"][0])
    more["cell"]["params"] = 1.5
    (folder / "table.json").write_text(json.dumps(sealed(table | {"rows": [*table["rows"], more]})))
    assert "heuristic: T1-seeds-00 (1.5x2) was not played by every training run" in refused(folder, capsys)
    code, _ = call(folder, capsys, "--partial")
    assert code == 0


def rewritten(path, edit):
    """A checkpoint in which something was changed: `edit` gets its entries."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    edit(contents)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def record_edited(edit):
    def of(contents):
        values = json.loads(contents["esper.json"])
        edit(values)
        contents["esper.json"] = json.dumps(values)

    return of


def begun_with(sha256):
    return record_edited(lambda v: v.update(start={"path": "x", "sha256": sha256}))


UNLIKE = {
    "other settings": (
        record_edited(lambda v: v["config"].update(learning_rate=1)), "seed 2 has other ['learning_rate']"
    ),
    "half trained": (record_edited(lambda v: v["state"].update(timesteps=6)), "seed 2 has other ['steps of"),
    "the same beginning": (begun_with("f" * 64), "seeds [1, 2] began with the same weights"),
    "one run twice": (
        lambda contents: contents.update({"policy.pt": contents["other"]}) or contents.pop("other"),
        "seeds [1, 2] have the same weights",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fraud", UNLIKE)
def test_runs_of_an_entry_are_of_one_recipe_and_runs_of_their_own(folder, fraud):
    """The other run of the fixture differs in its seed alone."""
    edit, message = UNLIKE[fraud]
    record = records.read(paths(folder, "esper_ppo")[0], records.Record)
    results = folder / "results"
    first = results / record.agent.checkpoint.path
    other = entrant(str(folder / "run2"), results, {})
    second = record.model_copy(update={"agent": other.agent, "training_seed": 2})
    assert checks.trained_apart([record, second], results) == []
    if "beginning" in fraud:
        rewritten(first, begun_with("f" * 64))
    elif "twice" in fraud:
        with zipfile.ZipFile(first) as archive:
            weights = archive.read("policy.pt")
        rewritten(results / other.agent.checkpoint.path, lambda contents: contents.update(other=weights))
    rewritten(results / other.agent.checkpoint.path, edit)
    [problem] = checks.trained_apart([record, second], results)
    assert problem.startswith("esper_ppo: training seed")
    assert message in problem


def test_a_run_that_is_half_trained_does_not_play(folder, capsys):
    rewritten(next((folder / "run2").rglob("checkpoint.zip")), UNLIKE["half trained"][0])
    with pytest.raises(ValueError, match=r"entry 'mine': training seed 2 has other \['steps of training'\]"):
        entrants([str(folder / "run1"), str(folder / "run2")], folder / "results", {}, "mine")


MALFORMED = {
    "no record": lambda contents: contents.pop("esper.json"),
    "a list": lambda contents: contents.update({"esper.json": "[]"}),
    "a list for settings": record_edited(lambda v: v.update(config=[])),
    "no JSON": lambda contents: contents.update({"esper.json": "{"}),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_checkpoint_that_is_none_is_named(folder, capsys, how):
    _, values = paths(folder, "esper_ppo")
    path = folder / "results" / values["agent"]["checkpoint"]["path"]
    rewritten(path, MALFORMED[how])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    tamper(folder, "esper_ppo", lambda v: v["agent"]["checkpoint"].update(sha256=digest))
    assert "on T1-seeds-00 (3x2): checkpoint can't be read: " in refused(folder, capsys)


def test_only_agents_that_were_pledged_are_taken(folder, capsys):
    file, results = folder / "p.json", folder / "results"
    words = ["pledge", "--agents", folder / "run1", "--entry", "esper_ppo", "--out", file]
    assert leaderboard.main([*map(str, words)]) == 0
    assert "1 agents of 'esper_ppo'" in capsys.readouterr().out
    assert call(folder, capsys, "--pledge", file)[0] == 0
    honest = pledge.read(file)
    [played] = [records.read(paths(folder, "esper_ppo")[0], records.Record)]
    likeliest = played.agent.model_copy(update={"config": {"deterministic": True}})
    everything = ["esper_ppo: was not pledged, 'another' was"]
    assert pledge.foreign(honest.model_copy(update={"entry": "another"}), [played]) == everything
    for change, record, message in (
        ({"environment_version": "0"}, played, "esper_ppo: was pledged for '0', and played"),
        ({"agents": {"1": "0" * 64}}, played, "training seed 1 is not the agent pledged"),
        ({"agents": honest.agents | {"2": "0" * 64}}, played, "seed 2 was pledged, and played nothing"),
        ({}, played.model_copy(update={"agent": likeliest}), "training seed 1 is not the agent pledged"),
        ({"entry": "another"}, played, "another: was pledged, and played nothing"),
    ):
        [problem] = pledge.broken(honest.model_copy(update=change), [record])
        assert message in problem
    moved = played.agent.checkpoint.model_copy(update={"path": "elsewhere.zip"})
    agent = played.agent.model_copy(update={"checkpoint": moved})
    assert pledge.broken(honest, [played.model_copy(update={"agent": agent})]) == []
    file.write_text(file.read_text().replace("esper_ppo", "esper_pp0"))
    with pytest.raises(records.RefusedError, match="was changed after it was written"):
        pledge.read(file)
    pledging = Namespace(config=None, deterministic=False, entry="x", out=file, results=results)
    with pytest.raises(ValueError, match="a baseline without --config is known"):
        pledge.main(Namespace(**vars(pledging), agents=["random"]))


def test_plans_are_pledged_too(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"schedule": {"start": 3}}))
    words = ["pledge", "--agents", "schedule", "--entry", "planned", "--config", tmp_path / "plan.json"]
    assert leaderboard.main([*map(str, words), "--out", str(tmp_path / "p.json")]) == 0
    pledged = pledge.read(tmp_path / "p.json")
    agents = [
        entrant("schedule", tmp_path, {"schedule": {"start": start}}, "planned").agent for start in (3, 4)
    ]
    assert [pledge.digest(agent) == pledged.agents["None"] for agent in agents] == [True, False]


def test_a_trial_with_fewer_host_seeds_beside_the_results_stops_nothing(folder, capsys):
    path, values = paths(folder, "heuristic")
    less = path.parent.with_name("less")
    less.mkdir()
    (less / path.name).write_text(json.dumps(sealed(values | {"episodes": values["episodes"][:1]})))
    code, out = call(folder, capsys, "--entry", "heuristic", "--share", 1)
    assert (code, out.count("ok: ")) == (0, 1), out
    packed = folder / "entry.zip"
    code, out = call(folder, capsys, "--entry", "heuristic", "--out", packed, command="submit")
    assert (code, "1 results" in out) == (0, True), out


def test_other_numbers_of_host_seeds_are_found(folder, capsys):
    table = json.loads((folder / "table.json").read_text())
    path, values = paths(folder, "heuristic")
    more = copy.deepcopy(table["rows"][0])
    more["cell"]["params"] = values["cell"]["params"] = 1.5
    (folder / "table.json").write_text(json.dumps(sealed(table | {"rows": [*table["rows"], more]})))
    (path.parent.parent / "more").mkdir()
    less = values | {"episodes": values["episodes"][:1]}
    (path.parent.parent / "more" / path.name).write_text(json.dumps(sealed(less)))
    assert "heuristic: instances of T1 were played from [1, 2] host seeds: 2 are" in refused(folder, capsys)
