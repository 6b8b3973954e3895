"""Second stages of an advantage: functions of the whole batch, which compare groups.

An entry of the registry may name a stage, which runs after the function of one group:
`stage(advantages_PG, rewards_PG, mask_PG, lengths_PG, **options) -> float[P, G]`. lengths_PG may be
None. `mask_PG` is False for rollouts that count in nothing, and for whole groups with too few valid
rollouts. Sums over P are sums over all shards and processes; the compiler adds the communication.
"""

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked
from mapo_jax.advantages.common import deviations, divide, is_constant


def gpg_alpha(
    advantages_PG: Array,
    rewards_PG: Array,
    mask_PG: Array,
    lengths_PG: Array | None,
    *,
    alpha: float = 0.0,
    threshold: float = 0.0,
) -> Array:
    """alpha A_i, alpha = rollouts / rollouts in groups that are not constant. arXiv 2504.02546.

    So groups that teach nothing do not shrink the step. Every other property is as in `dr_grpo`.
    verl uses the name alpha for another quantity, rollouts / rollouts with a reward that is not 0.

    Differs from the paper: if the share of rollouts in groups that are not constant is below the
    threshold (its beta_th, 0.6), the authors' code samples more prompts until it is not. Here
    `dynamic.max_tries` does this; without it the threshold bounds alpha to 1 / threshold, the
    largest value that they reach. MAPO's fig. 3 takes 0.6 for alpha itself.

    Args:
        alpha: the factor; 0 computes it from the batch.
        threshold: in [0, 1]; 0 sets no bound.
    """
    if alpha:
        return alpha * advantages_PG
    share = masked.mean(_mixed(rewards_PG, mask_PG), mask_PG)
    return divide(advantages_PG, jnp.maximum(share, threshold), 0.0)


def whiten(
    advantages_PG: Array,
    rewards_PG: Array,
    mask_PG: Array,
    lengths_PG: Array | None,
    *,
    eps: float = 1e-4,
) -> Array:
    """(A_i - mean) / sqrt(variance + eps^2) over all valid rollouts. GDPO, arXiv 2601.05242.

    A batch whose advantages are all equal gives 0. The batch sums to 0 and has variance 1 (eps=0);
    a group need not. A constant group is not 0, because it is compared with the others. The eps is
    the one of verl and OpenRLHF. It also keeps advantages that cancel up to rounding from being
    blown up to size 1.
    """
    return _whiten(advantages_PG, mask_PG, mask_PG.astype(advantages_PG.dtype), eps)


def whiten_tokens(
    advantages_PG: Array,
    rewards_PG: Array,
    mask_PG: Array,
    lengths_PG: Array | None,
    *,
    eps: float = 1e-4,
) -> Array:
    """`whiten` over the tokens of all valid rollouts. REINFORCE++, arXiv 2501.03262.

    Each token has its rollout's advantage, so a rollout counts with its length, as in OpenRLHF,
    verl and NeMo-RL. If no lengths are given, all are taken to be equal.
    """
    lengths_PG = mask_PG if lengths_PG is None else lengths_PG
    weights_PG = jnp.where(mask_PG, lengths_PG, 0).astype(advantages_PG.dtype)
    return _whiten(advantages_PG, mask_PG, weights_PG, eps)


def _whiten(advantages_PG, mask_PG, weights_PG, eps):
    weights_PG /= jnp.maximum(weights_PG.sum(), 1)
    centred_PG = deviations(advantages_PG.ravel(), mask_PG.ravel()).reshape(mask_PG.shape)
    centred_PG -= jnp.sum(weights_PG * centred_PG)
    variance = jnp.sum(weights_PG * jnp.square(centred_PG))
    return divide(centred_PG, jnp.sqrt(variance + eps**2), 0.0)


def question_weights(
    advantages_PG: Array,
    rewards_PG: Array,
    mask_PG: Array,
    lengths_PG: Array | None,
    *,
    temperature: float = 0.0,
) -> Array:
    """n softmax(-mu / temperature) A over the n groups that are not constant. arXiv 2601.20614.

    Difficult questions count more; the mean weight is 1.

    Differs from the authors' code: mu is the mean of the reward, not of its accuracy part. The
    factor (tokens / tokens of these groups) is left to `gpg` or to dynamic sampling.

    Args:
        temperature: 2 in the paper; 0 means no weights.
    """
    if not temperature:
        return advantages_PG
    mixed_P = jnp.any(_mixed(rewards_PG, mask_PG), axis=1)
    scores_P = -masked.mean(rewards_PG, mask_PG, 1) / temperature
    weights_P = jax.nn.softmax(jnp.where(mixed_P, scores_P, -jnp.inf)) * jnp.sum(mixed_P)
    return jnp.where(mixed_P[:, None], weights_P[:, None] * advantages_PG, 0)


