import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import masked

FUNCTIONS = [masked.sum, masked.mean, masked.std]


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    x=hnp.arrays(np.float32, (3, 4), elements=st.floats(-10, 10, width=32)),
    mask=hnp.arrays(bool, (3, 4)),
)
def test_equals_numpy_on_what_is_left(x, mask):
    dirty = jnp.where(mask, x, jnp.nan)
    for ours, theirs in [(masked.sum, np.sum), (masked.mean, np.mean), (masked.std, np.std)]:
        expected = theirs(x[mask].astype(np.float64)) if mask.any() else 0.0
        np.testing.assert_allclose(ours(dirty, mask), expected, atol=2e-5)
        rows = [
            theirs(r[m].astype(np.float64)) if m.any() else 0.0
            for r, m in zip(x, mask, strict=True)
        ]
        np.testing.assert_allclose(ours(dirty, mask, axis=1), rows, atol=2e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_empty_mask_gives_zero_and_zero_gradient(function, axis):
    x, mask = jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool)
    assert not np.any(function(x, mask, axis))
    assert not np.any(jax.grad(lambda x: jnp.sum(function(x, mask, axis)))(x))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradient_is_finite_with_nan_behind_the_mask(function):
    gradient = jax.grad(lambda x: function(x, jnp.array([True, True, False])))
    assert np.all(np.isfinite(gradient(jnp.array([1.0, 3.0, jnp.nan]))))
    assert np.all(np.isfinite(gradient(jnp.array([2.0, 2.0, jnp.nan]))))


def test_std_takes_ddof():
    x, mask = jnp.array([1.0, 2.0, 6.0, 9.0]), jnp.array([True, True, True, False])
    np.testing.assert_allclose(masked.std(x, mask, ddof=1), np.sqrt(14 / 2), rtol=1e-6)
    assert masked.std(x, jnp.array([True, False, False, False]), ddof=1) == 0


def test_shapes_must_agree():
    with pytest.raises(AssertionError):
        masked.mean(jnp.ones((2, 3)), jnp.ones((1, 3), bool))
