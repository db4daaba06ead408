"""Check that a vector environment keeps the contract of Gymnasium's VectorEnv; not for Esper alone."""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from esper_env.watching import Env, Info, Step, Watched, refused, require, rows, same

OPTIONAL = (
    "info_keys",
    "seed_list",
    "seed_split",
    "modes_agree",
    "reset_mask",
    "ended_raises",
    "closed_raises",
)
"""Checks that `check_vector_env` can be told to skip."""


def check_vector_env(
    make: Callable[[int, AutoresetMode], Env],
    *,
    num_envs: int = 3,
    steps: int = 200,
    seed: int = 0,
    sample: Callable[[Env, np.random.Generator], Any] | None = None,
    modes: Sequence[AutoresetMode] = tuple(AutoresetMode),
    skip: Collection[str] = (),
) -> None:
    """Play a vector environment in every autoreset mode and raise at the first fault.

    Checked always: batched spaces; `metadata["autoreset_mode"]`, and the attribute where there is one; types,
    shapes and dtypes of everything returned; infos as arrays of first dimension `num_envs`, or dicts of
    such, with a boolean partner `_key`; that nothing returned, and no action passed in, is changed later; the
    same trajectory for the same seed; how an episode ends and the next begins.

    Checked unless skipped: `info_keys`, the same keys at every reset and step (but for `final_obs` and
    `final_info`); `seed_list`, the seeds s, s + 1, ... in a list do what the int s does; `seed_split`,
    environment i of a batch plays like a batch of one with seed s + i; `modes_agree`, the first episode is
    the same in every mode; `reset_mask`, the option is read, not popped, and refused when malformed;
    `ended_raises`, with autoreset disabled an ended episode can't be stepped; `closed_raises`, nor can a
    closed environment.

    Args:
        make: (num_envs, mode) -> a new environment. It is closed after use.
        num_envs: Size of the batch, at least 2.
        steps: Steps of each trajectory; an episode must end before the last of them.
        seed: Of environments and actions.
        sample: (environment, generator) -> a batch of actions; None samples the action space.
        modes: The modes to check.
        skip: Names of checks to leave out.

    Raises:
        AssertionError: the environment breaks the contract; the message says where.
        ValueError: an argument is not allowed, or no episode ended.
    """
    unknown = sorted(set(skip) - set(OPTIONAL))
    if unknown:
        raise ValueError(f"skip has {unknown}, only {OPTIONAL} can be skipped")
    if num_envs < 2 or steps < 2 or not modes:
        raise ValueError(f"{num_envs=}, {steps=}, {modes=}: at least 2, 2 and one mode are needed")
    lives, first = {}, list[Step]()
    for mode in modes:
        with Watched(make(num_envs, mode), num_envs, mode, skip) as env:
            trace = _check_mode(env, _Sampled(env.env, seed, sample, first), steps, seed)
        first = first or trace
        lives[mode] = [_first_life(env.env, mode, trace, row) for row in range(num_envs)]
        if "seed_split" not in skip:
            _check_split(make, mode, trace, seed, skip)
    if "modes_agree" not in skip:
        for mode in modes[1:]:
            same(
                lives[modes[0]], lives[mode], f"the first episodes of {modes[0].name} and {mode.name} differ"
            )


def _check_mode(env: Watched, act: Callable[[int], Any], steps: int, seed: int) -> list[Step]:
    trace = env.play(seed, steps, act)
    if not any(step.ended.any() for step in trace[:-1]):
        raise ValueError(f"no episode ended before step {steps=}: pass more, or shorter episodes")
    env.same_again(trace, seed, "a second reset with the same seed leads elsewhere")
    if "seed_list" not in env.skip:
        seeds = [seed + row for row in range(env.num_envs)]
        env.same_again(trace, seeds, "the seeds s, s + 1, ... in a list lead elsewhere than s")
    CHECKS[env.mode](env, trace, seed)
    return trace


class _Sampled:
    """Actions as they come from the user's sampler, or from the action space.

    What the sampler draws for one environment may depend on the others, which begin anew at other steps in
    other modes: so first episodes are given the actions that they had in the first mode's trace.
    """

    def __init__(
        self,
        env: Env,
        seed: int,
        sample: Callable[[Env, np.random.Generator], Any] | None,
        first: Sequence[Step] = (),
    ) -> None:
        self.env, self.sample, self.rng, self.first = env, sample, np.random.default_rng(seed), first

    def __call__(self, number: int) -> Any:
        if self.sample is not None:
            drawn = self.sample(self.env, self.rng)
            return self._as_first(drawn, number) if self.first else drawn
        self.env.action_space.seed(int(self.rng.integers(2**31)))
        return self.env.action_space.sample()

    def _as_first(self, drawn: Any, number: int) -> Any:
        over = np.any([step.ended for step in self.first[:number]], axis=0) | np.zeros(
            self.env.num_envs, bool
        )
        own, before = (
            rows(self.env.action_space, deepcopy(of)) for of in (drawn, self.first[number].actions)
        )
        return _batch(self.env, [own[row] if over[row] else before[row] for row in range(self.env.num_envs)])


