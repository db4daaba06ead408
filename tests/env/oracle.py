"""One slot in plain Python, written from the text of the rules, that the package is held against."""

from dataclasses import dataclass, field
from math import inf

import numpy as np
from scipy.special import expit

from esper_env import Curve, Style

TARGETS = (0.5, 0.7, 1.0)
PRESENT = ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED")


def curve(name: str, t: float) -> float:
    if name == "LINEAR":
        return t
    if name == "COSINE":
        return 0.5 - 0.5 * np.cos(np.pi * t)
    k = {"SIGMOID_GENTLE": 6, "SIGMOID": 12, "SIGMOID_SHARP": 24}[name]
    low, high = expit(-k / 2), expit(k / 2)
    return (expit(k * (t - 0.5)) - low) / (high - low)


@dataclass(frozen=True)
class Clocks:
    tempo: tuple[int, ...] = (3, 5, 8)
    speed: tuple[int, ...] = (0, 3, 5, 8)
    cool_down: tuple[int, int, int] = (1, 5, 1)
    min_prune_age: int = 1
    auto: tuple[str, ...] = ()
    strict: bool = False
    strict_blending: int = 10


@dataclass
class Ramp:
    start: float
    target: float
    total: int
    shape: str
    done: int = 0
    moving: bool = False


@dataclass
class Oracle:
    """One slot in plain Python; unless told otherwise every gradient is healthy and every module worth it."""

    clocks: Clocks
    stage: str = "DORMANT"
    in_stage: int = 0
    age: int = 0
    alpha: float = 0.0
    velocity: float = 0.0
    style: str = ""
    tempo: int = 0
    first_target: float = 0.0
    ramp: Ramp = field(default_factory=lambda: Ramp(0, 0, 0, "LINEAR"))
    to_prune: bool = False
    probed: bool = True
    health: float = 1.0
    exploding: bool = False
    gain: float = inf
    contribution: float = inf

    def gate_passed(self) -> str | None:
        """The gate of ADVANCE that is open."""
        if self.stage == "GERMINATED":
            return "G1" if self.probed else None
        if self.stage == "TRAINING":
            ready = self.in_stage >= 3 and self.health >= 0.7 and not self.exploding
            return "G2" if ready and (not self.clocks.strict or self.gain >= 0.5) else None
        rests_at_one = self.stage == "BLENDING" and not self.ramp.moving and self.alpha == 1
        long_enough = not self.clocks.strict or self.in_stage >= self.clocks.strict_blending
        return "G3" if rests_at_one and long_enough else None

    def legal(self, op: str) -> bool:
        if op == "WAIT":
            return True
        if op == "GERMINATE":
            return self.stage == "DORMANT"
        if op == "ADVANCE":
            return self.gate_passed() is not None and self.gate_passed() not in self.clocks.auto
        if op == "FOSSILIZE":
            worth_it = not self.clocks.strict or self.contribution >= 1
            return self.stage == "HOLDING" and self.health >= 0.7 and worth_it
        if self.stage in ("BLENDING", "HOLDING") and not self.ramp.moving:
            return op == "SET_ALPHA_TARGET" or self.age >= self.clocks.min_prune_age
        return op == "PRUNE" and self.stage in PRESENT[:2] and self.age >= self.clocks.min_prune_age

    def step(self, op: str, style: int, tempo: int, target: int, speed: int, shape: int) -> None:
        before = self.alpha
        stage_before = self.stage
        entered = self.apply(op, style, tempo, target, speed, Curve(shape).name)
        if op == "GERMINATE":
            self.age = 0
        else:
            self.age += self.stage in PRESENT
        self.in_stage = 0 if entered else self.in_stage + 1
        if self.ramp.moving:
            self.tick()
        self.cool(stage_before)
        self.velocity = self.alpha - before

    def apply(self, op: str, style: int, tempo: int, target: int, speed: int, shape: str) -> bool:
        """Whether a stage was entered."""
        gate = self.gate_passed()
        if op == "WAIT":
            return self.advance() if gate in self.clocks.auto else False
        if op == "GERMINATE":
            self.stage, self.style, self.tempo = "GERMINATED", Style(style).name, self.clocks.tempo[tempo]
            self.first_target = TARGETS[target]
            return True
        if op == "ADVANCE":
            return self.advance()
        if op == "FOSSILIZE":
            self.stage = "FOSSILIZED"
            return True
        epochs = self.clocks.speed[speed]
        if op == "PRUNE" and (self.stage in PRESENT[:2] or epochs == 0):
            self.remove()
            return True
        self.to_prune = op == "PRUNE"
        self.begin_ramp(0.0 if self.to_prune else TARGETS[target], epochs, shape)
        was_held, self.stage = self.stage == "HOLDING", "BLENDING"
        return was_held

    def advance(self) -> bool:
        self.stage = {"GERMINATED": "TRAINING", "TRAINING": "BLENDING", "BLENDING": "HOLDING"}[self.stage]
        if self.stage == "BLENDING":
            self.begin_ramp(
                self.first_target, self.tempo, "SIGMOID" if self.style == "SIGMOID_ADD" else "LINEAR"
            )
        return True

    def begin_ramp(self, target: float, epochs: int, shape: str) -> None:
        self.ramp = Ramp(self.alpha, target, epochs, shape, moving=epochs > 0)
        if epochs == 0:
            self.alpha = target

    def tick(self) -> None:
        ramp = self.ramp
        ramp.done += 1
        ramp.moving = ramp.done < ramp.total
        self.alpha = ramp.start + (ramp.target - ramp.start) * curve(ramp.shape, ramp.done / ramp.total)
        if not ramp.moving:
            self.alpha = ramp.target
            if self.to_prune:
                self.remove()

    def remove(self) -> None:
        self.__init__(self.clocks, "PRUNED")  # type: ignore[misc]

    def cool(self, before: str) -> None:
        order = ("PRUNED", "EMBARGOED", "RESETTING", "DORMANT")
        if self.stage in order[:3] and self.stage == before:
            place = order.index(self.stage)
            if self.in_stage >= self.clocks.cool_down[place]:
                self.stage, self.in_stage = order[place + 1], 0
