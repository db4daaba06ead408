"""The order of one step, for all environments at once. The file to read first; it holds no arithmetic."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from esper_env.arguments import autoreset_member, chosen, env_count, seed_list
from esper_env.config import KEYWORDS, EsperConfig
from esper_env.contracts.action import ActionLayout, Actions
from esper_env.contracts.state import GameState
from esper_env.engine.build import build_engine
from esper_env.engine.precision import own_modes
from esper_env.engine.setup import prepare
from esper_env.mdp import (
    attribution,
    credit,
    governor,
    infos,
    masks,
    observation,
    prices,
    record,
    reward,
    transition,
)
from esper_env.mdp.episode import EpisodeSeeds, Limits
from esper_env.mdp.gates import GateResults, judge
from esper_env.presets import resolve
from esper_env.queries import QueriedVectorEnv
from esper_env.render import EpisodeTrace

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Values = Mapping[str, Floats]
Info = infos.Info


class EsperVectorEnv(QueriedVectorEnv):
    """`num_envs` networks that grow while they train, stepped together, one epoch a step.

    The game (actions, observation, reward, end of an episode) is described by `EsperEnv`. Each environment
    has its own seed, weights and data order; what happens in one never depends on the others.

    Args:
        num_envs: Number of environments.
        preset: What the other arguments change: `cifar`, `stories` or `micro`.
        host: Network to grow: for images `baseline`, `deep`, `blind`, `impaired`, `minimal` or `micro`, for
            text `gpt`, `gpt_small` or `gpt_micro`.
        slots: None for the host's default places, a number of slots, or a list of place names.
        horizon: Epochs of an episode.
        epoch_size: Training samples an epoch, a multiple of `batch_size`; `full` for the train split.
        batch_size: Training samples a batch.
        data: `cifar10`, `tinystories`, `procedural` (images or stories, as the host reads), or `folder:NAME`.
        data_dir: Cache folder of data sets; None for ESPER_DATA_DIR, else `~/.cache/esper`.
        reward: `dense`, `sparse`, `economy`, or a dictionary of prices by term; the rest is free then.
        gates: `permissive` or `strict`.
        param_budget: Most parameters, as a multiple of the host's; None: no limit; several: one a block.
        compute_budget: Training FLOPs that end an episode, of the static host's over a horizon; as above.
        max_modules: Most modules at a time in one environment; None for no limit.
        auto_advance: Gates, of `G1`, `G2`, `G3`, that fire by themselves.
        gamma: Discount, used by shaping, published in `metadata["gamma"]`.
        isolation: `training`, or `always` for comparison: where the gradient stops at a module's input.
        max_episode_steps: Steps after which an episode is truncated from outside.
        autoreset_mode: A member of `gymnasium.vector.AutoresetMode`, its value or its name.
        strict_actions: An illegal action raises instead of becoming WAIT.
        engine: `auto` or `fused`, `reference`, or `null`, which plays the rules and trains nothing.
        device: `auto`, `cpu` or `cuda`.
        render_mode: None or `rgb_array`.
        overrides: Any field of the configuration by dotted path, such as `{"reward.rent": 1.0}`.

    Raises:
        ValueError: an argument of the wrong type or out of range, before any data is loaded; or damaged data.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012  Gymnasium's form

    def __init__(
        self,
        num_envs: int = 1,
        preset: str = "cifar",
        *,
        host: str | None = None,
        slots: int | Sequence[str] | None = None,
        horizon: int | None = None,
        epoch_size: int | Literal["full"] | None = None,
        batch_size: int | None = None,
        data: str | None = None,
        data_dir: str | None = None,
        reward: str | Mapping[str, float] | None = None,
        gates: str | None = None,
        param_budget: float | Sequence[float] | None = None,
        compute_budget: float | Sequence[float] | None = None,
        max_modules: int | None = None,
        auto_advance: Sequence[str] | None = None,
        gamma: float | None = None,
        isolation: str | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        strict_actions: bool = False,
        engine: str | None = None,
        device: str | None = None,
        render_mode: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        given = locals()
        self.config: EsperConfig = resolve(preset, {name: given[name] for name in KEYWORDS}, overrides)
        self.num_envs = env_count(num_envs)
        self.autoreset_mode = autoreset_member(autoreset_mode)
        if not isinstance(strict_actions, bool):
            raise ValueError(f"strict_actions={strict_actions!r} is not allowed: True and False are")
        self.strict_actions = strict_actions
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode={render_mode!r} is not allowed: None and 'rgb_array' are")
        self.render_mode = render_mode
        self._build()

    @own_modes()
    def _build(self) -> None:
        config, num_envs = self.config, self.num_envs
        params, compute = (config.budget.of_each(name, num_envs) for name in ("params", "compute"))
        setup = prepare(config.host, config.task, config.engine, config.horizon)
        self._engine = build_engine(num_envs, setup)
        self.facts, self.provenance, self._setup = setup.facts, setup.provenance, setup
        self.metadata = {
            **self.metadata,
            "autoreset_mode": self.autoreset_mode,
            "gamma": config.reward.gamma,
            "engine": self._engine.description,
            "characters_per_token": self._stories.characters_per_token if self._stories else None,
        }
        self.layout = ActionLayout(self.facts.num_slots, self.facts.num_blueprints)
        self.features = {name: part for name, _, part in observation.layout(self.facts)}
        self.single_action_space = MultiDiscrete(self.layout.nvec)
        self.single_observation_space = Box(*observation.bounds(self.facts), dtype=np.float32)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._limits = Limits.of(
            self.facts,
            setup.epoch_size,
            horizon=config.horizon,
            params=params,
            compute=compute,
            max_steps=config.max_episode_steps,
            max_panics=config.governor.max_panics,
        )
        self._seeds = EpisodeSeeds(num_envs)
        self._terms = prices.names(config.reward)
        self._state = GameState.empty(
            num_envs, self.facts.num_slots, num_terms=len(self._terms), window=config.governor.window
        )
        self._trace = EpisodeTrace(num_envs, self.facts, config.horizon) if self.render_mode else None
        self._unready = np.ones(num_envs, dtype=bool)
        self._terminated, self._truncated = np.zeros((2, num_envs), dtype=bool)

    @own_modes()
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Begin new episodes, in all environments or those of `options["reset_mask"]`, a bool array (env,).

        Args:
            seed: An int s gives environment i the seed s + i; a list gives one (or None) each; None goes on
                with the series of episodes that the last seed began.
            options: `reset_mask`, or nothing.

        Raises:
            TypeError: a mask that is not a bool array.
            ValueError: a seed or mask of the wrong form, or an unknown option.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_closed()
        unknown = sorted(set(options or {}) - {"reset_mask"})
        if unknown:
            raise ValueError(f"options has {unknown}, only 'reset_mask' is known")
        seeds = seed_list(seed, self.num_envs)
        self._begin(chosen((options or {}).get("reset_mask"), self.num_envs), seeds)
        everywhere = np.ones(self.num_envs, dtype=bool)
        return self._observe(), infos.build(self._state, self._masks, everywhere, self._terms, None)

    @own_modes()
    def step(self, actions: ArrayLike) -> tuple[NDArray[np.float32], Floats, Bools, Bools, Info]:
        """Train every network for one epoch under these actions, integers of shape (env, 8).

        Returns:
            Observation float32 (env, feature), reward float64 (env,), terminated and truncated bool (env,),
            and an info of arrays (env, ...) with boolean partners.

        Raises:
            ValueError: malformed actions, or, with `strict_actions`, illegal ones; nothing has happened then.
                Or a reward term of the user's own that gave no finite numbers: a reset is needed then.
            ResetNeeded: before the first reset, or, with autoreset disabled, after the end of an episode.
            ClosedEnvironmentError: after `close`.
        """
        self._refuse_closed()
        self._refuse_unready()
        self._refuse_ended()
        asked = self.layout.decode(self.layout.check(actions, self.num_envs))
        resetting = self._over.copy()
        valid = self._masks.legal(asked) | resetting
        self._refuse_illegal(asked, valid)
        self._begin(resetting, [None] * self.num_envs)
        self._unready[:] = True  # an error in the middle of the step leaves nothing to go on with
        terms, end = self._play(asked.only(valid & ~resetting), valid, ~resetting)
        obs = self._observe()
        self._unready[:] = False
        info = infos.build(self._state, self._masks, valid, terms, end)
        terminated, truncated = self._terminated.copy(), self._truncated.copy()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            obs, info = self._reset_at_once(obs, info)
        return obs, reward.total(terms), terminated, truncated, info

    def _play(self, actions: Actions, valid: Bools, played: Bools) -> tuple[Values, Values]:
        """One epoch: the terms of the reward to pay, and the figures of the episodes that ended with it."""
        state, facts, config = self._state, self.facts, self.config
        before, quality, compute = state.slots, state.quality, self._limits.compute_beyond_static(state)
        state.slots = transition.apply(state, actions, self._gates, config.lifecycle, facts)
        state.slots = trained = transition.tick(state.slots, before, quality, config.lifecycle)
        self._engine.sync(state.slots, played)
        self._snapshot(governor.fossilized(before, state.slots))
        self._engine.epoch(played)
        plan = attribution.plan(state, played, config.attribution)
        stats = self._engine.evaluate(played, plan.subsets)
        record.observe(state, stats, attribution.attribute(plan, stats, facts), played, facts, config.record)
        record.acted(state, actions.op, valid, played)
        panicked = self._govern(governor.judge(state, stats, played, facts, config.governor))
        self._terminated = self._limits.terminated(state, played)
        self._truncated = self._limits.truncated(state, played)
        harvest = self._engine.harvest(self._terminated)
        credit.appraise(state, config.reward)
        change = reward.StepChange(
            before=before,
            trained=trained,
            after=state.slots,
            op=actions.op,
            compute_before=compute,
            compute_after=self._limits.compute_beyond_static(state),
            quality_before=quality,
            quality_after=state.quality,
            harvested=record.harvested(harvest, facts),
            terminated=self._terminated,
            panicked=panicked,
        )
        if self._trace:
            self._trace.add(state, played)
        due = reward.terms(change, facts, config.reward, config.horizon)
        terms = reward.pay(state, due, played, self._terminated, config.reward)
        return terms, infos.end_values(state, harvest, self._terminated, facts, self._limits.static_flops)

    def _govern(self, verdict: governor.Verdict) -> Bools:
        """Put the last good network back where one broke, keep it where it is time; (env,): what broke."""
        panicked = verdict.panicked
        if panicked.any():
            governor.roll_back(self._state, self._engine.restore(panicked), panicked, self.facts)
        self._snapshot(governor.due(self._state, verdict, self.config.governor))
        return panicked

    def _snapshot(self, envs: Bools) -> None:
        """Keep host and fossils, as they are now, for a rollback; amid divergence new fossils alone."""
        diverging = self._state.divergent > 0
        governor.snapshot(self._state, envs & ~diverging)
        self._engine.keep(envs, diverging)

    def _observe(self) -> NDArray[np.float32]:
        """The observation; gates and masks are published with it, and the next step goes by them."""
        state, config = self._state, self.config
        fits = masks.fitting(state.slots, self.facts, self._limits.params, config.lifecycle.max_modules)
        self._gates: GateResults = judge(state, fits, config.gates)
        legal = masks.build(state, self._gates, fits, config.lifecycle, self.layout)
        self._masks = masks.wait_only(legal, self._terminated, self.layout)
        return observation.encode(observation.View(state, self.facts, self._limits, config.record.freshness))

    def _begin(self, envs: Bools, seeds: Sequence[int | None]) -> None:
        """New episodes in the environments where `envs` is True."""
        rows = np.flatnonzero(envs)
        drawn = [self._seeds.next(env, seeds[env]) for env in rows.tolist()]
        self._engine.begin(rows, drawn)
        self._state.begin(rows, self.facts.chance_quality, drawn)
        self._snapshot(envs)
        if self._trace:
            self._trace.begin(rows)
        for flags in (self._unready, self._terminated, self._truncated):
            flags[rows] = False

    def _reset_at_once(self, obs: NDArray[np.float32], info: Info) -> tuple[NDArray[np.float32], Info]:
        """SAME_STEP: the end goes into `final_obs` and `final_info`, the next episode has begun."""
        ended = self._over
        self._begin(ended, [None] * self.num_envs)
        first = self._observe()
        paid = {name: info["reward_terms"][name] for name in self._terms}
        begun = infos.build(self._state, self._masks, info["action_valid"], paid, None)
        return first, begun | infos.final(obs, info, ended)

    def _refuse_illegal(self, actions: Actions, valid: Bools) -> None:
        if self.strict_actions and not valid.all():
            raise ValueError(self._masks.refusal(actions, int(valid.argmin()), self._state.slots, self.facts))
