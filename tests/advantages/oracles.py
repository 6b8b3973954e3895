"""Computes every advantage again, from the papers in plain Python float64.

No code is shared with the package. Each formula takes only the valid rollouts of one group; invalid
ones are deleted, not masked. Shares of subsets are counted. Quantiles and densities are those of
NumPy and SciPy.
"""

import itertools
import math

import numpy as np
import scipy.stats


def advantages(
    name,
    rewards_PG,
    success_PG,
    mask_PG=None,
    *,
    lambda_P=None,
    baseline_P=None,
    lengths_PG=None,
    components_PGC=None,
    history_P=None,
    **options,
):
    """Returns float64 [P, G]; `lambda_P` holds the draws of mapo_random."""
    rewards_PG = np.asarray(rewards_PG, np.float64)
    P, G = rewards_PG.shape
    inputs = {
        "lambda_P": lambda_P,
        "baseline_P": baseline_P,
        "lengths_PG": lengths_PG,
        "components_PGC": components_PGC,
        "history_P": history_P,
    }
    if name in ("focal", "signed"):
        changed = {key: options.pop(key) for key in ("gamma", "pos", "neg") if key in options}
        base = options.pop("base")
        out_PG = advantages(base, rewards_PG, success_PG, mask_PG, **inputs, **options)
        for p in range(P):
            valid = [
                float(rewards_PG[p, g])
                for g in range(G)
                if (mask_PG is None or mask_PG[p][g]) and math.isfinite(rewards_PG[p, g])
            ]
            for g in range(G):
                if name == "focal" and valid:
                    out_PG[p, g] *= (1 - _mean(valid)) ** changed["gamma"]
                if name == "signed":
                    out_PG[p, g] *= changed["pos"] if out_PG[p, g] > 0 else changed["neg"]
        return out_PG
    out_PG, counted = np.zeros((P, G)), []
    fewest = 1 if name in ("remax", "reinforce_plus_plus", "ebpo") else 2
    for p in range(P):
        kept = [
            g
            for g in range(G)
            if (mask_PG is None or mask_PG[p][g]) and math.isfinite(rewards_PG[p, g])
        ]
        if len(kept) < fewest:
            continue
        group = {
            "r": [float(rewards_PG[p, g]) for g in kept],
            "success": [bool(success_PG[p][g]) for g in kept],
            "drawn": None if lambda_P is None else float(lambda_P[p]),
            "baseline": None if baseline_P is None else float(baseline_P[p]),
            "lengths": None if lengths_PG is None else [int(lengths_PG[p][g]) for g in kept],
            "components": None if components_PGC is None else [components_PGC[p][g] for g in kept],
            "history": None if history_P is None else {n: x[p] for n, x in vars(history_P).items()},
        }
        for g, a in zip(kept, FORMULAS[name](group, options), strict=True):
            out_PG[p, g] = a
            counted.append((p, g))
    if name in STAGES:
        STAGES[name](out_PG, counted, rewards_PG, lengths_PG, options)
    return out_PG


def _mean(x):
    return math.fsum(x) / len(x)


def _std(x, ddof=0):
    mu = _mean(x)
    return math.sqrt(math.fsum((v - mu) ** 2 for v in x) / (len(x) - ddof))


def _constant(x):
    return max(x) == min(x)


def _over(r, scale):
    """(r - mean) / scale; 0 for a constant group."""
    if _constant(r):
        return [0.0] * len(r)
    mu = _mean(r)
    return [(v - mu) / scale for v in r]


def _grpo(g, o):
    r = g["r"]
    if _constant(r):
        return [0.0] * len(r)
    return _over(r, _std(r, o.get("ddof", 0)) + o.get("eps", 1e-6))


def _apd(g, o):
    return _over(g["r"], _mean(g["r"]) + o.get("eps", 1e-6))


def _mix(weight_of_grpo):
    def formula(g, o):
        w = weight_of_grpo(g)
        return [w * a + (1 - w) * b for a, b in zip(_grpo(g, o), _apd(g, o), strict=True)]

    return formula


def _p(g):
    return sum(g["success"]) / len(g["success"])


def _tree_rpo(g, o):
    mu = _mean(g["r"])
    return _over(g["r"], mu * (1 - mu) + o.get("eps", 1e-6))


def _rloo(g, o):
    r = g["r"]
    others = [r[:i] + r[i + 1 :] for i in range(len(r))]
    return [v - _mean(rest) for v, rest in zip(r, others, strict=True)]


