"""How many environments are trained side by side, and how many fit into the memory that there is."""

import os
from pathlib import Path

import torch

from esper_env.engine.footprint import Footprint, footprint
from esper_env.engine.programs import most_recordings
from esper_env.engine.setup import Setup, resolve_device

SIDE_BY_SIDE = 64 * 2**20
"""On a CPU: bytes that a training step of the environments that are trained side by side may hold, counted
without modules. With more of them a step is no shorter for each, since its values leave the caches."""
MOST_OF_DEVICE = 0.5
"""Share of a device's memory for the training step with the modules that take most."""
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says what a container may have, in versions 2 and 1; a word or a huge number for no limit."""
OWN_PAGES = Path("/proc/self/statm")
"""Where Linux says, second, how many pages of memory this process has."""


def rows_at_once(setup: Setup) -> int:
    """Environments whose values of a training step are held at a time: `engine.rows_at_once`, or what suits.

    It depends on the configuration and on how much memory the device has: not on how much of that is free,
    on the number of environments or on a clock.
    """
    device = resolve_device(setup.config.device)
    return setup.config.rows_at_once or _suitable(footprint(setup, device), device)


def _suitable(taken: Footprint, device: torch.device) -> int:
    limits = []
    if device.type == "cpu":
        limits.append(SIDE_BY_SIDE // taken.host_row)
    if memory := installed(device):
        limits.append((int(MOST_OF_DEVICE * memory) - taken.shared) // taken.row)
    return max(1, min(limits, default=1))


def refuse_too_many(num_envs: int, setup: Setup) -> None:
    """Whether so many environments fit, counted before anything is allocated for them.

    Counted is the worst case: modules of every blueprint have been in every slot, and those that take most
    are trained. Where it is not known how much memory there is, nothing is refused.

    Raises:
        ValueError: there is too little memory; the number that would fit is named.
    """
    device = resolve_device(setup.config.device)
    room = free(device)
    if room is None:
        return
    taken, rows = footprint(setup, device), rows_at_once(setup)
    recordings = most_recordings(setup, device)
    # Recorded steps have a working set of their own beside that of steps done as usual.
    sets = 2 if recordings else 1
    always, working = taken.host + taken.modules, sets * taken.row + recordings * taken.recording
    most = max(0, largest(room - sets * taken.shared, always, working, rows))
    if num_envs > most:
        raise ValueError(
            f"num_envs={num_envs} is not allowed: {_mib(room)} are free on {device.type!r}, enough for at "
            f"most {most}. Each environment takes {_mib(always)} ({_mib(taken.host)} for its host, the rest "
            f"for modules), and {_mib(working)} more while it is trained, as up to {rows} are at a time"
            f"{f', with {_mib(sets * taken.shared)} for logits' if taken.shared else ''}"
        )


def largest(room: int, always: int, working: int, rows: int) -> int:
    """The largest number of environments that fit.

    Args:
        room: bytes that there are.
        always: bytes of every environment.
        working: bytes more of each that is trained.
        rows: most that are trained at a time.
    """
    few = room // (always + working)
    return few if few < rows else (room - rows * working) // always


def installed(device: torch.device) -> int | None:
    """Bytes of memory of a device; for the CPU, no more than its container may have; None if not known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min([*_physical(), *_allowed()], default=None)


def free(device: torch.device) -> int | None:
    """Bytes that are there for the environments; on the CPU, what this process does not hold by now."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    memory = installed(device)
    return None if memory is None else max(0, memory - _own())


def _physical() -> list[int]:
    try:
        return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):  # not a Unix system, or one that does not say
        return []


def _allowed() -> list[int]:
    texts = [path.read_text().strip() for path in CGROUP_LIMITS if path.is_file()]
    return [int(text) for text in texts if text.isdigit()]


def _own() -> int:
    if not OWN_PAGES.is_file():
        return 0
    return int(OWN_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB"
