"""The two commands: what they print, write, refuse and survive."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper_agents import checkpoint

SCRIPTS = Path(__file__).parents[2] / "scripts"
NULL = ("--env", "EsperMicro-v0", "--overrides", '{"engine.name": "null"}')
TINY = (*NULL, "--episode-length", "4", "--num-envs", "2", "--eval-episodes", "1", "--hidden-size", "4")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys, monkeypatch):
    """A script's `main` in this process: status, output, errors."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(script, *flags):
        from importlib import import_module

        monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
        try:
            import_module(script).main(list(flags))
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_print_config_prints_what_config_accepts(call, tmp_path):
    _, printed, _ = call(
        "train_agent", *NULL, "--rounds", "7", "--schedule.slots", "1", "2", "--print-config"
    )
    (tmp_path / "c.json").write_text(printed)
    status, again, _ = call("train_agent", "--config", "c.json", "--print-config")
    assert (status, again) == (0, printed)
    values = json.loads(again)
    assert values["rounds"] == 7
    assert values["schedule"]["slots"] == [1, 2]
    assert values["overrides"] == {"engine.name": "null"}


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(call, tmp_path):
    (tmp_path / "c.toml").write_text('env = "EsperMicro-v0"\nrounds = 9\nseed = 4\n')
    values = json.loads(call("train_agent", "--config", "c.toml", "--seed", "5", "--print-config")[1])
    assert (values["rounds"], values["seed"], values["eval_episodes"]) == (9, 5, 8)
    values = json.loads(call("train_agent", "--config", "c.toml", "--total-steps", "50", "--print-config")[1])
    assert (values["rounds"], values["total_steps"]) == (None, 50)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--rounds", "1", "--total-steps", "5"), "exclude each other"),
        (("--env", "EsperMicro-v0", "--data", "cifar10"), "always procedural"),
        (("--env", "EsperNano-v0"), "EsperNano-v0"),
        (("--num-envs", "-1"), "num_envs=-1"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--overrides", '{"reward.rnt": 1}', "--dry-run"), "rnt"),
        (("--overrides", "[1]"), "JSON object"),
        (("--algo", "dqn"), "dqn"),
        (("--bogus", "1"), "bogus"),
        (("--resume",), "no checkpoint"),
        (
            ("--env", "EsperMicro-v0", "--schedule.blueprint", "convy", "--algo", "schedule", "--dry-run"),
            "convy",
        ),
        (("--env", "EsperMicro-v0", "--overrides", '{"host.name": "nobody"}', "--dry-run"), "nobody"),
    ],
)
def test_a_wrong_flag_ends_with_status_2_and_its_name(call, flags, named, tmp_path):
    status, out, err = call("train_agent", *flags)
    assert status == 2
    assert named in err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("algo", ["recurrent_ppo", "schedule"])
def test_a_dry_run_plays_and_writes_nothing(call, algo, tmp_path):
    status, out, _ = call("train_agent", "--env", "EsperMicro-v0", "--algo", algo, "--dry-run")
    assert status == 0
    assert "played 8 steps" in out
    assert "nothing was written" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_downloads_nothing(call, tmp_path, monkeypatch):
    monkeypatch.setenv("ESPER_DATA_DIR", str(tmp_path / "cache"))
    status, out, _ = call("train_agent", "--num-envs", "2", "--dry-run")
    assert status == 0
    assert "would first download it" in out
    assert list(tmp_path.iterdir()) == []


def test_training_then_evaluating_from_the_command_line(call, tmp_path):
    status, out, _ = call("train_agent", *TINY, "--algo", "ppo", "--rounds", "1")
    assert status == 0
    assert out.startswith("data: ")
    assert "ppo - wait: " in out
    status, out, _ = call(
        "evaluate_agent", "--agents", "runs", "schedule", "--episodes", "2", "--out", "e.json"
    )
    assert status == 0
    assert "runs" not in out.splitlines()[0]
    results = json.loads((tmp_path / "e.json").read_text())
    assert [agent["agent"] for agent in results["agents"]] == ["EsperMicro-v0-ppo-seed0-1", "schedule"]
    assert results["environment"]["horizon"] == 4
    assert call("evaluate_agent", "--agents", "nobody")[0] == 2


