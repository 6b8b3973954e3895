"""Makes a step's metrics from the sums and numbers that its programs return."""

import math

import numpy as np

from mapo_jax import training

_FIRST_ONLY = ("policy/ratio_mean", "policy/logp_gap_mean")


def of_batch(facts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Means from (sum, number). A fact by success count becomes "name/K" for each K that occurs."""
    values = {}
    for name, (total, number) in facts.items():
        if np.ndim(total):
            numbers = np.broadcast_to(number, total.shape)
            values |= {
                f"{name}/{k}": float(x / n)
                for k, (x, n) in enumerate(zip(total, numbers, strict=True))
                if n
            }
        else:
            values[name] = float(total / number) if number else math.nan
    return values


def of_updates(reported: list[training.Metrics]) -> dict[str, float]:
    """A step's metrics as means over its minibatches.

    The ratio and the gaps are those of the first minibatch, whose parameters sampled the batch.
    """
    losses = {k: float(np.mean([m.losses[k] for m in reported])) for k in reported[0].losses}
    values = {}
    for name in reported[0].means:
        used = reported[:1] if name in _FIRST_ONLY else reported
        total, count = (sum(float(m.means[name][i]) for m in used) for i in (0, 1))
        values[name] = total / max(count, 1.0)
    return losses | values | {name: float(x) for name, x in reported[0].maxima.items()}