def _beta_norm(g, o):
    mu = _mean(g["r"])
    return _over(g["r"], scipy.stats.beta.pdf(mu, o["a"], o["b"]) + o.get("eps", 1e-6))


def _pkpo(g, o):
    success, k, n = g["success"], o["k"], len(g["success"])
    if n < k or _constant(g["r"]):
        return [0.0] * n
    scores = []
    for i in range(n):
        rest = itertools.combinations([success[j] for j in range(n) if j != i], k - 1)
        scores.append(_mean([not any(subset) for subset in rest]) if success[i] else 0.0)
    return [s - _mean(scores[:i] + scores[i + 1 :]) for i, s in enumerate(scores)]


def _passk(g, o):
    success, k, n = g["success"], o["k"], len(g["success"])
    if n < k or _constant(g["r"]):
        return [0.0] * n
    subsets = list(itertools.combinations(range(n), k))
    rewards = [float(any(success[i] for i in subset)) for subset in subsets]
    if _constant(rewards):
        return [0.0] * n
    z = [(r - _mean(rewards)) / (_std(rewards) + o.get("eps", 1e-6)) for r in rewards]
    return [_mean([a for a, s in zip(z, subsets, strict=True) if i in s]) for i in range(n)]


def _gdpo(g, o):
    n, columns = len(g["r"]), len(g["components"][0])
    weights = o.get("weights") or [1.0] * columns
    total = [0.0] * n
    for c in range(columns):
        column = [float(row[c]) for row in g["components"]]
        if not _constant(column):
            scaled = _over(column, _std(column, o.get("ddof", 0)) + o.get("eps", 1e-6))
            total = [t + weights[c] * a for t, a in zip(total, scaled, strict=True)]
    return total


def _opo(g, o):
    r, lengths = g["r"], g["lengths"]
    if _constant(r):
        return [0.0] * len(r)
    baseline = sum(n * v for n, v in zip(lengths, r, strict=True)) / sum(lengths)
    return [v - baseline for v in r]


def _quantile(g, o):
    r = g["r"]
    if _constant(r):
        return [0.0] * len(r)
    baseline = sorted(r)[max(math.ceil(round(o["K"] * len(r), 6)), 1) - 1]
    return [(v - baseline) / (_std(r, o.get("ddof", 0)) + o.get("eps", 1e-6)) for v in r]


def _ngrpo(g, o):
    more = {"r": [*g["r"], o.get("virtual", 1.0)]}
    return _grpo(more, o)[:-1]


def _dgpo(g, o):
    r, mu = g["r"], _mean(g["r"])
    return _over(r, _mean([abs(v - mu) for v in r]) + o.get("eps", 1e-6))


def _rs_grpo(g, o):
    r, beta = g["r"], o["beta"]
    if beta == 0 or _constant(r):
        return _over(r, 1.0)
    top = max(beta * v for v in r)  # of both powers; it cancels
    powers = [math.exp(beta * v - top) for v in r]
    return [(x / _mean(powers) - 1) / beta for x in powers]


def _mgpo(g, o):
    p = _p(g)
    kl = scipy.stats.entropy([p, 1 - p], [0.5, 0.5])
    return [math.exp(-o.get("strength", 1.0) * kl) * a for a in _grpo(g, o)]


def _ebpo(g, o):
    r, h = g["r"], g["history"]
    sampling, tasks = h["variance"] / len(r), h["variance_of_means"]
    shrink = sampling / (sampling + tasks) if sampling + tasks else 0
    baseline = (1 - shrink) * _mean(r) + shrink * h["mean"]
    return [v - baseline for v in r]


FORMULAS = {
    "mapo": _mix(lambda g: 4 * _p(g) * (1 - _p(g))),
    "mapo_random": _mix(lambda g: 1 - g["drawn"]),
    "mapo_linear": _mix(lambda g: 2 * min(_p(g), 1 - _p(g))),
    "grpo": _grpo,
    "dr_grpo": lambda g, o: _over(g["r"], 1.0),
    "gpg": lambda g, o: _over(g["r"], 1.0),
    "tree_rpo": _tree_rpo,
    "apd": _apd,
    "maxrl": _apd,
    "rloo": _rloo,
    "reinforce_plus_plus": lambda g, o: g["r"],
    "reinforce_plus_plus_baseline": lambda g, o: _over(g["r"], 1.0),
    "remax": lambda g, o: [v - g["baseline"] for v in g["r"]],
    "beta_norm": _beta_norm,
    "pkpo": _pkpo,
    "passk": _passk,
    "gdpo": _gdpo,
    "opo": _opo,
    "quantile": _quantile,
    "ngrpo": _ngrpo,
    "dgpo": _dgpo,
    "sign_balance": lambda g, o: _over(g["r"], 1 - _mean(g["r"]) + o.get("eps", 1e-6)),
    "rs_grpo": _rs_grpo,
    "mgpo": _mgpo,
    "a_grae": _grpo,
    "lite_ppo": lambda g, o: _over(g["r"], 1.0),
    "jspo": _rloo,
    "ebpo": _ebpo,
}


