"""Computes the losses again, from the papers in plain float64 loops that share no code."""

import math

import numpy as np


def surrogate(logp, old_logp, advantage, low, high, dual):
    """The PPO loss of one token as printed, minus the smaller term, with a dual clip if A < 0."""
    ratio = math.exp(logp - old_logp)
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


def gspo(logps, old_logps, advantage, low, high, dual):
    """The PPO loss of one sequence, whose ratio is the geometric mean of its tokens' ratios."""
    differences = [a - b for a, b in zip(logps, old_logps, strict=True)]
    return surrogate(math.fsum(differences) / len(differences), 0.0, advantage, low, high, dual)


def cispo(logp, old_logp, advantage, low, high, dual):
    """The loss of one token, whose log-prob has a bounded weight."""
    return -min(max(math.exp(logp - old_logp), 1 - low), 1 + high) * advantage * logp


def k1(logp, ref_logp):
    """The log-ratio."""
    return logp - ref_logp


def k2(logp, ref_logp):
    """Half the square of the log-ratio."""
    return (logp - ref_logp) ** 2 / 2


def k3(logp, ref_logp):
    """exp(d) - d - 1 in float64."""
    d = ref_logp - logp
    return math.exp(d) - d - 1


def token_mean(per_token_BT, mask_BT):
    """Mean over all tokens of all rows."""
    values = [x for row, m in zip(per_token_BT, mask_BT, strict=True) for x in row[m]]
    return sum(values) / len(values) if values else 0.0


def prompt_mean(per_token, mask):
    """Mean over prompts of the mean over all tokens of their rollouts; [..., G, T]."""
    shape = (-1, *mask.shape[-2:])
    pairs = zip(per_token.reshape(shape), mask.reshape(shape), strict=True)
    means = [x[kept].mean() for x, kept in pairs if kept.any()]
    return np.mean(means) if means else 0.0


def sequence_mean(per_token_BT, mask_BT):
    """Mean of the rows' means, over rows that have tokens."""
    rows = [np.mean(row[m]) for row, m in zip(per_token_BT, mask_BT, strict=True) if m.any()]
    return sum(rows) / len(rows) if rows else 0.0


def constant(per_token_BT, mask_BT):
    """Divides each row's sum by the longest possible length, then averages the rows with tokens."""
    sums = [math.fsum(row[m]) for row, m in zip(per_token_BT, mask_BT, strict=True) if m.any()]
    return sum(sums) / len(mask_BT[0]) / len(sums) if sums else 0.0


def tis(rescored, sampled, high):
    """The truncated ratio of each token of a row."""
    return [min(math.exp(a - b), high) for a, b in zip(rescored, sampled, strict=True)]


def icepop(rescored, sampled, low, high):
    """The ratio of each token of a row, 0 where it is out of bounds."""
    ratios = [math.exp(a - b) for a, b in zip(rescored, sampled, strict=True)]
    return [r if low <= r <= high else 0.0 for r in ratios]


def mis(rescored, sampled, high):
    """For each token of a row the ratio of its sequence, 0 if it is too large."""
    ratio = math.prod(math.exp(a - b) for a, b in zip(rescored, sampled, strict=True))
    return [ratio if ratio <= high else 0.0] * len(rescored)
