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


def less_replicas(estimates: Tensor, ended: Tensor, replicas: int) -> Tensor:
    """Estimates (step, env) less the mean, at the same step, of the other environments of the same seed.

    Those began alike and draw actions of their own, so their mean foretells what the seed is worth and not
    what was chosen: the expected gradient stays as it is. Reference: W. Kool et al., "Buy 4 REINFORCE
    Samples, Get a Baseline for Free!" (2019), for samples of one input; here at every step of an episode.

    Args:
        estimates: (step, env); each `replicas` environments in a row began with the same seed.
        ended: bool (step, env): nothing after this step belongs to its episode. Later episodes differ.
        replicas: environments of a seed.
    """
    before = (ended.cumsum(dim=0) - ended.long() == 0).unflatten(1, (-1, replicas))
    own = estimates.unflatten(1, (-1, replicas))
    counted = own * before
    others = (counted.sum(dim=2, keepdim=True) - counted) / (
        before.sum(dim=2, keepdim=True) - before.long()
    ).clamp(min=1)
    return (own - others * before).flatten(1)


def normalized(estimates: Tensor, rounds: int, blocks: int) -> Tensor:
    """Estimates (step, env) with mean 0 and deviation 1 in each block of environments.

    What can be won differs by budgets as by tasks: normalized together, those where little is at stake would
    hardly be learned from.

    Args:
        estimates: (step, env), the environments of each round in a row.
        rounds: How many there are.
        blocks: Of environments with budgets of their own, in each round.
    """
    parted, every = estimates.unflatten(1, (rounds, blocks, -1)), (0, 1, 3)
    centred = parted - parted.mean(every, keepdim=True)
    return (centred / (parted.std(every, correction=0, keepdim=True) + 1e-8)).flatten(1)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Share of the returns' variance that the values foresaw; NaN where there is none."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else float("nan")
