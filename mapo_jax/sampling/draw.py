"""Draws one token per row from logits with temperature, top-p and top-k, without sorting."""

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax.sampling.config import SamplingConfig

_BLOCK = 128  # vocabulary entries per block of the two-level inverse CDF


def draw(
    logits_BV: Array, key_B: Array, temperature: Array | float, settings: SamplingConfig
) -> tuple[Array, Array]:
    """Draws one token per row, with its log-prob under the scaled, untruncated distribution.

    Top-p and top-k work by rejection, never by sorting. A token is in the set if the mass of
    strictly likelier tokens is below top_p and their number is below top_k, so ties are in the set.
    If a row draws a token outside the set, it removes this token and all that are no likelier, and
    draws again from the rest. This is exact, and takes a few rounds however small the set is.

    Args:
      logits_BV: f32.
      key_B: typed PRNG keys, one per row.
      temperature: f32[]; 0 takes the likeliest token.
      settings: top_p, top_k.

    Returns:
      tokens i32[B], logps f32[B].
    """
    scaled = logits_BV / jnp.where(temperature == 0, 1.0, temperature)
    top = scaled.max(-1, keepdims=True)
    mass = jnp.exp(scaled - top)

    def drawn():
        token = _invert(mass, jax.vmap(jax.random.uniform)(key_B))
        if settings.top_p < 1 or settings.top_k:
            token = _reject(mass, token, key_B, settings)
        return token

    def likeliest():
        return jnp.argmax(scaled, -1).astype(jnp.int32)

    token = jax.lax.cond(temperature == 0, likeliest, drawn)
    chosen = jnp.take_along_axis(scaled - top, token[:, None], -1)
    return token, (chosen - jnp.log(mass.sum(-1, keepdims=True)))[:, 0]


def _reject(mass_BV, token_B, key_B, settings):
    total = mass_BV.sum(-1)

    def mass_of(token):
        return jnp.take_along_axis(mass_BV, token[:, None], -1)

    def outside(token):
        likelier = mass_BV > mass_of(token)
        out = jnp.where(likelier, mass_BV, 0).sum(-1) >= settings.top_p * total
        if settings.top_k:
            out |= likelier.sum(-1) >= settings.top_k
        return out & likelier.any(-1)  # the likeliest token is always in the set, so the loop ends

    def again(carry):
        attempt, token, out = carry
        keys = jax.vmap(lambda k: jax.random.fold_in(k, attempt))(key_B)
        rest = jnp.where(mass_BV > mass_of(token), mass_BV, 0)
        redrawn = _invert(rest, jax.vmap(jax.random.uniform)(keys))
        token = jnp.where(out, redrawn, token)
        return attempt + 1, token, outside(token)

    start = (jnp.int32(1), token_B, outside(token_B))
    return jax.lax.while_loop(lambda carry: carry[2].any(), again, start)[1]


def _invert(mass_BV, u_B):
    """Finds where the cumulative mass exceeds u * total, first the block and then the index in it.

    This is five to eight times faster than one cumulative sum over the vocabulary (CPU, V = 4k to
    32k).
    """
    B, V = mass_BV.shape
    blocks = jnp.pad(mass_BV, ((0, 0), (0, -V % _BLOCK))).reshape(B, -1, _BLOCK)
    block_mass = blocks.sum(-1)
    cumulative = jnp.cumsum(block_mass, -1)
    target = u_B * cumulative[:, -1]
    block = _first_above(cumulative, block_mass, target)
    before = jnp.take_along_axis(cumulative - block_mass, block[:, None], -1)[:, 0]
    inside = jnp.take_along_axis(blocks, block[:, None, None], 1)[:, 0]
    index = _first_above(jnp.cumsum(inside, -1), inside, target - before)
    return (block * _BLOCK + index).astype(jnp.int32)


def _first_above(cumulative, mass, target):
    """Finds the first index with cumulative > target, at most the last index with mass.

    The limit is needed because u * total may round to total. `<=` skips leading zeros if u = 0.
    """
    last = mass.shape[-1] - 1 - jnp.argmax(mass[:, ::-1] > 0, -1)
    return jnp.minimum((cumulative <= target[:, None]).sum(-1), last)
