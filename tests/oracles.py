"""Advantages and losses again, in plain NumPy float64 loops from the papers; shares no code."""

import math

import numpy as np


def advantages(name, rewards_PG, success_PG, mask_PG=None, eps=1e-6, ddof=0):
    """Every group on its own: what is invalid is deleted, the formula applied, the rest is 0."""
    rewards_PG = np.asarray(rewards_PG, np.float64)
    out_PG = np.zeros_like(rewards_PG)
    for row in range(rewards_PG.shape[0]):
        kept = [
            g
            for g in range(rewards_PG.shape[1])
            if (mask_PG is None or mask_PG[row][g]) and math.isfinite(rewards_PG[row, g])
        ]
        rewards = [float(rewards_PG[row, g]) for g in kept]
        if len(kept) < 2 or len(set(rewards)) == 1:
            continue
        p = len([g for g in kept if success_PG[row][g]]) / len(kept)
        for g, a in zip(kept, _group(name, rewards, p, eps, ddof), strict=True):
            out_PG[row, g] = a
    return out_PG


def _group(name, rewards, p, eps, ddof):
    mu = math.fsum(rewards) / len(rewards)
    squares = math.fsum((r - mu) ** 2 for r in rewards)
    sigma = math.sqrt(squares / (len(rewards) - ddof))
    grpo = [(r - mu) / (sigma + eps) for r in rewards]
    apd = [(r - mu) / (mu + eps) for r in rewards]
    weight = 4 * p * (1 - p)
    return {
        "grpo": grpo,
        "dr_grpo": [r - mu for r in rewards],
        "apd": apd,
        "mapo": [weight * a + (1 - weight) * b for a, b in zip(grpo, apd, strict=True)],
    }[name]


def surrogate(logp, old_logp, advantage, low, high, dual):
    """PPO as printed, a token at a time: minus the min of two, then the dual clip for A < 0."""
    ratio = math.exp(logp - old_logp)
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


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
