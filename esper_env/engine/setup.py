"""What an engine is built from: checked against each other before any data is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from esper_env.blueprints.catalogue import Blueprint, catalogue
from esper_env.contracts.facts import HostFacts
from esper_env.engine.engine import EngineConfig
from esper_env.engine.ledger import describe, segment_flops
from esper_env.engine.precision import TYPES, refuse_slow
from esper_env.engine.sizes import epoch_size, refuse_few, refuse_few_windows
from esper_env.hosts.build import HostKind, host_kind
from esper_env.hosts.host import Host, HostConfig, resolve_slots
from esper_env.layers.window import window_form
from esper_env.slots.grown import seeded
from esper_env.tasks.config import TaskConfig
from esper_env.tasks.outline import Outline, outline, outline_of
from esper_env.tasks.stories import StoryTask
from esper_env.tasks.task import Task, load_task


@dataclass(frozen=True)
class Setup:
    """Everything that the environments of an engine share."""

    config: EngineConfig
    horizon: int
    """Epochs of an episode."""
    build_host: Callable[[], Host]
    """A host with fresh weights from torch's generator."""
    slot_places: tuple[int, ...]
    """Index of each slot's place in the host."""
    blueprints: tuple[Blueprint, ...]
    """The catalogue, in the order of the action's blueprint index."""
    facts: HostFacts
    segment_flops: tuple[int, ...]
    """FLOPs of one sample through each of the host's segments, forward."""
    epoch_size: int
    """Training samples an epoch."""
    family: str
    """What the host reads: `image` or `text`."""
    provenance: str
    """One line on where the data come from."""
    task: Task | None
    """None for an engine that trains nothing."""
    forked: bool
    """This process was forked after CUDA was used, so that it can't train on the device."""

    @property
    def loaded_task(self) -> Task:
        """The task of an engine that trains."""
        assert self.task is not None, "this engine trains nothing"
        return self.task

    @property
    def story_task(self) -> StoryTask | None:
        """The task of a host that reads text; None for images, and for an engine that trains nothing."""
        return self.task if isinstance(self.task, StoryTask) else None


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` stands for.

    Raises:
        ValueError: `cuda` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': torch finds no CUDA device; allowed here are 'auto' and 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def prepare(host: HostConfig, task: TaskConfig, engine: EngineConfig, horizon: int) -> Setup:
    """Check that host, slots and data fit each other, then load the data (the null engine needs none).

    Raises:
        ValueError: an unknown host or slot, a host that would pool below 1x1, too few samples, or damaged
            files; named, and before anything is loaded wherever that is possible.
    """
    device, kind = resolve_device(engine.device), host_kind(host.name)
    refuse_slow(engine.precision, device)
    task.refuse_other(kind.family)
    shape = outline(task, kind.family, kind.context)

    def build() -> Host:
        return kind.build(host.name, shape.input_shape, shape.num_classes)

    with seeded(0):
        sample = build()
    places, blueprints = resolve_slots(sample.places, sample.default_slots, host.slots), catalogue()
    facts = describe(sample, places, blueprints, shape.chance_quality, shape.chance_loss)
    refuse_few(engine, shape)
    trains = engine.name != "null"
    forked = trains and device.type == "cuda" and torch.cuda._is_in_bad_fork()
    loaded = _loaded(task, engine, kind, device, shape) if trains and not forked else None
    if isinstance(loaded, StoryTask):
        facts = replace(facts, frequency_loss=loaded.frequency_loss)
    return Setup(
        config=engine,
        horizon=horizon,
        build_host=build,
        slot_places=places,
        blueprints=blueprints,
        facts=facts,
        segment_flops=segment_flops(sample),
        epoch_size=epoch_size(engine, outline_of(loaded) if loaded else shape),
        family=kind.family,
        provenance=loaded.provenance if loaded else "no data: nothing is trained",
        task=loaded,
        forked=forked,
    )


def windows_by(setup: Setup) -> str:
    """What the blueprint flex_attention is computed by, for a description; nothing where it doesn't fit.

    Said is what trains and is measured; for the other lengths of a story that is told the same rule holds.
    """
    task = setup.loaded_task
    if setup.family != "text":
        return ""
    return f", windows by {window_form(task.device, task.dtype, task.input_shape[0])}"


def _loaded(
    task: TaskConfig, engine: EngineConfig, kind: HostKind, device: torch.device, shape: Outline
) -> Task:
    """The data, on the device and in the type of number that the engine computes in."""
    loaded = load_task(task, device, kind.family, kind.context).in_type(TYPES[engine.precision])
    if shape.train_size is None:
        refuse_few_windows(engine, outline_of(loaded), task.data)
    return loaded
