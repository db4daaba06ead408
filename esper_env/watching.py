"""A vector environment whose every answer is checked: types, shapes, infos, and that it stays as it was."""

from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

Env = VectorEnv[Any, Any, Any]
Info = dict[str, Any]
Bools = NDArray[np.bool_]


def require(holds: Any, message: str) -> None:
    """Raise AssertionError with the message unless something holds."""
    if not holds:
        raise AssertionError(message)


def same(one: Any, other: Any, message: str) -> None:
    """Raise AssertionError with the message and the first place where two nested values differ."""
    found = difference(one, other)
    require(found is None, f"{message}: {found}")


DTYPES = {"f": "float", "b": "bool"}


def is_array(value: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value is a numpy array whose shape begins so."""
    return isinstance(value, np.ndarray) and value.shape[: len(shape)] == shape


def kind(value: Any) -> str:
    """What a value is, for messages, without printing what it holds."""
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array {value.shape}"
    length = f" of {len(value)}" if isinstance(value, tuple | list | dict) else ""
    return f"a {type(value).__name__}{length}"


def refused(call: Callable[[], Any], message: str) -> None:
    """Raise AssertionError with the message unless the call raises."""
    try:
        call()
    except Exception:
        return
    raise AssertionError(message)


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """Where two values made of dicts, tuples, lists and arrays differ first; None if equal, NaN included."""
    pairs = _parts(one, other, path)
    if pairs is None:
        a, b = np.asarray(one), np.asarray(other)
        equal = a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
        return None if equal else f"{path or 'value'} is {one!r} and {other!r}"
    found = (difference(*pair) for pair in pairs)
    return next((text for text in found if text is not None), None)


def _parts(one: Any, other: Any, path: str) -> list[tuple[Any, Any, str]] | None:
    """What two containers hold, in pairs with their places; None if they are to be compared as they are."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return [(sorted(one), sorted(other), f"{path}.keys()")]
        return [(one[key], other[key], f"{path}[{key!r}]") for key in one]
    if _is_list(one) and _is_list(other):
        if len(one) != len(other):
            return [(len(one), len(other), f"the length of {path or 'it'}")]
        return [(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(one, other, strict=True))]
    return None


def _is_list(value: Any) -> bool:
    return isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.dtype == object)


def rows(space: Space[Any], batch: Any) -> list[Any]:
    """The entries of a batch of observations or actions."""
    return list(iterate(space, batch))


class Step(NamedTuple):
    """What went into a step, what came out, and what the partial reset after it returned, if any."""

    actions: Any
    obs: Any
    rewards: NDArray[np.float64]
    terminated: Bools
    truncated: Bools
    info: Info
    begun: tuple[Any, Info] | None = None

    @property
    def ended(self) -> Bools:
        """(env,): episodes that ended in this step."""
        return self.terminated | self.truncated


