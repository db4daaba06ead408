"""The forward pass of a module in many networks at once, whichever family of hosts it belongs to."""

from torch import nn

from esper_env.engine import forward
from esper_env.engine.forward import Forward, Layers, Run, Tensors, row_by_row
from esper_env.engine.image_layers import IMAGES, joined
from esper_env.engine.text_layers import TEXTS

__all__ = ["Forward", "Run", "Tensors", "forward_of", "joined", "row_by_row", "stacked"]

LAYERS: dict[str, Layers] = {"cnn": IMAGES, "transformer": TEXTS}
"""What is known, by the family of a place."""


def stacked(module: nn.Module, prefix: str = "", family: str = "cnn") -> Forward | None:
    """Every layer as one call for all rows; None where a layer is not known.

    Args:
        module: only its structure counts.
        prefix: of the names of its parameters, with the dot.
        family: of the places that its values are those of.
    """
    return forward.stacked(module, prefix, LAYERS[family])


def forward_of(module: nn.Module, prefix: str, family: str) -> Forward:
    """The same, row by row where a layer is not known."""
    return stacked(module, prefix, family) or row_by_row(module, prefix)
