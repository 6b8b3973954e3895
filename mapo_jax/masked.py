"""Sums, means and standard deviations over the true positions of a mask.

An empty mask gives 0 with zero gradient, and NaN behind the mask does no harm. Advantages, losses
and metrics use these sums, as rollouts or tokens may be missing.
"""

import chex
import jax.numpy as jnp
from jax import Array

Axis = int | tuple[int, ...] | None


def sum(x: Array, mask: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Sum of `x` over true positions of `mask` (bool, of the shape of `x`); 0 if there are none."""
    chex.assert_equal_shape([x, mask])
    return jnp.sum(jnp.where(mask, x, 0), axis=axis, keepdims=keepdims)


def mean(x: Array, mask: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Mean of `x` over true positions of `mask`; 0 if there are none."""
    count = jnp.sum(mask, axis=axis, keepdims=keepdims)
    return sum(x, mask, axis, keepdims=keepdims) / jnp.maximum(count, 1)


def std(x: Array, mask: Array, axis: Axis = None, *, ddof: int = 0) -> Array:
    """Standard deviation of `x` over true positions of `mask`; 0 if there are at most `ddof`.

    Divides by `count - ddof`. The gradient of a zero standard deviation is zero, not NaN.
    """
    # Masked before squaring: a `where` after it would make the gradient of NaN^2 0 * NaN.
    centred = jnp.where(mask, x, 0) - mean(x, mask, axis, keepdims=True)
    count = jnp.sum(mask, axis=axis)
    variance = sum(jnp.square(centred), mask, axis) / jnp.maximum(count - ddof, 1)
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
