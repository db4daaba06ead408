"""The picture of an episode: quality over epochs, and below it the life of every slot."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import HAS_MODULE, IS_BLENDED, Stage
from esper_env.contracts.state import GameState

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

WIDTH, HEIGHT = 960, 540
"""Size of a picture in pixels."""
SCALE = 2
"""A picture is drawn this much larger and then reduced, which smooths its edges."""
LEFT, RIGHT = 116, 904
"""Where epoch 0 and the horizon lie."""
CURVE_TOP = 52
LANES_BOTTOM = 482
EPOCHS_AT, LEGEND_AT = 490, 519
LANE_HEIGHT, LANES_HEIGHT = 58, 270
"""Most room for one lane, and for all of them."""
NAMES_HEIGHT = 15
"""Room above a lane for the names of its blueprints."""

Color = tuple[int, int, int]
PAPER, INK, FAINT, GRID = (255, 255, 255), (38, 45, 56), (118, 126, 138), (228, 231, 236)
CURVE = (33, 84, 148)
COLORS: dict[Stage, Color] = {
    Stage.DORMANT: (232, 235, 239),
    Stage.GERMINATED: (176, 199, 120),
    Stage.TRAINING: (104, 163, 214),
    Stage.BLENDING: (238, 163, 73),
    Stage.HOLDING: (157, 126, 195),
    Stage.FOSSILIZED: (47, 138, 114),
    Stage.PRUNED: (206, 84, 80),
    Stage.EMBARGOED: (225, 176, 172),
    Stage.RESETTING: (240, 220, 216),
}
"""Color of each stage; while a module blends, its lane is paler where alpha does not reach."""

KEPT = {"quality": np.nan, "params": np.nan, "stage": -1, "alpha": 0, "blueprint": 0, "planting": 0,
        "rollbacks": 0}  # fmt: skip
"""What a trace keeps of an epoch, and what stands there for an epoch that nobody drew."""


class EpisodeTrace:
    """What has happened in the present episode of every environment, kept for drawing.

    Args:
        num_envs: Number of environments.
        facts: Slots and blueprints.
        horizon: Epochs of an episode.

    Raises:
        ImportError: Pillow is not installed.
    """

    def __init__(self, num_envs: int, facts: HostFacts, horizon: int) -> None:
        try:
            import PIL.ImageDraw
        except ImportError as error:
            message = "render_mode='rgb_array' draws with Pillow: pip install \"esper-env[render]\""
            raise ImportError(message) from error
        assert PIL.ImageDraw
        self._facts, self._horizon = facts, horizon
        self._epochs = np.zeros(num_envs, dtype=np.int64)
        self._quality = np.full((num_envs, horizon), np.nan)
        self._params = np.ones((num_envs, horizon))
        self._rollbacks = np.zeros((num_envs, horizon), dtype=np.int64)
        shape = (num_envs, facts.num_slots, horizon)
        self._stage, self._alpha = np.zeros(shape, dtype=np.int8), np.zeros(shape)
        self._blueprint, self._planting = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Forget the episodes of the environments with these indices."""
        self._epochs[rows] = 0

    def add(self, state: GameState, played: NDArray[np.bool_]) -> None:
        """Keep the epoch that has just ended in the environments where `played` (env,) is True."""
        rows = np.flatnonzero(played)
        at = self._epochs[rows]
        self._quality[rows, at] = state.quality[rows]
        self._rollbacks[rows, at] = state.rollbacks[rows]
        self._params[rows, at] = 1 + state.slots.params[rows].sum(axis=1) / self._facts.host_params
        for kept, now in (
            (self._stage, state.slots.stage),
            (self._alpha, state.slots.alpha),
            (self._blueprint, state.slots.blueprint),
            (self._planting, state.slots.planting),
        ):
            kept[rows, :, at] = now[rows]
        self._epochs[rows] += 1

    def row(self, env: int) -> dict[str, NDArray[Any]]:
        """Copies of what is kept of one environment's episode."""
        epochs = self._epochs[env]
        return {name: getattr(self, f"_{name}")[env, ..., :epochs].copy() for name in KEPT}

    def set_row(self, env: int, epochs: int, row: Mapping[str, NDArray[Any]] | None) -> None:
        """Go on with an episode of so many epochs that `row` gave, or, with None, that nobody drew."""
        self._epochs[env] = epochs
        for name, unknown in KEPT.items():
            getattr(self, f"_{name}")[env, ..., :epochs] = unknown if row is None else row[name]

    def draw(self, env: int) -> NDArray[np.uint8]:
        """The picture of one environment's episode so far, uint8 (540, 960, 3)."""
        epochs, facts = self._epochs[env], self._facts
        canvas = _Canvas(self._horizon)
        lane = min(LANE_HEIGHT, LANES_HEIGHT // facts.num_slots)
        top = LANES_BOTTOM - lane * facts.num_slots
        rollbacks = self._rollbacks[env, :epochs]
        _draw_title(canvas, self._params[env, :epochs], self._stage[env, :, :epochs], rollbacks)
        _draw_epochs(canvas)
        _draw_rollbacks(canvas, rollbacks, top)
        _draw_curve(canvas, self._quality[env, :epochs], facts.chance_quality, top - 16)
        for slot, place in enumerate(facts.places):
            box = _Lane(top + slot * lane, lane)
            canvas.text(LEFT - 10, box.middle, place.name, anchor="rm")
            _draw_lane(canvas, box, self._stage[env, slot, :epochs], self._alpha[env, slot, :epochs])
            if box.has_names:
                blueprint, planting = self._blueprint[env, slot, :epochs], self._planting[env, slot, :epochs]
                _draw_names(canvas, box, blueprint, planting, facts.blueprints)
        _draw_legend(canvas)
        return canvas.pixels()


class _Canvas:
    """A white page with coordinates in pixels of the finished picture."""

    def __init__(self, horizon: int) -> None:
        from PIL import Image, ImageDraw

        self.horizon = horizon
        self._image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def x(self, epoch: float) -> float:
        """Where the end of an epoch lies; 0 is the start of the episode."""
        return LEFT + (RIGHT - LEFT) * epoch / self.horizon

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        # Pillow counts the last row and column in; without the 1 neighbors would overlap.
        corners = [round(at * SCALE) for at in (left, top, right, bottom)]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            self._draw.rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), fill=color)

    def line(self, points: list[tuple[float, float]], color: Color, width: float = 1) -> None:
        path = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(path, fill=color, width=round(width * SCALE), joint="curve")

    def dot(self, x: float, y: float, color: Color, radius: float) -> None:
        self._draw.circle((x * SCALE, y * SCALE), radius * SCALE, fill=color)

    def text(
        self, x: float, y: float, text: str, color: Color = INK, size: int = 12, anchor: str = "lm"
    ) -> float:
        """Write, with (x, y) at the anchor; returns the width in pixels."""
        font = _font(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), text, fill=color, font=font, anchor=anchor)
        return float(font.getlength(text)) / SCALE

    def pixels(self) -> NDArray[np.uint8]:
        return np.array(self._image.reduce(SCALE), dtype=np.uint8)


