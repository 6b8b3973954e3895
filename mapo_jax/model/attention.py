"""Attention over segments: one function for the prompt pass, the response pass and decoding.

A query attends to a list of key/value segments, either shared by a group (the prompt, computed once
for its G responses) or its own (the response, or the sampler's cache). Masks come from positions
alone: `key position <= query position` is causality, padding and validity of a cell at once,
because an absent key has position `ABSENT`. These positions count the order in the sequence. The
RoPE positions have already rotated queries and keys when they come here, see streams.py. Where rows
hold several responses, each query also says whose it is.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mapo_jax.model.config import RopeScaling

ABSENT = np.iinfo(np.int32).max
MASKED = -1e30  # finite, so that the result is finite for a query that sees no key (padding)


class Segment(NamedTuple):
    """Keys and values with their positions.

    The axis of heads comes before the axis of time, so the keys of a head are one contiguous
    matrix. On a CPU this makes a decode step's attention 2.5 times faster than the other order.
    """

    k: Array  # [P, K, S, H] shared by the group, or [P, K, G, S, H] own
    v: Array  # as k
    positions: Array  # i32[P, S] or i32[P, G, S]; ABSENT if there is no key


class Turned(Segment):
    """A block of the sampler's cache whose keys are [P, K, G, H, S].

    XLA:CPU would turn the keys in each step to multiply them with the one query of a slot. So a
    decode step of `bench:small` is a seventh faster, although a new key goes to H places.
    """


def written(blocks: Sequence[Segment], k: Array, v: Array, at: Array | int) -> list[Segment]:
    """Writes the keys and values [P, K, G, 1, H] of one token into cell `at` of a row of blocks.

    Cells are counted through all blocks. Each block is updated in place, one cell of it: the cell
    `at`, or a cell that stays as it is.
    """

    def write(block, new, place, axis):
        if len(blocks) > 1:
            size = block.shape[axis]
            inside = (place >= 0) & (place < size)
            place = jnp.clip(place, 0, size - 1)
            old = jax.lax.dynamic_slice_in_dim(block, place, 1, axis)
            new = jnp.where(inside, new, old)
        return jax.lax.dynamic_update_slice_in_dim(block, new, place, axis)

    out, first = [], 0
    for block in blocks:
        if isinstance(block, Turned):
            keys = write(block.k, k.swapaxes(3, 4), at - first, 4)
        else:
            keys = write(block.k, k, at - first, 3)
        out.append(block._replace(k=keys, v=write(block.v, v, at - first, 3)))
        first += block.v.shape[3]
    return out


def rope_angles(
    positions: Array,
    head_dim: int,
    theta: float,
    scaling: RopeScaling | None = None,
    axes: np.ndarray | None = None,
) -> tuple[Array, Array]:
    """Cosine and sine f32[..., H/2] of rotary positions i32[...] (RoFormer, arXiv 2104.09864).

    With `axes` i32[H/2] positions are i32[..., 3], and pair j turns by number axes[j] of them.
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequencies = scaling(frequencies)
    turned = positions[..., None] if axes is None else positions[..., axes]
    frequencies = frequencies.reshape((1,) * (turned.ndim - 1) + (-1,))
    return cosine_and_sine(turned.astype(jnp.float32) * frequencies)


def cosine_and_sine(angles: Array) -> tuple[Array, Array]:
    """Computes both once.

    XLA:CPU fuses functions of single elements into all that use them, and would compute these again
    for every head, layer and pass. It does not fuse a loop.
    """

    def once(angles):
        is_cosine = jnp.array([True, False])
        return tuple(jax.lax.map(lambda x: jax.lax.cond(x, jnp.cos, jnp.sin, angles), is_cosine))

    def fused(angles):
        return jnp.cos(angles), jnp.sin(angles)

    return jax.lax.platform_dependent(angles, cpu=once, default=fused)