def test_tuning_then_playing_the_plan_from_the_command_line(call, tmp_path):
    small = ("--candidates", "4", "--first-seeds", "1", "--eval-episodes", "1", "--episode-length", "14")
    status, out, err = call("tune_schedule", *NULL, *small, "--space.blueprints", "norm", "conv_small")
    assert status == 0, err
    assert "tuned - first candidate: " in out
    plan = out.splitlines()[-1].removeprefix("plan: ")
    assert plan == "runs/EsperMicro-v0-tuning-seed0-1/schedule.json"
    status, out, err = call("evaluate_agent", "--config", plan, "--agents", "schedule", "--episodes", "1")
    assert status == 0, err
    status, printed, _ = call("train_agent", "--config", plan, "--algo", "schedule", "--print-config")
    values = json.loads(printed)
    assert values["schedule"] == json.loads((tmp_path / plan).read_text())["schedule"]
    assert values["episode_length"] == 14


def test_the_settings_of_a_search_can_be_printed_and_read(call, tmp_path):
    _, printed, _ = call("tune_schedule", *NULL, "--eta", "4", "--space.styles", "GATED", "--print-config")
    (tmp_path / "c.json").write_text(printed)
    assert call("tune_schedule", "--config", "c.json", "--print-config")[1] == printed
    assert json.loads(printed)["space"]["styles"] == ["GATED"]
    status, _, err = call("tune_schedule", *NULL, "--tuning-seed", "10000")
    assert status == 2
    assert "overlap" in err


def test_thresholds_of_the_heuristic_are_flags(call):
    _, printed, _ = call("train_agent", "--algo", "heuristic", "--heuristic.spacing", "9", "--print-config")
    assert json.loads(printed)["heuristic"]["spacing"] == 9
    flags = ("--agents", "heuristic", "--episodes", "1", "--heuristic.preference", "convy")
    status, _, err = call("evaluate_agent", *NULL, *flags)
    assert status == 2
    assert "convy" in err


@pytest.fixture
def start():
    """Starts the training script in a process of its own, which does not outlive the test."""
    running = []

    def run(*flags):
        command = [sys.executable, str(SCRIPTS / "train_agent.py"), *TINY, "--algo", "ppo", *flags]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def wait_for(process, line):
    for printed in process.stdout:
        if printed.startswith(line):
            return
    raise AssertionError(process.stderr.read())


def test_a_killed_run_leaves_a_checkpoint_that_resume_continues(tmp_path, call, start):
    process = start("--rounds", "100000")
    wait_for(process, "round 3:")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    path = checkpoint.find_checkpoint(tmp_path / "runs")
    steps = checkpoint.read_record(path)["state"]["timesteps"]
    assert steps >= 2 * 8
    status, out, err = call("train_agent", "--resume", "--total-steps", str(steps + 8))
    assert status == 0, err
    assert f"continued at step {steps}" in out
    assert f"{steps + 8}/{steps + 8} steps" in out
    assert checkpoint.read_record(path)["state"]["timesteps"] == steps + 8


def test_control_c_ends_a_run_with_a_line_and_status_130(start):
    process = start("--rounds", "100000")
    wait_for(process, "round 2:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in out
    assert "Traceback" not in err


def test_a_file_of_instances_is_given_on_the_command_line(call, tmp_path):
    rents = [0.0, 1.0]
    instances = [{"overrides": {"reward.rent": rent}} for rent in rents]
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    flags = ("--env", "EsperMicro-v0", "--instances", "instances.json")
    status, printed, _ = call("train_agent", *flags, "--print-config")
    assert status == 0
    (tmp_path / "c.json").write_text(printed)
    status, again, _ = call("train_agent", "--config", "c.json", "--print-config")
    assert (status, again) == (0, printed)
    assert [each["overrides"]["reward.rent"] for each in json.loads(again)["instances"]] == rents
    (tmp_path / "wrong.json").write_text("3")
    for name in ("missing.json", "wrong.json"):
        status, _, err = call("train_agent", "--env", "EsperMicro-v0", "--instances", name)
        assert status == 2
        assert name in err
