"""Losses again, in plain NumPy float64 loops from the papers; shares no code."""

import math

import numpy as np


def surrogate(logp, old_logp, advantage, low, high, dual):
    """PPO as printed, a token at a time: minus the min of two, then the dual clip for A < 0."""
    ratio = math.exp(logp - old_logp)
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


def gspo(logps, old_logps, advantage, low, high, dual):
    """The loss of one sequence: the same of the geometric mean of its tokens' ratios."""
    differences = [a - b for a, b in zip(logps, old_logps, strict=True)]
    return surrogate(math.fsum(differences) / len(differences), 0.0, advantage, low, high, dual)


def cispo(logp, old_logp, advantage, low, high, dual):
    """The log-prob with a bounded weight."""
    return -min(max(math.exp(logp - old_logp), 1 - low), 1 + high) * advantage * logp


def k1(logp, ref_logp):
    """The log-ratio."""
    return logp - ref_logp


def k2(logp, ref_logp):
    """Half its square."""
    return (logp - ref_logp) ** 2 / 2


def k3(logp, ref_logp):
    """exp(d) - d - 1 in float64."""
    d = ref_logp - logp
    return math.exp(d) - d - 1


def token_mean(per_token_BT, mask_BT):
    """Mean over all tokens of all rows."""
    values = [x for row, m in zip(per_token_BT, mask_BT, strict=True) for x in row[m]]
    return sum(values) / len(values) if values else 0.0


def sequence_mean(per_token_BT, mask_BT):
    """Mean over the rows that have tokens of each row's mean."""
    rows = [np.mean(row[m]) for row, m in zip(per_token_BT, mask_BT, strict=True) if m.any()]
    return sum(rows) / len(rows) if rows else 0.0


def constant(per_token_BT, mask_BT):
    """Sum over all tokens over the longest a response can be, mean over the rows that have any."""
    sums = [math.fsum(row[m]) for row, m in zip(per_token_BT, mask_BT, strict=True) if m.any()]
    return sum(sums) / len(mask_BT[0]) / len(sums) if sums else 0.0