class _Lane:
    """Where a slot's lane lies; names of blueprints stand above it if there is room."""

    def __init__(self, top: float, height: float) -> None:
        self.has_names = height >= NAMES_HEIGHT + 16
        gap = NAMES_HEIGHT if self.has_names else 2
        self.top, self.bottom = top + gap, top + height - 2
        self.middle = (self.top + self.bottom) / 2
        self.names = self.top - NAMES_HEIGHT / 2

    def height_of(self, alpha: float) -> float:
        return self.bottom - (self.bottom - self.top) * alpha


@lru_cache(maxsize=8)
def _font(size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _draw_title(
    canvas: _Canvas, params: NDArray[np.float64], stages: NDArray[np.int8], rollbacks: NDArray[np.int64]
) -> None:
    parts = [f"epoch {len(params)} of {canvas.horizon}"]
    if len(params) and not np.isnan(params[-1]):
        fossils = int((stages[:, -1] == Stage.FOSSILIZED).sum())
        modules = int(HAS_MODULE[stages[:, -1]].sum())
        parts += [f"parameters {params[-1]:.2f} x host", f"modules {modules}, of these fossilized {fossils}"]
    if rollbacks.any():
        parts.append(f"rollbacks {rollbacks[-1]}")
    x = float(LEFT)
    for part in parts:
        x += canvas.text(x, 24, part, size=14) + 32


def _draw_epochs(canvas: _Canvas) -> None:
    """Vertical grid lines through curve and lanes, with the number of the epoch below."""
    for epoch in range(0, canvas.horizon + 1, _step(canvas.horizon)):
        x = canvas.x(epoch)
        canvas.line([(x, CURVE_TOP), (x, LANES_BOTTOM)], GRID)
        canvas.text(x, EPOCHS_AT, str(epoch), FAINT, 11, "mm")
    canvas.text(LEFT - 10, EPOCHS_AT, "epoch", FAINT, 11, "rm")


def _step(span: int) -> int:
    """Distance of grid lines so that there are at most 10 and their numbers are round."""
    steps = (base * 10**power for power in range(9) for base in (1, 2, 5))
    return next(step for step in steps if span / step <= 10)


def _draw_rollbacks(canvas: _Canvas, rollbacks: NDArray[np.int64], bottom: float) -> None:
    """A vertical line at the end of every epoch after which the governor put an earlier network back."""
    for epoch in np.flatnonzero(np.diff(rollbacks, prepend=0) > 0).tolist():
        x = canvas.x(epoch + 1)
        canvas.line([(x, CURVE_TOP), (x, bottom - 16)], COLORS[Stage.PRUNED], 1.5)
        canvas.text(x - 5, CURVE_TOP + 7, "rollback", COLORS[Stage.PRUNED], 11, "rm")


def _draw_curve(canvas: _Canvas, quality: NDArray[np.float64], chance: float, bottom: float) -> None:
    """Validation quality in percent, with a dashed line at chance."""
    known = np.flatnonzero(~np.isnan(quality))
    best = float(np.max(quality[known], initial=0.0))
    top_value = next((top for top in (0.2, 0.4, 0.6, 0.8) if best <= 0.97 * top), 1.0)

    def y(value: float) -> float:
        return bottom - (bottom - CURVE_TOP) * float(np.clip(value / top_value, 0, 1))

    for share in np.linspace(0, top_value, 5):
        canvas.line([(LEFT, y(share)), (RIGHT, y(share))], GRID)
        canvas.text(LEFT - 10, y(share), f"{100 * share:.0f}%", FAINT, 11, "rm")
    canvas.text(LEFT, CURVE_TOP - 9, "validation quality", FAINT, 11)
    for x in np.arange(LEFT, RIGHT, 8.0):
        canvas.line([(x, y(chance)), (x + 4, y(chance))], FAINT)
    canvas.text(RIGHT, y(chance) - 3, "chance", FAINT, 11, "rb")
    if len(known):
        points = [(canvas.x(epoch + 1), y(quality[epoch])) for epoch in known.tolist()]
        canvas.line(points, CURVE, 2)
        x, height = points[-1]
        canvas.dot(x, height, CURVE, 3.5)
        canvas.text(x + 8, height, f"{100 * quality[known[-1]]:.1f}%", CURVE, 13)


def _draw_lane(canvas: _Canvas, lane: _Lane, stages: NDArray[np.int8], alphas: NDArray[np.float64]) -> None:
    """One cell an epoch: the stage's color, paler above alpha while the module blends."""
    canvas.box(LEFT, lane.bottom - 1, RIGHT, lane.bottom, GRID)
    colors = [COLORS[stage] for stage in Stage]
    for epoch, (stage, alpha) in enumerate(zip(stages, alphas, strict=True)):
        if stage < 0:
            continue
        color = colors[stage]
        left, right = canvas.x(epoch), canvas.x(epoch + 1)
        canvas.box(left, lane.top, right, lane.bottom, _tint(color) if IS_BLENDED[stage] else color)
        canvas.box(left, lane.height_of(alpha), right, lane.bottom, color)


def _tint(color: Color, share: float = 0.45) -> Color:
    red, green, blue = (round(255 - (255 - part) * share) for part in color)
    return red, green, blue


def _draw_names(
    canvas: _Canvas,
    lane: _Lane,
    blueprints: NDArray[np.int64],
    plantings: NDArray[np.int64],
    names: tuple[str, ...],
) -> None:
    """The blueprint's name where a module was planted, left out where it would cover the name before it."""
    free = float(LEFT)
    for epoch in np.flatnonzero(np.diff(plantings, prepend=0)).tolist():
        x = canvas.x(epoch)
        if blueprints[epoch] and x >= free:
            free = x + canvas.text(x, lane.names, names[blueprints[epoch]], size=11) + 6


def _draw_legend(canvas: _Canvas) -> None:
    x = float(LEFT)
    for stage, color in COLORS.items():
        canvas.box(x, LEGEND_AT - 5, x + 10, LEGEND_AT + 5, color)
        x += 15 + canvas.text(x + 15, LEGEND_AT, stage.name.lower(), FAINT, 11) + 14
