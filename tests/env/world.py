"""One environment in plain Python, written from the text of the rules, over a network that is a number.

The number counts the epochs it has learned; `accuracy` says what that and its modules are good for.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from math import exp, inf, isfinite, log, log1p, nan, tanh
from statistics import fmean, pstdev

from oracle import PRESENT, Clocks, Oracle

from esper_env import Op

CHANCE_LOSS = log(10)
COSTS = {"GERMINATE": 0.15, "PRUNE": 0.05, "SET_ALPHA_TARGET": 0.005, "FOSSILIZE": 0.01}
POTENTIALS = {"GERMINATED": 1, "TRAINING": 2, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6}
SHOWN = {
    "loss is nan": (1.0, nan, 0.1),
    "train loss is nan": (nan, 1.0, 0.4),
    "loss is infinite": (1.0, inf, 0.1),
    "guesses": (2.3, 0.97 * CHANCE_LOSS, 0.11),
    "validation guesses": (1.0, 1.03 * CHANCE_LOSS, 0.11),
    "loss explodes": (1.0, 40.0, 0.12),
}
"""Fault -> the training loss, validation loss and validation accuracy that it shows."""
SHARES = {"gradients vanish": (0.8, 0.0), "gradients explode": (0.0, 0.25), "all explode": (0.0, 1.0)}
"""Fault -> shares of every module's tensors whose gradients vanish and explode."""
FAULTS = (*SHOWN, "a weight is nan", "the probe fails", *SHARES)


def tempered(contribution: float, won: float) -> float:
    """Harm in full; help up to the quality won, beyond it with the harmonic mean; none without a gain."""
    if contribution < 0:
        return contribution
    if won <= 0:
        return 0.0
    return contribution if contribution < won else 2 * won * contribution / (won + contribution)


def accuracy(learned: int, modules: Collection[tuple[float, int]]) -> float:
    """Blueprint b is worth b - 3 points at alpha 1, every pair 2 points more; the host learns by itself."""
    alone = sum(alpha * (blueprint - 3) for alpha, blueprint in modules)
    pairs = sum(first * second for (first, _), (second, _) in combinations(modules, 2))
    return 0.2 + 0.2 * (1 - exp(-learned / 3)) + (alone + 2 * pairs) / 100


@dataclass(frozen=True)
class Rules:
    """What the text leaves to the configuration, and the sizes of a host."""

    host_params: int
    module_params: tuple[tuple[int, ...], ...]
    """By slot and blueprint, 0 where it does not fit."""
    gate_params: tuple[int, ...]
    clocks: Clocks
    horizon: int = 30
    max_steps: float = inf
    compute: float = inf
    """Epochs of the static host."""
    param_budget: float = inf
    max_modules: float = inf
    mode: str = "everything"
    """`everything` is `dense` and `economy` at once."""
    by_shapley: bool = True
    """What credit is made of: the Shapley value, or what would be lost without the module."""
    kept: bool = False
    """Fossils keep their credit at the end; else all of it is lost."""
    outcome: float = 100.0
    """What the economy pays for the harvested quality."""
    gamma: float = 1.0
    window: int = 20
    min_window: int = 10
    patience: int = 3
    snapshot_every: int = 5
    collapse_in_training: bool = True
    """A network that guesses must do so in training too."""


@dataclass(frozen=True)
class Kept:
    """What a snapshot holds."""

    learned: int = 0
    fossils: tuple[int, ...] = ()
    above_chance: bool = False


@dataclass(eq=False)
class Module(Oracle):
    """A slot, and what the rules know of the module in it."""

    blueprint: int = 0
    born: float = nan
    """Quality when it was planted."""
    since: float = nan
    """Quality when its stage was entered."""
    credit: float = 0.0
    interaction: float = 0.0
    shapley: float = 0.0

    @property
    def live(self) -> bool:
        return self.alpha > 0 and self.stage != "FOSSILIZED"


def credit_of(modules: Collection[Module]) -> float:
    return sum(module.credit for module in modules)


