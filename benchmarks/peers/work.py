"""What every peer does: the same networks, data and modules, as a function of a few plain values.

Environment i has the weights, data order, crops and modules of its own seed, however many run beside it, so
that one run of the reference engine is the standard for every peer and every number of environments.
"""

from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from esper_env.blueprints.catalogue import catalogue
from esper_env.config import EsperConfig
from esper_env.contracts.action import Style
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState
from esper_env.contracts.streams import Stream, key
from esper_env.engine.setup import Setup, prepare
from esper_env.mdp.episode import EpisodeSeeds
from esper_env.presets import PRESETS, resolve
from esper_env.slots.grown import build_branch, build_gate, seeded

WORKLOADS = ("W0", "W1", "W2")
"""Hosts alone; mixed modules; the same with a module replaced in every second environment and step."""
BLUEPRINTS = range(1, 8)
"""Catalogue indices of what convolutional hosts take."""
STAGES = (Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED)
ALPHA = {Stage.TRAINING: 0.0, Stage.BLENDING: 0.5, Stage.FOSSILIZED: 1.0}
MIXED = len(BLUEPRINTS)
"""Environments over which the mixture is even."""
TRAIN_SIZE = 4096
"""Procedural training images: enough, and drawn in seconds."""
MIXTURE_SEED = 1
"""One with which the first environment has a module in each stage."""


@dataclass(frozen=True)
class Work:
    """One cell of the benchmark."""

    preset: str
    """`micro` or `cifar`."""
    num_envs: int
    workload: str
    """One of `WORKLOADS`."""
    device: str = "cpu"
    precision: str = "fp32"
    """`fp32`, `tf32` (CUDA) or `bf16`."""
    batches: int = 4
    """Training batches of an epoch; validation is cut down in the same proportion."""
    data: str = "procedural"
    """`procedural`, or `cifar10` from the cache."""

    def arguments(self, **engine: Any) -> dict[str, Any]:
        """What `EsperEnv` and `EsperVectorEnv` are built with; `engine` are more overrides."""
        standard = PRESETS[self.preset]()
        epoch_size = self.batches * standard.engine.batch_size
        share = epoch_size / int(standard.engine.epoch_size)
        measured = round(share * standard.task.sizes("image")[1])
        overrides: dict[str, Any] = {
            "task.train_size": TRAIN_SIZE,
            "task.val_size": measured,
            "task.val_fraction": measured / 50_000,
            "task.test_size": 250,
            "task.augment": self.preset == "cifar",
            "engine.epoch_size": epoch_size,
            "engine.counterfactual_size": round(share * standard.engine.counterfactual_size),
            "engine.optimizer.lr_schedule": "constant",
        }
        names = {"preset": self.preset, "data": self.data, "device": self.device, "horizon": 10_000}
        return {**names, "overrides": overrides | engine}

    @property
    def images(self) -> int:
        """Image-updates of a step, of all environments."""
        return self.num_envs * int(config(self).engine.epoch_size)


@cache
def config(work: Work) -> EsperConfig:
    """The configuration of its environments."""
    arguments = work.arguments()
    overrides = arguments.pop("overrides")
    return resolve(arguments.pop("preset"), arguments, overrides)


@cache
def setup(work: Work) -> Setup:
    """Data, sizes and builders, which all peers share."""
    built = config(work)
    return prepare(built.host, built.task, built.engine, built.horizon)


@cache
def seed(env: int) -> int:
    """Episode seed of an environment whose reset seed is its number."""
    return EpisodeSeeds(env + 1).next(env, env)


@lru_cache(maxsize=8)
def slots(work: Work, step: int) -> SlotState:
    """What every slot holds in this step, counted from 0; not to be written to."""
    state = SlotState.empty(work.num_envs, setup(work).facts.num_slots)
    if work.workload == "W0":
        return state
    blueprint, stage, style = (
        part[: work.num_envs] for part in _mixture(work.num_envs, state.stage.shape[1])
    )
    state.stage[:], state.style[:] = stage, style
    state.planting[:] = 1 + _replaced(work, stage, step)
    state.blueprint[:] = 1 + (blueprint + state.planting - 1) % len(BLUEPRINTS)
    state.alpha[:] = state.alpha_target[:] = state.alpha_start[:] = np.vectorize(ALPHA.__getitem__)(stage)
    facts, gated = setup(work).facts, (style == Style.GATED) & (stage != Stage.TRAINING)
    state.module_params[:] = facts.module_params[np.arange(facts.num_slots), state.blueprint]
    state.gate_params[:] = np.where(gated, facts.gate_params, 0)
    state.quality_at_germination[:] = state.quality_at_stage_start[:] = facts.chance_quality
    state.probe_passed[:] = True
    return state


def _mixture(num_envs: int, num_slots: int) -> list[NDArray[np.int64]]:
    """Blueprint (from 0), stage and style of every slot, each as often as the others in 7 environments."""
    rng, cells = np.random.default_rng(MIXTURE_SEED), MIXED * num_slots
    kinds = (range(len(BLUEPRINTS)), STAGES, Style)
    blocks = [
        [rng.permutation(np.resize(list(kind), cells)).reshape(MIXED, num_slots) for kind in kinds]
        for _ in range(-(-num_envs // MIXED))
    ]
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _replaced(work: Work, stage: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """(env, slot): how often the module there was replaced: one in TRAINING, in every second step."""
    if work.workload != "W2":
        return np.zeros_like(stage)
    training = stage == Stage.TRAINING
    first = training & (training.cumsum(axis=1) == 1)
    return first * ((step + np.arange(len(stage)) % 2) // 2)[:, None]


def write(target: SlotState, source: SlotState, rows: list[int]) -> None:
    """Put other modules into the slots of running environments: row by row of `rows` of the source."""
    other = target.planting != source.planting[rows]
    if not other.any():
        return
    for field in fields(target):
        getattr(target, field.name)[other] = getattr(source, field.name)[rows][other]


def host(work: Work, env: int) -> nn.Module:
    """The host of an environment as it begins, on the CPU."""
    with seeded(key(seed(env), Stream.HOST_INIT)):
        return setup(work).build_host()


def branch(work: Work, state: SlotState, env: int, slot: int, gate: bool = False) -> nn.Module:
    """The module that a slot holds as it is planted, or its gate, on the CPU."""
    place = setup(work).facts.places[slot]
    init = key(seed(env), Stream.MODULE_INIT, slot, int(state.planting[env, slot]), int(gate))
    kind = catalogue()[int(state.blueprint[env, slot])]
    return build_gate(place, init) if gate else build_branch(kind, place, init)


def variants(state: SlotState, env: int) -> list[int]:
    """Bit masks of the live slots that are on, of every variant of a network but the whole."""
    live = np.flatnonzero(state.live[env]).tolist()
    masks = {
        sum(1 << slot for index, slot in enumerate(live) if bits >> index & 1)
        for bits in range(2 ** len(live))
    }
    return sorted(masks - {sum(1 << slot for slot in live)})


def precise(precision: str) -> None:
    """Set what float32 products are computed in on CUDA."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
