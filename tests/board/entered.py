"""Results that were really played, to be sent in, and to be tampered with."""

import io
import json
import shutil

import leaderboard
import pytest
from board import checks, jobs, rerun, verify
from board.canonical import content_hash, sealed
from board.cells import Cell
from board.entrants import entrant
from board.instances import environment_version, find
from board.play import Job
from board.seeds import commitment, evaluation_seeds
from made_up_results import SECRET, references

from esper_agents.config import build
from esper_agents.train import train

INSTANCE, CELL = "T1-seeds-00", Cell(params=3, compute=2)
SMALL = {
    "algo": "esper_ppo", "env": "EsperMicro-v0", "episode_length": 6, "num_envs": 2, "rounds": 1,
    "ppo_epochs": 1, "memory_size": 4, "hidden_size": 4, "eval_episodes": 1, "compare": [],
    "overrides": {"engine.name": "null"},
}  # fmt: skip
MEMORY = {}


@pytest.fixture(scope="session")
def honest(tmp_path_factory):
    """Results of the heuristic and of a (hardly) trained agent, the table, and another checkpoint."""
    folder = tmp_path_factory.mktemp("honest")
    for seed in (1, 2):
        train(build({**SMALL, "logdir": str(folder / f"run{seed}"), "seed": seed}), None, io.StringIO())
    instance, results = find(INSTANCE), folder / "results"
    for name in ("heuristic", str(folder / "run1")):
        job = Job(
            entrant=entrant(name, results, {}), instance=instance, cell=CELL,
            seeds=tuple(evaluation_seeds(SECRET, instance, 2)), commitment=commitment(SECRET),
        )  # fmt: skip
        assert jobs.perform(job, results) == "played", (results / job.name / jobs.ERROR).read_text()
    references(folder / "table.json", (INSTANCE,), cells=(CELL.model_dump(),))
    table = json.loads((folder / "table.json").read_text()) | {"environment_version": environment_version()}
    (folder / "table.json").write_text(json.dumps(sealed(table)))
    return folder


@pytest.fixture
def folder(honest, tmp_path, monkeypatch):
    """A copy to tamper with; what was played again once is remembered."""
    shutil.copytree(honest, tmp_path / "copy")

    def remembered(record, results, device="cpu"):
        spec = record.agent.checkpoint
        played = [
            [[e.seed, e.actions] for e in record.episodes],
            [record.agent.algo, record.agent.config, spec and spec.sha256, record.cell.id],
        ]
        key = content_hash(played)
        if key not in MEMORY:
            MEMORY[key] = rerun.rerun(record, results, device)
        return MEMORY[key]

    monkeypatch.setattr(verify, "rerun", remembered)
    monkeypatch.setattr(checks, "HOSTS", 2)
    return tmp_path / "copy"


def paths(folder, entry):
    """Of an entry's only result."""
    found = {p: json.loads(p.read_text()) for p in (folder / "results").rglob("episodes.json")}
    return next((path, values) for path, values in found.items() if values["entry"] == entry)


def tamper(folder, entry, edit, seal=True):
    path, values = paths(folder, entry)
    edit(values)
    path.write_text(json.dumps(sealed(values) if seal else values))


def call(folder, capsys, *words, command="verify", results=None):
    unchecked = ["--seeds-unchecked"] if command == "verify" and "--secret" not in words else []
    words = [
        command,
        results or folder / "results",
        "--references",
        folder / "table.json",
        *words,
        *unchecked,
    ]
    code = leaderboard.main([*map(str, words)])
    return code, capsys.readouterr().out


def refused(folder, capsys, *words):
    code, out = call(folder, capsys, *words)
    assert code == 1
    assert "REFUSED" in out
    return "\n".join(line for line in out.splitlines() if line.startswith("WRONG"))
