"""The command `run`: who plays, what is refused before anything is played, what is said of it."""

import hashlib
import io
import json
import shutil
import zipfile
from argparse import Namespace
from contextlib import closing
from pathlib import Path

import leaderboard
import pytest
from board import records, report, run, seeds
from board.canonical import sealed
from board.cells import Cell
from board.entrants import CheckpointFile, entrant, entrants
from board.instances import Instance, find
from board.plans import fitted, plan_for
from board.play import play
from board.progress import JobProgress, duration
from board.trace import world
from made_up_results import SECRET, references
from rich.console import Console
from tiny import CELL, PLAN, job, tiny
from torch import nn

from esper_agents import checkpoint
from esper_agents.baselines import ScheduleConfig
from esper_agents.config import build
from esper_agents.train import train
from esper_env import EsperVectorEnv
from esper_env.blueprints import catalogue


def call(*words):
    return leaderboard.main([str(word) for word in words])


@pytest.fixture
def small(monkeypatch):
    """Instances of no size; what is chosen stays."""
    chosen = run.select
    monkeypatch.setattr(run, "select", lambda *names: tuple(tiny(each.id) for each in chosen(*names)))


def test_run_plays_everything_once_and_wait_beside_it(tmp_path, capsys, small):
    where = ("--instances", "T1-data-00", "--cells", "3x2", "--seeds", 2, "--out", tmp_path)
    assert call("run", "--agents", "random", *where) == 0
    told = capsys.readouterr()
    assert "2 jobs, 0 of them played before" in told.out
    assert "2/2 wait on T1-data-00, cell 3x2: played, about 0 s left" in told.err
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/episodes.json")]
    assert {record["entry"] for record in records} == {"random", "wait"}
    assert len({tuple(e["seed"] for e in record["episodes"]) for record in records}) == 1
    assert call("run", "--agents", "random", *where) == 0
    assert "2 jobs, 2 of them played before" in capsys.readouterr().out


def test_run_refuses_what_it_does_not_know(tmp_path, capsys):
    for words, message in (
        (("--agents", "nobody"), "agent 'nobody' is not known"),
        (("--agents", "wait", "wait"), "an entry has one run of each training seed"),
        (("--agents", "wait", "--seeds", 0), "--seeds 0: at least 1"),
        (("--agents", "wait", "--jobs", 0), "--jobs 0: at least 1"),
        (("--agents", "heuristic", "--entry", "wait"), "entry 'wait' would be ['heuristic']"),
        (("--agents", "wait", "--references", tmp_path / "none.json"), "none.json can't be read"),
    ):
        with pytest.raises(SystemExit) as ended:
            call("run", *words, "--out", tmp_path)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_other_agents_do_not_share_a_name_in_one_folder(tmp_path, capsys, small):
    where = ("--instances", "T1-data-00", "--cells", "3x2", "--seeds", 1, "--out", tmp_path / "out")
    for start in (0, 1):
        (tmp_path / f"{start}.json").write_text(json.dumps({"schedule": {"start": start}}))
    assert call("run", "--agents", "schedule", "--config", tmp_path / "0.json", *where) == 0
    with pytest.raises(SystemExit):
        call("run", "--agents", "schedule", "--config", tmp_path / "1.json", *where)
    assert "was played by another agent named 'schedule'" in capsys.readouterr().err
    mine = ("--entry", "mine")
    assert call("run", "--agents", "schedule", "--config", tmp_path / "1.json", *mine, *where) == 0


def test_settings_that_nobody_knows_are_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text(json.dumps({"plan": {}}))
    with pytest.raises(SystemExit):
        call("run", "--agents", "schedule", "--config", tmp_path / "x.json", "--out", tmp_path)
    assert "has ['plan']: of agents ['schedule', 'plans', 'heuristic'] are known" in capsys.readouterr().err


def test_the_board_is_played_without_blueprints_from_outside(monkeypatch):
    monkeypatch.setattr(catalogue, "_REGISTERED", [])
    catalogue.register_blueprint("mine", {"cnn": lambda place: nn.Identity()})
    with pytest.raises(ValueError, match=r"blueprints \['mine'\] were registered from outside"):
        world(tiny(), CELL, 1)