def over_batch_std(
    advantages_PG: Array,
    rewards_PG: Array,
    mask_PG: Array,
    lengths_PG: Array | None,
    *,
    eps: float = 1e-6,
    ddof: int = 0,
) -> Array:
    """A_i / (sigma + eps), sigma of all rewards of the batch. Lite PPO, arXiv 2508.08221.

    So a group with one odd reward is not blown up, as by its own sigma. Every other property is as
    in `dr_grpo`.
    """
    return divide(advantages_PG, masked.std(rewards_PG, mask_PG, ddof=ddof), eps)


def james_stein(
    advantages_PG: Array, rewards_PG: Array, mask_PG: Array, lengths_PG: Array | None
) -> Array:
    """A_i = r_i - (1 - l) m_i - l M, the James-Stein baseline. JSPO, arXiv 2511.03710.

    m_i is the mean of the group's other rewards, M the mean of the other prompts' group means mu,
    and l = v / (v + s). v is the mean over the other prompts of sigma^2 / G (sigma with ddof=1),
    how far a group's mean is off by chance; s is the variance of their mu. l is 0 where v + s is,
    or there is no other prompt. l=0 is `rloo`. A constant group is not 0, because it is compared
    with the others: with 0/1 rewards, one that fails gets -l M. Advantages need not sum to 0.
    """
    n_P = jnp.sum(mask_PG, axis=1)
    counts_P = n_P > 0
    others = jnp.sum(counts_P) - counts_P  # of each prompt, i32[P]
    mu_P = masked.mean(rewards_PG, mask_PG, 1)
    deviations_PG = jax.vmap(deviations)(rewards_PG, mask_PG)
    noise_P = jnp.square(masked.std(deviations_PG, mask_PG, 1, ddof=1)) / jnp.maximum(n_P, 1)

    def of_others(x_P):
        x_P = jnp.where(counts_P, x_P, 0)
        return (jnp.sum(x_P) - x_P) / jnp.maximum(others, 1)

    centre = masked.mean(mu_P, counts_P)  # sums of squares keep more digits near 0
    mean_P = of_others(mu_P - centre)
    spread_P = jnp.maximum(of_others(jnp.square(mu_P - centre)) - jnp.square(mean_P), 0)
    noise_P = jnp.maximum(of_others(noise_P), 0)
    shrink_P1 = jnp.where(others > 0, divide(noise_P, noise_P + spread_P, 0.0), 0)[:, None]
    from_others_PG = rewards_PG - (centre + mean_P)[:, None]
    return (1 - shrink_P1) * advantages_PG + shrink_P1 * from_others_PG


def asymmetric(
    advantages_PG: Array,
    rewards_PG: Array,
    mask_PG: Array,
    lengths_PG: Array | None,
    *,
    threshold: float = 0.0,
) -> Array:
    """A_i (m / (2 sqrt(mu)) + (1 - m) / (2 sqrt(1 - mu))), m the batch's mean reward.

    A-GRAE, arXiv 2602.05548, whose base is `grpo`: hard groups count less while the policy is weak,
    and easy ones less when it is strong. Successes (A_i > 0) get a further factor
    min(1, m / threshold). Advantages sum to 0 if threshold=0 and are 0 for a constant group.
    Rewards must be in [0, 1].

    Differs from the paper: the mean reward replaces its share of successes; the two are equal for
    0/1 rewards. Its released code has 1 - sqrt(mu) where the paper has sqrt(1 - mu).

    Args:
        threshold: 0 sets none.
    """
    m, mu_P1 = masked.mean(rewards_PG, mask_PG), masked.mean(rewards_PG, mask_PG, 1)[:, None]
    inside_P1 = (mu_P1 > 0) & (mu_P1 < 1)
    mu_P1 = jnp.where(inside_P1, mu_P1, 0.5)
    scaled_PG = (m / jnp.sqrt(mu_P1) + (1 - m) / jnp.sqrt(1 - mu_P1)) / 2 * advantages_PG
    kept = jnp.minimum(1, m / threshold) if threshold else 1.0
    return jnp.where(inside_P1, jnp.where(advantages_PG > 0, kept, 1) * scaled_PG, 0)


def _mixed(rewards_PG: Array, mask_PG: Array) -> Array:
    """bool[P, G], true for valid rollouts of groups whose rewards are not all equal."""
    return mask_PG & ~jax.vmap(is_constant)(rewards_PG, mask_PG)[:, None]
