"""What the reward's terms cost: every price in one configuration, and the modes, which are sets of prices."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_env.contracts.lifecycle import Op
from esper_env.contracts.state import REWARD_TERMS

Floats = NDArray[np.float64]
Price = Annotated[float, Field(ge=0)]
Amount = Callable[..., Floats]
"""What a term of one's own is measured by: (StepChange, HostFacts) -> (env,), finite."""

_COMMON = {"rent": 2.0, "compute_rent": 2.0, "churn": 0.2, "op_cost": 1.0, "shaping": 0.3, "rollback": 10.0}
_DENSE = {"quality": 100.0, "harvest": 100.0, "outcome": 0.0, "credit": 0.0, **_COMMON}
MODES: dict[str, dict[str, float | bool]] = {
    "dense": {**_DENSE, "pay_at_end": False},
    "sparse": {**_DENSE, "pay_at_end": True},
    "economy": {
        "quality": 0.0,
        "harvest": 0.0,
        "outcome": 100.0,
        "credit": 1.0,
        **_COMMON,
        "pay_at_end": False,
    },
    "custom": {**dict.fromkeys(_DENSE, 0.0), "pay_at_end": False},
}
"""Mode -> what it sets in `RewardConfig`. `custom` is free of charge but for what is priced with it."""


_OP_COSTS = tuple(f"{op.name.lower()}_cost" for op in Op if op != Op.WAIT)


class RewardConfig(BaseModel):
    """Prices, in reward a unit. One point is one percent of validation quality."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    mode: Literal["dense", "sparse", "economy", "custom"] = "dense"
    """What the prices are where none is given: `dense` pays for quality as it is won, `sparse` the same sum
    once, at the end of an episode, `economy` for what each module contributes; with `custom` only what is
    named has a price."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount: used by shaping and by the sum paid at the end, and the default of every agent."""
    pay_at_end: bool = False
    """Whether everything is paid once, when the episode terminates."""
    quality: float = Field(100.0, ge=0)
    """For one unit of validation quality gained in a step (so 100 is 1 a point)."""
    harvest: float = Field(100.0, ge=0)
    """For one unit of quality that the harvested model has above the grown one, at the end."""
    outcome: float = Field(0.0, ge=0)
    """For one unit of quality that the harvested model has above guessing, at the end; part of the term
    `harvest`."""
    credit: float = Field(0.0, ge=0)
    """For one point of credit won in a step, and lost again (see `credit_at_end`)."""
    rent: float = Field(2.0, ge=0)
    """Over a whole horizon, for each unit of ln(1 + module parameters / host parameters)."""
    compute_rent: float = Field(2.0, ge=0)
    """For each unit of ln(training FLOPs / the static host's over the horizon); part of the term `rent`."""
    churn: float = Field(0.2, ge=0)
    """For a squared change of alpha of 1 of a module as large as the host."""
    op_cost: float = Field(1.0, ge=0)
    """For one unit of the costs of ops below."""
    shaping: float = Field(0.3, ge=0)
    """For one unit of stage potential."""
    rollback: float = Field(10.0, ge=0)
    """For a panic of the governor."""
    own: Mapping[str, Price] = {}
    """Prices of terms registered with `register_reward_term`, by name; what is not named is not measured."""

    credit_basis: Literal["contribution", "shapley"] = "shapley"
    """What a live module is credited with: what would be lost without it, or its Shapley value where that was
    measured."""
    credit_at_end: Literal["lost", "kept"] = "lost"
    """What becomes of the credit when the episode terminates: all of it is lost, so that it adds nothing to
    the return and only says early what the outcome will pay; or the fossils keep theirs."""
    interaction_bonus: float = Field(0.1, ge=0)
    """Most credit, in points, that interactions with other live modules add or take."""
    interaction_scale: float = Field(2.0, gt=0)
    """Sum of interactions, in points, at which three quarters of that are reached (tanh 1)."""
    rent_cap: float = Field(10.0, gt=0)
    """Largest growth, in host sizes, for which rent is taken."""
    churn_cap: float = Field(1.0, ge=0)
    """Largest churn in one step."""
    germinate_cost: float = Field(0.15, ge=0)
    """Of a GERMINATE."""
    set_alpha_target_cost: float = Field(0.005, ge=0)
    """Of a SET_ALPHA_TARGET."""
    prune_cost: float = Field(0.05, ge=0)
    """Of a PRUNE."""
    fossilize_cost: float = Field(0.01, ge=0)
    """Of a FOSSILIZE."""
    advance_cost: float = Field(0.0, ge=0)
    """Of an ADVANCE."""
    potentials: Mapping[Literal["GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"], float] = {
        "GERMINATED": 1.0,
        "TRAINING": 2.0,
        "BLENDING": 3.5,
        "HOLDING": 5.5,
        "FOSSILIZED": 6.0,
    }
    """Stage potential of a slot; a stage that is not named has 0."""

    @model_validator(mode="before")
    @classmethod
    def _prices_of_the_mode(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("mode", "dense"), str):
            return {**MODES.get(given.get("mode", "dense"), {}), **given}
        return given

    @model_validator(mode="after")
    def _known_terms(self) -> "RewardConfig":
        _refuse_unknown(self.own)
        return self

    def op_costs(self) -> Floats:
        """(op,): what each op costs."""
        return np.array([0.0, *(getattr(self, name) for name in _OP_COSTS)])


OWN_TERMS: dict[str, Amount] = {}
"""Terms registered from outside, by name."""


def register_reward_term(name: str, amount: Amount) -> None:
    """Add a term that a mode can price: `reward={"quality": 100, name: 2.0}`.

    Args:
        name: An identifier without a leading underscore; `info["reward_terms"]` will hold the term under it.
        amount: (change, facts) -> float array (env,), finite; the reward is its price times this. It gets a
            `StepChange` of its own, so that nothing it does to it reaches the game.

    Raises:
        ValueError: a name that is taken or of another form, or an amount that can't be called.
    """
    taken = sorted({*RewardConfig.model_fields, *REWARD_TERMS, *OWN_TERMS})
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or name in taken:
        raise ValueError(
            f"reward term {name!r} is not allowed: a public identifier is, but not one of {taken}"
        )
    if not callable(amount):
        raise ValueError(f"reward term {name!r}: {amount!r} can't be called")
    OWN_TERMS[name] = amount


def choose(mode: object) -> dict[str, Any]:
    """The fields of `RewardConfig` that a mode sets: a name of `MODES`, or a dictionary of prices by term.

    What is no price is left to the configuration to refuse.

    Raises:
        ValueError: neither of the two, or a dictionary with a name that is no term.
    """
    if isinstance(mode, Mapping):
        own = {name: price for name, price in mode.items() if name not in _DENSE}
        _refuse_unknown(own)
        known = {name: price for name, price in mode.items() if name in _DENSE}
        return {**MODES["custom"], **known, "own": own, "mode": "custom"}
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"reward={mode!r} is not allowed: {list(MODES)} are, and dictionaries of prices")
    return {**MODES[mode], "own": {}, "mode": mode}


def _refuse_unknown(own: Iterable[object]) -> None:
    unknown = [name for name in own if name not in OWN_TERMS]
    if unknown:
        raise ValueError(f"reward: there is no term {unknown}, only {sorted({*_DENSE, *OWN_TERMS})}")


def names(config: RewardConfig) -> tuple[str, ...]:
    """Names of the terms that are published, in order."""
    return (*REWARD_TERMS, *config.own)
