"""One training run under way: what it saves, shows and evaluates, round by round."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from gymnasium.vector import AutoresetMode
from torch.utils.tensorboard import SummaryWriter

from esper_agents import checkpoint
from esper_agents.agent import Agent
from esper_agents.baselines import baseline
from esper_agents.callbacks import RoundReport, Tags, write_evaluation
from esper_agents.config import TrainConfig
from esper_agents.curriculum import Curriculum
from esper_agents.environment import World, make_world, settled
from esper_agents.episodes import Step
from esper_agents.evaluate import Evaluation, OnStep, evaluate, fitting, merged, most_steps
from esper_agents.interrupt import Interrupt
from esper_agents.ppo.teacher import Teacher
from esper_agents.progress import Evaluating, reporter
from esper_agents.record import Record
from esper_agents.table import table
from esper_agents.trainees import make_trainee
from esper_env import EsperVectorEnv


@dataclass(frozen=True)
class Place:
    """Where a run is written."""

    folder: Path
    """Configuration, checkpoint, TensorBoard events and evaluation."""
    writer: SummaryWriter
    stream: TextIO
    """Lines for people."""

    def say(self, line: str) -> None:
        """One line, at once."""
        self.stream.write(line + "\n")
        self.stream.flush()


def evaluation_envs(config: TrainConfig, world: World) -> int:
    """How many environments an evaluation plays side by side: as many under each of their budgets.

    Raises:
        ValueError: its episodes can't be divided among the budgets.
    """
    blocks = world.envs.config.budget.blocks
    of_each, rest = divmod(config.eval_episodes, blocks)
    if rest or config.num_envs < blocks:
        raise ValueError(
            f"eval_episodes={config.eval_episodes}, num_envs={config.num_envs}: there are {blocks} blocks of"
            " environments with budgets of their own, and multiples of that are required"
        )
    if blocks == 1:
        return fitting(config.num_envs, of_each)
    return blocks * max(n for n in range(1, config.num_envs // blocks + 1) if of_each % n == 0)


def evaluable(worlds: Curriculum) -> None:
    """Refuse early what instances could not be played, learned from or evaluated with.

    Raises:
        ValueError: see `evaluation_envs` and `Teacher`; or hosts played several times under several budgets.
    """
    blocks = [world.envs.config.budget.blocks for world in worlds.worlds]
    if worlds.configs[0].algo == "esper_ppo" and len(set(blocks)) > 1:
        raise ValueError(
            f"instances have {blocks} blocks of environments with their own budgets: one number is required"
        )
    for config, world in zip(worlds.configs, worlds.worlds, strict=True):
        evaluation_envs(config, world)
        alike = world.envs.num_envs // world.envs.config.budget.blocks
        if alike % config.replicas:
            raise ValueError(
                f"replicas={config.replicas}: {alike} environments have the same budgets, and a divisor of"
                " that is required, for a host is held against itself"
            )
        if config.teachers:
            Teacher(config.teachers, world.envs)


class Run:
    """A run. See `RoundListener` for what it hears while it learns.

    Args:
        config: What to do.
        worlds: What the agent is trained on; an agent that does not learn never steps them.
        record: Written into every checkpoint.
        place: Where everything is written.
        interrupt: Asked after every step whether to stop.
    """

    def __init__(
        self, config: TrainConfig, worlds: Curriculum, record: Record, place: Place, interrupt: Interrupt
    ) -> None:
        self.config, self.worlds, self.record, self.place = config, worlds, record, place
        self._interrupt = interrupt
        self.steps = 0
        """Environment steps that the last checkpoint has learned from."""
        horizon = worlds.first.envs.config.horizon
        self._round_steps = config.num_envs * horizon
        self._total = config.num_rounds(horizon) * self._round_steps

    def learn(self, path: Path | None) -> Agent:
        """Train from the start, or from a checkpoint, to the end."""
        self._trainee = make_trainee(self.config, self.worlds.first, path)
        self._report = RoundReport(self.worlds.first.envs)
        self.steps = self._start = self._trainee.steps
        self._saved: int | None = None
        with reporter(self._total, self.steps, self.place.stream) as self._reporter:
            while self._trainee.steps < self._total:
                self._trainee.learn(self._stretch(), self, self.place.writer)
        return self._agent()

    def _stretch(self) -> int:
        """Steps to learn for at once: a round in the world whose turn it is; all if there is but one."""
        done = self._trainee.steps
        if len(self.worlds.worlds) == 1:
            return self._total - done
        world = self.worlds.of_round(done // self._round_steps)
        self._trainee.enter(world)
        self._report = RoundReport(world.envs)
        return self._round_steps

    def _agent(self) -> Agent:
        return self._trainee.agent(self.config.algo, self.config.eval_deterministic)

    def updated(self, done: int, anew: bool = False) -> None:
        """Save, and evaluate when it is time."""
        if done != self._saved:
            self._keep(done)
        self._report.begin(anew)

    def _keep(self, done: int) -> None:
        content, state = self._trainee.content()
        checkpoint.write_checkpoint(
            self.place.folder / checkpoint.CHECKPOINT, content, {**self.record, "state": state}
        )
        self._saved, self.steps = done, int(state["timesteps"])
        every, new = self.config.eval_every, self._start < self.steps == done < self._total
        if every and new and done // self._round_steps % every == 0:
            self.evaluate([self._agent()])

    def stepped(self, step: Step, done: int) -> None:
        """Count, show, and stop if that was asked for."""
        self._report.add(step)
        self._reporter.step(step, done)
        self._interrupt.check()

    def played(self, done: int) -> Tags:
        """Show the round; its tags are what is logged."""
        tags = self._report.tags()
        self._reporter.round(done // self._round_steps, done, tags)
        return tags

    def finish(self, agent: Agent | str) -> list[Evaluation]:
        """Evaluate an agent, or the baseline of a name, and those that it is compared with."""
        others = [name for name in self.config.compare if name != self.config.algo]
        agents = [agent, *others]
        with Evaluating(len(agents) * len(self.worlds.worlds), self.place.stream) as shown:
            found = self.evaluate(agents, shown)
        evaluations = merged(found)
        values = {
            "provenance": self.worlds.provenance,
            "steps": self.steps,
            "agents": [evaluation.as_dict() for evaluation in evaluations],
        }
        if self.config.instances:
            values["instances"] = [[evaluation.as_dict() for evaluation in each] for each in found]
        checkpoint.write_json(self.place.folder / "evaluation.json", values)
        for number, each in enumerate(found if self.config.instances else []):
            self.place.say("\n".join([f"instance {number}:", *table(each), ""]))
        for line in table(evaluations):
            self.place.say(line)
        return evaluations

    def evaluate(
        self, agents: Sequence[Agent | str], shown: Evaluating | None = None
    ) -> list[list[Evaluation]]:
        """For each instance what each agent reaches in the evaluation episodes; the first one's is logged."""
        found = [
            self._evaluate(agents, shown, *each)
            for each in zip(self.worlds.configs, self.worlds.worlds, strict=True)
        ]
        for number, evaluations in enumerate(found if self.config.instances else []):
            reached = evaluations[0].summary()["total_reward"].mean
            self.place.writer.add_scalar(f"instances/{number}/mean_reward", reached, self.steps)
        write_evaluation(self.place.writer, merged(found)[0], self.steps)
        return found

    def _evaluate(
        self,
        agents: Sequence[Agent | str],
        shown: Evaluating | None,
        config: TrainConfig,
        trained: World,
    ) -> list[Evaluation]:
        """On one instance."""
        count = evaluation_envs(config, trained)
        world = make_world(settled(config, trained), count, AutoresetMode.NEXT_STEP, "rgb_array")
        with closing(world.envs) as envs:
            players = [self._player(agent, envs) if isinstance(agent, str) else agent for agent in agents]
            return [
                evaluate(player, envs, config.eval_seeds, self._watched(player, envs, shown))
                for player in players
            ]

    def _watched(self, player: Agent, envs: EsperVectorEnv, shown: Evaluating | None) -> OnStep:
        """Called after every step of an evaluation: shows it, and stops it if that was asked for."""
        show = shown and shown.play(player.name, most_steps(envs, self.config.eval_seeds))

        def stepped(step: Step) -> None:
            if show:
                show(step)
            self._interrupt.check()

        return stepped

    def _player(self, name: str, envs: EsperVectorEnv) -> Agent:
        config = self.config
        return baseline(name, envs, config.schedule, config.seed, config.heuristic)
