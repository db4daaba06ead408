"""What planned actions are made of, by name."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from esper_env import Curve, Op, Style, encode

StyleName = Literal["LINEAR_ADD", "LINEAR_MULTIPLY", "SIGMOID_ADD", "GATED"]
TempoName = Literal["FAST", "STANDARD", "SLOW"]
TargetName = Literal["HALF", "MOST", "FULL"]
SpeedName = Literal["INSTANT", "FAST", "MEDIUM", "SLOW"]
CurveName = Literal["LINEAR", "COSINE", "SIGMOID_GENTLE", "SIGMOID", "SIGMOID_SHARP"]

Action = NDArray[np.int64]
"""(8,)."""
WAIT = encode(Op.WAIT)
WAIT.setflags(write=False)


def germinate(
    slot: int, blueprint: int, style: StyleName, tempo: TempoName, alpha_target: TargetName = "FULL"
) -> Action:
    """Plant a blueprint, by its index, and say how it is to be blended in."""
    return encode(
        Op.GERMINATE,
        slot=slot,
        blueprint=blueprint,
        style=Style[style],
        tempo=get_args(TempoName).index(tempo),
        alpha_target=get_args(TargetName).index(alpha_target),
    )


def raise_alpha(slot: int, speed: SpeedName, curve: CurveName) -> Action:
    """Send alpha to 1."""
    return encode(
        Op.SET_ALPHA_TARGET,
        slot=slot,
        alpha_target=get_args(TargetName).index("FULL"),
        alpha_speed=get_args(SpeedName).index(speed),
        alpha_curve=Curve[curve],
    )


def prune(slot: int, speed: SpeedName) -> Action:
    """Remove a module; one that is blended is faded out first, evenly."""
    return encode(Op.PRUNE, slot=slot, alpha_speed=get_args(SpeedName).index(speed))
