import functools
import math

import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads

from mapo_jax import losses

CLIP = {"clip_low": 0.2, "clip_high": 0.3, "clip_dual": 3.0}
surrogate = jax.jit(functools.partial(losses.clipped_surrogate, **CLIP))
kl_k3 = jax.jit(losses.kl_k3)
SHAPE = (3, 5)
examples = hypothesis.settings(deadline=None, max_examples=60)
MASKS = hnp.arrays(bool, SHAPE)


def floats(low, high):
    return hnp.arrays(np.float32, SHAPE, elements=st.floats(low, high, width=32))


def one(function, *values, mask=True):
    return function(*(jnp.array([v], jnp.float32) for v in values), jnp.array([mask]))


@examples
@hypothesis.given(logps=floats(-4, 0), old=floats(-4, 0), advantages=floats(-3, 3), mask=MASKS)
def test_surrogate_equals_oracle(logps, old, advantages, mask):
    loss, metrics = surrogate(logps, old, advantages, mask)
    token = np.vectorize(functools.partial(oracles.surrogate, low=0.2, high=0.3, dual=3.0))
    expected = np.where(mask, token(*(x.astype(float) for x in (logps, old, advantages))), 0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
    for value in metrics.values():
        assert not np.any(np.asarray(value)[~mask])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        # slope: d loss / d logp = -A ratio where nothing clips, else 0
        (1.0, 2.0, -2.0, -2.0, None),
        (1.0, -2.0, 2.0, 2.0, None),
        (1.25, 2.0, -2.5, -2.5, None),
        (1.5, 2.0, -1.3 * 2, 0.0, "high"),
        (0.5, 2.0, -0.5 * 2, -1.0, None),  # too low a ratio of a good token: pulled back
        (0.9, -2.0, 1.8, 1.8, None),
        (0.5, -2.0, 0.8 * 2, 0.0, "low"),
        (2.0, -2.0, 4.0, 4.0, None),  # above 1.3 and bad: not clipped ...
        (5.0, -2.0, 3.0 * 2, 0.0, "dual"),  # ... until the dual clip
        (5.0, 2.0, -1.3 * 2, 0.0, "high"),
        (5.0, 0.0, 0.0, 0.0, None),
    ],
)
def test_surrogate_by_hand(ratio, advantage, loss, slope, clipped):
    old = -1.5
    value, metrics = one(surrogate, math.log(ratio) + old, old, advantage)
    gradient = jax.grad(lambda x: one_sum(x, old, advantage))(jnp.float32(math.log(ratio) + old))
    np.testing.assert_allclose(value[0], loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)
    np.testing.assert_allclose(metrics["policy/ratio_mean"], [ratio], rtol=1e-5)
    for side in ["low", "high", "dual"]:
        assert metrics[f"policy/clip_fraction_{side}"][0] == (side == clipped)


def one_sum(logp, old, advantage):
    loss, _ = surrogate(logp[None], jnp.array([old]), jnp.array([advantage]), jnp.array([True]))
    return loss.sum()


def test_on_policy_gradient_is_reinforce():
    rng = np.random.default_rng(0)
    logps = jnp.asarray(rng.uniform(-5, 0, SHAPE), jnp.float32)
    advantages, mask = rng.normal(size=(3, 1)).astype(np.float32), rng.uniform(size=SHAPE) < 0.7
    gradient = jax.grad(lambda x: surrogate(x, logps, advantages, mask)[0].sum())(logps)
    np.testing.assert_allclose(gradient, np.where(mask, -advantages, 0), rtol=1e-6)


@examples
@hypothesis.given(logps=floats(-4, 0), ref=floats(-4, 0), mask=MASKS)
def test_kl_equals_oracle(logps, ref, mask):
    expected = np.where(mask, np.vectorize(oracles.k3)(logps.astype(float), ref.astype(float)), 0)
    actual = kl_k3(logps, ref, mask)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert np.all(actual >= 0)


def test_kl_of_small_differences():
    # About d^2 / 2; exp(d) - d - 1 in float32 is wrong by 1e-7.
    for d in [1e-1, 1e-2, 1e-3, -1e-3, -1e-2]:
        np.testing.assert_allclose(one(kl_k3, 0.0, d)[0], oracles.k3(0.0, d), rtol=1e-5, atol=1e-9)
    d = jnp.linspace(-1e-3, 1e-3, 10001)
    assert np.all(kl_k3(jnp.zeros_like(d), d, jnp.ones(d.shape, bool)) >= 0)
    assert one(kl_k3, -0.7, -0.7)[0] == 0