# Second stages change out_PG in place; `counted` lists the places of the rollouts that count.


def _mixed(rewards_PG, counted):
    """Returns the places in groups whose counted rewards are not all equal."""
    rows = {p: [rewards_PG[q, g] for q, g in counted if q == p] for p, _ in counted}
    return [(p, g) for p, g in counted if not _constant(rows[p])]


def _gpg(out_PG, counted, rewards_PG, lengths_PG, o):
    alpha = o.get("alpha", 0.0)
    mixed = _mixed(rewards_PG, counted)
    if not alpha and mixed:
        alpha = min(len(counted) / len(mixed), 1 / (o.get("threshold", 0.0) or 1e-9))
    for place in counted:
        out_PG[place] *= alpha


def _whiten(out_PG, counted, rewards_PG, lengths_PG, o):
    if not counted:
        return
    weights = [1 if lengths_PG is None else int(lengths_PG[place]) for place in counted]
    values = np.repeat([out_PG[place] for place in counted], weights)  # one value for each token
    for place in counted:
        if values.min() == values.max():
            out_PG[place] = 0
        else:
            out_PG[place] = (out_PG[place] - values.mean()) / math.hypot(
                values.std(), o.get("eps", 1e-4)
            )


def _question_weights(out_PG, counted, rewards_PG, lengths_PG, o):
    rows = sorted({p for p, _ in _mixed(rewards_PG, counted)})
    if "temperature" not in o or not rows:
        return
    means = [_mean([rewards_PG[q, g] for q, g in counted if q == p]) for p in rows]
    powers = [math.exp(-mu / o["temperature"]) for mu in means]
    for p, power in zip(rows, powers, strict=True):
        out_PG[p] *= len(rows) * power / math.fsum(powers)


def _over_batch_std(out_PG, counted, rewards_PG, lengths_PG, o):
    if counted and not _constant(r := [rewards_PG[place] for place in counted]):
        for place in counted:
            out_PG[place] /= _std(r, o.get("ddof", 0)) + o.get("eps", 1e-6)


def _rows(rewards_PG, counted):
    return {p: [rewards_PG[q, g] for q, g in counted if q == p] for p, _ in counted}


def _james_stein(out_PG, counted, rewards_PG, lengths_PG, o):
    rows = _rows(rewards_PG, counted)
    for p, g in counted:
        rest = [row for q, row in rows.items() if q != p]
        means = [_mean(row) for row in rest]
        noise = _mean([_std(row, 1) ** 2 / len(row) for row in rest]) if rest else 0
        spread = _std(means) ** 2 if rest else 0
        if noise + spread > 0:
            shrink = noise / (noise + spread)
            own = rewards_PG[p, g] - out_PG[p, g]  # the mean of the group's others
            out_PG[p, g] = rewards_PG[p, g] - (1 - shrink) * own - shrink * _mean(means)


def _asymmetric(out_PG, counted, rewards_PG, lengths_PG, o):
    rows, threshold = _rows(rewards_PG, counted), o.get("threshold", 0.0)
    m = _mean([rewards_PG[place] for place in counted]) if counted else 0
    for p, g in counted:
        if not _constant(rows[p]):
            mu = _mean(rows[p])
            out_PG[p, g] *= m / (2 * math.sqrt(mu)) + (1 - m) / (2 * math.sqrt(1 - mu))
            if threshold and out_PG[p, g] > 0:
                out_PG[p, g] *= min(1, m / threshold)


STAGES = {
    "a_grae": _asymmetric,
    "lite_ppo": _over_batch_std,
    "jspo": _james_stein,
    "gpg": _gpg,
    "reinforce_plus_plus": _whiten,
    "reinforce_plus_plus_baseline": _whiten,
    "gdpo": lambda out_PG, counted, r, lengths, o: _whiten(out_PG, counted, r, None, o),
    "ebpo": lambda out_PG, counted, r, lengths, o: _whiten(out_PG, counted, r, None, o),
    "dgpo": _question_weights,
}
