"""Generalized advantage estimation (J. Schulman et al., 2016), ends of episodes kept apart from cuts."""

import torch
from torch import Tensor


def advantages(
    rewards: Tensor, values: Tensor, following: Tensor, ended: Tensor, gamma: float, decay: float
) -> Tensor:
    """Estimates (step, env) of how much better each action was than the policy.

    Args:
        rewards: (step, env).
        values: (step, env), of the observations acted on.
        following: (step, env), of what came next: 0 after an end (`terminated`), the value of the last
            observation after a cut (`truncated`) and after the last step.
        ended: bool (step, env): nothing after this step belongs to its episode.
        gamma: Discount.
        decay: Lambda.
    """
    deltas = rewards + gamma * following - values
    carried = gamma * decay * (~ended).to(deltas)
    out, after = torch.empty_like(deltas), torch.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        after = out[step] = deltas[step] + carried[step] * after
    return out


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Share of the returns' variance that the values foresaw; NaN where there is none."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else float("nan")