def test_a_failed_run_names_what_failed(tmp_path, capsys, small):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"schedule": {"blueprint": "no_such_block"}}))
    where = ("--instances", "T1-data-00", "--cells", "3x2", "--seeds", 1, "--out", tmp_path / "out")
    assert call("run", "--agents", "schedule", "--config", plan, *where) == 1
    told = capsys.readouterr().out
    assert "FAILED: schedule on T1-data-00, cell 3x2" in told
    assert "no_such_block" in told


def test_a_checkpoint_is_kept_and_another_one_in_its_place_is_refused(tmp_path):
    values = {
        "algo": "esper_ppo", "env": "EsperMicro-v0", "num_envs": 2, "rounds": 1, "seed": 7,
        "eval_episodes": 1,
        "logdir": str(tmp_path / "runs"), "overrides": {"engine.name": "null"}, "compare": [],
    }  # fmt: skip
    folder = train(build(values), stream=io.StringIO()).folder
    out = tmp_path / "out"
    who = entrant(str(folder), out, {})
    assert (who.entry, who.training_seed) == ("esper_ppo", 7)
    record = play(job(seeds=(1, 2), entrant=who), out)
    assert record["agent"]["checkpoint"]["sha256"] == who.agent.checkpoint.sha256
    assert play(job(seeds=(1, 2), entrant=who), out)["episodes"] == record["episodes"]
    kept: Path = out / who.agent.checkpoint.path
    with zipfile.ZipFile(kept) as archive:
        assert archive.namelist() == ["policy.pt", "esper.json"]
        assert str(tmp_path) not in archive.read("esper.json").decode()
    assert entrant(str(folder), out / "again", {}).agent == who.agent
    with pytest.raises(ValueError, match="it was kept to be played"):
        train(build(values), kept, stream=io.StringIO())
    kept.write_bytes(kept.read_bytes() + b"x")
    with pytest.raises(ValueError, match="has the SHA-256"):
        play(job(entrant=who), out)
    kept.unlink()
    with pytest.raises(ValueError, match=r"agents/.*zip is missing"):
        play(job(entrant=who), out)


@pytest.mark.parametrize(
    "algo", ["esper_ppo", "maskable_ppo", "maskable_recurrent_ppo", "ppo", "recurrent_ppo", "search"]
)
def test_what_is_kept_of_a_checkpoint_plays_as_the_whole_does(tmp_path, algo):
    """It began with another run's weights, which are gone by then."""
    values = {
        "algo": algo, "env": "EsperMicro-v0", "num_envs": 2, "rounds": 1, "seed": 7, "eval_episodes": 1,
        "logdir": str(tmp_path / "first"), "overrides": {"engine.name": "null"}, "compare": [],
    }  # fmt: skip
    first = train(build(values), stream=io.StringIO()).folder
    values |= {"logdir": str(tmp_path / "runs"), "start_from": str(first), "seed": 8}
    folder = train(build(values), stream=io.StringIO()).folder
    shutil.rmtree(first)
    kept = entrant(str(folder), tmp_path, {"deterministic": algo == "ppo"})
    content = (folder / checkpoint.CHECKPOINT).read_bytes()
    (tmp_path / "whole.zip").write_bytes(content)
    file = CheckpointFile(path="whole.zip", sha256=hashlib.sha256(content).hexdigest())
    whole = kept.model_copy(update={"agent": kept.agent.model_copy(update={"checkpoint": file})})
    played = [play(job(seeds=(1, 2), entrant=each), tmp_path)["episodes"] for each in (kept, whole)]
    assert played[0] == played[1]
    with zipfile.ZipFile(tmp_path / kept.agent.checkpoint.path) as archive:
        assert len(archive.namelist()) == 2
        assert str(tmp_path) not in archive.read("esper.json").decode()


def test_of_a_folder_of_runs_every_run_plays(tmp_path):
    for seed in (3, 4):
        (tmp_path / "runs" / f"run-{seed}").mkdir(parents=True)
        path = tmp_path / "runs" / f"run-{seed}" / checkpoint.CHECKPOINT
        model = io.BytesIO()
        with zipfile.ZipFile(model, "w") as archive:
            archive.writestr(checkpoint.WEIGHTS, f"weights {seed}")
        record = {"config": {"algo": "esper_ppo", "seed": seed}}
        checkpoint.write_checkpoint(path, model.getvalue(), record)
    found = entrants([str(tmp_path / "runs")], tmp_path / "out", {}, "mine")
    assert [(each.entry, each.training_seed) for each in found] == [("mine", 3), ("mine", 4)]
    path = tmp_path / "runs" / "run-4" / checkpoint.CHECKPOINT
    checkpoint.write_checkpoint(path, b"", {"config": {"algo": "ppo", "seed": 4}})
    with pytest.raises(ValueError, match=r"entry 'mine' would be \['esper_ppo', 'ppo'\]"):
        entrants([str(tmp_path / "runs")], tmp_path / "out", {}, "mine")


