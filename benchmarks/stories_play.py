"""Episodes on language hosts, each kept in a file: what was played is not played again."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from esper_agents.baselines import ScheduleConfig, baseline
from esper_agents.episodes import Step
from esper_agents.evaluate import evaluate
from esper_env import EsperVectorEnv
from esper_env.engine.setup import Setup, prepare
from esper_env.hosts import build, gpt
from esper_env.presets import resolve
from esper_env.tasks.plot import optimal_loss
from esper_env.tasks.stories import load_stories


@dataclass(frozen=True)
class Size:
    """A language host that has no name of its own."""

    layers: int
    width: int
    heads: int
    context: int

    @property
    def name(self) -> str:
        """How configurations call it."""
        return f"gpt_{self.layers}x{self.width}x{self.heads}"

    def register(self) -> None:
        """Make it known in this process, with a slot after every block."""
        blocks = tuple(range(1, self.layers + 1))
        gpt.HOSTS[self.name] = gpt.Recipe(self.layers, self.width, self.heads, self.context, blocks)
        build.HOSTS[self.name] = build.HostKind("text", self.context, gpt.build_host)


@dataclass(frozen=True)
class Job:
    """One episode."""

    arm: str
    """What tables call it."""
    seed: int
    horizon: int
    host: str | Size = "gpt_small"
    data: str = "tinystories"
    plan: dict[str, Any] | None = None
    """Fields of `ScheduleConfig`; None for an agent that only waits."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file: other settings, another file."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.arm.replace(' ', '-')}_{self.seed}_{digest}.json"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the environment; the host is known in this process from now on."""
        if isinstance(self.host, Size):
            self.host.register()
        host = self.host if isinstance(self.host, str) else self.host.name
        return {"host": host, "data": self.data, "horizon": self.horizon} | self.settings

    def environment(self) -> EsperVectorEnv:
        """In which it is played."""
        return EsperVectorEnv(1, "stories", **self.arguments, overrides=self.overrides)

    def setup(self) -> Setup:
        """Sizes and costs, without data."""
        config = resolve("stories", self.arguments | {"engine": "null"}, self.overrides)
        return prepare(config.host, config.task, config.engine, config.horizon)


def play(job: Job) -> dict[str, Any]:
    """Play one episode; its figures, and the losses of every epoch."""
    torch.set_num_threads(1)
    env = job.environment()
    agent = baseline("wait" if job.plan is None else "schedule", env, ScheduleConfig(**job.plan or {}))
    curves: dict[str, list[float]] = {"val_loss": [], "train_loss": [], "flops": []}

    def watch(step: Step) -> None:
        for name in ("val_loss", "train_loss"):
            curves[name].append(float(step.measured(name)[0]))
        curves["flops"].append(float(env.ledger()["train_flops"][0]))

    began = time.perf_counter()
    episode = evaluate(agent, env, [job.seed], watch).episodes[0]
    engine, windows = env.config.engine, _windows(env)
    return {
        "job": asdict(job),
        "data": env.provenance,
        "seconds": time.perf_counter() - began,
        "curves": curves,
        "tokens_an_epoch": int(engine.epoch_size) * windows["context"],
        "batch_size": engine.batch_size,
        "params": float(episode.measured["param_ratio"] or 1) * env.facts.host_params,
        "characters_per_token": env.metadata["characters_per_token"],
        "chance_loss": env.facts.chance_loss,
        "total_reward": episode.total_reward,
        "fossilized": episode.fossilized,
        "windows": windows,
        **episode.measured,
    }


def _windows(env: EsperVectorEnv) -> dict[str, int]:
    """Sizes of the splits, and tokens of a window."""
    task = env._stories
    assert task is not None, "these environments read text"
    sizes = {name: getattr(task, name).num_samples for name in ("train", "validation", "test")}
    return sizes | {"context": task.train.context}


def optimum(job: Job) -> dict[str, float]:
    """The loss of the best possible reader on the validation and test windows of procedural stories."""
    config, kind = resolve("stories", job.arguments, job.overrides), build.host_kind(job.arguments["host"])
    task = load_stories(config.task, config.task.window(kind.context), torch.device("cpu"))
    return {name: optimal_loss(getattr(task, name)) for name in ("validation", "test")}


def played(out: Path, jobs: Sequence[Job], workers: int) -> list[dict[str, Any]]:
    """What came of every job; those that have no file yet are played, the longest first."""
    out.mkdir(parents=True, exist_ok=True)
    missing = sorted((job for job in jobs if not (out / job.name).exists()), key=lambda job: -job.horizon)
    if workers == 1:
        for job in missing:
            _keep(out, job, play(job))
    elif missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(play, job): job for job in missing}
            for done in as_completed(running):
                _keep(out, running[done], done.result())
    return [json.loads((out / job.name).read_text()) for job in jobs]


def _keep(out: Path, job: Job, result: Mapping[str, Any]) -> None:
    (out / job.name).write_text(json.dumps(result))
    loss = result["test_loss"]
    print(f"{job.name}: test loss {loss} in {result['seconds']:.0f} s", flush=True)
