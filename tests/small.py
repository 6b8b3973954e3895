"""A tiny policy, ragged rollouts and a plain forward pass, for the tests of the device core."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from mapo_jax import advantages, model, training
from mapo_jax.config import from_config_dict
from mapo_jax.rollouts import Prompts, Rollouts

CONFIG = model.ModelConfig(
    vocab_size=40,
    num_layers=2,
    embed_dim=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=24,
    tie_embeddings=False,
    qkv_bias=True,
    qk_norm=True,
)


def slow(*cases):
    """Cases of a test that a few others stand for in the default suite."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def nightly(*cases):
    """Further cases of a test of which CI runs others."""
    return [pytest.param(*case, marks=pytest.mark.nightly) for case in cases]


@functools.cache
def params(config=CONFIG, seed=0):
    """Makes NumPy parameters unlike the initial ones, with no bias 0, no scale 1, spread logits."""
    rng = np.random.default_rng(seed)
    shapes = model.abstract_params(config)

    def leaf(path, x):
        noise = rng.normal(size=x.shape).astype(np.float32)
        return 1 + 0.2 * noise if path[-1].key == "scale" else 0.3 * noise

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def rollouts(P=8, G=4, S=5, T=6, vocab_size=CONFIG.vocab_size, seed=0):
    """Makes random NumPy rollouts; prompts and responses have lengths from 1 to the longest."""
    rng = np.random.default_rng(seed)
    prompt_lengths = rng.integers(1, S + 1, P)
    prompt_lengths[:2] = 1, S
    lengths = rng.integers(1, T + 1, (P, G))
    lengths[0, 0], lengths[-1, -1] = 1, T
    trained = np.arange(T) < lengths[..., None]
    return Rollouts(
        prompts=Prompts(
            rng.integers(0, vocab_size, (P, S)).astype(np.int32), prompt_lengths.astype(np.int32)
        ),
        example=np.arange(P, dtype=np.int32),
        tokens=rng.integers(0, vocab_size, (P, G, T)).astype(np.int32),  # random after the end too
        length=lengths.astype(np.int32),
        trained=trained,
        logps=np.where(trained, rng.normal(-3, 0.3, trained.shape), 0).astype(np.float32),
        finished=rng.random((P, G)) < 0.5,
        valid=np.ones((P, G), bool),
    )


def surrogate(name, **changes):
    """The surrogate of the common configuration with this name and these fields of `algorithm`."""
    algorithm = from_config_dict(common.get_config()).algorithm
    return training.make_surrogate(dataclasses.replace(algorithm, surrogate=name, **changes))


# Arrays; the rest are options.
_INPUTS = ("key", "baseline_P", "lengths_PG", "components_PGC", "history_P")
_advantages = functools.cache(
    lambda advantage, options: jax.jit(
        functools.partial(advantages.group_advantages, advantage, **dict(options))
    )
)


def group_advantages(advantage, *arrays, **more):
    """`advantages.group_advantages` in one program, which compiles faster than each operation."""
    inputs = {name: more.pop(name) for name in _INPUTS if name in more}
    return _advantages(advantage, tuple(more.items()))(*arrays, **inputs)


def replace(tree, **changes):
    return dataclasses.replace(tree, **changes)


@functools.partial(jax.jit, static_argnums=1)
def _plain(params, config, rows_BT, rope_BT):
    order = jnp.broadcast_to(jnp.arange(rows_BT.shape[1]), rows_BT.shape)
    hidden, _ = model.forward(params, config, rows_BT[:, None], order[:, None], rope_BT[:, None])
    return model.head(params, config, hidden[:, 0])


def plain_logits(params, config, rollouts):
    """Logits [P, G, T, V] of the response tokens, by a pass over whole rows [prompt | response]."""
    r = jax.tree.map(np.asarray, rollouts)
    (P, G, T), S = r.tokens.shape, r.prompts.tokens.shape[1]
    rows = np.zeros((P, G, S + T), np.int32)  # causality hides the zeros at the end
    rope = np.broadcast_to(np.arange(S + T, dtype=np.int32), rows.shape).copy()
    for p, n in enumerate(r.prompts.lengths):
        rows[p, :, :n] = r.prompts.tokens[p, :n]
        rows[p, :, n : n + T] = r.tokens[p]
        if r.prompts.rope is not None:
            rope[p, :, :n] = r.prompts.rope[p, :n]
            rope[p, :, n:] = r.prompts.rope[p, :n].max() + 1 + np.arange(S + T - n)
    rows, rope = (x.reshape(P * G, S + T) for x in (rows, rope))
    logits = _plain(params, config, rows, rope).reshape(P, G, S + T, -1)
    at = r.prompts.lengths[:, None] - 1 + np.arange(T)[None]
    return jnp.take_along_axis(logits, jnp.asarray(at)[:, None, :, None], 2)


def plain_logps(params, config, rollouts, temperature=1.0):
    """Log-probs [P, G, T] of the response tokens, from `plain_logits`; not masked."""
    logps = jax.nn.log_softmax(plain_logits(params, config, rollouts) / temperature)
    return jnp.take_along_axis(logps, jnp.asarray(rollouts.tokens)[..., None], -1)[..., 0]


def assert_trees_close(actual, expected, relative):
    """Asserts that each array is within `relative` of the largest entry of its expected one.

    No expected array may be all zeros.
    """
    actual, expected = (jax.tree_util.tree_leaves_with_path(x) for x in (actual, expected))
    assert [p for p, _ in actual] == [p for p, _ in expected]
    for (path, a), (_, e) in zip(actual, expected, strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        size = np.abs(e).max()
        assert size > 0, jax.tree_util.keystr(path)
        error = np.abs(a - e).max() / size
        assert error <= relative, (jax.tree_util.keystr(path), error)
