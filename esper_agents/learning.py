"""What a run trains, whichever library does it, and what it is told meanwhile."""

from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from esper_agents.agent import Agent
from esper_agents.callbacks import Tags
from esper_agents.environment import World
from esper_agents.episodes import Step


class RoundListener(Protocol):
    """Hears what happens in a run. `done` is always the number of environment steps so far."""

    def updated(self, done: int, anew: bool = False) -> None:
        """The policy is as it will be in the next round: before the first, and after every update.

        Args:
            done: See above.
            anew: Whether all environments begin new episodes with it.
        """

    def stepped(self, step: Step, done: int) -> None:
        """All environments made a step."""

    def played(self, done: int) -> Tags:
        """A round was played and will be learned from; what to log of it."""


class Trainee(Protocol):
    """A learning agent with the environments it plays."""

    @property
    def steps(self) -> int:
        """Environment steps so far, those before a resume included."""

    @property
    def num_parameters(self) -> int:
        """Of its networks."""

    def start_from(self, path: Path) -> None:
        """Take the weights of a checkpoint, and nothing else of it.

        Raises:
            ValueError: they do not fit.
        """

    def enter(self, world: World) -> None:
        """Play there from now on, beginning with new episodes. It must be like the world before."""

    def learn(self, steps: int, listener: RoundListener | None, writer: SummaryWriter | None) -> None:
        """Play and learn for so many more environment steps, whole rounds; curves go to the writer."""

    def content(self) -> tuple[bytes, dict[str, Any]]:
        """A zip of weights, and plain values: what a checkpoint keeps to go on from."""

    def agent(self, name: str, deterministic: bool) -> Agent:
        """It, playing under this name; `deterministic` takes the most probable action instead of drawing."""
