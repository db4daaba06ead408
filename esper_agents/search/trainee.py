"""The search as a `Trainee`: every round is a generation, one episode an environment."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import SeedSequence
from torch.utils.tensorboard import SummaryWriter

from esper_agents import checkpoint
from esper_agents.agent import Agent
from esper_agents.callbacks import Tags, write_texts
from esper_agents.config import TrainConfig
from esper_agents.environment import World
from esper_agents.episodes import Step
from esper_agents.learning import RoundListener
from esper_agents.search.evolution import Evolution
from esper_agents.search.life import Life
from esper_agents.search.plan import named_objective, start_lives
from esper_agents.search.play import Players
from esper_agents.search.player import LifeAgent
from esper_agents.search.vary import Variation

LIFE, SEARCH = checkpoint.LIFE, "search.json"
"""Entries of a checkpoint: the best life, and all that the search goes on from."""


class SearchTrainee:
    """See `Trainee`. A run that goes on finds what one finds that was never stopped.

    Args:
        config: The run.
        world: What it plays.
        path: A checkpoint to go on from; None for a new search.
    """

    def __init__(self, config: TrainConfig, world: World, path: Path | None) -> None:
        envs = self._envs = world.envs
        self._config = config
        settings = config.search.model_copy(update={"seed": config.seed})
        kinds = len(config.instance_configs)
        hosts = SeedSequence([config.seed]).generate_state(-(-settings.pool // kinds) * kinds).tolist()
        variation = Variation(envs.facts, envs.config.horizon)
        self.evolution = Evolution(settings, variation, hosts, instances=kinds)
        self.enter(world)
        self._round_steps = envs.num_envs * envs.config.horizon
        if path is not None:
            checkpoint.refuse_without(path, SEARCH)
            with zipfile.ZipFile(path) as archive:
                self.evolution.load(json.loads(archive.read(SEARCH)))

    @property
    def steps(self) -> int:
        """See `Trainee`. Those of the agents `starts` are not counted."""
        return self.evolution.generations * self._round_steps

    @property
    def num_parameters(self) -> int:
        """See `Trainee`: a plan has none."""
        return 0

    def start_from(self, path: Path) -> None:
        """See `Trainee`: the best life of another search is among the first."""
        life = saved_life(path)
        life.check(self._envs.facts)
        self.evolution.archive.add(life)

    def enter(self, world: World) -> None:
        """See `Trainee`.

        Raises:
            ValueError: hosts that take other blueprints: there is no plan for both.
        """
        if not np.array_equal(world.envs.facts.fits, self._envs.facts.fits):
            raise ValueError("algo='search' needs instances whose hosts take the same blueprints")
        self._envs, self._players = world.envs, Players(world.envs)
        self._objective = named_objective(self.evolution.config, world.envs)

    def learn(self, steps: int, listener: RoundListener | None, writer: SummaryWriter | None) -> None:
        """See `Trainee`."""
        target = self.steps + steps
        if not self.evolution.generations:
            self._begin()
        while self.steps < target:
            tags = self._round(listener)
            if writer is not None:
                for tag, value in tags.items():
                    writer.add_scalar(tag, value, self.steps)
                write_texts(writer, {"search/life": str(self.evolution.best())}, self.steps)
        if listener is not None:
            listener.updated(self.steps)

    def _begin(self) -> None:
        config, evolution = self._config, self.evolution
        begun = (evolution.config, self._envs, evolution.seeds[0], config.schedule, config.heuristic)
        for life in start_lives(*begun):
            evolution.archive.add(life)

    def _round(self, listener: RoundListener | None) -> Tags:
        done, evolution = self.steps, self.evolution

        def heard(step: Step) -> None:
            nonlocal done
            done += len(step.ended)
            if listener is not None:
                listener.stepped(step, done)

        if listener is not None:
            listener.updated(done, anew=True)
        # Where nothing is left to try the best lives play on, and in the end the best one again.
        jobs = evolution.ask(self._envs.num_envs) or evolution.ask(self._envs.num_envs, new=False)
        episodes = self._players.play(jobs, heard) if jobs else []
        tags = {} if listener is None else listener.played(self.steps + self._round_steps)
        evolution.tell(jobs, [self._objective(episode) for episode in episodes])
        played = list(evolution.results(evolution.best()).values())
        return tags | {
            "search/lives": float(len(evolution.archive.lives)),
            "search/best_mean": sum(played) / len(played),
            "search/best_hosts": float(len(played)),
        }

    def content(self) -> tuple[bytes, dict[str, Any]]:
        """See `Trainee`."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(LIFE, self.evolution.best().model_dump_json(indent=2))
            archive.writestr(SEARCH, json.dumps(self.evolution.state()))
        return content.getvalue(), {"timesteps": self.steps}

    def agent(self, name: str, deterministic: bool) -> Agent:
        """See `Trainee`: there is nothing to draw."""
        return LifeAgent(self.evolution.best(), self._envs, name)


def saved_life(path: Path) -> Life:
    """The life that a checkpoint plays.

    Raises:
        ValueError: it is not of a search.
    """
    played = checkpoint.read_record(path)["config"]["algo"]
    if played != "search":
        raise ValueError(f"{path} is a checkpoint of {played}, not of search")
    with zipfile.ZipFile(path) as archive:
        return Life.model_validate_json(archive.read(LIFE))
