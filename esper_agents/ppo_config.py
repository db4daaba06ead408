"""Settings of PPO: those that every implementation has, and those of our own."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PpoConfig(BaseModel):
    """Proximal policy optimization.

    Reference: J. Schulman et al., "Proximal Policy Optimization Algorithms" (2017), with generalized
    advantage estimation. The discount is the environment's `metadata["gamma"]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    ppo_epochs: int = Field(4, ge=1)
    """Passes over the data of a round."""
    memory_size: int | None = Field(None, ge=1)
    """Width of the LSTM; not given: 512 for esper_ppo, 64 for the others that have one."""
    hidden_size: int | None = Field(None, ge=1)
    """Width of what the observation is encoded into; not given: 128 for esper_ppo, and 64, twice, for the
    others."""
    minibatches: int = Field(4, ge=1)
    """Parts of a round's data, each of whole episodes, that one gradient step sees; at most num_envs."""
    learning_rate: float = Field(3e-4, gt=0)
    """Of Adam."""
    gae_lambda: float = Field(0.98, ge=0, le=1)
    """Decay of the advantage estimate."""
    clip_range: float = Field(0.2, gt=0)
    """Largest change of the probability ratio that is rewarded."""
    entropy: float = Field(0.01, ge=0)
    """Weight of the entropy, summed over the heads: in nats; for esper_ppo in shares of that of a uniform
    choice among what is legal."""
    normalize_reward: bool = True
    """Whether rewards are divided by the running standard deviation of the return."""


class OwnPpoConfig(PpoConfig):
    """What esper_ppo has besides: an action is drawn head after head, and episodes are learned from whole."""

    policy: Literal["flat", "set"] = "flat"
    """How it sees the slots: pooled after shared layers, or by attention among those in use (esper_ppo)."""
    core: Literal["lstm", "mlp"] = "lstm"
    """With or without memory (esper_ppo)."""
    own_weights: dict[str, tuple[float, ...]] = {}
    """Feature -> values at which it is divided into ranges. What reads the encoded observation and the
    memory has weights of its own for each combination of them (esper_ppo)."""
    ratio: Literal["joint", "per_head"] = "joint"
    """Whether the ratio that is clipped is that of the whole action, or of each head apart (esper_ppo)."""
    argument_baseline: Literal["value", "op_value"] = "value"
    """What the heads after the op are held against: V(s), or Q(s, op), which needs per-head ratios
    (esper_ppo). The op itself always has V(s): against Q(s, op) its expected gradient would be zero."""
    replicas: int = Field(1, ge=1)
    """Environments in which each episode of a round is played, with the same seed and other draws: what the
    others earn is held against each (esper_ppo). It divides num_envs."""
    rounds_per_update: int = Field(1, ge=1)
    """Rounds that one update learns from, such as one in each of as many instances (esper_ppo)."""
    entropy_floor: dict[str, float] = {}
    """Head -> entropy, in [0, 1], below which more of it is asked for (esper_ppo)."""
    floor_weight: float = Field(0.1, ge=0)
    """Weight of what is missing to the floors (esper_ppo)."""
    policy_weight: float = Field(1, ge=0)
    """Weight of PPO's own objective; 0 for a policy that only imitates (esper_ppo)."""
    imitation: float = Field(0, ge=0)
    """Weight of the negative log-likelihood of what the `teachers` would play next (esper_ppo)."""
    value_weight: float = Field(0.5, ge=0)
    """Weight of the squared error of the values (esper_ppo)."""
    max_gradient_norm: float = Field(0.5, gt=0)
    """To which the gradient is clipped (esper_ppo)."""
    target_kl: float | None = Field(0.03, gt=0)
    """Divergence from the policy that played at which an update stops; None, `null` in a file, for never
    (esper_ppo)."""
    average: float = Field(0, ge=0, lt=1)
    """Decay, from update to update, of the mean of the weights, which is what plays after training and is
    evaluated; 0 for the last weights (esper_ppo)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the agent's products while it learns (esper_ppo)."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Widths of the encoded observation and of the core, of esper_ppo."""
        return self.hidden_size or 128, self.memory_size or 512

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.argument_baseline == "op_value" and self.ratio == "joint":
            raise ValueError(
                "argument_baseline='op_value' needs ratio='per_head': one ratio has one baseline"
            )
        for name, edges in self.own_weights.items():
            if not edges or list(edges) != sorted(set(edges)):
                raise ValueError(f"own_weights of {name!r} is {list(edges)}: ascending values are required")
        for head, floor in self.entropy_floor.items():
            if not 0 <= floor <= 1:
                raise ValueError(f"entropy_floor of {head!r} is {floor!r}: a number in [0, 1] is required")
        return self
