"""One network: the vector environment with `num_envs=1`, its axis taken off."""

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray
from torch import nn

from esper_env.arguments import seed_list
from esper_env.mdp import infos
from esper_env.vector_env import EsperVectorEnv


class EsperEnv(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Grow a neural network while it trains.

    ## Description
    A small host network is trained from scratch. At fixed places between its layers it has slots. Into a
    slot the agent can plant a module built from a blueprint. The module first learns without influencing
    the host, is then blended in by alpha, held, and either fossilized (committed) or pruned (removed).
    One step is one epoch of training; at the end every module that is not fossilized is removed, and
    what is left counts.

    ## Action Space
    `MultiDiscrete` with eight heads: slot, blueprint, style, tempo, alpha_target, alpha_speed,
    alpha_curve, op. The op decides which of the others are read; the rest change nothing. What is legal
    is published in `info`: `op_slot_mask` (op, slot) and, for GERMINATE, `blueprint_slot_mask` (slot,
    blueprint) are exact; `action_mask` is their union per head. An illegal action becomes WAIT, and
    `info["action_valid"]` is False.

    ## Observation Space
    A flat `Box` of float32. `env.features` maps the name of each feature to its slice; the table below
    is made from the same declaration. A measurement that is missing shows -1, or 0 beside a flag that
    says so.

    ## Rewards
    Quality is validation accuracy; for hosts that read text, which have no accuracies, it is
    1 - loss / ln(vocabulary).

    A sum of named terms times prices; `reward` chooses the prices. `dense`: 100 times the gain in
    validation quality, less rent for the size of the modules and for compute, churn of alpha, the cost of
    ops and of rollbacks, plus shaping that sums to the same for every life; at the end 100 times what the
    harvest changes. So the return is the harvested quality won, in points, less what it cost. `sparse` pays
    the same sum once, at the end. `economy` pays what each module contributes, as it is measured, takes all
    of it back at the end, and pays the harvested quality there. With gamma 1 all three return the same
    for the same life.
    `info["reward_terms"]` holds the terms, which sum to the reward. [What is rewarded](../rewards.md)
    says what each is for.

    ## Starting State
    A new host with the weights, data order and augmentation that the episode's seed decides, all slots
    empty.

    ## Episode End
    `terminated` when the horizon is over, after the epoch that spends the compute budget, or with the third
    panic of the governor: all three are observed. `truncated` only by limits set from outside; a truncated
    episode is not harvested.

    ## Information
    In every step: the masks, `action_valid`, `reward_terms`, and as far as there are any `train_loss` and
    `val_loss` (nats) and `val_accuracy` (share). At the end of an episode besides, of the network after the
    harvest: `harvest_loss`, `harvest_accuracy` (validation split), `test_loss`, `test_accuracy`,
    `param_ratio` (its parameters over the host's), `flops_ratio` (training FLOPs over those of the static
    host's whole horizon) and `rollbacks`. Accuracies are of images alone. In a vector environment
    `info["_key"]` says where `info["key"]` is there. `ledger()` has parameters, FLOPs and seconds.

    ## Governor
    After each epoch the governor looks for a network that broke: a loss, weight or gradient that is not
    finite, a collapse to guessing (of texts: to knowing no more than how frequent tokens are), or a loss that
    is out of bounds three epochs running. Then the last good snapshot of host and fossils comes back, every
    other module is pruned, and the reward has a penalty. Costs, clocks and data streams are not turned back.

    ## States
    `get_state` copies everything about the episode and `set_state` goes on from there, as often as one
    likes, in this environment or another of the same configuration: the same actions then bring the same
    bits. `export` gives the harvested network as a plain torch module that needs nothing of this package.

    ## Text
    A host that reads text predicts the next token after each of a window. Losses are means over tokens, in
    nats; divided by ln 2 and by the split's `env.metadata["characters_per_token"]` (`validation` or `test`),
    they are bits per character. `tell` lets the harvested network tell a story, and `decode` turns
    tokens into text.

    ## Arguments
    Those of `EsperVectorEnv` but for `num_envs` and `autoreset_mode`, which belong to
    `gymnasium.make_vec`.

    ## Version History
    v0: initial version.

    Raises:
        ValueError: an argument of the wrong type or out of range, before any data is loaded; or damaged data.
        TypeError: an unknown argument.
    """

    metadata: dict[str, Any] = dict(EsperVectorEnv.metadata)  # noqa: RUF012  Gymnasium's form

    def __init__(self, preset: str = "cifar", **arguments: Any) -> None:
        for name in ("num_envs", "autoreset_mode"):
            if name in arguments:
                raise ValueError(
                    f"{name}={arguments[name]!r} belongs to gymnasium.make_vec: make gives a single network"
                )
        self._envs = EsperVectorEnv(1, preset, autoreset_mode=AutoresetMode.DISABLED, **arguments)
        self.render_mode = self._envs.render_mode
        told = {name: self._envs.metadata[name] for name in ("gamma", "characters_per_token")}
        self.metadata = {**self.metadata, **told}
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        for name in ("config", "facts", "features", "layout", "provenance"):
            setattr(self, name, getattr(self._envs, name))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode: the seed's first, or with None the next of the series that the last seed began.

        Raises:
            ValueError: a seed that is negative or not an integer, or an unknown option.
            ClosedEnvironmentError: after `close`.
        """
        [seed] = seed_list([seed], 1)
        super().reset(seed=seed)
        obs, info = self._envs.reset(seed=[seed], options=options)
        return obs[0], infos.single(info)

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Train for one epoch under an action, integers of shape (8,); errors as in `EsperVectorEnv.step`."""
        obs, reward, terminated, truncated, info = self._envs.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), infos.single(info)

    def action_masks(self) -> NDArray[np.bool_]:
        """The flat mask of the last observation, (sum(nvec),)."""
        return self._envs.action_masks()[0]

    def sample_valid(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A legal action, (8,): the op first, then the slot, then what the op reads."""
        return self._envs.sample_valid(rng)[0]

    def ledger(self) -> dict[str, float]:
        """What the episode has cost so far; see `EsperVectorEnv.ledger`."""
        return {name: float(value[0]) for name, value in self._envs.ledger().items()}

    def attribution(self) -> dict[str, NDArray[np.float64]]:
        """What each live module was worth in the last epoch; see `EsperVectorEnv.attribution`."""
        return {name: value[0] for name, value in self._envs.attribution().items()}

    def render(self) -> NDArray[np.uint8] | None:
        """A picture of the episode so far, uint8 (height, width, 3); None without a render mode."""
        frames = self._envs.render()
        return None if frames is None else frames[0]

    def get_state(self) -> dict[str, Any]:
        """Everything about the episode; see `EsperVectorEnv.get_state`."""
        return self._envs.get_state(0)

    def set_state(self, state: Mapping[str, Any]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Go on from a state, with what `reset` returns; see `EsperVectorEnv.set_state`."""
        obs, info = self._envs.set_state(0, state)
        return obs[0], infos.single(info)

    def export(self) -> nn.Module:
        """The network with its fossils alone, by itself; see `EsperVectorEnv.export`."""
        return self._envs.export(0)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens; see `EsperVectorEnv.decode`."""
        return self._envs.decode(tokens)

    def tell(self, tokens: int = 200, temperature: float = 0.8, seed: int = 0) -> str | None:
        """A story that the network tells, None if it reads no text; see `EsperVectorEnv.tell`."""
        return self._envs.tell(0, tokens, temperature, seed)

    def close(self) -> None:
        """Free the network."""
        self._envs.close()
