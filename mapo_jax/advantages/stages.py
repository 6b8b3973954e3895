"""Second stages of an advantage: functions of the whole batch, where groups do meet.

`stage(advantages_PG, rewards_PG, mask_PG, lengths_PG, **options) -> float[P, G]` follows the
function of one group where an entry of the registry names it; lengths_PG may be None. `mask_PG` is
False for what counts in nothing, groups with too few valid rollouts included. Sums over P are sums
over all shards and processes: the compiler adds the communication.
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

    So groups that teach nothing do not shrink the step. Every other property is that of `dr_grpo`.
    verl's alpha of that name (rollouts / rollouts with a reward that is not 0) is another quantity.

    Differs from the paper: where the share of rollouts in such groups is below the threshold (its
    beta_th, 0.6), the authors' code samples more prompts until it is not, which `dynamic.max_tries`
    does here; without it the threshold bounds alpha to 1 / threshold, the most that they reach.
    MAPO's fig. 3 takes 0.6 for alpha itself.

    Args:
        alpha: the factor; 0: that of the batch.
        threshold: in [0, 1]; 0: no bound.
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

    A batch of one value gives 0. The batch sums to 0 and has variance 1 (eps=0); a group need not,
    and a constant group is not 0: it is compared with the others. The eps of verl and OpenRLHF also
    sees to it that advantages that cancel up to rounding are not blown up to size 1.
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

    A rollout counts with its length, since each of its tokens has its advantage: so do OpenRLHF,
    verl and NeMo-RL. Where no lengths are given, all are taken to be equal.
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

    Difficult questions count more; the weights' mean is 1.

    Differs from the authors' code: mu is the mean reward, not that of its accuracy part, and the
    factor (tokens / tokens of these groups) is left to `gpg` or to dynamic sampling.

    Args:
        temperature: 2 in the paper; 0: no weights.
    """
    if not temperature:
        return advantages_PG
    mixed_P = jnp.any(_mixed(rewards_PG, mask_PG), axis=1)
    scores_P = -masked.mean(rewards_PG, mask_PG, 1) / temperature
    weights_P = jax.nn.softmax(jnp.where(mixed_P, scores_P, -jnp.inf)) * jnp.sum(mixed_P)
    return jnp.where(mixed_P[:, None], weights_P[:, None] * advantages_PG, 0)


def _mixed(rewards_PG: Array, mask_PG: Array) -> Array:
    """bool[P, G]: valid rollouts of groups whose rewards are not all equal."""
    return mask_PG & ~jax.vmap(is_constant)(rewards_PG, mask_PG)[:, None]
