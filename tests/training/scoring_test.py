import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import training
from mapo_jax.training import ScoringConfig
from tests import small

CONFIG = small.CONFIG
PLAIN = ScoringConfig(remat=False)
rollouts = small.rollouts()
score = jax.jit(training.score, static_argnums=(1, 3, 4))


def loss(params, settings):
    logps, entropies = training.score(params, CONFIG, rollouts, settings)
    weights = np.random.default_rng(1).normal(size=logps.shape).astype(np.float32)
    return (logps * weights).sum() + entropies.sum(), (logps, entropies)


gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_log_softmax_and_entropy(temperature):
    params = small.params()
    logps, entropies = score(params, CONFIG, rollouts, ScoringConfig(temperature=temperature))
    logits = np.asarray(small.plain_logits(params, CONFIG, rollouts), np.float64) / temperature
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(expected, rollouts.tokens[..., None], -1)[..., 0]
    entropy = -(np.exp(expected) * expected).sum(-1)
    np.testing.assert_allclose(logps, np.where(rollouts.trained, chosen, 0), atol=2e-5)
    np.testing.assert_allclose(entropies, np.where(rollouts.trained, entropy, 0), atol=2e-5)
    assert not np.any(np.asarray(logps)[~rollouts.trained])
    assert not np.any(np.asarray(entropies)[~rollouts.trained])


def test_greedy_is_scored_at_temperature_1():
    cold, warm = (
        score(small.params(), CONFIG, rollouts, ScoringConfig(temperature=t)) for t in (0.0, 1.0)
    )
    np.testing.assert_array_equal(cold[0], warm[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ScoringConfig(remat=True, head_chunk=150, attention_chunk=4),  # 4 and 4 do not divide 6
        ScoringConfig(remat=False, head_chunk=1),
    ],
    ids=str,
)
def test_memory_knobs_change_nothing(settings):
    expected, (logps, entropies) = gradient(small.params(), PLAIN)
    actual, (logps_2, entropies_2) = gradient(small.params(), settings)
    np.testing.assert_allclose(logps_2, logps, atol=1e-5)
    np.testing.assert_allclose(entropies_2, entropies, atol=1e-5)
    small.assert_trees_close(actual, expected, 1e-5)


def entropy(params, settings):
    return training.score(params, CONFIG, rollouts, settings)[1].sum()


def test_no_gradient_through_entropies():
    for x in jax.tree.leaves(jax.jit(jax.grad(entropy), static_argnums=1)(small.params(), PLAIN)):
        assert not np.any(x)


@pytest.mark.slow
def test_gradient_through_entropies():
    """That of -sum p log p of the scaled logits, in chunks too."""

    def expected(params):
        logps = jax.nn.log_softmax(small.plain_logits(params, CONFIG, rollouts) / 0.7)
        return jnp.where(rollouts.trained, -(jnp.exp(logps) * logps).sum(-1), 0).sum()

    settings = ScoringConfig(temperature=0.7, head_chunk=150, entropy_gradient=True)
    value, slopes = jax.jit(jax.value_and_grad(entropy), static_argnums=1)(small.params(), settings)
    expected_value, expected_slopes = jax.jit(jax.value_and_grad(expected))(small.params())
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    small.assert_trees_close(slopes, expected_slopes, 1e-5)


def test_padding_holds_anything():
    """What stands behind a prompt's or a response's end reaches nothing."""
    prompts, T = rollouts.prompts, rollouts.tokens.shape[2]
    behind = np.arange(prompts.tokens.shape[1]) >= prompts.lengths[:, None]
    junk = small.replace(
        rollouts,
        prompts=small.replace(prompts, tokens=np.where(behind, 3, prompts.tokens)),
        tokens=np.where(rollouts.trained, rollouts.tokens, T),
    )
    assert not np.array_equal(junk.tokens, rollouts.tokens)
    assert not np.array_equal(junk.prompts.tokens, prompts.tokens)
    for a, b in zip(
        score(small.params(), CONFIG, junk, ScoringConfig()),
        score(small.params(), CONFIG, rollouts, ScoringConfig()),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_tokens_that_are_not_trained_are_read():
    """As a tool's output would be: no log-prob of its own, and the later ones depend on it."""
    hole = (np.arange(6) // 2 == 1) & (rollouts.length[..., None] > 4)  # tokens 2 and 3
    holed = small.replace(rollouts, trained=rollouts.trained & ~hole)
    other = small.replace(holed, tokens=np.where(hole, (rollouts.tokens + 1) % 40, rollouts.tokens))
    before, after, whole = (
        [np.asarray(x) for x in score(small.params(), CONFIG, r, ScoringConfig())]
        for r in (holed, other, rollouts)
    )
    long = hole.any(-1)
    assert 2 < long.sum() < long.size
    for a, b, w in zip(before, after, whole, strict=True):
        np.testing.assert_array_equal(a, np.where(holed.trained, w, 0))
        assert not a[hole].any()
        np.testing.assert_array_equal(a[..., :4], b[..., :4])
        assert (np.abs(a - b)[long][:, 4] > 1e-4).all()
        np.testing.assert_array_equal(a[~long], b[~long])


def largest(settings, select):
    """The number of elements of the largest selected array in the gradient's program."""
    text = str(jax.make_jaxpr(lambda p: jax.grad(loss, has_aux=True)(p, settings))(small.params()))
    shapes = (tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", text))
    return max(np.prod(s) for s in shapes if select(s))


@pytest.mark.slow
def test_chunks_bound_the_largest_array():
    """Neither all tokens' logits nor all queries' scores are ever there, backward pass included."""
    (P, G, T), S, V, N = rollouts.tokens.shape, 5, CONFIG.vocab_size, CONFIG.num_heads
    chunks = ScoringConfig(remat=True, head_chunk=P * G * 2, attention_chunk=2)
    logits = lambda shape: shape[-1] == V  # noqa: E731
    assert largest(PLAIN, logits) >= P * G * T * V
    assert largest(chunks, logits) <= P * G * 2 * V
    with_bonus = small.replace(chunks, entropy_gradient=True)
    assert largest(with_bonus, logits) <= P * G * 2 * V
    scores = lambda shape: len(shape) >= 6 and shape[-1] in (S, T)  # noqa: E731
    assert largest(PLAIN, scores) >= P * G * N * T * T
    assert largest(chunks, scores) <= P * G * N * 2 * T


@pytest.mark.slow
def test_parameters_in_the_compute_dtype_score_alike():
    """So a reference policy is kept in it."""
    params, settings = small.params(), ScoringConfig()
    wide, narrow = (
        score(x, CONFIG, rollouts, settings, jnp.bfloat16)
        for x in (params, jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params))
    )
    np.testing.assert_array_equal(wide[0], narrow[0])


@pytest.mark.slow
def test_float16_is_nearer_to_float32_than_bfloat16():
    """It has three bits more, so the mean error is about an eighth."""
    exact, bfloat16, float16 = (
        score(small.params(), CONFIG, rollouts, PLAIN, dtype)[0]
        for dtype in ("float32", "bfloat16", "float16")
    )
    errors = [np.abs(x - exact)[rollouts.trained].mean() for x in (float16, bfloat16)]
    assert 1e-5 < errors[0] < errors[1] / 4
    assert errors[1] < 0.1