class Watched:
    """A vector environment whose every answer is checked, and kept to see that it does not change."""

    def __init__(self, env: Env, num_envs: int, mode: AutoresetMode, skip: Collection[str]) -> None:
        self.env, self.num_envs, self.mode, self.skip = env, num_envs, mode, skip
        self.kept: list[tuple[Any, Any]] = []
        self.keys: set[str] | None = None
        self.where = mode.name

    def __enter__(self) -> "Watched":
        _check_face(self.env, self.num_envs, self.mode)
        return self

    def __exit__(self, fault: object, *_: object) -> None:
        self.env.close()
        if fault is None:
            self.refuse_changes(self.kept)
            require(self.env.closed, f"{self.mode.name}: `closed` must be True after close()")
            if "closed_raises" not in self.skip:
                actions = self.env.action_space.sample()
                refused(lambda: self.env.step(actions), f"{self.mode.name}: step after close() must raise")

    def reset(self, seed: Any = None, options: Info | None = None) -> tuple[Any, Info]:
        """As the environment's, checked."""
        self.where = f"{self.mode.name}, reset(seed={seed}, options={options})"
        obs, info = self._look(self.env.reset(seed=seed, options=options), 2)
        return obs, info

    def step(self, actions: Any, number: int) -> Step:
        """As the environment's, checked; the number is for messages."""
        self.where, before = f"{self.mode.name}, step {number}", deepcopy(actions)
        returned = self._look(self.env.step(actions), 5)
        same(before, actions, f"{self.where}: the environment changed the actions it was given")
        for at, name, dtype in ((1, "rewards", "f"), (2, "terminated", "b"), (3, "truncated", "b")):
            value = returned[at]
            right = is_array(value, (self.num_envs,)) and value.ndim == 1 and value.dtype.kind == dtype
            wanted = f"a {DTYPES[dtype]} array ({self.num_envs},)"
            require(right, f"{self.where}: {name} must be {wanted}, not {kind(value)}")
        return Step(before, *returned)

    def _look(self, returned: Any, count: int) -> tuple[Any, ...]:
        right = isinstance(returned, tuple) and len(returned) == count
        require(right, f"{self.where}: a tuple of {count} must be returned, not {kind(returned)}")
        _check_obs(self.env.observation_space, returned[0], f"{self.where}: obs")
        keys = _check_info(returned[-1], self.num_envs, f"{self.where}: info")
        if "info_keys" not in self.skip:
            changed = sorted(keys ^ (keys if self.keys is None else self.keys))
            require(not changed, f"{self.where}: the info's keys {changed} are not there at every call")
        self.keys = keys
        self.refuse_changes(self.kept[-1:])
        self.kept.append((returned, deepcopy(returned)))
        return tuple(returned)

    def refuse_changes(self, kept: list[tuple[Any, Any]]) -> None:
        """Compare what was returned with the copies made then."""
        for now, then in kept:
            same(then, now, f"{self.where}: what an earlier call returned has changed, return fresh arrays")

    def play(self, seed: Any, steps: int, act: Callable[[int], Any]) -> list[Step]:
        """A trajectory; with autoreset disabled, episodes that end are begun anew at once."""
        self.reset(seed)
        trace = []
        for number in range(steps):
            step = self.step(act(number), number)
            begin = self.mode == AutoresetMode.DISABLED and step.ended.any()
            trace.append(step._replace(begun=self._begin_again(step)) if begin else step)
        return trace

    def _begin_again(self, step: Step) -> tuple[Any, Info]:
        mask = step.ended
        options = {"reset_mask": mask}
        obs, info = self.reset(options=options)
        if "reset_mask" not in self.skip:
            kept = options.get("reset_mask") is mask and np.array_equal(mask, step.ended)
            require(kept, f"{self.where}: options['reset_mask'] must be read, neither popped nor changed")
        before, now = (rows(self.env.observation_space, batch) for batch in (step.obs, obs))
        for row in np.flatnonzero(~step.ended):
            same(before[row], now[row], f"{self.where}: environment {row} was not reset, but changed")
        return obs, info

    def same_again(
        self, trace: list[Step], seed: Any, message: str, act: Callable[[int], Any] | None = None
    ) -> None:
        """Play again, with the same actions or with those of `act`: the same must come back."""
        again = self.play(seed, len(trace), act or (lambda number: deepcopy(trace[number].actions)))
        same([step[1:] for step in trace], [step[1:] for step in again], f"{self.mode.name}: {message}")


def _check_face(env: Env, num_envs: int, mode: AutoresetMode) -> None:
    require(isinstance(env, VectorEnv), f"make must return a gymnasium.vector.VectorEnv, not {kind(env)}")
    require(env.num_envs == num_envs, f"num_envs is {env.num_envs}, {num_envs} were asked for")
    for name in ("observation_space", "action_space"):
        batched = batch_space(getattr(env, f"single_{name}"), num_envs)
        require(getattr(env, name) == batched, f"{name} must be the batched single_{name}: {batched}")
    for name, value in (
        ("metadata['autoreset_mode']", env.metadata.get("autoreset_mode")),
        ("autoreset_mode", getattr(env.unwrapped, "autoreset_mode", mode)),
    ):
        require(isinstance(value, AutoresetMode) and value == mode, f"{name} must be {mode}, not {value!r}")
    allowed = (None, *env.metadata.get("render_modes", ()))
    require(env.render_mode in allowed, f"render_mode={env.render_mode!r} is not among {allowed}")


def _check_obs(space: Space[Any], obs: Any, where: str) -> None:
    if isinstance(space, spaces.Dict):
        right = isinstance(obs, dict) and obs.keys() == space.keys()
        require(right, f"{where} must be a dict with the keys {list(space)}, not {kind(obs)}")
        for key in space:
            _check_obs(space[key], obs[key], f"{where}[{key!r}]")
    elif space.shape is not None and space.dtype is not None:
        right = isinstance(obs, np.ndarray) and obs.shape == space.shape and obs.dtype == space.dtype
        require(right, f"{where} must be a {space.dtype} array {space.shape}, not {kind(obs)}")
    require(space.contains(obs), f"{where} is outside of {space}")


def _check_info(info: Any, num_envs: int, where: str, nested: bool = False) -> set[str]:
    """The keys that must be there at every call, dotted."""
    require(isinstance(info, dict), f"{where} must be a dict, not {kind(info)}")
    keys = set()
    for key, value in info.items():
        here, final = f"{where}[{key!r}]", key.removeprefix("_") in ("final_obs", "final_info")
        keys |= set() if final else {key}
        if isinstance(value, dict):
            inner = _check_info(value, num_envs, here, nested=True)
            keys |= set() if final else {f"{key}.{name}" for name in inner}
        else:
            wanted = f"a dict or an array of first dimension {num_envs}"
            require(is_array(value, (num_envs,)), f"{here} must be {wanted}, not {kind(value)}")
        if key.startswith("_"):
            right = is_array(value, (num_envs,)) and value.ndim == 1 and value.dtype == np.bool_
            require(right, f"{here} must be a bool array ({num_envs},), not {kind(value)}")
        else:
            require(nested or f"_{key}" in info, f"{here} has no partner {f'_{key}'!r}")
    return keys
