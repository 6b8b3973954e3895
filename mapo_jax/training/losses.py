"""Per-token losses and the weights that turn them into one number.

The heart of the update in the life of a batch. Everything is a pure function of arrays of one
shape [..., T]. The loss of a batch is `sum(weights * per_token)`, with weights of the *whole*
batch from `AGGREGATIONS`, so it is the same for every split into microbatches.

Each function takes the mask of the trained tokens: off the mask the log-ratio is replaced by 0
before it meets `exp`, so that padding can hold any finite value; values and gradients are 0 there.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked

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

    Differs from the papers: the log-ratio is at most 20 (ratio 5e8), so that `exp` cannot overflow.
    Such tokens are beyond a bound anyway, so no loss or gradient changes. Only without the dual
    clip is this a bound of its own, for A < 0.

    Args:
        logps: f32[..., T], of the policy being trained.
        old_logps: f32[..., T], what the ratio divides by.
        advantages: f32[..., T] or, one for each row, f32[..., 1].
        mask: bool[..., T], the trained tokens.
        clip_low: in [0, 1]; 1: no lower bound.
        clip_high: >= 0, with 1 + clip_high <= clip_dual.
        clip_dual: > 1; or 0: no dual clip.

    Returns:
        The loss f32[..., T], and per-token values f32[..., T] of the metrics they are named after.
    """
    ratio = _ratio(_log_ratio(logps, old_logps, advantages, mask))
    return _clip(ratio, advantages, mask, clip_low, clip_high, clip_dual)


def gspo(
    logps: Array,
    old_logps: Array,
    advantages: Array,
    mask: Array,
    *,
    clip_low: float,
    clip_high: float,
    clip_dual: float,
) -> tuple[Array, dict[str, Array]]:
    """The clipped surrogate of s = exp(mean over the row's tokens of logps - old_logps).

    GSPO (arXiv 2507.18071 eq. 5-7): whole sequences are clipped. The loss of a sequence stands at
    each of its tokens, so that with `sequence_mean` weights the batch's is the paper's mean over
    sequences; a token's gradient is then -s A / |o| of that of its log-prob. A mean of log-ratios
    moves little: the paper's bounds are 3e-4 and 4e-4.

    Differs from the paper: the dual clip, which `clip_dual` 0 turns off, and the log-ratio's bound
    of `clipped_surrogate`, on the mean.

    Arguments and results are those of `clipped_surrogate`, but advantages are f32[..., 1]. The
    metrics are the sequence's, at each of its tokens.
    """
    chex.assert_axis_dimension(advantages, -1, 1)
    log_ratio = _log_ratio(logps, old_logps, advantages, mask)
    ratio = _ratio(masked.mean(log_ratio, mask, -1, keepdims=True))
    ratio = jnp.broadcast_to(ratio, mask.shape)
    return _clip(ratio, advantages, mask, clip_low, clip_high, clip_dual)


def cispo(
    logps: Array,
    old_logps: Array,
    advantages: Array,
    mask: Array,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Array, dict[str, Array]]:
    """-w A logps with the constant w = stop_gradient(clip(ratio, 1 - clip_low, 1 + clip_high)).

    CISPO (MiniMax-M1, arXiv 2506.13585 eq. 4-5), which has no lower bound: `clip_low` 1. The weight
    is bounded, whatever the sign of A, not the gradient: no token loses its own. Only the gradient
    has a meaning: the value, -w A logps, is not that of the surrogate, -ratio A.

    Arguments and results are those of `clipped_surrogate`, without `clip_dual`. Low and high mark
    the tokens whose weight was bounded.
    """
    ratio = jax.lax.stop_gradient(_ratio(_log_ratio(logps, old_logps, advantages, mask)))
    weight = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    values = _metrics(ratio, mask, ratio < 1 - clip_low, ratio > 1 + clip_high, False)
    return -weight * advantages * jnp.where(mask, logps, 0), values


