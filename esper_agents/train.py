"""Train an agent, or evaluate one that does not learn, and write down what came of it."""

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from torch.utils.tensorboard import SummaryWriter

from esper_agents import checkpoint
from esper_agents.callbacks import write_texts
from esper_agents.config import TrainConfig
from esper_agents.curriculum import Curriculum
from esper_agents.evaluate import Evaluation
from esper_agents.interrupt import Interrupt
from esper_agents.record import Record, refuse_other, run_record, start_record
from esper_agents.run import Place, Run, evaluable


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    folder: Path
    """Of the run: configuration, checkpoint, TensorBoard events, evaluation."""
    provenance: str
    """Which data, from where."""
    steps: int
    """Environment steps that were learned from, those before a resume included."""
    evaluations: list[Evaluation]
    """The run's agent first; empty when the run was interrupted."""


def train(config: TrainConfig, resume: Path | None = None, stream: TextIO | None = None) -> Summary:
    """Run a configuration to its end.

    The first line that is written says which data are used. After every round the checkpoint is replaced;
    Ctrl-C ends the run at the last one.

    Args:
        config: The run.
        resume: Checkpoint, run folder or folder of runs to continue from; None for a new run.
        stream: Where lines go; None for standard output.

    Raises:
        ValueError: a setting that environment or agent refuses, or a checkpoint of another configuration.
        FileNotFoundError: data that are neither cached nor downloadable.
    """
    stream = stream or sys.stdout
    path, old = opened(config, resume)
    start = old.get("start") if old else start_record(config)
    if old is None and start is not None:
        config = config.model_copy(update={"start_from": start["path"]})
    with Curriculum(config, config.num_envs) as worlds, Interrupt() as interrupt:
        evaluable(worlds)
        record = run_record(config, worlds.first, worlds.provenance) | {"start": start}
        if path is not None and old is not None:
            refuse_other(old, record, str(path))
        folder, steps = _folder(config, path), 0 if old is None else int(old["state"]["timesteps"])
        with closing(SummaryWriter(str(folder), purge_step=steps + 1 if old else None)) as writer:
            place = Place(folder, writer, stream)
            place.say(f"data: {worlds.provenance}")
            place.say(f"run: {folder}" + (f", continued at step {steps}" if old else ""))
            _describe(place, record, steps)
            return _play(Run(config, worlds, record, place, interrupt), path)


def opened(config: TrainConfig, resume: Path | None) -> tuple[Path | None, Record | None]:
    """The checkpoint to continue from and its record, checked against the agent's settings.

    Raises:
        ValueError: none is there, it is damaged, or it has another configuration.
    """
    if resume is None:
        return None, None
    if not config.learns:
        raise ValueError(f"algo={config.algo!r} does not learn: there is nothing to resume")
    path = checkpoint.find_checkpoint(resume)
    record = checkpoint.read_record(path)
    refuse_other(record, {"config": config.model_dump(mode="json")}, str(path))
    return path, record


def _play(run: Run, path: Path | None) -> Summary:
    evaluations: list[Evaluation] = []
    try:
        agent = run.learn(path) if run.config.learns else run.config.algo
        evaluations = run.finish(agent)
    except KeyboardInterrupt:
        saved = f"; --resume {run.place.folder} goes on after {run.steps} steps" if run.config.learns else ""
        run.place.say(f"interrupted{saved}")
    return Summary(run.place.folder, run.worlds.provenance, run.steps, evaluations)


def _describe(place: Place, record: Record, steps: int) -> None:
    """The configuration beside the run and in TensorBoard."""
    checkpoint.write_json(place.folder / checkpoint.RUN_RECORD, record)
    texts = {"run/config": json.dumps(record, indent=2), "run/data": record["provenance"]}
    write_texts(place.writer, texts, steps)


def _folder(config: TrainConfig, path: Path | None) -> Path:
    """Where a run is written: a new folder, or that of the checkpoint it continues."""
    if path is not None and (path.parent / checkpoint.RUN_RECORD).is_file():
        return path.parent
    return checkpoint.new_run(Path(config.logdir), f"{config.env}-{config.algo}-seed{config.seed}")
