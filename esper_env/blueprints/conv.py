"""Convolutional branches. A branch maps x to a correction of the same shape; the slot adds the residual.

Initialization is torch's default. A convolution that reaches a norm through linear layers alone has no bias:
the norm would subtract it again, and with one channel it would never get a gradient.
"""

from torch import nn

from esper_env.contracts.facts import Place

CHANNELS_PER_GROUP = 16
"""Channels that share the statistics of one GroupNorm group (one group below that)."""
SQUEEZE = 4
"""Factor by which the bottleneck narrows the channels."""
MIN_HIDDEN = 8
"""Fewest channels inside the bottleneck."""


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu and He, 2018) with max(1, channels // 16) groups.

    Raises:
        ValueError: the channels can't be split evenly.
    """
    groups = max(1, channels // CHANNELS_PER_GROUP)
    if channels % groups:
        raise ValueError(f"{channels} channels can't be split into {groups} equal GroupNorm groups")
    return nn.GroupNorm(groups, channels)


def conv_small(place: Place) -> nn.Module:
    """1x1 convolution, GroupNorm, ReLU: mixes channels only."""
    return nn.Sequential(*_unit(place.channels, kernel=1))


def conv_light(place: Place) -> nn.Module:
    """3x3 convolution, GroupNorm, ReLU."""
    return nn.Sequential(*_unit(place.channels, kernel=3))


def conv_heavy(place: Place) -> nn.Module:
    """Two units of 3x3 convolution, GroupNorm, ReLU."""
    return nn.Sequential(*_unit(place.channels, kernel=3), *_unit(place.channels, kernel=3))


def depthwise(place: Place) -> nn.Module:
    """Depthwise separable convolution (Howard et al., 2017): 3x3 a channel, 1x1, GroupNorm, ReLU."""
    channels = place.channels
    spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(spatial, *_unit(channels, kernel=1))


def bottleneck(place: Place) -> nn.Module:
    """Bottleneck (He et al., ResNet, 2016): 1x1 down, ReLU, 3x3, ReLU, 1x1 up, GroupNorm."""
    channels, hidden = place.channels, max(MIN_HIDDEN, place.channels // SQUEEZE)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden, channels, 1, bias=False),
        group_norm(channels),
    )


def _unit(channels: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    return [convolution, group_norm(channels), nn.ReLU()]
