"""Blueprints that are worth nothing, for agents of known low quality.

All hold a 3x3 convolution that trains, so that they are as large as `conv_light`, show healthy gradients and
pass every gate; what it computes is taken off again, so it never decides their output.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from esper_env import Place, register_blueprint

Content = Callable[["Junk", torch.Tensor], torch.Tensor]
PITCH = 1e4
"""Steepness of the noise in its input: neighboring values of the host give unrelated noise."""


class Junk(nn.Module):
    """A branch whose output does not depend on its parameters.

    Args:
        place: where it is planted.
        content: from the module and the host's value, detached, to the output.
    """

    def __init__(self, place: Place, content: Content) -> None:
        super().__init__()
        self._content = content
        self.trained = nn.Conv2d(place.channels, place.channels, 3, padding=1, bias=False)
        self.register_buffer("weight", self.trained.weight.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> the same shape."""
        source = x.detach()
        trained = self.trained(source)
        return self._content(self, source) + (trained - trained.detach())


def nothing(module: Junk, x: torch.Tensor) -> torch.Tensor:
    """Zeros."""
    return torch.zeros_like(x)


def noise(module: Junk, x: torch.Tensor) -> torch.Tensor:
    """Numbers in [-1, 1] without any smooth relation to x or to their neighbors, the same for the same x."""
    phase = torch.arange(x[0].numel(), device=x.device, dtype=x.dtype).view(x.shape[1:])
    return torch.sin(PITCH * x + phase**2)


def frozen(module: Junk, x: torch.Tensor) -> torch.Tensor:
    """A random 3x3 convolution and ReLU that never train."""
    return F.relu(F.conv2d(x, module.weight, padding=1))


CONTENTS: dict[str, Content] = {"junk_zero": nothing, "junk_noise": noise, "junk_frozen": frozen}
"""By name of the blueprint."""


def register() -> None:
    """Add them to the catalogue, for environments made from now on in this process."""
    for name, content in CONTENTS.items():
        register_blueprint(name, {"cnn": lambda place, content=content: Junk(place, content)})
