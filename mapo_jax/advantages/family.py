"""Advantages beyond those of the MAPO paper: its neighbours and its opposites.

Functions of one group as in `paper.py`, and combinators: a function with the parameter `base_G`
takes the advantages of another entry, the option `base`, and changes them.

The formulas were compared with the papers or their authors' code, but those of `quantile`, `focal`
and `sign_balance`, for which there were only detailed summaries.
"""

import math

import jax.numpy as jnp
from jax import Array

from mapo_jax import masked
from mapo_jax.advantages.common import choose_ratio, deviations, divide, is_constant
from mapo_jax.advantages.paper import grpo


def beta_norm(
    rewards_G: Array, success_G: Array, mask_G: Array, *, a: float, b: float, eps: float = 1e-6
) -> Array:
    """A_i = (r_i - mu) / (Beta(mu; a, b) + eps), the density of a Beta. BNPO, arXiv 2506.02864.

    w(p) = B(a, b) p^(1-a) (1-p)^(1-b). With 0/1 rewards and eps=0, five entries up to a factor:
    (1, 1) is `dr_grpo`, (3/2, 3/2) `grpo` x pi/8, (2, 1) `apd` / 2, (2, 2) `tree_rpo` / 6 and
    (1, 2) `sign_balance` / 2. Sums to 0, is 0 for a constant group. Needs rewards in [0, 1].
    `success_G` is not used: p is the mean reward.

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

    s_i = C(G-c, k-1) / C(G-1, k-1) for each of the c successes (how likely k - 1 other draws all
    fail), 0 for a failure. k=1 is `rloo` with 0/1 rewards. Sums to 0, lies in [-1, 1]; 0 for a
    constant group, and for one with fewer than k valid rollouts. Of `rewards_G` only whether they
    are all equal matters.

    Differs from the paper: its s_i stand by themselves, and so their gradient is that of pass@k
    without bias. Taking the others' mean off is not free for k > 1, since the others' s depend on
    r_i (k=2: a success is worth q + p / (G-1) on average and not q = 1 - p).
    """
    n, c = jnp.sum(mask_G), jnp.sum(success_G & mask_G)
    weight = choose_ratio(n - c, n - 1, k - 1)
    scores_G = jnp.where(success_G & mask_G, weight, 0)
    advantages_G = deviations(scores_G, mask_G) * n / jnp.maximum(n - 1, 1)
    return jnp.where(is_constant(rewards_G, mask_G), 0, advantages_G)


def passk(rewards_G: Array, success_G: Array, mask_G: Array, *, k: int, eps: float = 1e-6) -> Array:
    """The z-score of pass@k over all k-subsets of the group. Pass@k training, arXiv 2508.10751.

    With f failures, R = 1 - C(f, k) / C(G, k) the share of k-subsets that hold a success and
    s = sqrt(R (1 - R)): a success gets (1 - R) / s, a failure
    (1 - R - C(f-1, k-1) / C(G-1, k-1)) / s. k=1 is `grpo` with 0/1 rewards (eps=0). Sums to 0; 0
    for a constant group, for fewer than k failures (at k = G always) and for fewer than k valid
    rollouts. Of `rewards_G` only whether they are all equal matters.
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

    Each part of the reward is normalised by itself, so that a rare one is not drowned by a common
    one. `components_GC` are the reward's parts in alphabetical order, `weights` theirs, () all 1.
    Before whitening it sums to 0 and is 0 where every component is constant; whitening shifts it.
    Parts that oppose each other cancel, up to rounding: (1, 1, 0) and (0, 0, 1). `eps` set here is
    that of the whitening too. `rewards_G` and `success_G` are not used.

    Differs from the authors' code: the population sigma (ddof=1 is theirs); whitening over
    rollouts, as in their TRL, where their verl whitens over tokens; a rollout with a part that is
    not finite counts in nothing, where their TRL takes the part for 0.
    """
    total_G = jnp.zeros_like(rewards_G)
    for c in range(components_GC.shape[1]):
        deviations_G = deviations(components_GC[:, c], mask_G)
        sigma = masked.std(deviations_G, mask_G, ddof=ddof)
        total_G += (weights[c] if weights else 1) * divide(deviations_G, sigma, eps)
    return total_G


