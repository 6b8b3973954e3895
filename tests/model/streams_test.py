"""Order in the sequence and RoPE positions are two things, in the sampler and on every path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import model, sampling, training
from mapo_jax.rollouts import Images
from tests import small
from tests.model.decoder_test import FAMILIES, decoder
from tests.model.splash_test import CONFIG

P, G, S, T = 4, 3, 5, 6
PATHS = ("plain", "splash_interpreted", "cudnn_imitated")
SAMPLING = sampling.SamplingConfig(G, T, eos_ids=(3, 11, 20, 31), lanes=1, width=2)
every_path = pytest.mark.parametrize("path", ["plain", *small.slow(*([x] for x in PATHS[1:]))])


@functools.cache
def prompts(kind):
    """Text with its RoPE positions left out or written out, or prompts that leave some out."""
    made = small.rollouts(P, G, S, T).prompts
    text = np.broadcast_to(np.arange(S, dtype=np.int32), (P, S)).copy()
    if kind == "none":
        return made
    if kind == "text":
        return small.replace(made, rope=text)
    gapped = np.cumsum(np.random.default_rng(2).integers(1, 5, (P, S)), 1).astype(np.int32)
    gapped[1] = 0, 1, 5, 6, 9
    assert made.lengths[1] == S
    return small.replace(made, rope=np.where(text < made.lengths[:, None], gapped, 1000))


@functools.cache
def sampled(kind):
    params = small.params(CONFIG)
    rollouts = sampling.sample(params, CONFIG, prompts(kind), jax.random.key(5), SAMPLING)
    return jax.tree.map(np.asarray, rollouts)


def weighted(logps):
    weights = np.random.default_rng(3).normal(size=logps.shape).astype(np.float32)
    return (weights * logps).sum(), logps


@functools.cache
def scored(kind, path):
    """A gradient, and the log-probs of one sample with the RoPE positions of `kind`."""
    rollouts = small.replace(sampled("gapped"), prompts=prompts(kind))
    settings = training.ScoringConfig(attention=path)

    def loss(params, rollouts):
        return weighted(training.score(params, CONFIG, rollouts, settings)[0])

    return jax.jit(jax.grad(loss, has_aux=True))(small.params(CONFIG), rollouts)


@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
def test_rope_turns_and_the_order_hides(name):
    """Windows of a Gemma count tokens, whatever their RoPE positions are."""
    config = FAMILIES[name]
    tokens = small.rollouts(P=4, T=8).tokens[:, 0]
    rope = np.cumsum(np.random.default_rng(0).integers(0, 5, tokens.shape), 1)
    order = np.broadcast_to(np.arange(8), tokens.shape)

    @jax.jit
    def logits(params):
        hidden, _ = model.forward(params, config, *(x[:, None] for x in (tokens, order, rope)))
        return model.head(params, config, hidden[:, 0])

    params = small.params(config)
    expected = [decoder(params, config, *pair) for pair in zip(tokens, rope, strict=True)]
    np.testing.assert_allclose(logits(params), np.stack(expected), rtol=1e-5, atol=2e-5)


@pytest.mark.slow
@every_path
def test_the_scorer_equals_the_sampler_and_whole_rows(path):
    rollouts = sampled("gapped")
    assert (rollouts.length < T).any()

    def whole(params):
        logps = small.plain_logps(params, CONFIG, rollouts)
        return weighted(jnp.where(rollouts.trained, logps, 0))

    gradient, logps = scored("gapped", path)
    expected, plain = jax.jit(jax.grad(whole, has_aux=True))(small.params(CONFIG))
    np.testing.assert_allclose(logps, plain, atol=2e-5)
    np.testing.assert_allclose(logps, rollouts.logps, atol=2e-5)
    small.assert_trees_close(gradient, expected, 1e-5)
    assert np.abs(scored("none", path)[1] - logps)[:, :, 1:].max() > 1e-2  # gaps do matter


@pytest.mark.slow
@every_path
def test_text_may_write_its_positions_out(path):
    """To the last bit; in two programs XLA may sum a kernel's gradient in another order."""
    (gradient, logps), (expected, plain) = scored("text", path), scored("none", path)
    np.testing.assert_array_equal(logps, plain)
    small.assert_trees_close(gradient, expected, 0 if path == "plain" else 1e-6)


@pytest.mark.slow
def test_text_that_writes_its_positions_out_is_sampled_the_same():
    written, left_out = sampled("text"), sampled("none")
    written = small.replace(written, prompts=left_out.prompts)
    jax.tree.map(np.testing.assert_array_equal, written, left_out)
    for make in (model.prompt_stream, model.response_starts):
        jax.tree.map(np.testing.assert_array_equal, make(prompts("text")), make(prompts("none")))


def test_where_a_response_starts():
    """One more than the prompt's largest RoPE position is that of the first token it samples."""
    shown, tokens, steps = prompts("gapped"), sampled("gapped").tokens, np.arange(T)
    start, stream = model.response_starts(shown), model.response_stream(shown, tokens)
    np.testing.assert_array_equal(start.positions, shown.lengths - 1)
    last = [row[n - 1] for row, n in zip(shown.rope, shown.lengths, strict=True)]
    np.testing.assert_array_equal(start.rope, last)
    np.testing.assert_array_equal(stream.rope[1], np.broadcast_to(9 + steps, (G, T)))
    np.testing.assert_array_equal(stream.positions[1], np.broadcast_to(S - 1 + steps, (G, T)))
    np.testing.assert_array_equal(stream.tokens[..., 1:], tokens[..., :-1])
    last = [row[n - 1] for row, n in zip(shown.tokens, shown.lengths, strict=True)]
    np.testing.assert_array_equal(stream.tokens[..., 0], np.broadcast_to(last, (G, P)).T)


@every_path
def test_a_policy_without_a_tower_refuses_images(path):
    images = Images(*np.zeros((5, P, 2, 3), np.uint8))
    params, shown = small.params(CONFIG), small.replace(prompts("none"), images=images)
    rollouts = small.replace(sampled("none"), prompts=shown)
    with pytest.raises(ValueError, match="images must be None: the policy has no tower"):
        training.score(params, CONFIG, rollouts, training.ScoringConfig(attention=path))
    with pytest.raises(ValueError, match="images must be None: the policy has no tower"):
        sampling.sample(params, CONFIG, shown, jax.random.key(0), SAMPLING)
