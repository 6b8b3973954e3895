"""Statistics over seeds for a study: means, paired differences and the power of a comparison.

A run of a method with one seed is one observation. Two methods are compared seed by seed, as runs
with the same seed share their warm-up and their prompts, so much of the spread cancels. No JAX.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

POWER = 0.8  # of `Difference.detectable`


class Mean(NamedTuple):
    """The mean over seeds with its 95% t-interval."""

    n: int
    mean: float
    low: float  # NaN, as `high` and `sd`, for fewer than two seeds
    high: float
    sd: float  # of one seed


class Difference(NamedTuple):
    """The mean of a method's value minus the baseline's over the seeds that both have."""

    n: int
    mean: float
    low: float  # the 95% t-interval; NaN, as what follows, for fewer than two seeds
    high: float
    p: float  # of the two-sided paired t-test; NaN if all differences are equal
    detectable: float  # the smallest true difference that this test finds in 80% of such studies


def mean(values: Sequence[float] | np.ndarray) -> Mean:
    """Returns the mean of one value a seed; values that are not finite are left out."""
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return Mean(0, math.nan, math.nan, math.nan, math.nan)
    centre = float(x.mean())
    if len(x) == 1:
        return Mean(1, centre, math.nan, math.nan, math.nan)
    sd = float(x.std(ddof=1))
    half = float(special.stdtrit(len(x) - 1, 0.975)) * sd / math.sqrt(len(x))
    return Mean(len(x), centre, centre - half, centre + half, sd)


def difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Compares two methods seed by seed (Student's paired t-test).

    Args:
        values: of the method, one a seed; NaN where the seed has none.
        baseline: of the other method, of the same seeds in the same order.
    """
    d = mean(np.asarray(values, np.float64) - np.asarray(baseline, np.float64))
    if d.n < 2:
        return Difference(d.n, d.mean, math.nan, math.nan, math.nan, math.nan)
    error, freedom = d.sd / math.sqrt(d.n), d.n - 1
    p = 2 * float(special.stdtr(freedom, -abs(d.mean) / error)) if error else math.nan
    return Difference(d.n, d.mean, d.low, d.high, p, detectable(d.sd, d.n))


def detectable(sd: float, n: int) -> float:
    """Returns the true mean difference that a two-sided 5% t-test finds with a chance of 80%.

    The test's statistic follows the noncentral t-distribution with noncentrality d sqrt(n) / sd.
    The chance that it is significant with the wrong sign is left out; it is below 1e-5.

    Args:
        sd: standard deviation of the differences.
        n: seeds, at least 2.
    """
    threshold = special.stdtrit(n - 1, 0.975)
    noncentrality = special.nctdtrinc(n - 1, 1 - POWER, threshold)
    return float(noncentrality) * sd / math.sqrt(n)


def area(steps: np.ndarray, values: np.ndarray) -> float:
    """Returns the mean of a curve over its steps: its area (trapezoids) divided by its length."""
    kept = np.isfinite(values)
    steps, values = np.asarray(steps, np.float64)[kept], np.asarray(values, np.float64)[kept]
    if len(steps) < 2:
        return math.nan
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))
