"""One update: the rollout's episodes are gone over a few times, and the policy descends on PPO's loss."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper_agents.ppo.actions import Masks
from esper_agents.ppo.advantage import advantages, explained_variance, less_replicas, normalized
from esper_agents.ppo.distribution import Evaluated, given, walk
from esper_agents.ppo.network import Encoded, Policy
from esper_agents.ppo.rollout import Rollout, Sequences, sequences
from esper_agents.ppo_config import OwnPpoConfig

Figures = dict[str, float]


@dataclass(frozen=True)
class Targets:
    """What a rollout teaches, (step, env) each."""

    advantages: Tensor
    """Normalized to mean 0 and deviation 1."""
    argument_advantages: Tensor
    """Of the heads after the op."""
    returns: Tensor


@dataclass(frozen=True)
class Batch:
    """The steps of some sequences, without the padding, (row, ...)."""

    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    argument_advantages: Tensor
    returns: Tensor


class Updater:
    """Trains a policy.

    Args:
        policy: In place.
        config: Settings.
        gamma: Discount.
        seed: Of the order of minibatches.
        blocks: Of environments with budgets of their own, in every round.
    """

    def __init__(self, policy: Policy, config: OwnPpoConfig, gamma: float, seed: int, blocks: int) -> None:
        self.policy, self._config, self._gamma = policy, config, gamma
        self._parted = config.rounds_per_update, blocks
        self.optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate, eps=1e-5, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0
        """Passes over data so far."""

    def update(self, rollout: Rollout, fresh: Tensor) -> Figures:
        """Learn from a rollout.

        Args:
            rollout: What was played.
            fresh: bool (env,): its first step begins an episode.

        Returns:
            Means over the minibatches, by the names of Stable-Baselines3 where it has one.
        """
        targets = self._targets(rollout)
        found: list[Figures] = []
        taken = 0
        for part in self._parts(rollout, fresh):
            figures, done = self._step(rollout, targets, part)
            found.append(figures)
            taken += done
            if not done:
                break
        means = {name: _mean([each[name] for each in found if name in each]) for name in found[0]}
        variance = explained_variance(rollout.values.flatten(), targets.returns.flatten())
        return means | {
            "train/explained_variance": variance,
            "train/clip_range": self._config.clip_range,
            "train/learning_rate": self._config.learning_rate,
            "train/n_updates": self.updates,
            "train/gradient_steps": taken,
        }

    def _targets(self, rollout: Rollout) -> Targets:
        known = rollout.rewards, rollout.values, rollout.following, rollout.ended
        raw = advantages(*known, self._gamma, self._config.gae_lambda)
        returns = raw + rollout.values
        own = raw if rollout.op_values is None else returns - rollout.op_values
        better, own = (less_replicas(each, rollout.ended, self._config.replicas) for each in (raw, own))
        better, own = (normalized(each, *self._parted) for each in (better, own))
        return Targets(better, own, returns)

    def _parts(self, rollout: Rollout, fresh: Tensor) -> Iterator[Sequences]:
        """All minibatches of all passes; a pass counts when it begins."""
        for _ in range(self._config.ppo_epochs):
            self.updates += 1
            yield from self._minibatches(rollout, fresh)

    def _minibatches(self, rollout: Rollout, fresh: Tensor) -> Iterator[Sequences]:
        num_envs = rollout.rewards.shape[1]
        order = torch.randperm(num_envs, generator=self.generator)
        for envs in order.tensor_split(min(self._config.minibatches, num_envs)):
            yield sequences(rollout.ended, envs, fresh)

    def _step(self, rollout: Rollout, targets: Targets, part: Sequences) -> tuple[Figures, bool]:
        """One gradient step, or none where the policy has moved too far: then the second value is False."""
        valid = part.valid

        def rows(values: Tensor) -> Tensor:
            return part.take(values)[valid]

        batch = Batch(rows(rollout.actions), rows(rollout.log_probs), *map(rows, vars(targets).values()))
        masks = {name: rows(mask) for name, mask in rollout.masks.items()}
        with self._precise(valid.device):
            encoded, _ = self.policy.features(part.take(rollout.obs), part.begin(rollout.memory))
            slots = None if encoded.slots is None else encoded.slots[valid]
            encoded = Encoded(encoded.features[valid], slots)
            policy, model = self.policy.heads.begin(encoded), self.policy.model
            now = walk(model, policy, masks, len(batch.actions), given(batch.actions))
            strangeness = self._strangeness(rollout, rows, encoded, masks)
            values = self.policy.values(encoded.features).float()
            op_values = self._op_values(encoded.features, batch)
        loss, figures = self._loss(batch, now, values, op_values)
        if strangeness is not None:
            loss = loss + self._config.imitation * strangeness
            figures |= {"train/loss": loss.item(), "train/imitation_loss": strangeness.item()}
        limit = self._config.target_kl
        if limit is not None and figures["train/approx_kl"] > limit:
            return figures, False
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        figures |= self._gradients()
        _refuse_not_finite(figures)
        self.optimizer.step()
        return figures, True

    def _strangeness(
        self, rollout: Rollout, rows: Callable[[Tensor], Tensor], encoded: Encoded, masks: Masks
    ) -> Tensor | None:
        """Mean of -log p of what the teacher would have played, in nats; None without one."""
        if rollout.taught is None or not self._config.imitation:
            return None
        taught, model = rows(rollout.taught), self.policy.model
        wanted = walk(model, self.policy.heads.begin(encoded), masks, len(taught), given(taught))
        return -wanted.log_probs.sum(dim=1).mean()

    def _op_values(self, features: Tensor, batch: Batch) -> Tensor | None:
        if self.policy.op_value is None:
            return None
        op = batch.actions[:, self.policy.model.order[0]]
        return self.policy.op_value(features).float().gather(1, op[:, None])[:, 0]

    def _precise(self, device: torch.device) -> AbstractContextManager[None]:
        return torch.autocast(device.type, torch.bfloat16, enabled=self._config.precision == "bfloat16")

    def _loss(
        self, batch: Batch, now: Evaluated, values: Tensor, op_values: Tensor | None
    ) -> tuple[Tensor, Figures]:
        config, clip = self._config, self._config.clip_range
        logs = now.log_probs - batch.log_probs
        policy, clipped = self._surrogate(batch, logs, now.read)
        value = (values - batch.returns).square().mean()
        if op_values is not None:
            value = value + (op_values - batch.returns).square().mean()
        entropies = _mean_where(now.normalized_entropies, now.choices > 1)
        floors = [config.entropy_floor.get(name, 0.0) for name in self.policy.model.names]
        missing = (entropies.new_tensor(floors) - entropies).clamp(min=0) * (now.choices > 1).any(dim=0)
        # Over all rows, as the policy's gradient: a head that is rarely read is not pushed harder for it.
        bonus = now.normalized_entropies.sum(dim=1).mean()
        loss = config.policy_weight * policy + config.value_weight * value
        loss = loss - config.entropy * bonus + config.floor_weight * missing.sum()
        with torch.no_grad():
            joint = logs.sum(dim=1)
            figures = {
                "train/loss": loss.item(),
                "train/policy_gradient_loss": policy.item(),
                "train/value_loss": value.item(),
                "train/entropy_loss": -now.entropies.sum(dim=1).mean().item(),
                "train/approx_kl": _divergence(joint).mean().item(),
                "train/clip_fraction": clipped.item(),
            }
            figures |= self._of_heads(now, logs, entropies, clip)
        return loss, figures

    def _surrogate(self, batch: Batch, logs: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """PPO's loss, and the share of ratios beyond the clip range."""
        clip = self._config.clip_range
        if self._config.ratio == "joint":
            logs, own = logs.sum(dim=1, keepdim=True), batch.advantages[:, None]
            read = torch.ones_like(logs, dtype=torch.bool)
        else:
            first = self.policy.model.order[0]
            own = batch.argument_advantages[:, None].repeat(1, logs.shape[1])
            own[:, first] = batch.advantages
        ratio = logs.exp()
        gain = torch.minimum(ratio * own, ratio.clamp(1 - clip, 1 + clip) * own)
        beyond = ((ratio - 1).abs() > clip)[read]
        return -(gain * read).sum(dim=1).mean(), beyond.float().mean()

    def _of_heads(self, now: Evaluated, logs: Tensor, entropies: Tensor, clip: float) -> Figures:
        read, sizes = now.read, now.choices.new_tensor(self.policy.model.sizes)
        columns = {
            "entropy": entropies,
            "kl": _mean_where(_divergence(logs), read),
            "clip_fraction": _mean_where(((logs.exp() - 1).abs() > clip).float(), read),
            "masked_share": _mean_where(1 - now.choices / sizes, read),
            "forced_share": _mean_where((now.choices == 1).float(), read),
            "read_share": read.float().mean(dim=0),
        }
        return {
            f"heads/{name}_{figure}": value
            for figure, column in columns.items()
            for name, value in zip(self.policy.model.names, column.tolist(), strict=True)
        }

    def _gradients(self) -> Figures:
        heads, names = self.policy.heads, self.policy.model.names
        parts: list[nn.Module] = list(heads.logits)
        if heads.pointer is not None:
            parts[heads.pointer] = heads.slot_score
        norms = [_norm([p.grad for p in part.parameters() if p.grad is not None]) for part in parts]
        figures = {f"heads/{name}_gradient": norm for name, norm in zip(names, norms, strict=True)}
        total = nn.utils.clip_grad_norm_(self.policy.parameters(), self._config.max_gradient_norm)
        return figures | {"train/gradient_norm": total.item()}


def _refuse_not_finite(figures: Figures) -> None:
    """Stop before the weights are lost.

    Raises:
        FloatingPointError: the loss or its gradient is not a finite number.
    """
    wrong = {
        name: figures[name]
        for name in ("train/loss", "train/value_loss", "train/gradient_norm")
        if not math.isfinite(figures[name])
    }
    if wrong:
        raise FloatingPointError(f"an update of esper_ppo is not finite: {wrong}; its weights were kept")


def _divergence(logs: Tensor) -> Tensor:
    """Estimates of KL(old, new) from log-ratios, never negative (J. Schulman, "Approximating KL", 2020)."""
    return logs.exp() - 1 - logs


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """(head,): mean over the rows where it counts, 0 where there are none."""
    return (values * where).sum(dim=0) / where.sum(dim=0).clamp(min=1)


def _norm(gradients: list[Tensor]) -> float:
    return torch.stack([each.norm() for each in gradients]).norm().item() if gradients else 0.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
