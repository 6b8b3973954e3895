"""Per-token losses and the weights that turn them into one number.

They are the heart of the update in the life of a batch. Everything is a pure function of arrays of
one shape [..., T]. The loss of a batch is `sum(weights * per_token)`. The weights come from the
*whole* batch (`AGGREGATIONS`), so the loss is the same for every split into microbatches.

Each function takes a mask, which is true for trained tokens. Off the mask the log-ratio is replaced
by 0 before `exp`, so padding can hold any finite value; values and gradients are 0 there.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked

# exp(20) = 5e8. Above this log-ratio float32 would soon overflow to inf, and inf * 0 is NaN.
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

    This is PPO's clipped surrogate (arXiv 1707.06347) with separate bounds (DAPO, arXiv 2503.14476)
    and dual clip (arXiv 1912.09729 eq. 5). It equals -min(ratio A, clip(ratio) A), limited to at
    most -clip_dual A for A < 0. Tokens outside a bound have zero gradient.

    Differs from the papers: the log-ratio is at most 20 (ratio 5e8), so that `exp` cannot overflow.
    Such tokens are outside a clip bound anyway, so no loss or gradient changes. Only for A < 0
    without the dual clip does this add a bound.

    Args:
        logps: f32[..., T], log-probs under the trained policy.
        old_logps: f32[..., T], log-probs that the ratio divides by.
        advantages: f32[..., T], or f32[..., 1] with one for each row.
        mask: bool[..., T], true for trained tokens.
        clip_low: in [0, 1]; 1 means no lower bound.
        clip_high: >= 0, with 1 + clip_high <= clip_dual.
        clip_dual: > 1, or 0 for no dual clip.

    Returns:
        The loss f32[..., T], and a dict from metric names to per-token values f32[..., T].
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
    """The clipped surrogate of the ratio s = exp(mean over a row's tokens of logps - old_logps).

    GSPO (arXiv 2507.18071 eq. 5-7) clips whole sequences. Each token of a sequence holds the loss
    of the sequence. So with `sequence_mean` weights the batch's loss is the paper's mean over
    sequences, and a token gets -s A / |o| times the gradient of its log-prob. The mean of the
    log-ratios moves little, and the paper's bounds are 3e-4 and 4e-4.

    Differs from the paper: there is a dual clip, which `clip_dual` 0 turns off, and the mean
    log-ratio is at most 20, as in `clipped_surrogate`.

    Takes and returns the same as `clipped_surrogate`, but advantages are f32[..., 1]. Each token
    holds the metrics of its sequence.
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

    CISPO (MiniMax-M1, arXiv 2506.13585 eq. 4-5) has no lower bound; set `clip_low` to 1 for this.
    The weight is clipped, whatever the sign of A, but no token loses its gradient. Only the
    gradient has a meaning: the value is -w A logps, while the surrogate's value would be -ratio A.

    Takes and returns the same as `clipped_surrogate`, without `clip_dual`. The low and high clip
    fractions count the tokens whose weight was clipped.
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
    """Computes `clipped_surrogate` from the ratio."""
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
# `surrogates.py` passes the clip bounds that a function names, and the configured options.
SURROGATES: dict[str, Callable[..., tuple[Array, dict[str, Array]]]] = {
    "clipped": clipped_surrogate,
    "gspo": gspo,
    "cispo": cispo,
}


def kl_k1(logps: Array, ref_logps: Array, mask: Array) -> Array:
    """logps - ref_logps, an unbiased estimate of KL[policy || reference] per token, of either sign.

    This is the k1 estimator (Schulman, "Approximating KL divergence"). Its value is right, but it
    is wrong as a loss: its gradient equals the gradient of logps, and this has mean 0 over the
    policy's own samples, whatever the reference is (arXiv 2506.09477, 2510.01555). So it adds noise
    and does not pull to the reference.

    Args and returns: as `kl_k3`.
    """
    return _log_ratio(logps, ref_logps, logps, mask)


def kl_k2(logps: Array, ref_logps: Array, mask: Array) -> Array:
    """(logps - ref_logps)^2 / 2 per token, >= 0.

    This is the k2 estimator (Schulman, "Approximating KL divergence"). Its value is biased. On
    policy its gradient, (logps - ref_logps) grad logps, has the gradient of the KL as its
    expectation (arXiv 2510.01555).

    Args and returns: as `kl_k3`.
    """
    return jnp.square(_log_ratio(logps, ref_logps, logps, mask)) / 2


def kl_k3(logps: Array, ref_logps: Array, mask: Array) -> Array:
    """exp(d) - d - 1, d = ref_logps - logps, estimates KL[policy || reference] per token, >= 0.

    This is the k3 estimator (Schulman, "Approximating KL divergence"; GRPO, arXiv 2402.03300
    eq. 4). On policy the expectation of its gradient is the gradient of KL[reference || policy],
    which equals the gradient of KL[policy || reference] to first order (arXiv 2510.01555).

    Differs from the paper: above d = 20 the tangent replaces the exponential, so that value and
    gradient stay finite. A clamp would give no gradient there; the tangent still pulls back a
    token that has drifted so far.

    Args:
        logps: f32[..., T], log-probs under the trained policy.
        ref_logps: f32[..., T], log-probs under the reference.
        mask: bool[..., T], true for trained tokens.

    Returns:
        f32[..., T].
    """
    chex.assert_equal_shape([logps, ref_logps, mask])
    d = jnp.where(mask, ref_logps - logps, 0)
    near = jnp.minimum(d, _MAX_LOG_RATIO)
    # Chosen by `where`; in a sum, e^20 would swallow the gradient of every d below 20.
    slope = jnp.expm1(_MAX_LOG_RATIO)
    tangent = slope - _MAX_LOG_RATIO + slope * (d - _MAX_LOG_RATIO)
    # expm1, because exp(d) - 1 loses the small d of most tokens, and then the sign may be wrong.
    return jnp.where(d > _MAX_LOG_RATIO, tangent, jnp.expm1(near) - near)


# name -> fn(logps, ref_logps, mask) -> f32[..., T]
KLS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
}


