"""Safe deviations, divisions and shares, which the advantages of one group have in common."""

import jax.numpy as jnp
from jax import Array

from mapo_jax import masked


def is_constant(rewards_G: Array, mask_G: Array) -> Array:
    """bool[], true if all rewards in the mask are equal or there are none."""
    highest = jnp.max(rewards_G, where=mask_G, initial=-jnp.inf)
    lowest = jnp.min(rewards_G, where=mask_G, initial=jnp.inf)
    return highest <= lowest


def deviations(rewards_G: Array, mask_G: Array) -> Array:
    """r_i - mu; exactly 0 for a constant group, whose `r - mean(r)` would round to 6e-8."""
    constant = is_constant(rewards_G, mask_G)
    return jnp.where(constant, 0, rewards_G - masked.mean(rewards_G, mask_G))


def divide(x_G: Array, scale: Array, eps: float) -> Array:
    """x / (scale + eps); 0 if the scale is not positive."""
    positive = scale > 0
    return jnp.where(positive, x_G / (jnp.where(positive, scale, 1) + eps), 0)


def choose_ratio(n: Array, total: Array, k: int) -> Array:
    """C(n, k) / C(total, k), the chance that k draws from `total` all come from n of them.

    It is computed as a product of k factors, so it does not overflow. It is 0 if k > total.
    """
    i = jnp.arange(k)
    factors = jnp.maximum(n - i, 0) / jnp.maximum(total - i, 1)
    return jnp.where(total >= k, jnp.prod(factors), 0)
