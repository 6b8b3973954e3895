"""Products with weights: their values and gradients are those of plain JAX, in float32 sums."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import sharding
from mapo_jax.model import layers

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(6, 4, 4)), jnp.float32)  # as many heads as a head has dimensions
W = {
    1: jnp.asarray(RNG.normal(size=(4, 3, 5)), jnp.float32),
    2: jnp.asarray(RNG.normal(size=(4, 4, 5)), jnp.float32),
}
NAMES = {1: ("embed", "heads", "head_dim"), 2: ("heads", "head_dim", "embed")}


def value_and_gradients(f, *args):
    out, pull = jax.vjp(f, *args)
    return out, pull(jnp.asarray(RNG.normal(size=out.shape), out.dtype).at[:].set(0.5))


@pytest.mark.parametrize("n", [1, 2])
def test_product_equals_tensordot(n):
    chex.assert_trees_all_close(
        value_and_gradients(lambda x, w: layers.product(x, w, NAMES[n], n), X, W[n]),
        value_and_gradients(lambda x, w: jnp.tensordot(x, w, n), X, W[n]),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("n", [1, 2])
def test_gradients_are_checked_numerically(n):
    f = lambda x, w: layers.product(x, w, NAMES[n], n)  # noqa: E731
    jax.test_util.check_grads(f, (X, W[n]), order=1, modes=["rev"], rtol=1e-2, atol=1e-2)


def test_a_gradient_in_bfloat16_is_summed_in_float32():
    """10,000 tokens of 1/256: a bfloat16 sum would stop at 1."""
    x = jnp.full((10_000, 1), 1 / 256, jnp.bfloat16)
    w = jnp.ones((1, 1), jnp.float32)
    f = lambda w: layers.product(x, w, (None, None)).astype(jnp.float32).sum()  # noqa: E731
    gradient = jax.grad(f)(w)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, 10_000 / 256)

    f = lambda b: (jnp.zeros((10_000, 1)) + layers.rounded(b, (None,), jnp.bfloat16)[None]).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(f)(jnp.ones(1)), 10_000)

    g = jnp.full((10_000, 2), 1 / 256, jnp.bfloat16)
    rows = jnp.zeros(10_000, jnp.int32)
    _, pull = jax.vjp(
        lambda w: layers.lookup(w, rows, (None, None), jnp.bfloat16), jnp.ones((3, 2))
    )
    np.testing.assert_allclose(pull(g)[0], [[10_000 / 256] * 2, [0, 0], [0, 0]])


def test_lookup_equals_indexing():
    index = jnp.asarray([[0, 3, 3], [1, 0, 2]])
    chex.assert_trees_all_close(
        value_and_gradients(
            lambda w: layers.lookup(w, index, ("vocab", "embed"), jnp.float32), W[2][:, 0]
        ),
        value_and_gradients(lambda w: w[index], W[2][:, 0]),
    )


def test_what_is_used_is_rounded():
    w = jnp.asarray([1 + 2**-12], jnp.float32)
    assert layers.rounded(w, (None,), jnp.bfloat16).dtype == jnp.float32
    assert layers.rounded(w, (None,), jnp.bfloat16)[0] == 1
    assert layers.rounded(w, (None,), jnp.float32)[0] == w[0]


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 2, 4), (2, 2, 2)])
def test_gradients_lie_where_the_weights_do(shape):
    mesh = sharding.make_mesh(*shape)
    x = jax.device_put(jnp.ones((16, 8)), sharding.by_prompt(mesh))
    layout = sharding.shardings(mesh, {"w": ("embed", "mlp")})["w"]
    w = jax.device_put(jnp.ones((8, 8)), layout)

    @jax.jit
    def gradient(x, w):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.grad(lambda w: layers.product(x, w, ("embed", "mlp")).sum())(w)

    actual = gradient(x, w)
    assert actual.sharding.is_equivalent_to(layout, 2)
    np.testing.assert_allclose(actual, 16)


@pytest.mark.parametrize("L", [0, 3, 9])
@pytest.mark.parametrize("remat", [None, True, False])
def test_through_is_one_layer_after_another(remat, L):
    weights, x = jnp.asarray(RNG.normal(size=(L, 4, 4)), jnp.float32), X[0]

    def body(x, layer):
        w, nothing = layer
        assert nothing is None
        return jnp.tanh(x @ w), x.sum()

    def one_by_one(x, weights):
        sums = []
        for w in weights:
            sums.append(x.sum())
            x = jnp.tanh(x @ w)
        return x, jnp.asarray(sums)

    def loss(f):
        return lambda x, weights: sum(y.sum() for y in f(x, weights))

    actual, expected = (
        (f(x, weights), jax.grad(loss(f), (0, 1))(x, weights))
        for f in (lambda x, w: layers.through(body, x, (w, None), remat), one_by_one)
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)