def cross_entropy(logps: Array, mask: Array) -> Array:
    """-logps f32[..., T] on the mask and 0 off it, the warm-up's loss on demonstrations."""
    chex.assert_equal_shape([logps, mask])
    return jnp.where(mask, -logps, 0)


def token_mean(mask: Array) -> Array:
    """Weights f32[..., T], equal for all tokens of the batch (DAPO, arXiv 2503.14476)."""
    return mask / jnp.maximum(jnp.sum(mask), 1)


def sequence_mean(mask: Array) -> Array:
    """Weights f32[..., T], with equal sums for all rows with tokens (GRPO, arXiv 2402.03300)."""
    lengths = jnp.sum(mask, axis=-1, keepdims=True)
    return mask / jnp.maximum(lengths, 1) / jnp.maximum(jnp.sum(lengths > 0), 1)


def prompt_mean(mask: Array) -> Array:
    """Weights f32[..., G, T], with equal sums for all prompts with tokens (arXiv 2510.13786)."""
    tokens = jnp.sum(mask, axis=(-2, -1), keepdims=True)
    return mask / jnp.maximum(tokens, 1) / jnp.maximum(jnp.sum(tokens > 0), 1)


def constant(mask: Array) -> Array:
    """Weights f32[..., T], 1 / (T * rows with tokens) per token (Dr. GRPO, arXiv 2503.20783).

    A token counts the same in short and in long responses, and in batches of short and of long
    responses. T is the length of the time axis, `rollout.max_new_tokens`, which is the constant in
    the paper's code. This is the only aggregation that depends on T, and it does so by intention.
    """
    rows = jnp.sum(jnp.any(mask, axis=-1))
    return mask / (mask.shape[-1] * jnp.maximum(rows, 1))


# name -> fn(mask bool[..., G, T]) -> weights f32[..., G, T], 0 off the mask. The weights of the
# means sum to 1, the weights of `constant` to the filled share of the rows with tokens.
AGGREGATIONS: dict[str, Callable[[Array], Array]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "prompt_mean": prompt_mean,
    "constant": constant,
}
