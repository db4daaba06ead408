"""Checks of what users hand to an environment in Gymnasium's forms: seeds, masks, modes."""

from collections.abc import Sequence

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


def env_count(num_envs: int) -> int:
    """A number of environments.

    Raises:
        ValueError: not an integer of at least 1.
    """
    if not isinstance(num_envs, int | np.integer) or isinstance(num_envs, bool) or num_envs < 1:
        raise ValueError(f"num_envs={num_envs!r} is not allowed: an integer of at least 1 is")
    return int(num_envs)


def autoreset_member(mode: AutoresetMode | str) -> AutoresetMode:
    """The member that is meant by itself, its value or its name.

    Raises:
        ValueError: anything else.
    """
    for member in AutoresetMode:
        if mode in (member, member.value, member.name):
            return member
    allowed = [name for member in AutoresetMode for name in (member.value, member.name)]
    raise ValueError(
        f"autoreset_mode={mode!r} is not allowed: a gymnasium.vector.AutoresetMode is, or {allowed}"
    )


def chosen(reset_mask: object, num_envs: int) -> Bools:
    """The environments to reset, from `options["reset_mask"]`; all of them for None. It is only read.

    Raises:
        TypeError: not a bool array.
        ValueError: wrong shape, or nothing to reset.
    """
    if reset_mask is None:
        return np.ones(num_envs, dtype=bool)
    if not isinstance(reset_mask, np.ndarray) or reset_mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] must be a bool numpy array, not {reset_mask!r}")
    if reset_mask.shape != (num_envs,) or not reset_mask.any():
        raise ValueError(
            f"options['reset_mask'] must have shape ({num_envs},) and at least one True, not {reset_mask}"
        )
    return reset_mask.copy()


def seed_list(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """One seed (or None) an environment: seed, seed + 1, ... from an int, or the list itself.

    Raises:
        ValueError: a list of another length, or a seed that is negative or not an integer.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str):
        seeds = list(seed)
    else:
        seeds = [seed + i if _natural(seed) else seed for i in range(num_envs)]
    if len(seeds) != num_envs:
        raise ValueError(
            f"seed has {len(seeds)} entries: one for each of the {num_envs} environments is required"
        )
    for one in seeds:
        if one is not None and not _natural(one):
            raise ValueError(f"seed={one!r} is not allowed: non-negative integers and None are")
    return [None if one is None else int(one) for one in seeds]


def _natural(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)
