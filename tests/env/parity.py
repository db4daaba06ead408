"""Two engines side by side in the same game: what must be identical, and how far apart the numbers are."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from apart import agree, trained
from engines import settings
from numpy.typing import NDArray

from esper_env import HEADS_READ, Curve, EsperVectorEnv, Head, Op, Stage, Style, encode
from esper_env.contracts.lifecycle import HAS_MODULE
from esper_env.contracts.state import Ramp

SMALL = {
    "task.train_size": 96, "task.val_size": 48, "task.test_size": 32, "task.image_size": 8,
    "engine.batch_size": 16, "engine.epoch_size": 32, "engine.counterfactual_size": 40,
    "engine.optimizer.host_lr": 0.05, "engine.optimizer.module_lr": 0.05,
}  # fmt: skip
SMALL_TEXTS = {
    "host.name": "gpt_micro", "task.data": "procedural", "task.context": 8,
    "task.train_size": 96, "task.val_size": 48, "task.test_size": 32,
    "engine.batch_size": 16, "engine.epoch_size": 32, "engine.counterfactual_size": 40,
    "engine.optimizer.host_lr": 0.005, "engine.optimizer.module_lr": 0.005,
    "engine.optimizer.warmup_steps": 5, "engine.optimizer.clip_norm": 0.9,
}  # fmt: skip
SIZES = {"micro": SMALL, "stories": SMALL_TEXTS}
"""By preset: convolutional hosts and images, and language hosts, AdamW and warm-up."""
DOUBLE = {"engine.precision": "float64"}
EXACT = 1e-9
"""In double precision."""
QUICK = {"gates.min_training_epochs": 1}
"""Modules blend from their second step on."""
LIKELY = {Op.ADVANCE: 8.0, Op.GERMINATE: 3.0, Op.SET_ALPHA_TARGET: 1.0, Op.FOSSILIZE: 0.5, Op.PRUNE: 0.4}
"""How often a legal op is chosen, so that modules live to see every stage; WAIT counts 1 in all."""


def small(
    num_envs: int,
    engine: str,
    overrides: Mapping[str, Any] | None = None,
    preset: str = "micro",
    **arguments: Any,
) -> EsperVectorEnv:
    """EsperMicro on 8x8 images, or the smallest language host on 8 tokens; two steps an epoch."""
    arguments = {"horizon": 24, "autoreset_mode": "DISABLED", "device": "cpu"} | arguments
    chosen = SIZES[preset] | settings(engine) | (overrides or {})
    return EsperVectorEnv(num_envs, preset, overrides=chosen, **arguments)


def lively(env: EsperVectorEnv, info: Mapping[str, Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Legal actions (env, 8), drawn as `LIKELY` says."""
    return np.stack(
        [
            _lively(*masks, rng)
            for masks in zip(info["op_slot_mask"], info["blueprint_slot_mask"], strict=True)
        ]
    )


def _lively(ops: NDArray[np.int8], fits: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int64]:
    legal = [(Op(op), slot) for op, slot in np.argwhere(ops) if op != Op.WAIT]
    weights = np.array([1.0, *(LIKELY[op] for op, _ in legal)])
    chosen = rng.choice(len(weights), p=weights / weights.sum())
    if not chosen:
        return encode(Op.WAIT)
    op, slot = legal[chosen - 1]
    sizes = {Head.ALPHA_TARGET: 3, Head.ALPHA_SPEED: 4, Head.STYLE: len(Style), Head.TEMPO: 2}
    sizes |= {Head.ALPHA_CURVE: len(Curve)}
    heads = {
        head.name.lower(): int(rng.integers(size)) for head, size in sizes.items() if head in HEADS_READ[op]
    }
    if op == Op.GERMINATE:
        # Mostly to alpha 1, from which alone a module gets any further.
        heads |= {"blueprint": int(rng.choice(np.flatnonzero(fits[slot]))), "alpha_target": 2}
    return encode(op, slot=int(slot), **heads)


class Pair:
    """The reference engine and another one, in environments that are given the same actions.

    Args:
        num_envs: number of environments on either side.
        engine: an entry of `engines.FUSED`.
        overrides: of both.
        arguments: of both.
    """

    def __init__(
        self, num_envs: int, engine: str, overrides: Mapping[str, Any] | None = None, **arguments: Any
    ) -> None:
        self.reference = small(num_envs, "reference", overrides, **arguments)
        self.fused = small(num_envs, engine, overrides, **arguments)
        self._double = self.reference.config.engine.precision == "float64"
        self.seen: Counter[str] = Counter()
        """What has happened to modules, by name."""

    @property
    def sides(self) -> tuple[EsperVectorEnv, EsperVectorEnv]:
        """The reference, and what is held against it."""
        return self.reference, self.fused

    def reset(self, seed: int | list[int], **options: Any) -> dict[str, Any]:
        """Info of the reference."""
        (obs, self.info), (other, info) = (env.reset(seed=seed, **options) for env in self.sides)
        agree((obs, self.info), (other, info), EXACT)
        return self.info

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, ...]:
        """What both showed; all that does not follow from numbers of a network must be identical."""
        first, second = (env.step(actions) for env in self.sides)
        self.info = first[-1]
        for a, b in zip(self._exact(first, self.reference), self._exact(second, self.fused), strict=True):
            np.testing.assert_array_equal(a, b)
        self._count()
        return first, second

    def live(self, steps: int, seed: int) -> Iterator[tuple[Any, ...]]:
        """Lively games of that many steps; what each step showed on both sides."""
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            yield self.step(lively(self.reference, self.info, rng))

    def _exact(self, shown: tuple[Any, ...], env: EsperVectorEnv) -> Iterator[Any]:
        """In single precision a gradient that is nothing but rounding may or may not count as vanished."""
        yield from (*shown[2:4], env._state.slots.stage, env._state.slots.alpha)
        if not self._double:
            return
        for name in ("action_mask", "op_slot_mask", "blueprint_slot_mask", "action_valid"):
            yield shown[4][name]
        arrays = {**vars(env._state), **vars(env._state.slots)}
        del arrays["slots"]
        yield from (each for name, each in arrays.items() if each.dtype.kind != "f" or "flops" in name)

    def _count(self) -> None:
        slots = self.reference._state.slots
        self.seen["out of step"] += len(set(self.reference._state.epoch.tolist())) > 1
        for stage, blueprint, style, alpha, ramp in zip(
            slots.stage.flat,
            slots.blueprint.flat,
            slots.style.flat,
            slots.alpha.flat,
            slots.ramp.flat,
            strict=True,
        ):
            self.seen[Stage(stage).name] += 1
            if HAS_MODULE[stage] and stage >= Stage.TRAINING:
                joint = "isolated" if stage == Stage.TRAINING else "blended"
                self.seen[f"{joint} {blueprint}"] += 1
                self.seen.update([f"{Style(style).name} at 1"] * int(alpha == 1))
                self.seen["frozen"] += ramp == Ramp.DOWN
                self.seen["retargeted"] += joint == "blended" and 0 < alpha < 1 and ramp == Ramp.REST

    def agree(self, tolerance: float) -> None:
        """Networks, optimizers, norm statistics and snapshots of all environments are as close as this."""
        for env in range(self.reference.num_envs):
            first, second = (trained(side, env) for side in self.sides)
            agree(first, second, tolerance)
