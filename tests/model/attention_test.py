import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import model
from mapo_jax.model import ABSENT, Segment, Turned, attention

P, G, T, S, H = 2, 3, 5, 4, 6
attend = jax.jit(model.attend, static_argnums=3)


def softmax_attention(q, positions, segments):
    """One query at a time, over the list of the keys it may see, in float64."""
    out = np.zeros(q.shape)
    for p, g, t, n in np.ndindex(*q.shape[:4]):
        keys, values = [], []
        for k, v, at in segments:
            if k.ndim == 5:
                k, v, at = k[:, :, g], v[:, :, g], at[:, g]
            head = n // (q.shape[3] // k.shape[1])
            for s in range(at.shape[1]):
                if at[p, s] <= positions[p, g, t]:
                    keys.append(k[p, head, s].astype(float))
                    values.append(v[p, head, s])
        scores = np.array(keys) @ q[p, g, t, n].astype(float) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[p, g, t, n] = weights / weights.sum() @ np.array(values)
    return out


def inputs(N=4, K=2, shared=True, own=True, seed=0):
    """Queries at positions 2..6, a ragged prefix at 0..1 or 0..0, own keys in any order."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    positions = np.broadcast_to(np.arange(2, 2 + T), (P, G, T)).astype(np.int32)
    segments = []
    if shared:
        at = np.where(np.arange(S) < np.array([[2], [1]]), np.arange(S), ABSENT)
        segments.append(Segment(normal(P, K, S, H), normal(P, K, S, H), at.astype(np.int32)))
    if own:
        at = np.stack([rng.permutation(T) + 2 for _ in range(P * G)]).reshape(P, G, T)
        at = np.where((at == 4) & (np.arange(G) == 1)[None, :, None], ABSENT, at)
        at[..., 0] = 2  # every query sees a key
        segments.append(Segment(normal(P, K, G, T, H), normal(P, K, G, T, H), at.astype(np.int32)))
    return normal(P, G, T, N, H), positions, segments


@pytest.mark.parametrize(("shared", "own"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("N", "K"), [(4, 2), (4, 1), (2, 2)])
def test_equals_softmax_attention(N, K, shared, own):
    args = inputs(N, K, shared, own)
    np.testing.assert_allclose(attend(*args), softmax_attention(*args), atol=2e-6)


def test_large_scores_stay_exact():
    q, positions, segments = inputs()
    np.testing.assert_allclose(
        attend(q * 1000, positions, segments),
        softmax_attention(q * 1000, positions, segments),
        atol=1e-3,  # scores of 1e3, known to 1e-4
    )


def test_two_segments_are_one_long_one():
    q, positions, (shared, own) = inputs()
    keys = (np.repeat(x[:, :, None], G, 2) for x in shared[:2])
    wide = [*keys, np.repeat(shared.positions[:, None], G, 1)]
    joined = Segment(
        *(np.concatenate([a, b], -2) for a, b in zip(wide[:2], own[:2], strict=True)),
        np.concatenate([wide[2], own[2]], -1),
    )
    np.testing.assert_allclose(
        attend(q, positions, [shared, own]),
        attend(q, positions, [joined]),
        atol=1e-6,
    )


@pytest.mark.parametrize("chunk", [1, 2, 5, 7])
def test_chunks_change_nothing(chunk):
    q, positions, segments = inputs()
    weight = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

    def loss(q, keys_values, chunk):
        parts = [Segment(*kv, s.positions) for kv, s in zip(keys_values, segments, strict=True)]
        out = attend(q, positions, parts, chunk)
        return (out * weight).sum(), out

    keys_values = [(s.k, s.v) for s in segments]
    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    whole, pieces = gradient(q, keys_values, 0), gradient(q, keys_values, chunk)
    for a, b in zip(jax.tree.leaves(pieces), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("chunk", [0, 2])
def test_query_without_keys_is_finite(chunk):
    q, positions, (shared, own) = inputs()
    at = np.array(own.positions)
    at[0, 0] = ABSENT
    shared = shared._replace(positions=np.full_like(shared.positions, ABSENT))

    def loss(q, k, v):
        out = attend(q, positions, [shared, Segment(k, v, at)], chunk)
        return (out**2).sum(), out

    gradients, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, own.k, own.v)
    assert all(np.isfinite(x).all() for x in (*gradients, out))
    expected = softmax_attention(q[1:], positions[1:], [Segment(own.k[1:], own.v[1:], at[1:])])
    np.testing.assert_allclose(out[1:], expected, atol=2e-6)


def test_keeps_the_dtype_of_the_queries():
    q, positions, segments = inputs()
    half = lambda x: jnp.asarray(x, jnp.bfloat16)  # noqa: E731
    cast = [Segment(half(s.k), half(s.v), s.positions) for s in segments]
    out = attend(half(q), positions, cast)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        out.astype(np.float32), softmax_attention(q, positions, segments), atol=0.05
    )


def test_float16_holds_the_mean_of_many_large_values():
    """Their sum, 8,192 times 20, lies beyond its 65,504."""
    S = 8192
    keys = jnp.zeros((1, 1, S, 4), jnp.float16)
    values = jnp.full((1, 1, S, 4), 20, jnp.float16)
    segment = Segment(keys, values, jnp.arange(S)[None])
    q = jnp.zeros((1, 1, 1, 1, 4), jnp.float16)
    out = attend(q, jnp.full((1, 1, 1), S), [segment])
    np.testing.assert_allclose(out, np.full(out.shape, 20, np.float16), rtol=1e-2)


def test_rotation_multiplies_complex_numbers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 8)).astype(np.float32)  # [positions, heads, H]
    positions = np.array([0, 1, 100], np.int32)
    out = attention.rotate(x, attention.rope_angles(positions, 8, 500.0))
    turn = np.exp(1j * positions[:, None] * 500.0 ** (-np.arange(4) / 4))
    expected = (x[..., :4] + 1j * x[..., 4:]) * turn[:, None]
    np.testing.assert_allclose(
        out, np.concatenate([expected.real, expected.imag], -1), rtol=1e-5, atol=1e-5
    )


def test_a_cpu_computes_cosine_and_sine_once_for_all_who_use_them():
    x = jnp.ones((8, 16, 4))  # [positions, heads, H]

    def rotated(x, positions):
        rope = attention.rope_angles(positions, 4, 500.0)
        return attention.rotate(x, rope), attention.rotate(x[:, :2], rope)

    positions = jnp.arange(8, dtype=jnp.int32)
    found = jax.jit(rotated).lower(x, positions).compile().as_text()
    assert found is not None
    assert re.findall(r"(\S+)\{\S*\} (?:co)?sine\(", found) == ["f32[8,2]"] * 2


@pytest.mark.parametrize("sizes", [[7], [4, 2, 5]])
@pytest.mark.parametrize("at", [0, 3, 5, 6])
def test_turned_blocks_of_a_cache_hold_the_same(sizes, at):
    """A step writes the same cell and attends to the same keys, however the blocks lie."""
    rng = np.random.default_rng(at)
    K, N = 2, 6

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    plain = []
    for size in sizes:
        positions = rng.integers(0, 20, (P, G, size)).astype(np.int32)
        plain.append(Segment(normal(P, K, G, size, H), normal(P, K, G, size, H), positions))
    turned = [Turned(s.k.swapaxes(3, 4), s.v, s.positions) for s in plain]
    new = normal(P, K, G, 1, H), normal(P, K, G, 1, H)
    plain, turned = (attention.written(blocks, *new, at) for blocks in (plain, turned))
    written = np.concatenate([s.k for s in plain], 3)[:, :, :, at]
    np.testing.assert_array_equal(written, new[0][:, :, :, 0])
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_array_equal(a.k, b.k.swapaxes(3, 4))
        np.testing.assert_array_equal(a.v, b.v)
    q, now = normal(P, G, 1, N, H), np.full((P, G, 1), 15, np.int32)
    np.testing.assert_allclose(attend(q, now, turned), attend(q, now, plain), atol=1e-6)
