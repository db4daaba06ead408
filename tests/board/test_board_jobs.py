"""Jobs: what is recorded can be played again, is played once, and survives whatever happens to a run."""

import errno
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from board import jobs
from board.canonical import canonical, content_hash, sealed
from board.cells import Cell
from board.play import Job, play
from board.trace import state_digest, world
from tiny import CELL, job, replay, tiny

from esper_env import Op, Stage


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
    assert first["most_params"] == first["params"]  # nothing was taken out
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
    assert {"chain", "rules", "state"} <= again[0].keys()
    assert again == record["episodes"][1:]


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


def leaves(value, path=()):
    """Paths to all that a state holds."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, part in pairs for leaf in leaves(part, (*path, key))]
    return [path]


def flipped(value):
    """The value with its last bit changed."""
    if isinstance(value, torch.Tensor):
        bits = value.clone().contiguous().reshape(-1).view(torch.uint8)
        bits[:1] ^= 1
        return bits.view(value.dtype).reshape(value.shape)
    return math.nextafter(value, math.inf) if isinstance(value, float) else value + 1


def changed(value, path):
    """A copy in which what lies at the path has another last bit."""
    if not path:
        return flipped(value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    parts = {key: changed(part, path[1:]) if key == path[0] else part for key, part in pairs}
    return parts if isinstance(value, dict) else [*parts.values()]


def test_every_bit_of_a_state_counts():
    with closing(world(tiny(), CELL, 2)) as envs:
        envs.reset(seed=[1, 1])
        assert state_digest(envs.get_state(0)) == state_digest(envs.get_state(1))
        state = envs.get_state(0)
        digest = state_digest(state)
        found = [path for path in leaves(state) if countable(state, path)]
        tensors = [path for path in found if isinstance(at(state, path), torch.Tensor)]
        assert len(tensors) > 20  # of the host, among others
        assert len(found) > len(tensors)
        assert all(state_digest(changed(state, path)) != digest for path in found)


def at(value, path):
    """What lies at a path."""
    return at(value[path[0]], path[1:]) if path else value


def countable(state, path):
    """Whether a bit of it can be changed here: a number, or a tensor that is not empty."""
    value = at(state, path)
    return value.numel() > 0 if isinstance(value, torch.Tensor) else isinstance(value, int | float)


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
    assert [each.seeds for each in summary.failed] == [(1,)]
    results = [jobs.read(each, tmp_path) for each in todo if each.seeds != (1,)]
    assert {result["threads"] for result in results} == {1}
    assert "process died" in (tmp_path / todo[1].name / jobs.ERROR).read_text()


def test_a_process_that_dies_takes_no_job_of_another_run_with_it(tmp_path):
    dying, held = (Dying(**dict(job("wait", (seed,)))) for seed in (1, 2))
    (tmp_path / held.name).mkdir()
    with (tmp_path / held.name / jobs.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 1 on another machine\n")
        lock.flush()
        assert not jobs._unfinished(held, tmp_path)
        summary = jobs.run([dying, held], tmp_path, 2, lambda job, outcome: None)
    assert summary.failed == [dying]
    assert summary.elsewhere == [held]
    assert not (tmp_path / held.name / jobs.ERROR).exists()


ASKING = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from board import jobs
pool = ProcessPoolExecutor(1, get_context("spawn"), jobs._begin, (os.getpid(),))
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 600).result()
"""


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_do_not_outlive_who_asked_for_them():
    path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", ASKING], env=env, stdout=subprocess.PIPE) as asking:
        worker = int(asking.stdout.readline())
        asking.kill()
    until = time.monotonic() + 60
    while _lives(worker):
        assert time.monotonic() < until
        time.sleep(0.1)


STOPPED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from board import jobs
from test_board_jobs import Slow, job
todo = [Slow(**dict(job("wait", (seed,)))) for seed in range(12)]
jobs.run(todo, Path(sys.argv[1]), 2, lambda job, outcome: None)
"""


class Slow(Job):
    """A job that says that it has begun, and takes its time."""

    def work(self, results):
        (results / f"begun-{self.seeds[0]}").touch()
        time.sleep(300)
        return {}


def test_ctrl_c_ends_all_processes_and_begins_no_further_job(tmp_path):
    path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", STOPPED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # though this run may ignore it
    ) as run:
        until = time.monotonic() + 120
        while len(list(tmp_path.glob("begun-*"))) < 2:
            assert time.monotonic() < until
            assert run.poll() is None, run.stderr.read().decode()
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        assert b"KeyboardInterrupt" in run.communicate(timeout=60)[1]
    assert len(list(tmp_path.glob("begun-*"))) == 2
    assert not list(tmp_path.rglob(jobs.ERROR))


def test_two_processes_find_what_one_finds(tmp_path):
    todo = [job("random", (1, 2)), job("random", (1, 2), tiny("T1-modality-00"))]
    for workers in (1, 2):
        assert jobs.run(todo, tmp_path / str(workers), workers, lambda job, outcome: None).failed == []
    for each in todo:
        one, two = (jobs.read(each, tmp_path / workers) for workers in ("1", "2"))
        assert one["episodes"] == two["episodes"]


def test_what_another_process_is_at_is_left_to_it(tmp_path):
    first, second = failing(3)[::2]
    (tmp_path / first.name).mkdir()
    with (tmp_path / first.name / jobs.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        summary = jobs.run([first, second], tmp_path, 1, lambda job, outcome: None)
    assert (summary.elsewhere, summary.played) == ([first], [second])
    # whoever held it is gone, however it ended
    assert jobs.run([first, second], tmp_path, 1, lambda job, outcome: None).played == [first]


def test_a_file_system_without_locks_plays_all(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(jobs.fcntl, "flock", none)
    assert len(jobs.run(failing(3)[::2], tmp_path, 1, lambda job, outcome: None).played) == 2


def test_shards_share_all_jobs():
    todo = [job("wait", (seed,)) for seed in range(40)]
    parts = [jobs.shard(todo, f"{part}/3") for part in (1, 2, 3)]
    assert sorted(each.hash for part in parts for each in part) == sorted(each.hash for each in todo)
    assert all(parts)
    for wrong in ("0/3", "4/3", "3", "a/b"):
        with pytest.raises(ValueError, match="i/n is required"):
            jobs.shard(todo, wrong)
