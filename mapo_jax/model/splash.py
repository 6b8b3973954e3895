"""Training's attention on TPUs, by one splash call on the packed row [prompt | o_1 | ... | o_G].

It replaces a prompt pass and a response pass over segments (attention.py) and equals them. A token
of the prompt sees the prompt before it. A token of a response sees the prompt and its own response
before it. So the mask has the form of a tree. The kernel skips the blocks of the mask in which no
token sees any other, and computes the other blocks from the numbers of their tokens. Scores and
masks never exist in memory.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import PartitionSpec

from mapo_jax import sharding
from mapo_jax.model import config
from mapo_jax.model.streams import Stream, prompt_stream
from mapo_jax.model.vision import Features
from mapo_jax.rollouts import Prompts

_LANES = 128  # the last axis of a TPU's registers
_BLOCK = 512  # queries and keys of a block, at most


@dataclasses.dataclass(frozen=True)
class Row:
    """The layout of a packed row."""

    prompt: int  # S
    group: int  # G
    response: int  # T

    @property
    def length(self) -> int:
        """Number of tokens, without the padding of the last block."""
        return self.prompt + self.group * self.response

    @property
    def block(self) -> int:
        return min(_BLOCK, -(-self.length // _LANES) * _LANES)

    @property
    def padded(self) -> int:
        return -(-self.length // self.block) * self.block


def is_supported(config: config.ModelConfig) -> bool:
    """Returns whether the kernel computes a policy's attention; it has no windows or soft caps."""
    return not config.windows and not config.attention_softcap


def pack(prompts: Prompts, responses: Stream) -> tuple[Row, Stream]:
    """Returns the row's layout, and the row as a stream [P, 1, N].

    Args:
        prompts: P of them.
        responses: their streams [P, G, T], made by `response_stream`.
    """
    P, G, T = responses.tokens.shape
    ours = [x.reshape(P, 1, G * T) for x in responses]
    theirs = prompt_stream(prompts)
    if theirs.rope.ndim == 4:
        ours[2] = jnp.broadcast_to(ours[2][..., None], (P, 1, G * T, 3))
    packed = Stream(*(jnp.concatenate(pair, 2) for pair in zip(theirs, ours, strict=True)))
    return Row(prompts.tokens.shape[1], G, T), packed


def pack_features(features: Features | None, row: Row) -> Features | None:
    """Returns the features of prompts [P, 1, S] as those of their packed rows [P, 1, N]."""
    if features is None:
        return None
    fill = [(0, 0), (0, 0), (0, row.length - row.prompt)]
    return features._replace(cell_PGT=jnp.pad(features.cell_PGT, fill, constant_values=-1))


def unpack(x: Array, row: Row) -> Array:
    """Returns the responses' part [P, G, T, ...] of [P, 1, N, ...]."""
    return x[:, 0, row.prompt :].reshape(x.shape[0], row.group, row.response, *x.shape[3:])


def make_attend(row: Row, lengths_P: Array, interpret: bool) -> Callable[..., Array]:
    """Makes the function that replaces `attention.attend` in `model.forward` over packed rows.

    Args:
        row: their layout.
        lengths_P: i32, tokens of each prompt. The last token of a prompt begins every response
            stream, so responses see the prompt without it.
        interpret: imitate the kernel on a platform that is not a TPU.

    Returns:
        A function of queries [P, 1, N, heads, H] and one segment with their keys and values.
    """
    place = jnp.arange(row.padded)[None]
    hidden = (place >= lengths_P[:, None] - 1) & (place < row.prompt)
    segment_PN = (hidden | (place >= row.length)).astype(jnp.int32)  # sees only its own number

    def attend(q_P1TNH, _, segments, *, scale, window=None, softcap=0.0):
        assert window is None  # see `is_supported`
        assert not softcap
        (own,) = segments
        q_PNTH = (q_P1TNH * scale)[:, 0].swapaxes(1, 2)
        fill = [(0, 0), (0, 0), (0, row.padded - row.length), (0, 0)]
        q, k, v = (jnp.pad(x, fill) for x in (q_PNTH, own.k[:, :, 0], own.v[:, :, 0]))
        out = _sharded(row, interpret)(q, k, v, segment_PN)
        return out[:, :, : row.length].swapaxes(1, 2)[:, None].astype(q_P1TNH.dtype)

    return attend


def _sharded(row: Row, interpret: bool) -> Callable[..., Array]:
    """Runs the kernel on each device's prompts and heads, as it does not know other devices."""
    one: Any = functools.partial(_attend, row=row, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return one
    heads = PartitionSpec(sharding.BATCH_AXES, "tensor")
    rows = PartitionSpec(sharding.BATCH_AXES)
    return jax.shard_map(
        one, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
    )


def _attend(q_PNTH, k_PKTH, v_PKTH, segment_PT, *, row, interpret):
    heads = q_PNTH.shape[1]
    mask = splash_attention_mask.MultiHeadMask([_Tree(row)] * heads)
    b = row.block
    blocks = splash_attention_kernel.BlockSizes(
        block_q=b, block_kv=b, block_q_dkv=b, block_kv_dkv=b, block_q_dq=b, block_kv_dq=b
    )
    kernel = splash_attention_kernel.make_splash_mha(
        mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret
    )

    def one(q, k, v, segment):
        ids = splash_attention_kernel.SegmentIds(segment, segment)
        return kernel(q, k, v, segment_ids=ids)

    return jax.vmap(one)(q_PNTH, k_PKTH, v_PKTH, segment_PT)


class _Tree(splash_attention_mask._ComputableMask):
    """Who sees whom in a row, apart from the prompt's padding, which differs from row to row."""

    def __init__(self, row: Row):
        self._row = row

        def sees(q, k):
            own = row.prompt + (q - row.prompt) // row.response * row.response
            return (k <= q) & ((k < row.prompt) | (k >= own))

        super().__init__((row.padded, row.padded), sees)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tree) and self._row == other._row

    def __hash__(self) -> int:
        return hash(self._row)