@dataclass
class World:
    """One environment; `play` is one step."""

    rules: Rules
    series: tuple[int, int] = (0, 0)
    """Seed that was given, and how many episodes began from it before."""
    slots: list[Module] = field(default_factory=list)
    plantings: list[int] = field(default_factory=list)
    epoch: int = 0
    learned: int = 0
    quality: float = 0.1
    above_chance: bool = False
    good_losses: list[float] = field(default_factory=list)
    suspicious: int = 0
    good_since: int = 0
    panics: int = 0
    panicked: bool = False
    """In the last step."""
    kept: Kept = Kept()
    owed: dict[str, float] = field(default_factory=dict)
    terminated: bool = False
    truncated: bool = False
    harvested: float = nan

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    def next(self) -> "World":
        """The episode after this one."""
        return World(self.rules, (self.series[0], self.series[1] + 1))

    def __post_init__(self) -> None:
        self.slots = [Module(self.rules.clocks) for _ in self.rules.gate_params]
        self.plantings = [0 for _ in self.slots]

    def params(self, slot: int, reserved: bool = False) -> int:
        """Parameters of module and gate; a gate that is only planned counts if `reserved`."""
        module, rules = self.slots[slot], self.rules
        gated = module.style == "GATED" and (reserved or module.stage in PRESENT[2:])
        return rules.module_params[slot][module.blueprint] + gated * rules.gate_params[slot]

    def fits(self, slot: int, blueprint: int) -> bool:
        rules, size = self.rules, self.rules.module_params[slot][blueprint]
        present = sum(module.stage in PRESENT for module in self.slots)
        total = rules.host_params + size + rules.gate_params[slot]
        total += sum(self.params(s, reserved=True) for s in range(len(self.slots)))
        room = present < rules.max_modules and total <= rules.param_budget * rules.host_params
        return self.slots[slot].stage == "DORMANT" and size > 0 and room and not self.terminated

    def legal(self, op: str, slot: int, blueprint: int | None = None) -> bool:
        """Whether this may be played; without a blueprint, whether it may with any."""
        if op == "WAIT" or self.terminated:
            return op == "WAIT"
        if op == "GERMINATE":
            tried = range(13) if blueprint is None else [blueprint]
            return any(self.fits(slot, b) for b in tried)
        return self.slots[slot].legal(op)

    def play(self, action: list[int], fault: str | None) -> dict[str, float]:
        """One step under an action of eight heads; the terms of the reward that are paid."""
        slot, blueprint, *heads, value = action
        op = Op(value).name if self.legal(Op(value).name, slot, blueprint) else "WAIT"
        quality, alphas = self.quality, [module.alpha for module in self.slots]
        terms = {"op_cost": -COSTS.get(op, 0.0), "shaping": -self._potential()}
        terms["credit"] = -credit_of(self.slots)
        sizes = [self.rules.module_params[s][module.blueprint] for s, module in enumerate(self.slots)]
        for s, module in enumerate(self.slots):
            module.step(op if s == slot else "WAIT", *heads)
            module.since = quality if module.in_stage == 0 else module.since
        if op == "GERMINATE":
            self.plantings[slot] += 1
            self.slots[slot].blueprint, self.slots[slot].born = blueprint, quality
        if op == "FOSSILIZE":
            self._keep(host=not self.suspicious)
        moved = sum(m.velocity**2 * size for m, size in zip(self.slots, sizes, strict=True))
        terms["churn"] = -min(1.0, 0.2 * moved / self.rules.host_params)
        grown = sum(self.params(s) for s in range(len(self.slots))) / self.rules.host_params
        terms["rent"] = -2 / self.rules.horizon * log1p(min(grown, 10))
        terms["rollback"] = -10.0 * self._epoch(fault, alphas)
        self._end()
        return self._pay(terms, quality)

    def _potential(self) -> float:
        return sum(POTENTIALS.get(module.stage, 0) for module in self.slots)

    def _epoch(self, fault: str | None, alphas: list[float]) -> bool:
        """Train, measure and judge; whether the governor rolled back."""
        self.epoch, self.learned = self.epoch + 1, self.learned + 1
        active = [(m.alpha, m.blueprint) for m in self.slots if m.alpha > 0]
        healthy = accuracy(self.learned, active)
        train, loss, self.quality = SHOWN.get(fault, (1.0, -log(healthy), healthy))
        self._measure(fault)
        broken = fault == "a weight is nan" or not (isfinite(train) and isfinite(loss))
        guesses = [abs(shown - CHANCE_LOSS) <= 0.065 * CHANCE_LOSS for shown in (train, loss)]
        collapsed = guesses[1] and (guesses[0] or not self.rules.collapse_in_training)
        self.panicked = self._judge(loss, broken, collapsed)
        if self.panicked:
            self._roll_back(alphas)
        self._appraise()
        return self.panicked

    def _measure(self, fault: str | None) -> None:
        vanishing, exploding = SHARES.get(fault, (0.0, 0.0))
        fossils = [m for m in self.slots if m.stage == "FOSSILIZED"]
        live = [m for m in self.slots if m.live]

        def points(modules: list[Module]) -> float:
            return 100 * accuracy(self.learned, [(m.alpha, m.blueprint) for m in (*fossils, *modules)])

        for m in self.slots:
            m.probed = fault != "the probe fails"
            m.gain = 100 * (self.quality - m.since)
            m.health, m.exploding = max(0.0, 1 - 0.5 * vanishing - 0.8 * exploding), exploding > 0
            others = [o for o in live if o is not m]
            m.interaction = sum(points([m, o]) - points([m]) - points([o]) + points([]) for o in others)
            m.contribution = points(live) - points(others) if m.live else m.contribution
            ahead = [order[: order.index(m)] for order in permutations(live) if m in order]
            m.shapley = fmean(points([*some, m]) - points(some) for some in ahead) if m.live else 0.0

    def _judge(self, loss: float, broken: bool, guesses: bool) -> bool:
        """Whether it is a panic; what is good is remembered."""
        rules, seen = self.rules, self.good_losses[: self.rules.window]
        if broken or (guesses and self.above_chance):
            return True
        if len(seen) >= rules.min_window and loss > max(3 * fmean(seen), fmean(seen) + 6 * pstdev(seen)):
            self.suspicious += 1
            return self.suspicious >= rules.patience
        self.suspicious, self.good_since = 0, self.good_since + 1
        self.good_losses.insert(0, loss)
        self.above_chance |= loss < 0.6 * CHANCE_LOSS
        if self.good_since >= rules.snapshot_every:
            self._keep()
        return False

    def _keep(self, host: bool = True) -> None:
        """Everything; without the host, only that there are new fossils."""
        fossils = tuple(s for s, module in enumerate(self.slots) if module.stage == "FOSSILIZED")
        self.kept = replace(self.kept, fossils=fossils)
        if host:
            self.kept, self.good_since = Kept(self.learned, fossils, self.above_chance), 0

    def _roll_back(self, alphas: list[float]) -> None:
        for module, alpha in zip(self.slots, alphas, strict=True):
            if module.stage in PRESENT[:4]:
                module.remove()
                module.velocity = -alpha
        self.learned, self.above_chance = self.kept.learned, self.kept.above_chance
        self.quality = accuracy(self.learned, [(m.alpha, m.blueprint) for m in self.slots if m.alpha > 0])
        self.suspicious, self.good_since, self.panics = 0, 0, self.panics + 1

    def _appraise(self) -> None:
        for m in self.slots:
            if m.stage != "FOSSILIZED":
                m.credit = 0.0
            if m.live:
                won = 100 * (self.quality - m.born)
                worth = m.shapley if self.rules.by_shapley else m.contribution
                m.credit = tempered(worth, won) + 0.1 * tanh(m.interaction / 2)

    def _end(self) -> None:
        spent = self.epoch >= self.rules.horizon or self.epoch >= self.rules.compute
        self.terminated = spent or self.panics >= 3
        self.truncated = self.epoch >= self.rules.max_steps

    def _pay(self, terms: dict[str, float], quality: float) -> dict[str, float]:
        """What is due of the step, or of the whole episode at its end, at the prices of the mode."""
        rules, mode = self.rules, self.rules.mode
        dense, economy = mode != "economy", mode in ("economy", "everything")
        fossils = [m for m in self.slots if m.stage == "FOSSILIZED"]
        self.harvested = accuracy(self.learned, [(1.0, m.blueprint) for m in fossils])
        credit, reached = credit_of(self.slots), self._potential()
        if self.terminated:
            credit, reached = credit_of(fossils) if rules.kept else 0.0, 0.0
        end = dense * 100 * (self.harvested - self.quality)
        end += economy * rules.outcome * (self.harvested - 0.1)
        terms["credit"] = economy * (rules.gamma * credit + terms["credit"])
        terms["shaping"] = 0.3 * (rules.gamma * reached + terms["shaping"])
        terms["quality"] = dense * 100 * (self.quality - quality)
        terms["harvest"] = end if self.terminated else 0.0
        if mode != "sparse":
            return terms
        self.owed = {name: self.owed.get(name, 0.0) / rules.gamma + due for name, due in terms.items()}
        return self.owed if self.terminated else dict.fromkeys(terms, 0.0)