def _log_ratio(logps, old_logps, advantages, mask):
    chex.assert_equal_shape([logps, old_logps, mask])
    chex.assert_equal_rank([logps, advantages])
    return jnp.where(mask, logps - old_logps, 0)


def _ratio(log_ratio):
    return jnp.exp(jnp.minimum(log_ratio, _MAX_LOG_RATIO))


def _clip(ratio, advantages, mask, clip_low, clip_high, clip_dual):
    """`clipped_surrogate`, from the ratio on."""
    bounds = [1 - clip_low, 1 + clip_high, clip_dual or math.inf]
    low = (advantages < 0) & (ratio < bounds[0])
    high = (advantages > 0) & (ratio > bounds[1])
    dual = (advantages < 0) & (ratio > bounds[2])
    bounded = jnp.select([low, high, dual], bounds, ratio)
    return jnp.where(mask, -advantages * bounded, 0), _metrics(ratio, mask, low, high, dual)


def _metrics(ratio, mask, low, high, dual):
    values = {
        "policy/ratio_mean": ratio,
        "policy/clip_fraction_low": low,
        "policy/clip_fraction_high": high,
        "policy/clip_fraction_dual": dual,
    }
    return {name: jnp.where(mask, x, 0).astype(ratio.dtype) for name, x in values.items()}


# name -> fn(logps, old_logps, advantages, mask, *, options) -> (loss f32[..., T], metrics).
# `surrogates.py` hands over the clip bounds that a function names, and the configured options.
SURROGATES: dict[str, Callable[..., tuple[Array, dict[str, Array]]]] = {
    "clipped": clipped_surrogate,
    "gspo": gspo,
    "cispo": cispo,
}


def kl_k1(logps: Array, ref_logps: Array, mask: Array) -> Array:
    """logps - ref_logps: KL[policy || reference] of each token, without bias, of either sign.

    The k1 estimator (Schulman, "Approximating KL divergence"). A right value and a wrong loss: its
    gradient is that of logps, whose mean over the policy's own samples is 0, whatever the
    reference (arXiv 2506.09477, 2510.01555). It adds noise and pulls nowhere.

    Args and returns: as `kl_k3`.
    """
    return _log_ratio(logps, ref_logps, logps, mask)


def kl_k2(logps: Array, ref_logps: Array, mask: Array) -> Array:
    """(logps - ref_logps)^2 / 2 of each token, >= 0.

    The k2 estimator (Schulman, "Approximating KL divergence"). Biased as a value, but on policy its
    gradient, (logps - ref_logps) grad logps, is in expectation that of the KL (arXiv 2510.01555).

    Args and returns: as `kl_k3`.
    """
    return jnp.square(_log_ratio(logps, ref_logps, logps, mask)) / 2


def kl_k3(logps: Array, ref_logps: Array, mask: Array) -> Array:
    """exp(d) - d - 1 with d = ref_logps - logps: KL[policy || reference] of each token, >= 0.

    The k3 estimator (Schulman, "Approximating KL divergence"; GRPO, arXiv 2402.03300 eq. 4). Its
    gradient is in expectation, on policy, that of KL[reference || policy], equal to first order
    (arXiv 2510.01555).

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


# name -> fn(logps, ref_logps, mask) -> f32[..., T]
KLS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
}


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


def constant(mask: Array) -> Array:
    """Weights f32[..., T]: 1 / (T * rows with tokens) for every token (Dr. GRPO, arXiv 2503.20783).

    A token counts the same in short and in long responses, and in batches of short and of long
    ones. T is the length of the time axis, which is `rollout.max_new_tokens`, the constant of the
    paper's code: by intention this is the one aggregation that depends on it.
    """
    rows = jnp.sum(jnp.any(mask, axis=-1))
    return mask / (mask.shape[-1] * jnp.maximum(rows, 1))


# name -> fn(mask bool[..., T]) -> weights f32[..., T], 0 off the mask. Those of the two means sum
# to 1, those of `constant` to the filled share of the rows with tokens.
AGGREGATIONS: dict[str, Callable[[Array], Array]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "constant": constant,
}
