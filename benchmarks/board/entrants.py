"""Who plays: an agent in plain values, and how it is made again from them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from board.cells import Cell
from board.oracle import player
from board.plans import fitted, plan_for
from board.runs import unlike
from esper_agents import checkpoint
from esper_agents.agent import Agent
from esper_agents.baselines import BASELINES, baseline
from esper_agents.baselines.heuristic import HeuristicConfig
from esper_agents.compare import load_agent
from esper_agents.config import validated
from esper_agents.environment import World
from esper_env import EsperVectorEnv

ORACLE = "search"
"""Of agents that lead a `life` which was found by a search."""
NAME = r"^[^|<>\[\]`\p{Cc}]{1,80}$"
"""What an entry may be called: nothing that would change a table."""
KEPT = "agents"
"""Folder, among the results, of copies of the checkpoints that played."""


class CheckpointFile(BaseModel):
    """Trained weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the folder of the results."""
    sha256: str
    """In hex."""


class AgentSpec(BaseModel):
    """One agent, in plain values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algo: str = Field(pattern=NAME)
    """A baseline, or the algorithm that a checkpoint was trained by."""
    config: dict[str, JsonValue] | None = None
    """`schedule`, or `plans` (cell -> schedule); `heuristic`; `deterministic`, for checkpoints."""
    checkpoint: CheckpointFile | None = None


class Entrant(BaseModel):
    """One training run of an entry, or an agent that was not trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entry: str = Field(pattern=NAME)
    """What tables call it; the runs of an algorithm share it."""
    agent: AgentSpec
    training_seed: int | None = None


def entrant(name: str, out: Path, settings: Mapping[str, Any], entry: str | None = None) -> Entrant:
    """The entrant that a name on the command line means.

    Args:
        name: A baseline, or a checkpoint or a run; a copy is kept among the results.
        out: Folder of the results.
        settings: `schedule` or `plans`, `heuristic`, `deterministic`; those that concern the agent are used.
        entry: What tables call it; None for its algorithm.

    Raises:
        ValueError: neither a baseline nor a checkpoint.
    """
    if name in BASELINES:
        wanted = {"schedule": ("schedule", "plans"), "heuristic": ("heuristic",)}.get(name, ())
        given = {key: settings[key] for key in wanted if settings.get(key)}
        return Entrant(entry=entry or name, agent=AgentSpec(algo=name, config=given or None))
    if not Path(name).exists():
        raise ValueError(f"agent {name!r} is not known: {list(BASELINES)} are, and paths of checkpoints")
    path = checkpoint.find_checkpoint(Path(name))
    trained = checkpoint.read_record(path)["config"]
    content = checkpoint.to_play(path)
    digest = hashlib.sha256(content).hexdigest()
    kept = Path(KEPT) / f"{digest[:16]}.zip"
    if not (out / kept).is_file():
        (out / KEPT).mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(out / kept, content)
    agent = AgentSpec(
        algo=trained["algo"],
        config={"deterministic": bool(settings.get("deterministic"))},
        checkpoint=CheckpointFile(path=kept.as_posix(), sha256=digest),
    )
    return Entrant(entry=entry or trained["algo"], agent=agent, training_seed=trained["seed"])


def make_agent(spec: AgentSpec, envs: EsperVectorEnv, cell: Cell, results: Path) -> Agent:
    """The agent, ready to play.

    Args:
        spec: Who.
        envs: What it will play.
        cell: Under which budgets, for entries with a plan for each.
        results: Folder that the checkpoint's path is relative to.

    Raises:
        ValueError: an unknown agent, a checkpoint that is missing or another one than the spec says, or one
            that was trained on other spaces.
    """
    config = spec.config or {}
    if spec.checkpoint is None and spec.algo == ORACLE:
        return player(_settings(config, "life"), envs)
    if spec.checkpoint is None:
        plan = fitted(plan_for(config, cell), envs.facts) if spec.algo == "schedule" else None
        rules = validated(HeuristicConfig, _settings(config, "heuristic"))
        return baseline(spec.algo, envs, plan, heuristic=rules)
    path = results / spec.checkpoint.path
    if not path.is_file():
        raise ValueError(f"checkpoint {path} is missing")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != spec.checkpoint.sha256:
        raise ValueError(f"checkpoint {path} has the SHA-256 {found}, not {spec.checkpoint.sha256}")
    return load_agent(path, World(envs, envs.provenance), bool(config.get("deterministic")))


def _settings(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return dict(found) if isinstance(found, Mapping) else {}


def entrants(
    names: Sequence[str], out: Path, settings: Mapping[str, Any], entry: str | None
) -> list[Entrant]:
    """All that are named, each once; of a folder of runs every run.

    Raises:
        ValueError: a name that means nothing, two runs of an entry with the same training seed, runs that are
            not of one recipe, such as one that is half trained, or an entry of several agents, which no
            report would take.
    """
    found = [entrant(each, out, settings, entry) for name in names for each in _runs(name)]
    keys = [(each.entry, each.training_seed) for each in found]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: an entry has one run of each training seed")
    for name in dict(keys):
        algos = sorted({each.agent.algo for each in found if each.entry == name})
        if len(algos) > 1 or (name in BASELINES and algos != [name]):
            raise ValueError(
                f"entry {name!r} would be {algos}: one agent is required, and not a baseline's name"
            )
        own = {each.training_seed: each.agent.checkpoint for each in found if each.entry == name}
        apart = unlike({seed: out / file.path for seed, file in own.items() if file})
        if apart:
            raise ValueError(f"entry {name!r}: {'; '.join(apart)}: runs of one recipe are required")
    return found


def _runs(name: str) -> list[str]:
    """The runs in a folder of them; anything else stays as it is."""
    folder = Path(name)
    if name in BASELINES or (folder / checkpoint.CHECKPOINT).is_file():
        return [name]
    return [str(path) for path in sorted(folder.glob(f"*/{checkpoint.CHECKPOINT}"))] or [name]