def opo(rewards_G: Array, success_G: Array, mask_G: Array, *, lengths_G: Array) -> Array:
    """A_i = r_i - sum_j l_j r_j / sum_j l_j, l the lengths in tokens. OPO, arXiv 2505.23585.

    The baseline of least variance if each token's gradient has the same size and is independent of
    the others. Equal lengths are `dr_grpo`. sum_i l_i A_i = 0, not sum_i A_i; 0 for a constant
    group; the same for r + b, a times it for a r. `success_G` is not used.
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

    Q_K is the smallest reward that at least a share K of the group does not exceed: K=.5 gives the
    lower median. With 0/1 rewards it is a gate: at p <= 1 - K only successes get an advantage,
    above it only failures. Does not sum to 0; 0 for a constant group; the same for a r + b, a > 0
    (eps=0).
    `success_G` is not used.
    """
    ordered_G = jnp.sort(jnp.where(mask_G, rewards_G, jnp.inf))
    n = jnp.sum(mask_G)
    index = jnp.ceil(K * n - 1e-4).astype(int) - 1  # K n may round to just above a whole number
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

    mu and sigma are those of the G + 1 rewards. A constant group is *not* 0 unless its reward is
    `virtual`: where all G fail with 0/1 rewards, each gets -1 / sqrt(G) (ddof=0, eps=0). Does not
    sum to 0. `success_G` is not used.

    Differs from the released code: it takes the sample sigma, ddof=1.
    """
    more_G1 = jnp.append(rewards_G, jnp.asarray(virtual, rewards_G.dtype))
    mask_G1 = jnp.append(mask_G, True)
    return grpo(more_G1, mask_G1, mask_G1, eps=eps, ddof=ddof)[:-1]


def dgpo(rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6) -> Array:
    """A_i = (r_i - mu) / (mean |r - mu| + eps): the mean absolute deviation. arXiv 2601.20614.

    Every group that is not constant has the same sum |A_i| = G (eps=0). w(p) = 1 / (2 p (1 - p)):
    half of `tree_rpo` with 0/1 rewards. Sums to 0, is 0 for a constant group, at most G / 2 in
    size, the same for a r + b, a > 0 (eps=0). `success_G` is not used. The paper's weights of the
    questions are `stages.question_weights`, with the option `temperature`.
    """
    deviations_G = deviations(rewards_G, mask_G)
    return divide(deviations_G, masked.mean(jnp.abs(deviations_G), mask_G), eps)


def sign_balance(rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6) -> Array:
    """A_i = (r_i - mu) / (1 - mu + eps): successes 1, failures -n_success / n_failure.

    SignBalance, arXiv 2609.04063. The mirror image of `apd`: w(p) = 1 / (1 - p), it
    climbs -log(1 - p). Sums to 0, is 0 for a constant group. Needs rewards <= 1, and is then in
    [-(G - 1), 1]. `success_G` is not used.
    """
    return divide(deviations(rewards_G, mask_G), 1 - masked.mean(rewards_G, mask_G), eps)


def focal(
    rewards_G: Array, success_G: Array, mask_G: Array, base_G: Array, *, gamma: float
) -> Array:
    """A_i = (1 - mu)^gamma A_i of the base: less weight for easy groups. F-GRPO, arXiv 2602.06717.

    Needs rewards in [0, 1]. gamma=0 is the base, the paper's is 0.5 or 1. Sums to 0 and is 0 for a
    constant group where the base is. `success_G` is not used.

    Differs from the paper: the mean reward stands for its success rate; they are the same for 0/1
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
    """pos A_i where the base's A_i > 0, neg A_i where it is < 0: not a scale of the whole group.

    The idea of W-REINFORCE (arXiv 2506.01347) and of the asymmetric variants after it. pos=neg=1 is
    the base; does not sum to 0 unless pos = neg; 0 where the base is. `rewards_G` and `success_G`
    are not used.
    """
    return jnp.where(base_G > 0, pos, neg) * base_G
