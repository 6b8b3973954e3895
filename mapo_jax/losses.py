"""Per-token losses and the weights that turn them into one number.

The heart of the update in the life of a batch. Everything is a pure function of arrays of one
shape [..., T]. The loss of a batch is `sum(weights * per_token)`, with weights of the *whole*
batch from `AGGREGATIONS`, so it is the same for every split into microbatches.

Each function takes the mask of the trained tokens: off the mask the log-ratio is replaced by 0
before it meets `exp`, so that padding can hold any finite value; values and gradients are 0 there.
"""

from collections.abc import Callable

import chex
import jax.numpy as jnp
from jax import Array

# exp(20) = 5e8. Beyond this log-ratio float32 would soon overflow to inf, and inf * 0 is NaN.
_MAX_LOG_RATIO = 20.0


def clipped_surrogate(
    logps: Array,
    old_logps: Array,
    advantages: Array,
    mask: Array,
    *,
    clip_low: float,
    clip_high: float,
    clip_dual: float,
) -> tuple[Array, dict[str, Array]]:
    """-A min(ratio, 1 + clip_high) for A > 0, -A clip(ratio, 1 - clip_low, clip_dual) for A < 0.

    PPO's clipped surrogate (arXiv 1707.06347) with separate bounds (DAPO, arXiv 2503.14476) and
    dual clip (arXiv 1912.09729 eq. 5): the same as -min(ratio A, clip(ratio) A), then for A < 0
    at most -clip_dual A. Tokens beyond a bound have zero gradient.

    Differs from the papers: the log-ratio is at most 20 (ratio 5e8). All such tokens are beyond a
    bound anyway, so no loss or gradient changes; `exp` just cannot overflow.

    Args:
        logps: f32[..., T], of the policy being trained.
        old_logps: f32[..., T], what the ratio divides by.
        advantages: f32[..., T] or, one for each row, f32[..., 1].
        mask: bool[..., T], the trained tokens.
        clip_low: in [0, 1).
        clip_high: >= 0, with 1 + clip_high <= clip_dual.
        clip_dual: > 1.

    Returns:
        The loss f32[..., T], and per-token values f32[..., T] of the metrics they are named after.
    """
    chex.assert_equal_shape([logps, old_logps, mask])
    chex.assert_equal_rank([logps, advantages])
    ratio = jnp.exp(jnp.minimum(jnp.where(mask, logps - old_logps, 0), _MAX_LOG_RATIO))
    low = (advantages < 0) & (ratio < 1 - clip_low)
    high = (advantages > 0) & (ratio > 1 + clip_high)
    dual = (advantages < 0) & (ratio > clip_dual)
    bounded = jnp.select([low, high, dual], [1 - clip_low, 1 + clip_high, clip_dual], ratio)
    metrics = {
        "policy/ratio_mean": jnp.where(mask, ratio, 0),
        "policy/clip_fraction_low": low.astype(ratio.dtype),
        "policy/clip_fraction_high": high.astype(ratio.dtype),
        "policy/clip_fraction_dual": dual.astype(ratio.dtype),
    }
    return jnp.where(mask, -advantages * bounded, 0), metrics


def kl_k3(logps: Array, ref_logps: Array, mask: Array) -> Array:
    """exp(d) - d - 1 with d = ref_logps - logps: KL[policy || reference] of each token, >= 0.

    The k3 estimator (Schulman, "Approximating KL divergence"; GRPO, arXiv 2402.03300 eq. 4).

    Differs from the paper: beyond d = 20 the exponential goes on as its tangent, so that value and
    gradient stay finite and, unlike under a clamp, a token that has drifted that far is still
    pulled back.

    Args:
        logps: f32[..., T], of the policy being trained.
        ref_logps: f32[..., T], of the reference.
        mask: bool[..., T], the trained tokens.

    Returns:
        f32[..., T].
    """
    chex.assert_equal_shape([logps, ref_logps, mask])
    d = jnp.where(mask, ref_logps - logps, 0)
    near = jnp.minimum(d, _MAX_LOG_RATIO)
    # Chosen, not added up: in a sum, e^20 would swallow the gradient of every d below 20.
    slope = jnp.expm1(_MAX_LOG_RATIO)
    tangent = slope - _MAX_LOG_RATIO + slope * (d - _MAX_LOG_RATIO)
    # expm1, because exp(d) - 1 loses the small d that most tokens have, and with it the sign.
    return jnp.where(d > _MAX_LOG_RATIO, tangent, jnp.expm1(near) - near)


def cross_entropy(logps: Array, mask: Array) -> Array:
    """-logps f32[..., T] on the mask, 0 off it: the warm-up's loss on demonstrations."""
    chex.assert_equal_shape([logps, mask])
    return jnp.where(mask, -logps, 0)


def token_mean(mask: Array) -> Array:
    """Weights f32[..., T]: every token of the batch counts the same (DAPO, arXiv 2503.14476)."""
    return mask / jnp.maximum(jnp.sum(mask), 1)


def sequence_mean(mask: Array) -> Array:
    """Weights f32[..., T]: every row with tokens counts the same (GRPO, arXiv 2402.03300)."""
    lengths = jnp.sum(mask, axis=-1, keepdims=True)
    return mask / jnp.maximum(lengths, 1) / jnp.maximum(jnp.sum(lengths > 0), 1)


# name -> fn(mask bool[..., T]) -> weights f32[..., T] that sum to 1 (all 0 for an empty mask)
AGGREGATIONS: dict[str, Callable[[Array], Array]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
}
