"""Statistics of a policy's answers: pass@k, maj@k and their uncertainty, in NumPy."""

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959964  # 95%, two-sided
_RESAMPLES = 2000
_CHUNK = 2**22  # draws held at once


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927)."""
    share, z2 = successes / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean by the normal approximation."""
    half = _Z * float(values.std()) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def pass_at_k(n: int, right: np.ndarray, k: int) -> np.ndarray:
    """The chance that one of k answers is right, unbiased: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374) eq. 1.

    Args:
        n: answers to each problem.
        right: i64[problems], c, how many of them are right.
        k: at most n.

    Returns:
        f64[problems].
    """
    table = [1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)]
    return np.asarray(table)[np.asarray(right, np.int64)]


def majority(votes: Sequence[tuple[str, frozenset[str]] | None]) -> list[int]:
    """The indices of the answers that the majority gives (self-consistency, arXiv 2203.11171).

    Args:
        votes: (spelling, unit) of each answer, as of `answers.canonical` and `answers.unit`; None
            does not vote. 5 cm and 5 km are two votes, and 5 is one for the more frequent of them.

    Returns:
        All answers with the vote that has most; of several such votes the one that was given first.
        [] where there is no vote.
    """
    groups: list[list[tuple[int, str, frozenset[str]]]] = []
    numbered = [(i, *vote) for i, vote in enumerate(votes) if vote is not None]
    for i, spelling, unit in sorted(numbered, key=lambda vote: -len(vote[2])):  # no unit comes last
        alike = [g for g in groups if spelling == g[-1][1] and unit <= g[-1][2]]
        if not alike:
            groups += (alike := [[]])
        max(alike, key=len).append((i, spelling, unit))
    elected = [sorted(i for i, *_ in group) for group in groups]
    return max(elected, key=lambda indices: (len(indices), -indices[0]), default=[])


def bootstrap(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Bootstrap: resamples the problems within each set, then averages the means of the sets.

    Args:
        groups: f64[problems] of each set; one value a problem.

    Returns:
        f64[2000], the mean over the sets of each resample. The draws are the same at every call.
    """
    rng = np.random.default_rng(0)
    means = []
    for values in groups:
        n = len(values)
        rows = max(1, _CHUNK // n)
        pieces = [
            values[rng.integers(0, n, (min(rows, _RESAMPLES - start), n))].mean(1)
            for start in range(0, _RESAMPLES, rows)
        ]
        means.append(np.concatenate(pieces))
    return np.mean(means, 0)


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return float(low), float(high)
