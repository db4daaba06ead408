"""A static host as large as a grown one, trained for as many FLOPs: what size alone would have brought."""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import product
from math import ceil, floor
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from board.on_instance import OnInstance
from board.quality import qualities
from board.trace import world
from esper_agents.baselines import WaitAgent
from esper_agents.evaluate import evaluate
from esper_env.blueprints.conv import group_norm
from esper_env.hosts import build, cnn, gpt
from esper_env.tasks.outline import outline

WIDER, DEEPER = 4, 4
"""How many times as wide, and by how many blocks of text deeper, a host is tried."""
Recipe = cnn.Recipe | gpt.Recipe


def sizes(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe, and larger ones of its form: widths as proportional as whole channels can be, or depths.

    In those of images every blueprint can be built: a world is made with all of them, planted or not.
    """
    if isinstance(recipe, cnn.Recipe):
        largest = max(recipe.widths)
        for width in range(largest, WIDER * largest + 1):
            wanted = [w * width / largest for w in recipe.widths]
            for widths in product(*(dict.fromkeys((floor(w), ceil(w))) for w in wanted)):
                if all(map(_can_be_normalised, widths)):
                    yield replace(recipe, widths=widths)
        return
    for layers in range(recipe.layers, recipe.layers + DEEPER + 1):
        for width in range(recipe.width, WIDER * recipe.width + 1, recipe.heads):
            yield replace(recipe, layers=layers, width=width)


def _can_be_normalised(channels: int) -> bool:
    with torch.device("meta"), suppress(ValueError):
        return bool(group_norm(channels))
    return False


def of_size(name: str, shape: tuple[int, ...], classes: int, params: int) -> str:
    """The host of this form that comes next to a number of parameters; this process knows it from now on.

    Args:
        name: The small host.
        shape: Of one sample.
        classes: Or tokens.
        params: Wanted.
    """
    kind = build.host_kind(name)
    recipes: dict[str, Any] = cnn.HOSTS if kind.family == "image" else gpt.HOSTS
    best = min(sizes(recipes[name]), key=lambda each: abs(_params(each, shape, classes) - params))
    words = best.widths if isinstance(best, cnn.Recipe) else (best.layers, best.width)
    larger = f"{name}_{'x'.join(map(str, words))}"
    recipes[larger], build.HOSTS[larger] = best, kind
    return larger


def _params(recipe: Recipe, shape: tuple[int, ...], classes: int) -> int:
    with torch.device("meta"):
        if isinstance(recipe, cnn.Recipe):
            host: torch.nn.Module = cnn.ConvHost("sized", recipe, (shape[0], shape[1], shape[2]), classes)
        else:
            host = gpt.GptHost("sized", recipe, shape[0], classes)
    return sum(parameter.numel() for parameter in host.parameters())


class LargerJob(OnInstance):
    """The static host of a size and a cost, without budgets."""

    KIND: ClassVar[str | None] = "larger"
    RESULT: ClassVar[str] = "larger.json"

    seeds: tuple[int, ...] = Field(min_length=1)
    params: int
    """Of the grown network."""
    flops: float
    """That it was trained for."""

    @property
    def steps(self) -> int:
        """See `Work`."""
        return len(self.seeds) * self.instance.horizon

    def work(self, results: Path) -> dict[str, Any]:
        """Figures as those of other references, and which host it was, for how many epochs."""
        with closing(world(self.instance, self.cell, 1, changes={"engine.name": "null"})) as small:
            host, task, facts = small.config.host.name, small.config.task, small.facts
            epoch, horizon = int(small.config.engine.epoch_size), small.config.horizon
        kind = build.host_kind(host)
        shape = outline(task, kind.family, kind.context)
        changes: dict[str, Any] = {
            "host.name": of_size(host, shape.input_shape, shape.num_classes, self.params)
        }
        with closing(world(self.instance, None, 1, changes=changes | {"engine.name": "null"})) as large:
            sizes = large.facts
        epochs = max(1, round(self.flops / (sizes.host_flops * epoch)))
        changes |= {"horizon": epochs}
        with closing(world(self.instance, None, len(self.seeds), self.device, changes)) as envs:
            episodes = evaluate(WaitAgent(), envs, self.seeds).episodes
        flops_ratio = sizes.host_flops * epochs / (facts.host_flops * horizon)
        return {
            "seeds": list(self.seeds),
            "quality": qualities(episodes, sizes),
            "val_quality": qualities(episodes, sizes, "val"),
            "param_ratio": [sizes.host_params / facts.host_params] * len(self.seeds),
            "flops_ratio": [flops_ratio] * len(self.seeds),
            "host": changes["host.name"],
            "horizon": epochs,
        }

    def __str__(self) -> str:
        """For people."""
        return f"a static host of {self.params} parameters on {self.instance.id}, cell {self.cell.id}"