def test_the_schedule_is_that_of_the_references_if_nothing_else_is_said(tmp_path):
    path, plans = references(tmp_path / "t.json", ("T1-data-00",)), {"3x2": PLAN}
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | {"plans": plans})))
    args = Namespace(config=None, tier="T1", deterministic=False)
    found = run.settings(args, records.table([path]))["plans"]
    assert list(found) == ["3x2"]
    assert plan_for({"plans": found}, CELL) == ScheduleConfig.model_validate(PLAN)


def test_hosts_follow_from_the_secret_of_the_references_once_it_is_revealed(tmp_path, capsys, monkeypatch):
    table = records.table([references(tmp_path / "t.json", ("T1-data-00",))])
    warning = "committed to another --secret"
    assert run._secret(None, None) == "local"
    assert (run._secret(None, table), warning in capsys.readouterr().out) == ("local", True)
    assert (run._secret("another", table), warning in capsys.readouterr().out) == ("another", True)
    assert (run._secret(SECRET, table), capsys.readouterr().out) == (SECRET, "")
    monkeypatch.setattr(seeds, "REVEALED", ("local", SECRET))
    assert (run._secret(None, table), capsys.readouterr().out) == (SECRET, "")
    assert report.revealed(None, table) == SECRET


def test_a_plan_for_every_cell():
    plans = {"3x2": {"blueprint": "norm"}, "1.5x1": {"start": 3}}
    assert plan_for({"plans": plans}, CELL).blueprint == "norm"
    with pytest.raises(ValueError, match="none for the cell '3x1'"):
        plan_for({"plans": plans}, Cell(params=3, compute=1))
    (who,) = entrants(["schedule"], Path("nowhere"), {"plans": plans, "heuristic": {}}, None)
    assert who.agent.config == {"plans": plans}


def test_a_plan_fits_every_host():
    plan = ScheduleConfig(blueprints=("conv_light", "norm", "attention"), slots=(1, 0, 2))
    with closing(EsperVectorEnv(1, "stories", host="gpt_micro", data="procedural", engine="null")) as text:
        assert fitted(plan, text.facts).blueprints == ("mlp_small", "norm", "attention")
    with closing(EsperVectorEnv(1, "micro", engine="null")) as images:
        assert fitted(plan, images.facts).blueprints == plan.blueprints
        assert fitted(ScheduleConfig(), images.facts) == ScheduleConfig()
        assert fitted(ScheduleConfig(blueprint="lora"), images.facts).blueprints == ("conv_small",) * 3


def test_time_left_is_reckoned_by_steps():
    console = Console(file=(told := io.StringIO()))
    with JobProgress(2, 100, console) as progress:
        progress._began -= 30
        progress.job(job("wait", (1, 2)), "played")  # 28 of 100 steps in 30 s: 77 s for the others
    assert "1/2 wait on T1-data-00, cell 3x2: played, about 1 min 17 s left" in told.getvalue()
    assert [duration(seconds) for seconds in (5, 65, 3_725)] == ["5 s", "1 min 05 s", "1 h 02 min"]


def test_instances_are_written_for_training(tmp_path, capsys):
    assert call("instances", "--out", tmp_path / "x" / "train.json", "--cells", "3x2") == 0
    written = json.loads((tmp_path / "x" / "train.json").read_text())
    assert len(written) == 8
    assert written[3] | {"device": "cpu"} == find("T1-train-03").environment(CELL)
    on_gpu = build({"instances": written, "device": "cuda"}).instance_configs
    assert {each.device for each in on_gpu} == {"cuda"}
    assert call("instances", "--instances", "T1-reach-00") == 0
    assert f"T1-reach-00 {find('T1-reach-00').hash[:12]} micro" in capsys.readouterr().out
    assert isinstance(find("T1-reach-00"), Instance)