def _check_next_step(env: Watched, trace: list[Step], seed: int) -> None:
    ended = [np.zeros(env.num_envs, dtype=bool)] + [step.ended for step in trace[:-1]]
    for number, (step, resets) in enumerate(zip(trace, ended, strict=True)):
        plain = not (step.ended & resets).any() and not step.rewards[resets].any()
        require(
            plain,
            f"NEXT_STEP, step {number} resets {np.flatnonzero(resets)}: reward 0 and no end are due there",
        )
        require("final_obs" not in step.info, f"NEXT_STEP, step {number}: final_obs belongs to SAME_STEP")

    def others(number: int) -> Any:
        return _with_others(env.env, trace[number].actions, ended[number], seed + number)

    env.same_again(trace, seed, "the action of a step that resets must be ignored", others)


def _check_same_step(env: Watched, trace: list[Step], seed: int) -> None:
    for number, step in enumerate(trace):
        where = f"SAME_STEP, step {number}"
        for key in ("final_obs", "final_info"):
            marked = step.info.get(f"_{key}", np.zeros(env.num_envs, dtype=bool))
            named = np.flatnonzero(step.ended)
            require(np.array_equal(marked, step.ended), f"{where}: {named} ended, info['_{key}'] is {marked}")
        for row in np.flatnonzero(step.ended).tolist():
            inside = env.env.single_observation_space.contains(_final(step.info, row))
            require(inside, f"{where}: info['final_obs'][{row}] is outside of single_observation_space")
            require(isinstance(step.info["final_info"], dict), f"{where}: info['final_info'] must be a dict")


def _check_disabled(env: Watched, trace: list[Step], seed: int) -> None:
    env.reset(seed)
    for number, step in enumerate(trace):
        env.step(deepcopy(step.actions), number)
        if step.ended.any():
            break
    if "ended_raises" not in env.skip:
        again = deepcopy(trace[number].actions)
        refused(
            lambda: env.env.step(again),
            f"DISABLED: stepping {np.flatnonzero(step.ended)}, which ended, must raise",
        )
    if "reset_mask" not in env.skip:
        all_true = np.ones(env.num_envs, dtype=bool)
        for mask in (list(all_true), all_true.astype(np.int64), all_true[1:], ~all_true):
            options = {"reset_mask": mask}
            refused(partial(env.env.reset, options=options), f"DISABLED: reset must refuse {options}")


CHECKS = {
    AutoresetMode.NEXT_STEP: _check_next_step,
    AutoresetMode.SAME_STEP: _check_same_step,
    AutoresetMode.DISABLED: _check_disabled,
}


def _check_split(
    make: Callable[[int, AutoresetMode], Env],
    mode: AutoresetMode,
    trace: list[Step],
    seed: int,
    skip: Collection[str],
) -> None:
    for row in range(len(trace[0].rewards)):
        with Watched(make(1, mode), 1, mode, skip) as env:
            actions = [
                _batch(env.env, rows(env.env.action_space, step.actions)[row : row + 1]) for step in trace
            ]
            alone = env.play(seed + row, len(trace), actions.__getitem__)
            here, there = (
                [_seen(env.env, step, at) for step in steps] for steps, at in ((trace, row), (alone, 0))
            )
        same(
            here,
            there,
            f"{mode.name}: environment {row} in a batch differs from it alone with seed {seed + row}",
        )


def _batch(env: Env, singles: Sequence[Any]) -> Any:
    space = env.single_action_space
    empty: Any = create_empty_array(space, len(singles))
    return concatenate(space, singles, empty)


def _with_others(env: Env, actions: Any, where: NDArray[np.bool_], seed: int) -> Any:
    """The same actions, but for other ones in the environments where `where` is True."""
    singles = rows(env.action_space, deepcopy(actions))
    env.single_action_space.seed(seed)
    for row in np.flatnonzero(where):
        singles[row] = env.single_action_space.sample()
    return _batch(env, singles)


def _final(info: Info, row: int) -> Any:
    """The last observation of an episode; of a Dict space, Gymnasium's vectorizers make a dict of arrays."""
    final = info["final_obs"]
    return {key: value[row] for key, value in final.items()} if isinstance(final, dict) else final[row]


def _seen(env: Env, step: Step, row: int) -> list[Any]:
    """What a step showed of one environment."""
    begun = None
    if step.begun is not None and step.ended[row]:
        obs, info = step.begun
        begun = [rows(env.observation_space, obs)[row], _info_of(info, row)]
    results = [step.rewards[row], step.terminated[row], step.truncated[row]]
    return [rows(env.observation_space, step.obs)[row], results, _info_of(step.info, row), begun]


def _info_of(info: Info, row: int) -> Info:
    """The entries that are present for one environment."""
    present = {key: value for key, value in info.items() if not key.startswith("_")}
    present = {key: value for key, value in present.items() if f"_{key}" not in info or info[f"_{key}"][row]}
    return {
        key: _info_of(value, row) if isinstance(value, dict) else value[row] for key, value in present.items()
    }


def _first_life(env: Env, mode: AutoresetMode, trace: list[Step], row: int) -> list[Any]:
    """One environment's steps to the end of its first episode, and the observation that the next began with.

    The last step of the trace is left out: what follows it is not known in every mode.
    """
    life = []
    for step, after in pairwise(trace):
        ended = step.ended[row]
        at_end = mode == AutoresetMode.SAME_STEP and ended
        obs = _final(step.info, row) if at_end else rows(env.observation_space, step.obs)[row]
        life.append([obs, step.rewards[row], step.terminated[row], step.truncated[row]])
        if ended:
            begun = {AutoresetMode.NEXT_STEP: after.obs, AutoresetMode.SAME_STEP: step.obs}
            obs = step.begun[0] if step.begun else begun[mode]
            return [*life, rows(env.observation_space, obs)[row]]
    return life
