"""What can be asked of running environments besides a step: masks, costs, attribution, pictures."""

import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import nn

from esper_env.config import EsperConfig
from esper_env.contracts.action import ActionLayout
from esper_env.contracts.facts import HostFacts
from esper_env.contracts.state import GameState
from esper_env.engine.build import engine_name
from esper_env.engine.precision import own_modes
from esper_env.engine.state import (
    FLAGS,
    VERSION,
    pack,
    packed,
    refuse_foreign,
    refuse_unfit,
    unpack,
    unpacked,
)
from esper_env.mdp import infos, masks, record
from esper_env.mdp.episode import EpisodeSeeds
from esper_env.mdp.masks import Masks
from esper_env.render import EpisodeTrace
from esper_env.texts import TextVectorEnv

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Info = infos.Info

NOT_COMPARED = (
    "engine.device", "engine.kernels", "engine.rows_at_once", "engine.cuda_graphs", "engine.tf32",
    "engine.deterministic", "task.data_dir", "task.patience",
)  # fmt: skip
"""Fields of the configuration that may differ between the environments that exchange a state."""


class QueriedVectorEnv(TextVectorEnv):
    """The questions that `EsperVectorEnv` answers; it holds what they are answered from."""

    config: EsperConfig
    """Everything about the game."""
    facts: HostFacts
    """Sizes and costs of the host, its slots and the modules that fit there."""
    layout: ActionLayout
    """Sizes of the action's heads."""
    autoreset_mode: AutoresetMode
    """What follows the end of an episode."""
    _state: GameState
    _masks: Masks
    _terms: tuple[str, ...]
    _seeds: EpisodeSeeds
    _trace: EpisodeTrace | None
    _unready: Bools
    _terminated: Bools
    _truncated: Bools

    @abstractmethod
    def _observe(self) -> NDArray[np.float32]:
        """The observation of the state as it is; gates and masks are brought in line with it."""

    def action_masks(self) -> Bools:
        """The flat mask of the last observation, (env, sum(nvec)), as sb3-contrib's MaskablePPO asks for it.

        Raises:
            ResetNeeded: before the first reset.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_unready()
        return self._masks.flat.astype(bool)

    def sample_valid(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A legal batch of actions, (env, 8), op first.

        Raises:
            ResetNeeded: before the first reset.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_unready()
        return masks.sample(self._masks, self.layout, rng)

    def ledger(self) -> dict[str, Floats]:
        """What the episodes have cost so far, float64 (env,) each.

        Returns:
            `params`: parameters of host, modules and gates that are present now.
            `train_flops`: FLOPs spent on training, trial and pruned modules included.
            `measure_flops`: FLOPs spent on validation and counterfactuals, the harvest left out; not charged.
            `counterfactual_flops`: the counterfactuals' part of these.
            `train_seconds`, `validation_seconds`, `counterfactual_seconds`: wall-clock time, the harvest left
            out; on CUDA the time the host waited. They alone differ from run to run, and no state holds them.

        Raises:
            ResetNeeded: before the first reset.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_unready()
        return record.ledger(self._state, self.facts) | self._engine.seconds()

    def attribution(self) -> dict[str, Floats]:
        """What each live module was worth in the last epoch, float64, in points (hundredths of quality).

        A module is live if its alpha is above 0 and it is not fossilized; all is measured on the first
        `counterfactual_size` validation samples.

        Returns:
            `contribution` (env, slot): quality less that without the module; NaN if it is not live.
            `interaction` (env, slot, slot): f(ij) - f(i) - f(j) + f(none) of two live modules; else NaN, and
            for all where not every subset was measured (more than `attribution.lattice_up_to` live modules).
            `shapley`, `shapley_error` (env, slot): Shapley value and its standard error, 0 where the value is
            exact; NaN if the module is not live, and where values beyond the lattice are not sampled.
            `joint` (env,): quality with all live modules less that with the fossils alone.
            `committed` (env,): the latter. Both NaN while no module is live.

        Raises:
            ResetNeeded: before the first reset.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_unready()
        return record.attribution(self._state)

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """A picture of each episode so far, uint8 (height, width, 3); None without a render mode.

        Raises:
            ResetNeeded: before the first reset.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_closed()
        if self._trace is None:
            gym.logger.warn("render() needs render_mode='rgb_array' at make or make_vec")
            return None
        self._refuse_unready()
        return tuple(self._trace.draw(env) for env in range(self.num_envs))

    @own_modes()
    def get_state(self, env: int) -> dict[str, Any]:
        """Everything about one environment: network, optimizers, rules, governor's snapshot, series of seeds.

        It consists of tensors on the CPU and plain values: `torch.save` writes it, and `torch.load` reads it
        with `weights_only=True`. Nothing in it is shared with the environment.

        Args:
            env: Index of the environment.

        Raises:
            ValueError: no such environment.
            ResetNeeded: it was never reset.
            ClosedEnvironmentError: after `close`.
        """
        env = self._ready_row(env)
        root, count = self._seeds.row(env)
        return {
            "version": VERSION,
            "made_for": self._made_for(),
            "series": [root, count],
            "flags": dict(zip(FLAGS, (bool(self._terminated[env]), bool(self._truncated[env])), strict=True)),
            "rules": pack(self._state, env),
            "slots": pack(self._state.slots, env),
            "trace": None if self._trace is None else packed(self._trace.row(env)),
            "engine": self._engine.get_state(env),
        }

    @own_modes()
    def set_state(self, env: int, state: Mapping[str, Any]) -> tuple[NDArray[np.float32], Info]:
        """Make one environment what `get_state` gave; the same actions then bring the same bits.

        The state may be that of another environment, at another index or in another process, of the same
        configuration (device and data folder apart) and code of tokens. It is copied, and can be used again.
        An episode that had ended has ended here too. A picture shows the epochs before if the state's
        environment draws as well.

        Args:
            env: Index of the environment.
            state: From `get_state`.

        Returns:
            Observation and info of the whole batch, as `reset` returns them; the other environments go on.

        Raises:
            ValueError: no such environment, something that is no state, or one of another configuration (the
                difference is named); nothing has changed then.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_closed()
        env = self._row(env)
        refuse_foreign(state, self._made_for())
        drawn = None if self._trace is None else self._trace.row(env)
        try:
            refuse_unfit(state, self._state, self.facts, self.config.horizon, drawn)
            self._engine.set_state(env, state["engine"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the state is damaged: {type(error).__name__}: {error}") from error
        unpack(self._state, env, state["rules"])
        unpack(self._state.slots, env, state["slots"])
        self._seeds.set_row(env, tuple(state["series"]))
        self._terminated[env], self._truncated[env] = (state["flags"][name] for name in FLAGS)
        self._unready[env] = False
        if self._trace is not None:
            trace = None if state["trace"] is None else unpacked(state["trace"])
            self._trace.set_row(env, int(self._state.epoch[env]), trace)
        everywhere = np.ones(self.num_envs, dtype=bool)
        return self._observe(), infos.build(self._state, self._masks, everywhere, self._terms, None)

    @own_modes()
    def export(self, env: int) -> nn.Module:
        """The network of one environment as the harvest would leave it, made of torch's own parts alone.

        It maps uint8 images (batch, height, width, channels), as data sets store them, to logits (batch,
        classes), or int64 tokens (batch, token), at most a context of them, to logits (batch, token,
        vocabulary). On a CPU these are to the last bit those of the environment in batches of the same size,
        on CUDA up to rounding, since torch chooses its kernels there. A copy, in eval mode, on its device.

        Args:
            env: Index of the environment.

        Raises:
            ValueError: no such environment, a blueprint (named) that torch.fx can't trace, or an engine that
                trains nothing (`null`).
            ResetNeeded: it was never reset.
            ClosedEnvironmentError: after `close`.
        """
        return self._engine.export(self._ready_row(env))

    def _made_for(self) -> dict[str, Any]:
        """By dotted path, plain values that environments must agree in to exchange a state."""
        config = _flat(self.config.model_dump(mode="json"))
        for path in NOT_COMPARED:
            del config[path]
        # Every engine that trains can go on with the networks of another one.
        config["engine.name"] = "null" if engine_name(self.config.engine) == "null" else "trains"
        places = [[place.name, *place.shape] for place in self.facts.places]
        own = {"slots": places, "host_params": self.facts.host_params, "reward_terms": list(self._terms)}
        code = {"code": self._stories.code.name} if self._stories else {}
        return config | own | code | {"blueprints": list(self.facts.blueprints)}

    def _row(self, env: int) -> int:
        if isinstance(env, bool) or not isinstance(env, int | np.integer) or not 0 <= env < self.num_envs:
            raise ValueError(f"env={env!r} is not allowed: an index from 0 to {self.num_envs - 1} is")
        return int(env)

    def _ready_row(self, env: int) -> int:
        self._refuse_closed()
        env = self._row(env)
        if self._unready[env]:
            raise ResetNeeded(f"environment {env} was never reset: call reset()")
        return env

    def close_extras(self, **kwargs: Any) -> None:
        """Free the networks."""
        # Gymnasium before 1.3 also closes what could not be built, and when the interpreter is shutting down
        if hasattr(self, "_engine") and not sys.is_finalizing():
            self._engine.close()

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this environment was closed: make a new one")

    def _refuse_unready(self) -> None:
        self._refuse_closed()
        unready = np.flatnonzero(self._unready).tolist()
        if unready:
            raise ResetNeeded(f"environments {unready} were never reset: call reset()")

    def _refuse_ended(self) -> None:
        if self.autoreset_mode == AutoresetMode.DISABLED and self._over.any():
            over = np.flatnonzero(self._over).tolist()
            raise ResetNeeded(f"the episodes of {over} are over: call reset with a reset_mask in options")

    @property
    def _over(self) -> Bools:
        """(env,): episodes that have ended and not begun anew."""
        return self._terminated | self._truncated


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts by dotted path."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat
