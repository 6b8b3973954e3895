import functools
import itertools
import math

import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mapo_jax import training
from mapo_jax.training import losses
from tests import oracles, small

CLIP = {"clip_low": 0.2, "clip_high": 0.3, "clip_dual": 3.0}
OPEN = {"clip_low": 1.0, "clip_high": 0.3, "clip_dual": 0.0}  # as few bounds as there can be
BOUNDS = {"clip": (CLIP, (0.2, 0.3, 3.0)), "open": (OPEN, (1.0, 0.3, math.inf))}


@functools.cache
def make(name, bounds="clip"):
    return jax.jit(small.surrogate(name, **BOUNDS[bounds][0]))


surrogate = make("clipped")
KLS = {name: jax.jit(function) for name, function in training.KLS.items()}
kl_k3 = KLS["k3"]
SHAPE = (3, 5)
examples = hypothesis.settings(deadline=None, max_examples=60)
MASKS = hnp.arrays(bool, SHAPE)
surrogates = pytest.mark.parametrize("name", training.SURROGATES)
kls = pytest.mark.parametrize("name", training.KLS)
aggregations = pytest.mark.parametrize("name", training.AGGREGATIONS)


def floats(low, high):
    return hnp.arrays(np.float32, SHAPE, elements=st.floats(low, high, width=32))


def one(function, *values, mask=True):
    return function(*(jnp.array([v], jnp.float32) for v in values), jnp.array([mask]))


def oracle(name, logps, old, advantages, mask, *bounds):
    """(loss, ratio), both [3, 5], one token (of GSPO: one row) at a time."""
    loss, ratio = np.zeros((2, *SHAPE))
    advantages = np.broadcast_to(advantages, SHAPE)
    for row, kept in enumerate(mask):
        if name == "gspo" and kept.any():
            values = logps[row, kept], old[row, kept]
            loss[row, kept] = oracles.gspo(*values, advantages[row, 0], *bounds)
            ratio[row, kept] = math.exp(np.mean(values[0] - values[1]))
        elif name != "gspo":
            function = {"clipped": oracles.surrogate, "cispo": oracles.cispo}[name]
            for at in np.flatnonzero(kept):
                values = logps[row, at], old[row, at]
                loss[row, at] = function(*values, advantages[row, at], *bounds)
                ratio[row, at] = math.exp(values[0] - values[1])
    return loss, ratio


@surrogates
@pytest.mark.parametrize("bounds", BOUNDS)
@examples
@hypothesis.given(logps=floats(-4, 0), old=floats(-4, 0), advantages=floats(-3, 3), mask=MASKS)
def test_surrogate_equals_oracle(name, bounds, logps, old, advantages, mask):
    if name == "gspo":  # which has one advantage for each row
        advantages = advantages[:, :1]
    loss, metrics = make(name, bounds)(logps, old, advantages, mask)
    values = (x.astype(float) for x in (logps, old, advantages))
    expected, ratio = oracle(name, *values, mask, *BOUNDS[bounds][1])
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics["policy/ratio_mean"], ratio, rtol=1e-5, atol=1e-5)
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
@pytest.mark.parametrize("name", ["clipped", "gspo"])  # the same of a row of one token
def test_surrogate_by_hand(name, ratio, advantage, loss, slope, clipped):
    by_hand(make(name), ratio, advantage, loss, slope, clipped)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (0.01, -2.0, 0.02, 0.02, None),  # no lower bound
        (50.0, -2.0, 100.0, 100.0, None),  # no dual clip
        (50.0, 2.0, -2.6, 0.0, "high"),
    ],
)
@pytest.mark.parametrize("name", ["clipped", "gspo"])
def test_surrogate_without_bounds_by_hand(name, ratio, advantage, loss, slope, clipped):
    by_hand(make(name, "open"), ratio, advantage, loss, slope, clipped)


@pytest.mark.parametrize(
    ("bounds", "ratio", "weight", "clipped"),
    [
        ("clip", 1.0, 1.0, None),
        ("clip", 1.25, 1.25, None),
        ("clip", 1.5, 1.3, "high"),
        ("clip", 50.0, 1.3, "high"),
        ("clip", 0.9, 0.9, None),
        ("clip", 0.5, 0.8, "low"),
        ("open", 0.01, 0.01, None),
    ],
)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_by_hand(bounds, ratio, weight, clipped, advantage):
    slope = -weight * advantage
    loss = slope * (math.log(ratio) - 1.5)
    by_hand(make("cispo", bounds), ratio, advantage, loss, slope, clipped)


def by_hand(function, ratio, advantage, loss, slope, clipped):
    old = -1.5
    value, metrics = one(function, math.log(ratio) + old, old, advantage)
    gradient = jax.grad(lambda x: one_sum(function, x, old, advantage))(
        jnp.float32(math.log(ratio) + old)
    )
    np.testing.assert_allclose(value[0], loss, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)
    np.testing.assert_allclose(metrics["policy/ratio_mean"], [ratio], rtol=1e-5)
    for side in ["low", "high", "dual"]:
        assert metrics[f"policy/clip_fraction_{side}"][0] == (side == clipped)


def one_sum(function, logp, old, advantage):
    loss, _ = function(logp[None], jnp.array([old]), jnp.array([advantage]), jnp.array([True]))
    return loss.sum()


@surrogates
def test_on_policy_gradient_is_reinforce(name):
    """That of all surrogates, however long the rows are: weights are equal along a row."""
    rng = np.random.default_rng(0)
    logps = jnp.asarray(rng.uniform(-5, 0, SHAPE), jnp.float32)
    advantages, mask = rng.normal(size=(3, 1)).astype(np.float32), rng.uniform(size=SHAPE) < 0.7
    weights = [np.ones(SHAPE, np.float32), *(f(mask) for f in training.AGGREGATIONS.values())]
    for w in weights:
        gradient = jax.grad(lambda x, w=w: (w * make(name)(x, logps, advantages, mask)[0]).sum())
        expected = np.where(mask, -advantages * w, 0)
        np.testing.assert_allclose(gradient(logps), expected, rtol=1e-6)


def off_policy():
    """Ragged rows, the last empty; what is clipped and what is not, of both signs."""
    rng = np.random.default_rng(3)
    old = rng.uniform(-3, 0, (7, 4))
    logps = old + rng.normal(size=(7, 4)) / 2 + np.array([[-2, -2, 0, 0, 2, 2, 0]]).T
    advantages = np.array([[1.5, -0.5, 1.0, -2.0, 0.7, -1.2, 1.0]]).T
    mask = np.arange(4) < np.array([[4, 2, 1, 3, 4, 2, 0]]).T
    return *(jnp.asarray(x, jnp.float32) for x in (logps, old, advantages)), mask


def test_gradient_of_gspo():
    """-s A / |o| at each token where it is not clipped, as in arXiv 2507.18071 sec. 4.2."""
    logps, old, advantages, mask = off_policy()
    weights = losses.sequence_mean(mask)
    loss = lambda x: (weights * make("gspo")(x, old, advantages, mask)[0]).sum()  # noqa: E731
    expected, clipped = np.zeros(mask.shape), set()
    for row in range(6):
        n, a = mask[row].sum(), float(advantages[row, 0])
        s = math.exp(float((logps - old)[row, :n].mean()))
        side = "high" if a > 0 and s > 1.3 else "low" if a < 0 and s < 0.8 else None
        side = "dual" if a < 0 and s > 3 else side
        expected[row, :n] = 0 if side else -s * a / n / 6  # the mean over six sequences
        clipped.add(side)
    assert clipped == {"high", "low", "dual", None}
    np.testing.assert_allclose(jax.grad(loss)(logps), expected, rtol=1e-5)


def test_gspo_takes_one_advantage_per_row():
    with pytest.raises(AssertionError):
        make("gspo")(*np.zeros((3, *SHAPE), np.float32), np.ones(SHAPE, bool))


def test_gradient_of_cispo():
    """-clip(ratio) A at every token, none of which is 0."""
    logps, old, advantages, mask = off_policy()
    gradient = jax.grad(lambda x: make("cispo")(x, old, advantages, mask)[0].sum())(logps)
    weight = np.clip(np.exp(np.asarray(logps - old, float)), 0.8, 1.3)
    np.testing.assert_allclose(gradient, np.where(mask, -weight * advantages, 0), rtol=1e-5)
    assert {0.8, 1.3} < set(np.round(weight[mask], 6))
    np.testing.assert_array_equal(np.asarray(gradient) != 0, mask)


@kls
@examples
@hypothesis.given(logps=floats(-4, 0), ref=floats(-4, 0), mask=MASKS)
def test_kl_equals_oracle(name, logps, ref, mask):
    expected = np.vectorize(getattr(oracles, name))(logps.astype(float), ref.astype(float))
    expected = np.where(mask, expected, 0)
    actual = KLS[name](logps, ref, mask)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert name == "k1" or np.all(actual >= 0)


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


@pytest.mark.parametrize(
    ("name", "slope"),
    [("k1", np.ones_like), ("k2", lambda x: x), ("k3", lambda x: 1 - np.exp(-x))],
)
def test_gradient_of_kl(name, slope):
    """Of logps: a function of x = logps - ref."""
    logps, ref, _, mask = off_policy()
    gradient = jax.grad(lambda x: KLS[name](x, ref, mask).sum())(logps)
    expected = slope(np.asarray(logps - ref, float))
    np.testing.assert_allclose(gradient, np.where(mask, expected, 0), rtol=1e-5, atol=1e-6)


@kls
def test_gradient_of_kl_in_expectation(name):
    """On policy, exactly: none of k1, of KL[policy || ref] of k2, of KL[ref || policy] of k3."""
    rng = np.random.default_rng(4)
    logits, ref = rng.normal(size=(2, 6)).astype(np.float32)
    p, q = (np.exp(x.astype(float)) / np.exp(x.astype(float)).sum() for x in (logits, ref))
    log_ratio = np.log(p / q)
    expected = {
        "k1": np.zeros(6),
        "k2": p * (log_ratio - (p * log_ratio).sum()),
        "k3": p - q,
    }[name]

    def mean(logits):  # the tokens are drawn from p, through which no gradient flows
        logps, ref_logps = jax.nn.log_softmax(logits), jnp.log(jnp.asarray(q, jnp.float32))
        return (jnp.asarray(p, jnp.float32) * KLS[name](logps, ref_logps, np.ones(6, bool))).sum()

    np.testing.assert_allclose(jax.grad(mean)(jnp.asarray(logits)), expected, atol=1e-6)


def test_gradients_numerically():
    rng = np.random.default_rng(1)
    old, ref = (jnp.asarray(rng.uniform(-3, 0, SHAPE), jnp.float32) for _ in range(2))
    # Ratios of every region, none at a corner.
    ratio = jnp.asarray(rng.choice([0.5, 0.9, 1.1, 2.0, 5.0], SHAPE), jnp.float32)
    advantages = jnp.asarray(rng.choice([-1.5, 0.7], SHAPE), jnp.float32)
    mask, logps = rng.uniform(size=SHAPE) < 0.8, old + jnp.log(ratio)
    check = functools.partial(check_grads, order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)
    check(lambda x: surrogate(x, old, advantages, mask)[0], (logps,))
    rows = jnp.array([[-1.5], [0.7], [0.7]])
    check(lambda x: make("gspo")(x, old, rows, mask)[0], (old + jnp.log(ratio[:, :1]),))
    for kl in KLS.values():
        check(lambda x, kl=kl: kl(x, ref, mask), (logps,))
    check(lambda x: losses.cross_entropy(x, mask), (logps,))


@pytest.mark.parametrize("gap", [-1e6, -200.0, 0.0, 200.0, 1e6])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_extreme_ratios_stay_finite(gap, advantage):
    """On the mask and off it; off it whatever stands there has no effect at all."""
    logps, zero = jnp.array([gap], jnp.float32), jnp.zeros(1)

    def check(total, on):
        gradient, values = jax.grad(total, has_aux=True)(logps)
        chex.assert_tree_all_finite((gradient, values))
        if not on:
            assert not any(np.any(x) for x in jax.tree.leaves((gradient, values)))
        return gradient[0]

    for on in [True, False]:
        mask = jnp.array([on])
        for name, bounds in itertools.product(training.SURROGATES, BOUNDS):

            def total(logps, name=name, bounds=bounds, mask=mask):
                loss, metrics = make(name, bounds)(logps, zero, jnp.array([advantage]), mask)
                return loss.sum(), (loss, metrics)

            slope = check(total, on)
            if on and (name, bounds) == ("cispo", "clip"):
                assert (slope != 0) == (advantage != 0)  # no token loses its gradient
        for kl in KLS.values():

            def total(logps, kl=kl, mask=mask):
                value = kl(logps, zero, mask)
                return value.sum(), value

            slope = check(total, on)
            assert not on or gap == 0 or slope != 0  # no token that has drifted loses its gradient


