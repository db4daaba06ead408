"""Jobs: what is recorded can be played again, is played once, and survives whatever happens to a run."""

import fcntl
import json
import os
from contextlib import closing
from io import StringIO
from pathlib import Path

import leaderboard
import numpy as np
import pytest
import torch
from board import jobs, run
from board.canonical import canonical, content_hash, sealed
from board.cells import Cell
from board.entrants import AgentSpec, Entrant, entrant, entrants
from board.instances import Instance, find
from board.plans import fitted, plan_for
from board.play import Job, play
from board.progress import JobProgress, duration
from board.trace import FINGERPRINT, replay, state_digest, world
from rich.console import Console
from tiny import tiny

from esper_agents.baselines import ScheduleConfig
from esper_agents.config import build
from esper_agents.train import train
from esper_env import EsperVectorEnv, Op, Stage

CELL = Cell(params=3, compute=2)
PLAN = {"blueprints": ["conv_small", "norm"], "slots": [2, 0]}


def job(algo="schedule", seeds=(3, 4, 5), instance=None, **changes):
    config = {"schedule": PLAN} if algo == "schedule" else None
    who = Entrant(entry=algo, agent=AgentSpec(algo=algo, config=config))
    values = {
        "entrant": who,
        "instance": instance or tiny(),
        "cell": CELL,
        "seeds": seeds,
        "commitment": "00",
    }
    return Job(**values | changes)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return play(job(), tmp_path_factory.mktemp("results"))


def test_a_record_says_what_happened(record):
    first = record["episodes"][0]
    assert [episode["seed"] for episode in record["episodes"]] == [3, 4, 5]
    assert sealed(record) == record
    assert (record["entry"], record["instance"], record["cell"]) == (
        "schedule",
        "T1-data-00",
        {"params": 3, "compute": 2},
    )
    for name in ("actions", "stages", "val_quality", "epoch_flops"):
        assert len(first[name]) == first["length"] == 14
    # by hand: planted in the first two steps in the order of the plan, then 4 epochs to train, 3 to blend
    assert [action[-1] for action in first["actions"][:2]] == [Op.GERMINATE, Op.GERMINATE]
    assert [action[0] for action in first["actions"][:2]] == [2, 0]
    assert first["stages"][1] == [Stage.GERMINATED, Stage.DORMANT, Stage.GERMINATED]
    assert first["stages"][-1] == [Stage.FOSSILIZED, Stage.DORMANT, Stage.FOSSILIZED]
    assert (first["fossilized"], first["pruned"], first["invalid"]) == (2, 0, 0)
    assert first["params"] == 1102 + 80 + 8  # micro; conv_small and norm there
    assert first["param_ratio"] == pytest.approx(first["params"] / 1102)


def test_costs_and_quality_are_those_of_the_environment(record):
    first, instance = record["episodes"][0], tiny()
    with closing(world(instance, CELL, 1)) as envs:
        envs.reset(seed=[3])
        for number, action in enumerate(first["actions"]):
            _, _, ended, _, info = envs.step(np.array([action]))
            assert first["val_quality"][number] == info["val_accuracy"][0]
            flops = envs.ledger()["train_flops"][0]
            assert first["epoch_flops"][number] == pytest.approx(flops / (276_960 * 16 * 14))
        assert ended[0]
        assert (first["quality"], first["flops"]) == (info["test_accuracy"][0], flops)
        assert first["flops_ratio"] == first["epoch_flops"][-1] == info["flops_ratio"][0]


def test_a_trace_played_again_is_the_same_to_the_last_bit(record):
    again = replay(tiny(), CELL, record["episodes"][1:])
    for old, new in zip(record["episodes"][1:], again, strict=True):
        assert [new[name] for name in FINGERPRINT] == [old[name] for name in FINGERPRINT]
        assert new == old


@pytest.mark.parametrize("change", ["action", "seed", "cell", "length"])
def test_another_trace_has_another_fingerprint(record, change):
    episode, cell = json.loads(json.dumps(record["episodes"][0])), CELL
    if change == "action":
        episode["actions"][5][-1] = int(Op.WAIT) if episode["actions"][5][-1] else int(Op.PRUNE)
    elif change == "seed":
        episode["seed"] = 4
    elif change == "cell":
        cell = Cell(params=2, compute=2)
    else:
        episode["actions"] = episode["actions"][:7]
    (again,) = replay(tiny(), cell, [episode])
    assert all(again[name] != record["episodes"][0][name] for name in ("chain", "rules"))


def test_an_episode_that_its_budget_ends_has_fewer_steps_and_is_not_played_on(tmp_path):
    short = play(job(cell=Cell(params=3, compute=0.5), seeds=(3,)), tmp_path)["episodes"][0]
    assert short["length"] < 14
    assert short["epoch_flops"][-2] < 0.5 <= short["epoch_flops"][-1]
    assert replay(tiny(), Cell(params=3, compute=0.5), [short]) == [short]


def test_text_has_quality_between_guessing_and_certainty(tmp_path):
    instance = tiny("T1-modality-00")
    episode = play(job("random", (1, 2), instance), tmp_path)["episodes"][0]
    assert 0 < episode["quality"] < 1
    assert episode["length"] == len(episode["val_quality"])