def rotate(x: Array, rope: tuple[Array, Array]) -> Array:
    """Rotates [..., heads, H] by `rope_angles`; pairs the two halves of H as Llama and Qwen do."""
    cos, sin = (a[..., None, :] for a in rope)
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def attend(
    q_PGTNH: Array,
    positions_PGT: Array,
    segments: list[Segment],
    chunk: int = 0,
    *,
    scale: float | None = None,
    window: Array | int | None = None,
    softcap: float = 0.0,
    owners_PGT: Array | None = None,
) -> Array:
    """Softmax attention over the union of the segments, in float32.

    Args:
      q_PGTNH: queries; N is a multiple of the segments' K (grouped-query attention).
      positions_PGT: i32, the queries' positions in the order of the sequence.
      segments: keys and values, shared or own.
      chunk: number of queries computed at a time and again in the backward pass, so that scores
        are never [T, S + T] for all heads at once; 0 means all queries together.
      scale: factor of the queries; None means H ** -0.5.
      window: i32[] or int, how many positions back a query sees, its own included; None means all.
      softcap: changes scores to softcap * tanh(scores / softcap) (Gemma 2); 0 leaves them.
      owners_PGT: i32, the response of each query and of the own key at its place, if rows hold
        several responses: a query sees the own keys of its response alone. None if rows hold one.

    Returns:
      [P, G, T, N, H] in the queries' dtype.
    """
    chex.assert_rank([q_PGTNH, positions_PGT], [5, 3])
    T = q_PGTNH.shape[2]
    scale = q_PGTNH.shape[-1] ** -0.5 if scale is None else scale
    attention = functools.partial(
        _attend, segments=segments, scale=scale, window=window, softcap=softcap
    )
    owners = () if owners_PGT is None else (owners_PGT,)
    if owners:
        attention = functools.partial(attention, all_owners_PGT=owners_PGT)
    if chunk <= 0 or T <= chunk:
        return attention(q_PGTNH, positions_PGT, *owners)
    n = -(-T // chunk)

    def cut(x):  # [P, G, T, ...] -> [n, P, G, chunk, ...]; padding queries have position 0
        x = jnp.pad(x, [(0, 0), (0, 0), (0, n * chunk - T)] + [(0, 0)] * (x.ndim - 3))
        return jnp.moveaxis(x.reshape(*x.shape[:2], n, chunk, *x.shape[3:]), 2, 0)

    one = jax.checkpoint(lambda args: attention(*args))
    out = jnp.moveaxis(jax.lax.map(one, tuple(map(cut, (q_PGTNH, positions_PGT, *owners)))), 0, 2)
    return out.reshape(*out.shape[:2], n * chunk, *out.shape[4:])[:, :, :T]


def visible(
    positions_PGT: Array,
    key_positions: Array,
    window: Array | int | None,
    owners_PGT: Array | None = None,
    key_owners_PGS: Array | None = None,
) -> Array:
    """bool[P, G, T, S], true if the query sees the key; keys are at i32[P, S] or i32[P, G, S].

    With owners, of the queries and of own keys, a query sees the own keys of its owner alone.
    """
    keys = key_positions if key_positions.ndim == 3 else key_positions[:, None]
    keys, queries = keys[:, :, None, :], positions_PGT[..., None]
    seen = keys <= queries
    if owners_PGT is not None and key_owners_PGS is not None and key_positions.ndim == 3:
        seen &= owners_PGT[..., None] == key_owners_PGS[:, :, None]
    return seen if window is None else seen & (queries - keys < window)


def is_as_exact(found: Any, plain: Any, exact: Any, rounding: float = 0.0) -> bool:
    """Says whether a kernel's result errs about as little as the plain path's.

    The norm of its errors may be at most 3 times that of the plain path's errors (roundings alone
    may double it), the largest error at most 6 times.

    Args:
      found: the kernel's result, a NumPy array.
      plain: the same by `attend`.
      exact: the same by `attend` in float32.
      rounding: relative error that counts as none.
    """
    ours, theirs = found - exact, plain - exact
    norm, largest = np.linalg.norm, lambda x: np.abs(x).max()
    return bool(
        norm(ours) <= 3 * norm(theirs) + rounding * norm(exact)
        and largest(ours) <= 6 * largest(theirs) + rounding * largest(exact)
    )


def _attend(
    q_PGTNH,
    positions_PGT,
    owners_PGT=None,
    *,
    segments,
    scale,
    window,
    softcap,
    all_owners_PGT=None,
):
    P, G, T, N, H = q_PGTNH.shape
    K = segments[0].k.shape[1]
    # With the axes in this order no product below has to transpose an operand or its result.
    q = q_PGTNH.reshape(P, G, T, K, N // K, H).transpose(0, 3, 1, 2, 4, 5) * scale
    scores = []
    for segment in segments:
        axes = "pkghs" if isinstance(segment, Turned) else _axes(segment.k)
        s = jnp.einsum(f"pkgtrh,{axes}->pkgtrs", q, segment.k, preferred_element_type=jnp.float32)
        if softcap:
            s = softcap * jnp.tanh(s / softcap)
        seen_PGTS = visible(positions_PGT, segment.positions, window, owners_PGT, all_owners_PGT)
        scores.append(jnp.where(seen_PGTS[:, None, :, :, None], s, MASKED))
    top = functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - jax.lax.stop_gradient(top)) for s in scores]
    total = sum(w.sum(-1, keepdims=True) for w in weights)
    if segments[0].v.dtype == jnp.float16:  # it ends at 65,504; a sum over many keys goes on
        weights, total = [w / total for w in weights], 1.0
    # No preferred_element_type here, as XLA:CPU has no such bfloat16 product with a float32 result.
    outs = [
        jnp.einsum(f"pkgtrs,{_axes(v)}->pkgtrh", w.astype(v.dtype), v).astype(jnp.float32)
        for w, (_, v, _) in zip(weights, segments, strict=True)
    ]
    out = functools.reduce(jnp.add, outs)
    out = (out / total).transpose(0, 2, 3, 1, 4, 5)
    return out.reshape(P, G, T, N, H).astype(q_PGTNH.dtype)


def _axes(x):
    return "pkgsh" if x.ndim == 5 else "pksh"
