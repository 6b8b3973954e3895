"""MAPO, and the advantages that its paper compares it with or its released code holds.

They come from arXiv 2509.18849, sec. 3, fig. 3 and table 2. Every function takes rewards_G
float[G], success_G bool[G] and mask_G bool[G] of one group and returns float[G]. It ignores
rollouts off the mask and may return anything for them; `registry.group_advantages` sets them to 0.
With 0/1 rewards and a share p of successes, A_i = w(p) (r_i - p) for every advantage that is
centred on the group's mean.

Two options recur. `eps` is added to each denominator, as in the released code; the papers print
none, which is eps=0. `ddof` is 0 for the paper's population sigma and 1 for the sample sigma of the
released code.
"""

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked
from mapo_jax.advantages.common import deviations, divide


def grpo(
    rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6, ddof: int = 0
) -> Array:
    """A_i = (r_i - mu) / (sigma + eps). arXiv 2402.03300; MAPO (arXiv 2509.18849) eq. 2.

    w(p) = 1 / sqrt(p (1 - p)). Advantages sum to 0, are 0 for a constant group and at most
    sqrt(G - 1) in size. Rewards a r + b with a > 0 give the same advantages (eps=0). `success_G` is
    not used.
    """
    deviations_G = deviations(rewards_G, mask_G)
    return divide(deviations_G, masked.std(deviations_G, mask_G, ddof=ddof), eps)


def dr_grpo(rewards_G: Array, success_G: Array, mask_G: Array) -> Array:
    """A_i = r_i - mu. arXiv 2503.20783.

    w(p) = 1. Advantages sum to 0 and are 0 for a constant group. Rewards r + b give the same
    advantages, rewards a r give a times them. `success_G` is not used.
    """
    return deviations(rewards_G, mask_G)


def apd(rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6) -> Array:
    """Advantage percent deviation, A_i = (r_i - mu) / (mu + eps). arXiv 2509.18849 eq. 4.

    It is the same as MaxRL (arXiv 2602.02710). w(p) = 1 / p. Advantages sum to 0 and are 0 for a
    constant group. Rewards a r with a > 0 give the same advantages (eps=0). Rewards must be >= 0;
    then advantages are in [-1, G - 1]. A lone small reward reaches the upper end:
    [0.1, 0, 0, 0] -> [3, -1, -1, -1]. A group with mu <= 0 gives 0. `success_G` is not used.
    """
    return divide(deviations(rewards_G, mask_G), masked.mean(rewards_G, mask_G), eps)


def mapo(
    rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6, ddof: int = 0
) -> Array:
    """A_i* = (1 - lambda) (r_i - mu) / sigma + lambda (r_i - mu) / mu. arXiv 2509.18849 eq. 6.

    lambda = 1 - 4 p (1 - p), with the share p of successes (eq. 3, 5). success_G marks responses
    that are right on every reward metric, and p comes from it, not from the rewards. Rewards must
    be >= 0 (see `apd`). w(p) = 4 sqrt(p (1 - p)) + (1 - 2 p)^2 / p. It equals `grpo` at p = 1/2 and
    `apd` at p = 0 and 1 (eps=0). Advantages sum to 0, are 0 for a constant group and lie between
    -max(1, sqrt(G - 1)) and G - 1. Rewards a r with a > 0 give the same advantages (eps=0).

    Figure 3 of the paper has the two weights the wrong way round; eq. 6, algorithm 1, appendix C
    and the released trainer agree with the formula above.

    Differs from the paper: both denominators have `eps`, as in the released code; eps=0 is as
    printed.
    """
    return _mix(certainty(success_G, mask_G), rewards_G, success_G, mask_G, eps, ddof)


def mapo_random(
    rewards_G: Array,
    success_G: Array,
    mask_G: Array,
    *,
    key: Array,
    eps: float = 1e-6,
    ddof: int = 0,
) -> Array:
    """`mapo` with lambda ~ U(0, 1), one draw for the group. arXiv 2509.18849 table 2, "APD + rand".

    Rewards must be >= 0. Advantages sum to 0 and are 0 for a constant group. `success_G` is not
    used.
    """
    return _mix(jax.random.uniform(key), rewards_G, success_G, mask_G, eps, ddof)


def mapo_linear(
    rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6, ddof: int = 0
) -> Array:
    """`mapo` with lambda = 1 - 2 min(p, 1 - p), in the released code only. arXiv 2509.18849.

    w(p) = 2 min(p, 1 - p) / sqrt(p (1 - p)) + |1 - 2 p| / p. It has the invariants of `mapo`.
    """
    p = masked.mean(success_G, mask_G)
    weight = 1 - 2 * jnp.minimum(p, 1 - p)
    return _mix(weight, rewards_G, success_G, mask_G, eps, ddof)


def certainty(success_G: Array, mask_G: Array) -> Array:
    """lambda(p) = 1 - 4 p (1 - p), f32[]. arXiv 2509.18849 eq. 5."""
    p = masked.mean(success_G, mask_G)
    return 1 - 4 * p * (1 - p)


def _mix(weight, rewards_G, success_G, mask_G, eps, ddof):
    std_G = grpo(rewards_G, success_G, mask_G, eps=eps, ddof=ddof)
    return (1 - weight) * std_G + weight * apd(rewards_G, success_G, mask_G, eps=eps)


def tree_rpo(rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6) -> Array:
    """A_i = (r_i - mu) / (mu (1 - mu) + eps). arXiv 2506.05183, as MAPO's fig. 3 prints it.

    w(p) = 1 / (p (1 - p)), so it climbs the log-odds of p. Advantages sum to 0 and are 0 for a
    constant group. Rewards must be in [0, 1]; then advantages are at most G in size. `success_G` is
    not used.
    """
    mu = masked.mean(rewards_G, mask_G)
    return divide(deviations(rewards_G, mask_G), mu * (1 - mu), eps)


def rloo(rewards_G: Array, success_G: Array, mask_G: Array) -> Array:
    """A_i = r_i - mean of the others = G / (G - 1) (r_i - mu). arXiv 2402.14740.

    G counts the valid rollouts. w(p) = G / (G - 1). Advantages sum to 0 and are 0 for a constant
    group. Rewards r + b give the same advantages, rewards a r give a times them. `success_G` is not
    used.
    """
    n = jnp.sum(mask_G)
    return deviations(rewards_G, mask_G) * n / jnp.maximum(n - 1, 1)


def remax(rewards_G: Array, success_G: Array, mask_G: Array, *, baseline: Array) -> Array:
    """A_i = r_i - baseline, the reward of the greedy response. arXiv 2310.10505.

    `baseline` is float[]; a run samples it. Advantages need not sum to 0. A constant group gives 0
    only if the greedy response has the same reward. One valid rollout is enough. Advantages stay
    the same if rewards and baseline are shifted together. `success_G` is not used.
    """
    return rewards_G - baseline


def rewards(rewards_G: Array, success_G: Array, mask_G: Array) -> Array:
    """A_i = r_i, for REINFORCE++ before `stages.whiten_tokens`. arXiv 2501.03262.

    One valid rollout is enough. A constant group is compared with the others of the batch.
    `success_G` is not used.

    Differs from the paper: the KL to the reference is in the loss, not in the reward.
    """
    return rewards_G
