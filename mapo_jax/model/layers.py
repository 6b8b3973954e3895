"""Products with weights; they decide the precision and the layout of weights and gradients.

Weights are stored in float32 and split over `fsdp`. They are used whole, in the dtype of the
activations. A layer gathers its weights when it uses them, in the forward and in the backward pass.
It sums their gradient in float32 over tokens and devices, and splits it as the weights are split.
This takes an all-gather and a reduce-scatter per layer and never moves activations.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import sharding

_FEW = 8  # layers; a loop over more would take long to compile
Names = tuple[str | None, ...]  # logical axes of an array
ACTIVATIONS = {
    "silu": nn.silu,
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


def _gathered(w: Array, names: Names, dtype: Any) -> Array:
    return sharding.constrain(w.astype(dtype), names, sharding.GATHERED)


def _gradient(g: Array, names: Names, like: Array) -> Array:
    """Moves a weight's gradient to the weight's place in float32, then casts it like the weight."""
    return sharding.constrain(g, names).astype(like.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(x: Array, w: Array, names: Names, n: int = 1, out_dtype: Any = None) -> Array:
    """Contracts n axes of x [..., in...] and w [in..., out...] in x's dtype; gives `out_dtype`."""
    w = _gathered(w, names, x.dtype)
    return _dot(x, w, range(x.ndim - n, x.ndim), range(n), out_dtype)


def _dot(x, y, x_axes, y_axes, out_dtype):
    dimensions = ((tuple(x_axes), tuple(y_axes)), ((), ()))

    def dot(x, y):
        return jax.lax.dot_general(x, y, dimensions, preferred_element_type=out_dtype)

    def dot_wide(x, y):
        return dot(x.astype(jnp.float32), y.astype(jnp.float32))

    if out_dtype != jnp.float32 or x.dtype == y.dtype == jnp.float32:
        return dot(x, y)
    # XLA:CPU has no bfloat16 product with a float32 result.
    return jax.lax.platform_dependent(x, y, cpu=dot_wide, default=dot)


def _product_forward(x, w, names, n, out_dtype):
    return product(x, w, names, n, out_dtype), (x, w)


def _product_backward(names, n, out_dtype, saved, g):
    x, w = saved
    rows, outs = x.ndim - n, w.ndim - n
    g = g.astype(x.dtype)  # the head's is float32, and such products are slow on accelerators
    whole = _gathered(w, names, x.dtype)
    dx = _dot(g, whole, range(rows, rows + outs), range(n, n + outs), x.dtype)
    dw = _dot(x, g, range(rows), range(rows), jnp.float32)
    return dx, _gradient(dw, names, w)


product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def lookup(w: Array, index: Array, names: Names, dtype: Any) -> Array:
    """The rows of w [V, D] at index i32[...], in `dtype`."""
    return _gathered(w, names, dtype)[index]


def _lookup_forward(w, index, names, dtype):
    return lookup(w, index, names, dtype), (w, index)


def _lookup_backward(names, dtype, saved, g):
    w, index = saved
    dw = jnp.zeros(w.shape, jnp.float32).at[index].add(g.astype(jnp.float32))
    # The gradient is summed while it is whole; splitting its columns first would move the tokens.
    return _gradient(sharding.constrain(dw, names, sharding.GATHERED), names, w), None


lookup.defvjp(_lookup_forward, _lookup_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def rounded(w: Array, names: Names, dtype: Any) -> Array:
    """A weight to add or to multiply with, in float32, rounded to a value that `dtype` can hold."""
    return _gathered(w, names, dtype).astype(jnp.float32)


def _rounded_forward(w, names, dtype):
    return rounded(w, names, dtype), w


def _rounded_backward(names, dtype, w, g):
    return (_gradient(g, names, w),)


rounded.defvjp(_rounded_forward, _rounded_backward)


class Linear(nn.Module):
    """An affine map of x [..., in...] to [..., out...]; parameters `kernel` and, maybe, `bias`."""

    axes: Names  # logical names of the input axes, then of the output axes
    features: tuple[int, ...]  # sizes of the output axes
    kernel_init: Callable  # makes a matrix [in, out]
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        n = len(self.axes) - len(self.features)
        shape = (*x.shape[x.ndim - n :], *self.features)

        def init(key, shape):
            matrix = self.kernel_init(key, (math.prod(shape[:n]), math.prod(shape[n:])))
            return matrix.reshape(shape)

        boxed = nn.with_logical_partitioning(init, self.axes)
        kernel: Any = self.param("kernel", boxed, shape)
        out = product(x, kernel, self.axes, n)
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[n:])
            bias: Any = self.param("bias", zeros, self.features)
            wide = rounded(bias, self.axes[n:], x.dtype)
            out = (out + wide.reshape((1,) * (x.ndim - n) + wide.shape)).astype(x.dtype)
        return out


class Norm(nn.Module):
    """RMSNorm (arXiv 1910.07467) or LayerNorm over the last axis, in float32; returns `dtype`."""

    axis: str
    eps: float
    dtype: Any = None  # None: the dtype of the parameters
    has_offset: bool = False  # multiplies by 1 + scale
    is_centred: bool = False  # LayerNorm: takes the mean off, adds a bias

    @nn.compact
    def __call__(self, x):
        def parameter(name, init):
            boxed = nn.with_logical_partitioning(init, (self.axis,))
            value: Any = self.param(name, boxed, x.shape[-1:])
            dtype = self.dtype or value.dtype
            row = rounded(value, (self.axis,), dtype).reshape((1,) * (x.ndim - 1) + (-1,))
            return row, dtype

        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        factor, dtype = parameter("scale", zeros if self.has_offset else ones)
        factor = 1 + factor if self.has_offset else factor
        wide = x.astype(jnp.float32)
        if self.is_centred:
            wide = wide - wide.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + self.eps)
        out = wide * (inverse * factor)
        if self.is_centred:
            out = out + parameter("bias", zeros)[0]
        return out.astype(dtype)


def through(body: Callable, x: Array, layers: Any, remat: bool | None) -> tuple[Array, Any]:
    """Runs x through the layers.

    A scan compiles one layer for all. But what its backward pass needs is copied into arrays of
    all layers: a warm-up step of experiments/diagrams.py took 10 to 17% more processor time so.
    So a few layers that are not recomputed run in a loop.

    Args:
      body: from x and one layer to x and the layer's output.
      layers: pytree of [L, ...].
      remat: recompute each layer in the backward pass; None if there is no backward pass.

    Returns:
      x, and the layers' outputs, [L, ...].
    """
    leaves, tree = jax.tree.flatten(layers)
    if remat is not False or not 0 < len(leaves[0]) <= _FEW:
        return jax.lax.scan(jax.checkpoint(body) if remat else body, x, layers)
    # The gradient of `split` is one concatenation; that of L slices would be a sum of L arrays.
    parts = [jax.lax.split(leaf, (1,) * len(leaf)) for leaf in leaves]
    outs = []
    for layer in zip(*parts, strict=True):
        x, out = body(x, tree.unflatten([jnp.squeeze(leaf, 0) for leaf in layer]))
        outs.append(out)
    return x, jax.tree.map(lambda *layers: jnp.stack(layers), *outs)


def init(scale: float) -> Callable:
    """Returns an initializer of matrices, normal with variance `scale` / number of inputs."""
    return nn.initializers.variance_scaling(scale, "fan_in", "normal")