@surrogates
def test_nan_behind_the_mask_has_no_effect(name):
    logps, mask = jnp.array([-1.0, jnp.nan]), jnp.array([True, False])
    old = jnp.array([-1.1, jnp.inf])

    def total(logps):
        loss, metrics = make(name)(logps, old, jnp.ones(1), mask)
        kl = sum(kl(logps, old, mask) for kl in KLS.values())
        return (loss + kl + losses.cross_entropy(logps, mask)).sum(), metrics

    (value, metrics), gradient = jax.value_and_grad(total, has_aux=True)(logps)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert gradient[1] == 0
    chex.assert_tree_all_finite(metrics)


@aggregations
@examples
@hypothesis.given(per_token=floats(-5, 5), mask=MASKS)
def test_aggregation_equals_oracle(name, per_token, mask):
    weights = training.AGGREGATIONS[name](jnp.asarray(mask))
    expected = getattr(oracles, name)(per_token.astype(float), mask)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose((weights * per_token).sum(), expected, atol=1e-5)
    total = getattr(oracles, name)(np.ones(SHAPE), mask)
    assert name == "constant" or total == mask.any()
    np.testing.assert_allclose(weights.sum(), total, rtol=1e-6)
    assert not np.any(np.asarray(weights)[~mask])


@aggregations
def test_weights_of_an_empty_batch_are_zero(name):
    assert not np.any(training.AGGREGATIONS[name](jnp.zeros(SHAPE, bool)))


def test_aggregations_by_hand():
    mask = jnp.array([[[1, 1, 1, 0], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]]], bool)
    np.testing.assert_allclose(losses.token_mean(mask)[:, 0, 0], [1 / 4, 1 / 4])
    np.testing.assert_allclose(losses.sequence_mean(mask)[:, 0, 0], [1 / 6, 1 / 2])
    np.testing.assert_allclose(losses.prompt_mean(mask)[:, 0, 0], [1 / 6, 1 / 2])
    np.testing.assert_allclose(losses.constant(mask)[:, 0, 0], [1 / 8, 1 / 8])
    mask = mask.at[0, 1].set(True)  # its second rollout counts by its tokens
    np.testing.assert_allclose(losses.prompt_mean(mask)[:, :, 0], [[1 / 14, 1 / 14], [1 / 2, 0]])


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_any_leading_shape(self):
        rng = np.random.default_rng(2)
        logps, old = (rng.uniform(-3, 0, (2, 3, 4)).astype(np.float32) for _ in range(2))
        advantages, mask = rng.normal(size=(2, 3, 1)).astype(np.float32), old > -2
        for name in training.SURROGATES:
            function = small.surrogate(name, **CLIP)
            loss, metrics = self.variant(function)(logps, old, advantages, mask)
            flat, _ = self.variant(jax.vmap(jax.vmap(function)))(logps, old, advantages, mask)
            chex.assert_shape(jax.tree.leaves((loss, metrics)), (2, 3, 4))
            np.testing.assert_allclose(loss, flat, rtol=1e-6)
        for kl in training.KLS.values():
            np.testing.assert_allclose(
                self.variant(kl)(logps, old, mask),
                self.variant(jax.vmap(kl))(logps, old, mask),
                rtol=1e-6,
            )
        for name, aggregation in training.AGGREGATIONS.items():
            weights = self.variant(aggregation)(mask)
            shape = (2, 3, 4) if name == "prompt_mean" else (6, 4)
            expected = getattr(oracles, name)(
                logps.reshape(shape).astype(float), mask.reshape(shape)
            )
            np.testing.assert_allclose((weights * logps).sum(), expected, rtol=1e-5)
