"""RecurrentPPO that draws legal values alone: a policy and an algorithm on sb3-contrib's public classes.

sb3-contrib has masks (MaskablePPO) and memory (RecurrentPPO), but not both. Here the mask is a part of the
observation, a `Dict` with `observation` and `action_mask` as `esper_env.MaskInObservation` makes it; so
RecurrentPPO's own buffer keeps it with every transition, and the update sees the mask that was played under.
"""

from typing import Any, ClassVar

from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.maskable.distributions import MaskableDistribution, make_masked_proba_distribution
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

OBSERVATION, MASK = "observation", "action_mask"


class WithoutMask(BaseFeaturesExtractor):
    """The observation alone: the mask decides what can be drawn, it is not looked at.

    Args:
        observation_space: With `observation`, flat, and `action_mask`.
    """

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, spaces.flatdim(observation_space[OBSERVATION]))

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(batch, feature)."""
        return observations[OBSERVATION].flatten(1).float()


class MaskableLstmPolicy(RecurrentActorCriticPolicy):
    """An LSTM policy whose distributions have the observation's mask.

    Args:
        observation_space: `Dict` of `observation` and `action_mask`.
        action_space: `Discrete` or `MultiDiscrete`, with as many values in all as the mask has.
        more: As for `RecurrentActorCriticPolicy`.

    Raises:
        ValueError: an observation without a mask, or one of another length.
    """

    def __init__(self, observation_space: Any, action_space: Any, *more: Any, **others: Any) -> None:
        size = spaces.flatdim(action_space)
        parts = getattr(observation_space, "spaces", {})
        if set(parts) != {OBSERVATION, MASK}:
            raise ValueError(
                f"observation_space={observation_space}: a Dict of {OBSERVATION!r} and {MASK!r} is required"
            )
        if parts[MASK].shape != (size,):
            raise ValueError(f"{MASK!r} has shape {parts[MASK].shape}, the actions have {size} values")
        others = {"features_extractor_class": WithoutMask} | others
        super().__init__(observation_space, action_space, *more, **others)

    def _build(self, lr_schedule: Any) -> None:
        """The library's network; its logits are those of a masked distribution."""
        super()._build(lr_schedule)
        self.masked_dist = make_masked_proba_distribution(self.action_space)

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        """As the library's, which calls it first wherever it needs a distribution."""
        self._mask = obs[MASK]
        return super().extract_features(obs, features_extractor)

    def get_distribution(self, obs: Any, lstm_states: Any, episode_starts: Any) -> Any:  # type: ignore[override]
        """As the library's, which goes past our `extract_features` here."""
        self._mask = obs[MASK]
        return super().get_distribution(obs, lstm_states, episode_starts)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> MaskableDistribution:
        distribution = self.masked_dist.proba_distribution(self.action_net(latent_pi))
        # Padding of the library's sequences has no mask: its rows are not counted, and must stay finite.
        allowed = self._mask.bool() | ~self._mask.any(dim=1, keepdim=True)
        distribution.apply_masking(allowed)
        return distribution


class MaskableRecurrentPPO(RecurrentPPO):
    """`RecurrentPPO` with `MaskableLstmPolicy`; learns, saves, loads and predicts as its siblings do."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpLstmPolicy": MaskableLstmPolicy}