def test_every_bit_of_a_state_counts():
    with closing(EsperVectorEnv(2, "micro", engine="null")) as envs:
        envs.reset(seed=[1, 1])
        assert state_digest(envs.get_state(0)) == state_digest(envs.get_state(1))
        state = envs.get_state(0)
        digest = state_digest(state)
        state["rules"]["epoch"] += 1
        assert state_digest(state) != digest


def test_equal_values_have_equal_hashes():
    assert canonical({"b": 1.5, "a": ["é"]}) == '{"a":["é"],"b":1.5}'.encode()
    # `printf '{}' | sha256sum`
    assert content_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_jobs_are_told_apart_by_everything_that_is_played():
    base = job()
    others = [
        job(seeds=(3, 4)), job("wait"), job(cell=Cell(params=3, compute=1)), job(commitment="11"),
        job(instance=tiny("T1-data-01")), job(device="cuda"), job(environment_version="0"),
        base.model_copy(update={"entrant": base.entrant.model_copy(update={"training_seed": 1})}),
    ]  # fmt: skip
    assert len({each.hash for each in [base, *others]}) == len(others) + 1
    assert Job.model_validate_json(base.model_dump_json()).hash == base.hash == job().hash


class Failing(Job):
    """A job that fails on an odd seed."""

    def work(self, results):
        if self.seeds[0] % 2:
            raise RuntimeError(f"seed {self.seeds[0]} is odd")
        return {"seed": self.seeds[0]}


def failing(count=4):
    return [Failing(**dict(job("wait", (seed,)))) for seed in range(count)]


def test_a_failed_job_stops_nothing_and_is_tried_again(tmp_path, monkeypatch):
    seen = []
    summary = jobs.run(failing(), tmp_path, 1, lambda job, outcome: seen.append((job.seeds[0], outcome)))
    assert seen == [(0, "played"), (1, "failed"), (2, "played"), (3, "failed")]
    assert [job.seeds for job in summary.failed] == [(1,), (3,)]
    assert "seed 1 is odd" in (tmp_path / failing()[1].name / jobs.ERROR).read_text()
    monkeypatch.setattr(Failing, "work", lambda self, results: {"seed": self.seeds[0]})
    again = jobs.run(failing(), tmp_path, 1, lambda job, outcome: None)
    assert (again.already, len(again.played), again.failed) == (2, 2, [])
    assert not (tmp_path / failing()[1].name / jobs.ERROR).exists()
    assert jobs.read(failing()[1], tmp_path)["seed"] == 1


class Dying(Job):
    """A job that takes its process with it on seed 1, and is quick on others."""

    def work(self, results):
        if self.seeds[0] == 1:
            os._exit(1)
        return {"seed": self.seeds[0], "process": os.getpid(), "threads": torch.get_num_threads()}


def test_a_process_that_dies_takes_its_own_job_with_it_and_no_other(tmp_path):
    todo = [Dying(**dict(job("wait", (seed,)))) for seed in range(4)]
    summary = jobs.run(todo, tmp_path, 2, lambda job, outcome: None)
    assert [each.seeds for each in summary.failed if each.seeds == (1,)] == [(1,)]
    again = jobs.run([each for each in todo if each.seeds != (1,)], tmp_path, 1, lambda job, outcome: None)
    results = [jobs.read(each, tmp_path) for each in todo if each.seeds != (1,)]
    assert again.failed == []
    assert {result["threads"] for result in results} == {1}
    assert len(summary.failed) <= 2  # of two processes
    assert "process died" in (tmp_path / todo[1].name / jobs.ERROR).read_text()


def test_what_another_process_is_at_is_left_to_it(tmp_path):
    first, second = failing(3)[::2]
    (tmp_path / first.name).mkdir()
    with (tmp_path / first.name / jobs.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        summary = jobs.run([first, second], tmp_path, 1, lambda job, outcome: None)
    assert (summary.elsewhere, summary.played) == ([first], [second])
    # whoever held it is gone, however it ended
    assert jobs.run([first, second], tmp_path, 1, lambda job, outcome: None).played == [first]


def test_shards_share_all_jobs():
    todo = [job("wait", (seed,)) for seed in range(40)]
    parts = [jobs.shard(todo, f"{part}/3") for part in (1, 2, 3)]
    assert sorted(each.hash for part in parts for each in part) == sorted(each.hash for each in todo)
    assert all(parts)
    for wrong in ("0/3", "4/3", "3", "a/b"):
        with pytest.raises(ValueError, match="i/n is required"):
            jobs.shard(todo, wrong)


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
    ):
        with pytest.raises(SystemExit) as ended:
            call("run", *words, "--out", tmp_path)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


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
    folder = train(build(values), stream=StringIO()).folder
    out = tmp_path / "out"
    who = entrant(str(folder), out, {})
    assert (who.entry, who.training_seed) == ("esper_ppo", 7)
    record = play(job(seeds=(1, 2), entrant=who), out)
    assert record["agent"]["checkpoint"]["sha256"] == who.agent.checkpoint.sha256
    assert play(job(seeds=(1, 2), entrant=who), out)["episodes"] == record["episodes"]
    kept: Path = out / who.agent.checkpoint.path
    kept.write_bytes(kept.read_bytes() + b"x")
    with pytest.raises(ValueError, match="has the SHA-256"):
        play(job(entrant=who), out)
    kept.unlink()
    with pytest.raises(ValueError, match=r"agents/.*zip is missing"):
        play(job(entrant=who), out)


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
    console = Console(file=(told := StringIO()))
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
