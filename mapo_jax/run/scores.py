"""Reduces the judged rows of an evaluation to numbers per problem, and these to metrics.

A problem that nobody could answer, as a picture of it cannot be read, has such numbers too: it is
wrong, and nothing else is known of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapo_jax import answers
from mapo_jax.run import statistics
from mapo_jax.run.statistics import mean_interval, wilson_interval

MODES = ("greedy", "sampled")
_SUFFIXES = dict(zip(MODES, ("", "_sampled"), strict=True))  # of the names of accuracies
Row = dict[str, Any]


def _ks(samples: int) -> list[int]:
    """Returns 2, 4, 8, ... below `samples`, and `samples`; [] for one sample."""
    powers = [2**i for i in range(1, samples.bit_length())]
    return sorted({*(k for k in powers if k < samples), samples}) if samples > 1 else []


def names(samples: int) -> list[str]:
    """Returns the names of the columns of a table."""
    names = ["accuracy", "reward", "invalid", "truncated", "length", "format", "accuracy_lenient"]
    return names + [f"{kind}@{k}" for k in _ks(samples) for kind in ("pass", "maj", "mean")]


def columns(rows: Sequence[Row]) -> dict[int, np.ndarray]:
    """Reduces the rows of each problem, in the order in which the problems come."""
    grouped: dict[int, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["problem"], []).append(row)
    return {problem: of_problem(group) for problem, group in grouped.items()}


def of_problem(rows: Sequence[Row]) -> np.ndarray:
    """Reduces the rows of one problem to f32[columns]; `names` names the columns."""
    right = [row["accuracy"] for row in rows]
    finite = [row["reward"] for row in rows if math.isfinite(row["reward"])]
    formats = [row["parts"]["format"] for row in rows if "format" in row["parts"]]
    lenient = [row["accuracy_lenient"] for row in rows if "accuracy_lenient" in row]
    found = [
        np.mean(right),
        np.mean(finite) if finite else math.nan,
        1 - len(finite) / len(rows),
        np.mean([not row["finished"] for row in rows]),
        np.mean([row["tokens"] for row in rows]),
        np.mean(formats) if formats else math.nan,
        np.mean(lenient) if lenient else math.nan,
    ]
    n, is_right = len(rows), [x > 0 for x in right]
    given = [row["extracted"] for row in rows]
    votes = [answer and (answers.canonical(answer), answers.unit(answer)) for answer in given]
    for k in _ks(n):
        elected = statistics.majority(votes[:k])
        found += [
            statistics.pass_at_k(n, np.asarray([sum(is_right)]), k)[0],
            # One answer has one verdict: a response that gives it in another form (without a box,
            # or cut) is judged wrong for its form.
            max((right[i] for i in elected), default=0.0),
            np.mean(right[:k]),
        ]
    return np.asarray(found, np.float32)


def unanswered(samples: int) -> np.ndarray:
    """Returns f32[columns] of a problem without answers."""
    is_share = ["accuracy" in name or "@" in name for name in names(samples)]
    return np.where(is_share, 0, math.nan).astype(np.float32)


def metrics(prefix: str, mode: str, table: np.ndarray, samples: int) -> dict[str, float]:
    """Returns what `evaluation.evaluate` returns of one set and mode, but for `invalid`.

    Args:
        prefix: "eval/SET".
        mode: greedy or sampled.
        table: f64[problems, columns].
        samples: answers to each problem.
    """
    values = accuracy(f"{prefix}/accuracy", mode, table, samples)
    column = names(samples).index("accuracy_lenient")
    if np.isfinite(table[:, column]).all():
        values |= accuracy(f"{prefix}/accuracy_lenient", mode, table, samples, column)
    if mode == "greedy":
        return values
    of = dict(zip(names(samples), table.T, strict=True))
    is_answered = np.isfinite(of["length"])
    finite = of["reward"][np.isfinite(of["reward"])]
    values |= _with_interval(
        f"{prefix}/reward_mean",
        float(finite.mean()) if len(finite) else math.nan,
        mean_interval(finite) if len(finite) else (math.nan, math.nan),
    )
    values[f"{prefix}/truncated"] = float(of["truncated"][is_answered].mean())
    values[f"{prefix}/length_mean"] = float(of["length"][is_answered].mean())
    if not np.isnan(formats := of["format"][is_answered]).any():
        values[f"{prefix}/format"] = float(formats.mean())
    for name, column in of.items():
        if "@" in name:
            interval = _interval(column, samples)
            values |= _with_interval(f"{prefix}/{name}", float(column.mean()), interval)
    return values


def accuracy(
    name: str, mode: str, table: np.ndarray, samples: int, column: int = 0
) -> dict[str, float]:
    """Returns the accuracy of one set and mode, with its interval; see `metrics`."""
    right = table[:, column]
    mean = float(right.sum()) / len(right)
    return _with_interval(f"{name}{_SUFFIXES[mode]}", mean, _interval(right, samples))


def _interval(values: np.ndarray, samples: int) -> tuple[float, float]:
    if samples == 1:
        return wilson_interval(float(values.sum()), len(values))
    return statistics.interval(statistics.bootstrap([values]))


def invalid(tables: Mapping[str, np.ndarray], samples: int) -> float:
    """Returns the share of all answers, greedy and sampled, without a finite reward.

    Args:
        tables: f64[problems, columns] of each mode.
        samples: answers to each problem in the second.
    """
    column = names(samples).index("invalid")
    shares = [np.nanmean(tables[mode][:, column]) for mode in MODES]
    return float(np.average(shares, weights=[1, samples]))


def overall(
    is_in_domain: Mapping[str, bool], tables: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Returns A_S, A_T and A, or {} if all sets are in domain or all are out of it.

    Args:
        is_in_domain: of each set that counts, by name.
        tables: f64[problems, columns] by mode and name.
    """
    values: dict[str, float] = {}
    sides = {
        "A_S": [name for name, is_in in is_in_domain.items() if is_in],
        "A_T": [name for name, is_in in is_in_domain.items() if not is_in],
    }
    if not all(sides.values()):
        return {}
    for mode, suffix in _SUFFIXES.items():
        resampled, means = {}, {}
        for side, chosen in sides.items():
            accuracies = [tables[mode][name][:, 0] for name in chosen]
            resampled[side] = statistics.bootstrap(accuracies)
            means[side] = float(np.mean([x.mean() for x in accuracies]))
        resampled["A"] = np.mean([*resampled.values()], 0)
        means["A"] = float(np.mean([*means.values()]))
        for side, mean in means.items():
            bounds = statistics.interval(resampled[side])
            values |= _with_interval(f"overall/{side}{suffix}", mean, bounds)
    return values


def _with_interval(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}