def test_kl_beyond_the_largest_exponent_is_the_tangent():
    value = one(kl_k3, -30.0, 0.0)[0]
    np.testing.assert_allclose(value, math.exp(20) * 11 - 30 - 1, rtol=1e-5)
    slope = jax.grad(lambda x: kl_k3(x[None], jnp.zeros(1), jnp.array([True])).sum())
    np.testing.assert_allclose(slope(jnp.float32(-30.0)), 1 - math.exp(20), rtol=1e-5)
    np.testing.assert_allclose(one(kl_k3, 0.0, -300.0)[0], 299, rtol=1e-6)


def test_gradients_numerically():
    rng = np.random.default_rng(1)
    old, ref = (jnp.asarray(rng.uniform(-3, 0, SHAPE), jnp.float32) for _ in range(2))
    # Ratios of every region, none at a corner.
    ratio = jnp.asarray(rng.choice([0.5, 0.9, 1.1, 2.0, 5.0], SHAPE), jnp.float32)
    advantages = jnp.asarray(rng.choice([-1.5, 0.7], SHAPE), jnp.float32)
    mask, logps = rng.uniform(size=SHAPE) < 0.8, old + jnp.log(ratio)
    check = functools.partial(check_grads, order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)
    check(lambda x: surrogate(x, old, advantages, mask)[0], (logps,))
    check(lambda x: kl_k3(x, ref, mask), (logps,))
    check(lambda x: losses.cross_entropy(x, mask), (logps,))


@pytest.mark.parametrize("gap", [-1e6, -200.0, 0.0, 200.0, 1e6])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_extreme_ratios_stay_finite(gap, advantage):
    """On the mask and off it; off it whatever stands there has no effect at all."""
    for on in [True, False]:
        mask = jnp.array([on])

        def total(logps, mask=mask):
            loss, metrics = surrogate(logps, jnp.zeros(1), jnp.array([advantage]), mask)
            kl = kl_k3(logps, jnp.zeros(1), mask)
            return (loss + kl).sum(), (loss, kl, metrics)

        gradient, values = jax.grad(total, has_aux=True)(jnp.array([gap], jnp.float32))
        chex.assert_tree_all_finite((gradient, values))
        if not on:
            assert not any(np.any(x) for x in jax.tree.leaves((gradient, values)))


def test_nan_behind_the_mask_has_no_effect():
    logps, mask = jnp.array([-1.0, jnp.nan]), jnp.array([True, False])
    old = jnp.array([-1.1, jnp.inf])

    def total(logps):
        loss, _ = surrogate(logps, old, jnp.ones(2), mask)
        return (loss + kl_k3(logps, old, mask) + losses.cross_entropy(logps, mask)).sum()

    value, gradient = jax.value_and_grad(total)(logps)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert gradient[1] == 0


@pytest.mark.parametrize("name", ["token_mean", "sequence_mean"])
@examples
@hypothesis.given(per_token=floats(-5, 5), mask=MASKS)
def test_aggregation_equals_oracle(name, per_token, mask):
    weights = losses.AGGREGATIONS[name](jnp.asarray(mask))
    expected = getattr(oracles, name)(per_token.astype(float), mask)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose((weights * per_token).sum(), expected, atol=1e-5)
    np.testing.assert_allclose(weights.sum(), float(mask.any()), rtol=1e-6)
    assert not np.any(np.asarray(weights)[~mask])


@pytest.mark.parametrize("name", ["token_mean", "sequence_mean"])
def test_weights_of_an_empty_batch_are_zero(name):
    assert not np.any(losses.AGGREGATIONS[name](jnp.zeros(SHAPE, bool)))


def test_aggregations_by_hand():
    mask = jnp.array([[[1, 1, 1, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]]], bool)
    np.testing.assert_allclose(losses.token_mean(mask)[:, 0, 0], [1 / 4, 1 / 4])
    np.testing.assert_allclose(losses.sequence_mean(mask)[:, 0, 0], [1 / 6, 1 / 2])


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_any_leading_shape(self):
        rng = np.random.default_rng(2)
        logps, old = (rng.uniform(-3, 0, (2, 3, 4)).astype(np.float32) for _ in range(2))
        advantages, mask = rng.normal(size=(2, 3, 1)).astype(np.float32), old > -2
        function = functools.partial(losses.clipped_surrogate, **CLIP)
        loss, metrics = self.variant(function)(logps, old, advantages, mask)
        flat, _ = self.variant(jax.vmap(jax.vmap(function)))(logps, old, advantages, mask)
        chex.assert_shape(jax.tree.leaves((loss, metrics)), (2, 3, 4))
        np.testing.assert_allclose(loss, flat, rtol=1e-6)
        np.testing.assert_allclose(
            self.variant(losses.kl_k3)(logps, old, mask),
            self.variant(jax.vmap(losses.kl_k3))(logps, old, mask),
            rtol=1e-6,
        )
