"""Advantages that the MAPO paper does not have, near to its own or opposed to them.

They are functions of one group, as in `paper.py`. Some are combinators: a function with the
parameter `base_G` changes the advantages of another entry, which the option `base` names.

The formulas were compared with the papers or their authors' code. Those of `quantile`, `focal`,
`sign_balance` and `mgpo` were compared only with detailed summaries.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked
from mapo_jax.advantages.common import choose_ratio, deviations, divide, is_constant
from mapo_jax.advantages.history import History
from mapo_jax.advantages.paper import grpo


def beta_norm(
    rewards_G: Array, success_G: Array, mask_G: Array, *, a: float, b: float, eps: float = 1e-6
) -> Array:
    """A_i = (r_i - mu) / (Beta(mu; a, b) + eps), the density of a Beta. BNPO, arXiv 2506.02864.

    w(p) = B(a, b) p^(1-a) (1-p)^(1-b). With 0/1 rewards and eps=0 it equals five other entries up
    to a factor: (1, 1) is `dr_grpo`, (3/2, 3/2) is `grpo` x pi/8, (2, 1) is `apd` / 2, (2, 2) is
    `tree_rpo` / 6 and (1, 2) is `sign_balance` / 2. Advantages sum to 0 and are 0 for a constant
    group. Rewards must be in [0, 1]. p is the mean reward; `success_G` is not used.

    Differs from the paper: a and b are options; BNPO fits them to the batch.
    """
    mu = masked.mean(rewards_G, mask_G)
    inside = (mu > 0) & (mu < 1)
    p = jnp.where(inside, mu, 0.5)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    density = p ** (a - 1) * (1 - p) ** (b - 1) / math.exp(log_beta)
    return jnp.where(inside, divide(deviations(rewards_G, mask_G), density, eps), 0)


def pkpo(rewards_G: Array, success_G: Array, mask_G: Array, *, k: int) -> Array:
    """s_i - mean of the others' s, for pass@k. PKPO, arXiv 2505.15201, as in MaxRL's repository.

    s_i = C(G-c, k-1) / C(G-1, k-1) for each of the c successes, the chance that k - 1 other draws
    all fail; 0 for a failure. k=1 is `rloo` with 0/1 rewards. Advantages sum to 0 and lie in
    [-1, 1]. They are 0 for a constant group and for a group with fewer than k valid rollouts.
    `rewards_G` only tells whether the group is constant.

    Differs from the paper: its s_i are used without a baseline, so they give an unbiased gradient
    of pass@k. Subtracting the others' mean adds a bias if k > 1, since the others' s depend on r_i
    (k=2: a success is worth q + p / (G-1) on average and not q = 1 - p).
    """
    n, c = jnp.sum(mask_G), jnp.sum(success_G & mask_G)
    weight = choose_ratio(n - c, n - 1, k - 1)
    scores_G = jnp.where(success_G & mask_G, weight, 0)
    advantages_G = deviations(scores_G, mask_G) * n / jnp.maximum(n - 1, 1)
    return jnp.where(is_constant(rewards_G, mask_G), 0, advantages_G)


def passk(rewards_G: Array, success_G: Array, mask_G: Array, *, k: int, eps: float = 1e-6) -> Array:
    """The z-score of pass@k over all k-subsets of the group. Pass@k training, arXiv 2508.10751.

    With f failures, R = 1 - C(f, k) / C(G, k) is the share of k-subsets that hold a success. With
    s = sqrt(R (1 - R)), a success gets (1 - R) / s and a failure gets
    (1 - R - C(f-1, k-1) / C(G-1, k-1)) / s. k=1 is `grpo` with 0/1 rewards (eps=0). Advantages sum
    to 0. They are 0 for a constant group, for fewer than k failures (at k = G always) and for fewer
    than k valid rollouts. `rewards_G` only tells whether the group is constant.
    """
    n, f = jnp.sum(mask_G), jnp.sum(~success_G & mask_G)
    miss = choose_ratio(f, n, k)
    scores_G = miss - jnp.where(success_G, 0, choose_ratio(f - 1, n - 1, k - 1))
    advantages_G = divide(scores_G, jnp.sqrt(miss * (1 - miss)), eps)
    return jnp.where(is_constant(rewards_G, mask_G), 0, advantages_G)


def gdpo(
    rewards_G: Array,
    success_G: Array,
    mask_G: Array,
    *,
    components_GC: Array,
    weights: tuple[float, ...] = (),
    eps: float = 1e-6,
    ddof: int = 0,
) -> Array:
    """sum_c weight_c (r_ic - mu_c) / (sigma_c + eps), then `stages.whiten`. arXiv 2601.05242.

    Each part of the reward is normalised by itself, so that a rare part is not drowned by a common
    one. `components_GC` are the reward's parts in alphabetical order; `weights` are their weights,
    and () makes all of them 1. Before whitening, advantages sum to 0 and are 0 if every component
    is constant; whitening shifts them. Parts that oppose each other, as (1, 1, 0) and (0, 0, 1) do,
    cancel up to rounding. If `eps` is set, whitening uses it too. `rewards_G` and `success_G` are
    not used.

    Differs from the authors' code: sigma is the population's (ddof=1 is theirs). Whitening is over
    rollouts, as in their TRL; their verl whitens over tokens. A rollout with a part that is not
    finite counts in nothing; their TRL takes the part for 0.
    """
    total_G = jnp.zeros_like(rewards_G)
    for c in range(components_GC.shape[1]):
        deviations_G = deviations(components_GC[:, c], mask_G)
        sigma = masked.std(deviations_G, mask_G, ddof=ddof)
        total_G += (weights[c] if weights else 1) * divide(deviations_G, sigma, eps)
    return total_G


def opo(rewards_G: Array, success_G: Array, mask_G: Array, *, lengths_G: Array) -> Array:
    """A_i = r_i - sum_j l_j r_j / sum_j l_j, l the lengths in tokens. OPO, arXiv 2505.23585.

    This baseline has the least variance if each token's gradient has the same size and is
    independent of the others. With equal lengths it is `dr_grpo`. sum_i l_i A_i is 0, but sum_i A_i
    need not be. Advantages are 0 for a constant group. Rewards r + b give the same advantages,
    rewards a r give a times them. `success_G` is not used.
    """
    deviations_G = deviations(rewards_G, mask_G)
    lengths_G = jnp.where(mask_G, lengths_G, 0).astype(rewards_G.dtype)
    return deviations_G - jnp.sum(lengths_G * deviations_G) / jnp.maximum(jnp.sum(lengths_G), 1)


def quantile(
    rewards_G: Array,
    success_G: Array,
    mask_G: Array,
    *,
    K: float,
    eps: float = 1e-6,
    ddof: int = 0,
) -> Array:
    """A_i = (r_i - Q_K) / (sigma + eps), Q_K the group's K-quantile. QAE, arXiv 2509.22611.

    Q_K is the smallest reward that at least a share K of the group does not exceed; K=.5 gives the
    lower median. With 0/1 rewards it is a gate: only successes get an advantage at p <= 1 - K, only
    failures above it. Advantages need not sum to 0. They are 0 for a constant group. Rewards
    a r + b with a > 0 give the same advantages (eps=0). `success_G` is not used.
    """
    ordered_G = jnp.sort(jnp.where(mask_G, rewards_G, jnp.inf))
    n = jnp.sum(mask_G)
    index = jnp.ceil(K * n - 1e-4).astype(int) - 1  # K n may round up from a whole number
    baseline = ordered_G[jnp.clip(index, 0, jnp.maximum(n - 1, 0))]
    deviations_G = deviations(rewards_G, mask_G)
    sigma = masked.std(deviations_G, mask_G, ddof=ddof)
    return divide(jnp.where(mask_G, rewards_G - baseline, 0), sigma, eps)


def ngrpo(
    rewards_G: Array,
    success_G: Array,
    mask_G: Array,
    *,
    virtual: float = 1.0,
    eps: float = 1e-6,
    ddof: int = 0,
) -> Array:
    """`grpo` with one more reward in the group, `virtual`, the best there is. arXiv 2509.18851.

    mu and sigma are taken over the G + 1 rewards. A constant group is *not* 0 unless its reward is
    `virtual`: if all G fail with 0/1 rewards, each gets -1 / sqrt(G) (ddof=0, eps=0). Advantages
    need not sum to 0. `success_G` is not used.

    Differs from the released code: that code takes the sample sigma, ddof=1.
    """
    more_G1 = jnp.append(rewards_G, jnp.asarray(virtual, rewards_G.dtype))
    mask_G1 = jnp.append(mask_G, True)
    return grpo(more_G1, mask_G1, mask_G1, eps=eps, ddof=ddof)[:-1]


def dgpo(rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6) -> Array:
    """A_i = (r_i - mu) / (mean |r - mu| + eps), by the mean absolute deviation. arXiv 2601.20614.

    Every group that is not constant has the same sum |A_i| = G (eps=0). w(p) = 1 / (2 p (1 - p)),
    half of `tree_rpo` with 0/1 rewards. Advantages sum to 0, are 0 for a constant group and at most
    G / 2 in size. Rewards a r + b with a > 0 give the same advantages (eps=0). `success_G` is not
    used. `stages.question_weights` adds the paper's weights of the questions, with the option
    `temperature`.
    """
    deviations_G = deviations(rewards_G, mask_G)
    return divide(deviations_G, masked.mean(jnp.abs(deviations_G), mask_G), eps)


def sign_balance(rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6) -> Array:
    """A_i = (r_i - mu) / (1 - mu + eps); a success gets 1, a failure -n_success / n_failure.

    SignBalance, arXiv 2609.04063. It is the mirror image of `apd`: w(p) = 1 / (1 - p), and it
    climbs -log(1 - p). Advantages sum to 0 and are 0 for a constant group. Rewards must be <= 1;
    then advantages are in [-(G - 1), 1]. `success_G` is not used.
    """
    return divide(deviations(rewards_G, mask_G), 1 - masked.mean(rewards_G, mask_G), eps)


def rs_grpo(rewards_G: Array, success_G: Array, mask_G: Array, *, beta: float) -> Array:
    """A_i = (exp(beta (r_i - s)) - 1) / beta, s = ln(mean exp(beta r)) / beta.

    RS-GRPO, arXiv 2509.24261: risk-seeking for beta > 0, risk-averse below. With 0/1 rewards
    w(p) = (e^beta - 1) / (beta (1 - p + p e^beta)), and it climbs s(p). One option runs through
    three other entries: beta=0 is `dr_grpo`, beta A tends to `apd` for a large beta, and |beta| A
    to `sign_balance` for a large -beta. Advantages sum to 0 and are 0 for a constant group. Rewards
    r + b give the same advantages. `success_G` is not used.
    """
    if beta == 0:
        return deviations(rewards_G, mask_G)
    x_G = jnp.where(mask_G, beta * rewards_G, -jnp.inf)
    weights_G = jnp.exp(x_G - jnp.max(x_G, initial=-jnp.finfo(x_G.dtype).max))
    deviations_G = weights_G - masked.mean(weights_G, mask_G)
    advantages_G = divide(deviations_G / beta, masked.mean(weights_G, mask_G), 0.0)
    return jnp.where(is_constant(rewards_G, mask_G), 0, advantages_G)


def mgpo(
    rewards_G: Array,
    success_G: Array,
    mask_G: Array,
    *,
    strength: float = 1.0,
    eps: float = 1e-6,
    ddof: int = 0,
) -> Array:
    """`grpo` x exp(-strength KL(p || 1/2)), p the share of successes. MGPO, arXiv 2511.06221.

    KL = p ln(2 p) + (1 - p) ln(2 (1 - p)). Uncertain groups count most, nearly decided ones up to
    2^strength times less; MAPO has the opposite instinct. strength=0 is `grpo`. Advantages sum to 0
    and are 0 for a constant group. Rewards a r + b with a > 0 give the same advantages (eps=0).
    """
    p = masked.mean(success_G, mask_G)
    kl = math.log(2) + jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p)
    return jnp.exp(-strength * kl) * grpo(rewards_G, success_G, mask_G, eps=eps, ddof=ddof)


def ebpo(rewards_G: Array, success_G: Array, mask_G: Array, *, history: History) -> Array:
    """A_i = r_i - (1 - S) mu - S m, then `stages.whiten`. EBPO, arXiv 2602.05165.

    The baseline is the group's mean, shrunk towards m, the mean of all rewards of the run. With v
    their variance and t the variance of the means of all groups, S = (v / G) / (v / G + t). All
    three count every step so far, this one too. A group that fails whole is not 0: before whitening
    each gets -S m. Advantages need not sum to 0. `success_G` is not used.

    t is the plain variance of the means, as in the paper's remark. The paper does not say which
    ddof its variances have; here it is 0. Its best results have prompts in the order of topics.
    """
    mu, noise = masked.mean(rewards_G, mask_G), history.variance / jnp.maximum(jnp.sum(mask_G), 1)
    shrink = divide(noise, noise + history.variance_of_means, 0.0)
    return deviations(rewards_G, mask_G) - shrink * (history.mean - mu)


def focal(
    rewards_G: Array, success_G: Array, mask_G: Array, base_G: Array, *, gamma: float
) -> Array:
    """A_i = (1 - mu)^gamma A_i of the base, so easy groups weigh less. F-GRPO, arXiv 2602.06717.

    Rewards must be in [0, 1]. gamma=0 is the base; the paper takes 0.5 or 1. Advantages sum to 0 if
    the base's do, and are 0 for a constant group if the base's are. `success_G` is not used.

    Differs from the paper: the mean reward replaces its success rate; the two are equal for 0/1
    rewards.
    """
    mu = masked.mean(rewards_G, mask_G)
    return jnp.clip(1 - mu, 0, 1) ** gamma * base_G


def signed(
    rewards_G: Array,
    success_G: Array,
    mask_G: Array,
    base_G: Array,
    *,
    pos: float,
    neg: float,
) -> Array:
    """pos A_i if the base's A_i > 0, neg A_i if it is < 0, so each sign has its own scale.

    This is the idea of W-REINFORCE (arXiv 2506.01347) and of the asymmetric variants after it.
    pos=neg=1 is the base. Advantages do not sum to 0 unless pos = neg. They are 0 if the base's
    are. `rewards_G` and `success_G` are not used.
    """
    return jnp.where(base_G > 0, pos, neg) * base_G
