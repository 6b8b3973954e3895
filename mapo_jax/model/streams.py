"""Streams of tokens, each with its two positions.

The order in the sequence decides who sees whom, through causality, padding, windows and the
sampler's cache. The RoPE position decides how far queries and keys are rotated. For text both count
tokens. The tokens of a picture have three RoPE positions, and share or leave out some.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from mapo_jax.rollouts import Prompts


class Stream(NamedTuple):
    """The arguments of `forward`, in its order, all i32 and of one shape."""

    tokens: Array
    positions: Array  # order in the sequence
    rope: Array  # RoPE positions; with pictures a last axis of three: time, row, column


def prompt_stream(prompts: Prompts) -> Stream:
    """Returns the prompts as a stream [P, 1, S]."""
    order = jnp.broadcast_to(jnp.arange(prompts.tokens.shape[1]), prompts.tokens.shape)
    rope = order if prompts.rope is None else prompts.rope
    return Stream(prompts.tokens[:, None], order[:, None], rope[:, None])


def response_starts(prompts: Prompts) -> Stream:
    """Returns the last token of each prompt, which begins its response streams, as a stream [P].

    Both positions of token t of a response stream are the positions of this token plus t. The
    order in the sequence is length - 1 + t. The RoPE position is next - 1 + t; next is the largest
    RoPE position of the prompt plus one, and all three are the same. For text the two are equal.
    """
    lengths = jnp.maximum(prompts.lengths, 1)
    token = jnp.take_along_axis(prompts.tokens, lengths[:, None] - 1, 1)[:, 0]
    order = lengths - 1
    if prompts.rope is None:
        return Stream(token, order, order)
    exists = jnp.arange(prompts.tokens.shape[1])[None] < lengths[:, None]
    largest = prompts.rope.max(-1) if prompts.rope.ndim == 3 else prompts.rope
    return Stream(token, order, jnp.where(exists, largest, 0).max(1))


def response_stream(prompts: Prompts, tokens_PGT: Array) -> Stream:
    """Makes the stream that predicts `tokens_PGT`: a prompt's last token and all but their last."""
    (P, G, T), start = tokens_PGT.shape, response_starts(prompts)
    first = jnp.broadcast_to(start.tokens[:, None, None], (P, G, 1))
    steps = jnp.arange(T)[None, None]
    positions, rope = (
        jnp.broadcast_to(x[:, None, None] + steps, (P, G, T)) for x in (start.positions, start.rope)
    )
    return Stream(jnp.concatenate([first, tokens_PGT[..., :-1]], -1), positions, rope)
