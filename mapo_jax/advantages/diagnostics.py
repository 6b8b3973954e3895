"""Measures two faults of an advantage, reversion and mirror, and the objective that it climbs.

No batch of a run passes through here: the functions measure an entry of `advantages.ADVANTAGES` or
a user's function. MAPO (arXiv 2509.18849, sec. 3.2) sets out to mend the two faults. The paper
shows them on examples and does not define them, so each docstring says which reading it takes.
`docs/method.md` shows the results.

In all groups here a success is a reward of exactly 1, lengths are equal, the reward is its only
part, and no step went before. Only the function of one group is measured. A second stage needs the
groups of a real batch, and it scales or shifts all of them together (`gpg`, whitening), which no
single group can show. Denominators have eps=0 unless the option is given.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from mapo_jax.advantages import group_advantages, history, registry

LEVELS = (0.0, 0.1, 0.9, 1.0)  # all rewards that occur in the paper's runs
# The paper's groups: a hard one, an easy one, and two uncertain ones (sec. 3.2, introduction).
EXAMPLES = ((0.0, 0.1, 0.1, 0.1), (0.9, 1.0, 1.0, 1.0), (0.1, 0.1, 1.0, 1.0), (0.1, 0.9, 1.0, 1.0))

_SAME = 1e-5  # relative; the arithmetic is float32

Advantage = str | Callable[..., Array]


def values(advantage: Advantage, rewards_PG: Any, /, **options: Any) -> np.ndarray:
    """Returns the advantages of groups, float[P, G].

    Args:
        advantage: a name in `ADVANTAGES`, or a function as in `group_advantages`.
        rewards_PG: float[P, G].
        **options: the advantage's options; also `key` or `baseline_P` if it takes such an input.
    """
    rewards_PG = jnp.asarray(rewards_PG, jnp.float32)
    if registry.takes(advantage, options, "eps"):
        options.setdefault("eps", 0.0)
    if "base" in options:
        options["base"] = registry.entry_of(options["base"]).fn
    found_PG = group_advantages(
        registry.entry_of(advantage).fn,
        rewards_PG,
        rewards_PG == 1,
        lengths_PG=jnp.ones(rewards_PG.shape, int),
        components_PGC=rewards_PG[..., None],
        history_P=history.none(len(rewards_PG)),
        **options,
    )
    return np.asarray(found_PG, float)


def reversion(
    advantage: Advantage, G: int, /, *, levels: Sequence[float] = LEVELS, **options: Any
) -> dict[str, bool | float]:
    """Measures whether a more certain group punishes its worst response harder than a less certain.

    Args:
        advantage: as in `values`.
        G: responses in a group.
        levels: the rewards that a response can have; 1, a success, is the highest.
        **options: the advantage's options.

    Returns:
        paper: true if min A of [.9, 1, 1, 1] is below min A of [.1, .1, 1, 1] (example of
            sec. 3.2).
        intro: the same against [.1, .9, 1, 1], the other uncertain group of the paper.
        binary: true if, with 0/1 rewards, a failure's A at p = 1 - 1/G is below a failure's A at
            p = 1/2. If G is odd, the next k/G below 1/2 replaces 1/2.
        share: takes all groups of size G with rewards from `levels`, each multiset once, that are
            not constant and have p - 1/G >= 1/2. Each is compared with a less certain group: one
            success becomes a copy of the group's worst response, which lowers lambda. The share is
            the part of these groups whose min A is below min A of the less certain one.
        size: mean min A of those groups over mean min A of the less certain ones; 1.2 punishes 20%
            harder. NaN or inf if the latter is 0.
    """
    _, easy, uncertain, intro = values(advantage, EXAMPLES, **options).min(1)
    wrong_K = binary(advantage, G, **options)["wrong"]
    groups = _groups(levels, G)
    less = groups.copy()
    less[:, -1] = less[:, 0]  # rows ascend, so a success becomes the worst
    k = np.sum(groups == 1, axis=1)
    compared = (k < G) & (2 * (k - 1) >= G)
    worst, worst_less = (values(advantage, x, **options).min(1)[compared] for x in (groups, less))
    with np.errstate(divide="ignore", invalid="ignore"):
        size = worst.mean() / worst_less.mean()
    return {
        "paper": bool(_below(easy, uncertain)),
        "intro": bool(_below(easy, intro)),
        "binary": bool(_below(wrong_K[G - 1], wrong_K[G // 2])),
        "share": float(np.mean(_below(worst, worst_less))),
        "size": float(size),
    }


def mirror(
    advantage: Advantage, G: int, /, *, levels: Sequence[float] = LEVELS, **options: Any
) -> dict[str, bool | float]:
    """Measures whether a hard and an easy group look alike.

    Args:
        advantage: as in `values`.
        G: responses in a group.
        levels: the rewards that a response can have. A reward of 1 is a success, and so is the
            reflection 1 - 0 of a reward of 0.
        **options: the advantage's options.

    Returns:
        paper: true if [0, .1, .1, .1] and [.9, 1, 1, 1] get the same advantages (example of
            sec. 3.2). The two are shifted, not reflected.
        binary: true if, with 0/1 rewards, a success at p gets minus the A of a failure at 1 - p,
            for all p = k/G, 0 < k < G.
        share: takes all groups of size G with rewards from `levels`, each multiset once, that are
            not constant. The share is the part of these groups whose reflection 1 - r gets
            exactly -A.
        distance: divides max |A(r) + A(1 - r)| by the larger of max |A(r)| and max |A(1 - r)|, and
            takes the mean over these groups; 0 is a perfect mirror. Two groups of zeros count 0.
    """
    hard, easy = values(advantage, EXAMPLES, **options)[:2]
    right_K, wrong_K = (binary(advantage, G, **options)[side][1:G] for side in ("right", "wrong"))
    groups = _groups(levels, G)
    A, reflected = values(advantage, groups, **options), values(advantage, 1 - groups, **options)
    largest = np.maximum(np.abs(A), np.abs(reflected)).max(1)
    distance = np.abs(A + reflected).max(1) / np.where(largest > 0, largest, 1)
    distance = distance[groups[:, 0] < groups[:, -1]]
    return {
        "paper": bool(np.all(np.abs(hard - easy) <= _SAME * np.abs(easy).max())),
        "binary": bool(np.allclose(right_K, -wrong_K[::-1], rtol=_SAME, atol=_SAME)),
        "share": float(np.mean(distance <= _SAME)),
        "distance": float(distance.mean()),
    }


def binary(advantage: Advantage, G: int, /, **options: Any) -> dict[str, np.ndarray]:
    """Returns the advantages of 0/1 rewards, at k = 0 ... G successes of G; arrays float[G + 1].

    Returns:
        p: k / G.
        right: A+, the advantage of a success; NaN at k = 0.
        wrong: A-, the advantage of a failure; NaN at k = G.
        w: A+ - A-; NaN at both ends. An advantage centred on the group's mean is w(p) (r - p).
        mass_right: p A+, the weight that the group puts on its right answers.
        mass_wrong: -(1 - p) A-, the weight on its wrong answers; equal to mass_right if A is
            centred.
    """
    k = np.arange(G + 1)
    p = k / G
    A = values(advantage, np.arange(G) < k[:, None], **options)
    right, wrong = np.where(k > 0, A[:, 0], np.nan), np.where(k < G, A[:, -1], np.nan)
    return {
        "p": p,
        "right": right,
        "wrong": wrong,
        "w": right - wrong,
        "mass_right": p * right,
        "mass_wrong": -(1 - p) * wrong,
    }


def slope(advantage: Advantage, G: int, p_N: Any, /, **options: Any) -> np.ndarray:
    """F'(p), float[N], of the objective F that the expected update climbs with 0/1 rewards.

    The update is the mean over G responses of A_i grad log pi(o_i). The mean of grad log pi is
    grad p / p over right responses and -grad p / (1 - p) over wrong ones. So the expected update is
    F'(p) grad p; with k ~ Binomial(G, p),

        F'(p) = E [k A+(k) / p - (G - k) A-(k) / (1 - p)] / G = E_j [A+(j + 1) - A-(j)].

    Here j ~ Binomial(G - 1, p) counts the successes of the others. The difference is the
    gain of a response from being right. For large G it is w(p). There is no clipping and no KL.
    """
    return _binomial(G - 1, p_N) @ _steps(advantage, G, options)


def objective(advantage: Advantage, G: int, p_N: Any, /, **options: Any) -> np.ndarray:
    """F(p), float[N], the integral of `slope` from 0 to p.

    F(p) = E_k [sum_{j<k} A+(j + 1) - A-(j)] / G, k ~ Binomial(G, p). This is exact, because the
    integral of a term of Binomial(G - 1, p) from 0 to p is a tail of Binomial(G, p) divided by G.
    """
    sums = np.concatenate([[0.0], np.cumsum(_steps(advantage, G, options))])
    return _binomial(G, p_N) @ sums / G


def mapo_objective(p_N: Any) -> np.ndarray:
    """F(p) of MAPO for large G, up to a constant; 0 < p < 1.

    F(p) = ln p - 4 p + 2 p^2 + (2 p - 1) sqrt(p (1 - p)) + asin(2 p - 1) / 2, whose slope is
    w(p) = 4 sqrt(p (1 - p)) + (1 - 2 p)^2 / p.
    """
    p = np.asarray(p_N)
    curve = (2 * p - 1) * np.sqrt(p * (1 - p)) + np.arcsin(2 * p - 1) / 2
    return np.log(p) - 4 * p + 2 * p**2 + curve


def _steps(advantage: Advantage, G: int, options: dict[str, Any]) -> np.ndarray:
    """A+(j + 1) - A-(j), float[G], a response's gain from being right if j others are right."""
    found = binary(advantage, G, **options)
    return found["right"][1:] - found["wrong"][:-1]


def _binomial(n: int, p_N: Any) -> np.ndarray:
    """Probabilities of 0 ... n successes, float[N, n + 1]."""
    j, p = np.arange(n + 1), np.asarray(p_N, float)[:, None]
    counts = np.array([math.comb(n, i) for i in j], float)
    return counts * p**j * (1 - p) ** (n - j)


def _groups(levels: Sequence[float], G: int) -> np.ndarray:
    """Returns every multiset of G rewards, each in ascending order, float[M, G]."""
    return np.array(list(itertools.combinations_with_replacement(sorted(levels), G)))


def _below(x: Any, y: Any) -> np.ndarray:
    """x < y, by more than rounding."""
    return np.asarray(x < y - _SAME * np.maximum(np.abs(x), np.abs(y)))
