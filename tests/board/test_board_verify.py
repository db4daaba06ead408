"""Verification of real results: what is honest passes, to the last bit; every kind of fraud is named."""

import copy
import json

import pytest
from board import records, verify
from board.canonical import sealed
from board.entrants import entrant
from board.instances import find
from board.seeds import evaluation_seeds
from entered import INSTANCE, call, paths, refused, tamper
from made_up_results import SECRET


def test_what_is_honest_is_verified_to_the_last_bit(folder, capsys):
    code, out = call(folder, capsys, "--secret", SECRET, "--share", 0.1)
    assert code == 0, out
    assert out.count("ok: ") == 2
    assert out.count(", 2 episodes, to the last bit") == 2
    assert "2 results, 0 things wrong: verified" in out
    code, out = call(folder, capsys, "--entry", "heuristic", "--draw", 3)
    assert (code, out.count("ok: ")) == (0, 1)
    assert "--draw 3 plays the same jobs again" in out


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
    "a missing trace": (lambda v: v["episodes"][0].pop("actions"), "episodes.0.actions: Field required"),
    "a missing digest": (lambda v: v.pop("sha256"), "sha256: Field required"),
    "costs that do not agree": (
        lambda v: v["episodes"][1].update(flops_ratio=0.5), "its epochs and of the whole do not agree"
    ),
    "a seed of no training": (
        lambda v: v.update(agent={"algo": "random", "config": None, "checkpoint": None}),
        "training seed 1 of 'random', which is not trained",
    ),
    "no such action": (lambda v: v["episodes"][0]["actions"][0].__setitem__(7, 99), "WRONG: esper_ppo"),
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


def test_on_another_machine_rules_are_the_same_and_bits_are_not_asked_for(folder, capsys):
    def elsewhere(values):
        values["hardware"]["cpu"] = "another one"
        for episode in values["episodes"]:
            episode |= {"chain": "0" * 64, "state": "0" * 64, "quality": episode["quality"] + 0.005}

    tamper(folder, "esper_ppo", elsewhere)
    code, out = call(folder, capsys, "--entry", "esper_ppo")
    assert code == 0, out
    assert "2 episodes, not bit-verified: another one, 1 thread, torch" in out
    assert "here, quality -0.0050" in out
    tamper(folder, "esper_ppo", lambda v: [e.update(quality=e["quality"] + 0.01) for e in v["episodes"]])
    assert "was reported, played again it is -0.0150 from that" in refused(folder, capsys, "--share", 1)
    tamper(folder, "esper_ppo", lambda v: v["episodes"][0].update(rules="x"))
    assert "the trace leads elsewhere (rules)" in refused(folder, capsys, "--share", 1)


ELSEWHERE = {
    "a target that was never reached": (
        lambda e: e.update(val_quality=[0.9] * e["length"]), "mean val_quality 0.9000 was reported"
    ),
    "a smaller network": (
        lambda e: e.update(param_ratio=e["param_ratio"] - 0.2), "the trace leads elsewhere (param_ratio)"
    ),
    "cheaper epochs": (
        lambda e: e.update(epoch_flops=[0.5 * e["epoch_flops"][0], *e["epoch_flops"][1:]]),
        "the trace leads elsewhere (epoch_flops)",
    ),
    "no rollbacks": (lambda e: e.update(rollbacks=2), "the trace leads elsewhere (rollbacks)"),
}  # fmt: skip


@pytest.mark.parametrize("fraud", ELSEWHERE)
def test_who_names_another_machine_is_held_to_all_that_it_does_not_decide(folder, capsys, fraud):
    edit, message = ELSEWHERE[fraud]

    def elsewhere(values):
        values["hardware"]["cpu"] = "another one"
        for episode in values["episodes"]:
            edit(episode)

    tamper(folder, "heuristic", elsewhere)
    assert message in refused(folder, capsys, "--share", 1)


def test_the_few_steps_in_which_somebody_else_acted_are_found_on_every_machine(folder, capsys):
    """Nine steps in ten are waiting, in which everybody agrees."""
    _, values = paths(folder, "heuristic")
    acts = sum(action[-1] != 0 for episode in values["episodes"] for action in episode["actions"])
    steps = sum(episode["length"] for episode in values["episodes"])
    honest = verify.rerun(records.read(paths(folder, "heuristic")[0], records.Record), folder / "results")
    assert 0 < acts < steps
    assert (honest.same_op, honest.same_acts) == (1, 1)

    def lent(values):
        values["hardware"]["cpu"] = "another one"
        values["agent"]["algo"] = "wait"
        values["entry"] = "mine"

    tamper(folder, "heuristic", lent)
    assert "the agent chooses the recorded op in 0% of the steps in which it acted" in refused(
        folder, capsys, "--share", 1
    )


def test_other_numbers_of_host_seeds_are_found(folder, capsys):
    table = json.loads((folder / "table.json").read_text())
    path, values = paths(folder, "heuristic")
    more = copy.deepcopy(table["rows"][0])
    more["cell"]["params"] = values["cell"]["params"] = 1.5
    (folder / "table.json").write_text(json.dumps(sealed(table | {"rows": [*table["rows"], more]})))
    (path.parent.parent / "more").mkdir()
    less = values | {"episodes": values["episodes"][:1]}
    (path.parent.parent / "more" / path.name).write_text(json.dumps(sealed(less)))
    assert "heuristic: instances were played from [1, 2] host seeds" in refused(folder, capsys)


def test_that_host_seeds_were_not_checked_is_said(folder, capsys):
    assert "host seeds were not checked" in call(folder, capsys)[1]
    assert "host seeds were not checked" not in call(folder, capsys, "--secret", SECRET)[1]
