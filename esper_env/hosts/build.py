"""From a name to a host, of whatever family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from esper_env.hosts import cnn, gpt
from esper_env.hosts.host import Host


@dataclass(frozen=True)
class HostKind:
    """What has to be known of a host before there are data for it."""

    family: Literal["image", "text"]
    """What it reads: `image` or `text`."""
    context: int | None
    """Tokens of a window, unless the task says otherwise; None for images."""
    build: Callable[[str, tuple[int, ...], int], Host]
    """Name, shape of one sample, number of classes or tokens -> a host with fresh weights."""


HOSTS: dict[str, HostKind] = {
    **{name: HostKind("image", None, cnn.build_host) for name in cnn.HOSTS},
    **{name: HostKind("text", recipe.context, gpt.build_host) for name, recipe in gpt.HOSTS.items()},
}
"""Every host by name."""


def host_kind(name: str) -> HostKind:
    """What is known of a host by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in HOSTS:
        raise ValueError(f"host={name!r} is not known, the hosts are {sorted(HOSTS)}")
    return HOSTS[name]


def build_host(name: str, input_shape: tuple[int, ...], num_classes: int) -> Host:
    """A host with fresh weights from torch's generator (inside `slots.grown.seeded`: from that key).

    Args:
        name: a key of `HOSTS`.
        input_shape: of one sample: (channels, height, width), or (context,).
        num_classes: number of logits; for text, size of the vocabulary.

    Raises:
        ValueError: an unknown name, or sizes that this host can't have.
    """
    return host_kind(name).build(name, input_shape, num_classes)
