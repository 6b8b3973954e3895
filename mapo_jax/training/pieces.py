"""Cuts a minibatch into microbatches that hold little padding.

The lengths of the responses are known by then, so the host plans. Groups of about the same number
of tokens come into one microbatch. There the responses of a group are packed into rows, several
short ones behind each other, and the microbatch has the shape that its fullest group needs, of four
shapes for each doubling of the tokens. Its program is compiled when this shape occurs for the first
time. Rollouts are independent, so neither order nor packing changes the gradient.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from mapo_jax import sharding
from mapo_jax.rollouts import PER_PROMPT

_FEWEST = 1024  # tokens of a shard's microbatch; a program for fewer saves nothing
_SHORTEST = 64  # tokens of a row


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Piece:
    """One microbatch of p prompts with g rollouts each, in R rows of N tokens for each prompt."""

    prompts: Array  # i32[p], rows of the minibatch, counted within their shard
    rollouts: Array  # i32[p, g], of these prompts
    places: Array  # i32[p, R, N], the token g * T + t at each place; g * T if there is none
    found: Array  # i32[p, g, T], the place of each token; 0 if it has none


def plan(
    lengths_PG: np.ndarray, shards: int, size: tuple[int, int], T: int, *, is_packed: bool
) -> list[Piece]:
    """Plans the microbatches of a minibatch.

    Args:
        lengths_PG: tokens of each response that are computed; 0 for none.
        shards: into which the mesh splits the prompts.
        size: (p, g), over all shards together.
        T: length of the time axis.
        is_packed: several responses may share a row; else R is g.

    Returns:
        Pieces as NumPy arrays, with the rows of all shards.
    """
    (_, G), (p, g) = lengths_PG.shape, size
    order_PG = np.argsort(lengths_PG, 1, kind="stable")
    order = order_PG.reshape(shards, -1, g)  # a long and a short part of a group, if g < G
    lengths = np.take_along_axis(lengths_PG, order_PG, 1).reshape(order.shape)
    weight = lengths.sum(-1) if is_packed else lengths.max(-1)
    ranks = np.argsort(weight, 1, kind="stable").reshape(shards, -1, p // shards)
    shard = np.arange(shards)[:, None]
    pieces = []
    for chosen in ranks.swapaxes(0, 1):  # [shards, p / shards]
        these = lengths[shard, chosen].reshape(p, g)
        places, found = _lay(these, p // shards, T, is_packed)
        prompts, rollouts = chosen // (G // g), order[shard, chosen]
        arrays: Any = (prompts.reshape(p), rollouts.reshape(p, g), places, found)
        pieces.append(Piece(*(x.astype(np.int32) for x in arrays)))
    return pieces


def _lay(lengths_pg, shard_prompts, T, is_packed):
    """Returns `Piece.places` and `Piece.found`: the fewest tokens, in rows as short as can be."""
    p, g = lengths_pg.shape
    least = min(-(-_FEWEST // shard_prompts), g * T)
    options = []
    for N in (n for n in _row_lengths(T, is_packed) if n >= lengths_pg.max()):
        packed = [_pack(lengths, N) for lengths in lengths_pg] if is_packed else []
        need = max((rows for _, rows in packed), default=g)
        R = next((r for r in _row_numbers(g) if r >= need and r * N >= least), None)
        if R and R * N <= g * T:
            starts = [starts for starts, _ in packed] if R < g else [np.arange(g) * N] * p
            options.append((R * N, N, R, starts))
    _, N, R, starts = min(options, key=lambda option: option[:2])
    places, found = np.full((p, R * N), g * T, np.int32), np.zeros((p, g, T), np.int32)
    for i, j in np.ndindex(p, g):
        start, n = starts[i][j], lengths_pg[i, j]
        places[i, start : start + n] = np.arange(j * T, j * T + n)
        found[i, j, :n] = np.arange(start, start + n)
    return places.reshape(p, R, N), found


def _row_lengths(T, is_packed):
    """64, 80, 96, 112, 128, 160, ..., below T, or below 2 T if rows are packed; and T."""
    steps = sorted(_SHORTEST * (4 + j) * 2**i // 4 for i in range(T.bit_length()) for j in range(4))
    return sorted({*(n for n in steps if n < (2 * T if is_packed else T)), T})


def _row_numbers(g):
    """1, 2, 4, 8, ... and g."""
    return [*(1 << i for i in range(g.bit_length()) if 1 << i < g), g]


def _pack(lengths, N):
    """First fit, the longest first; returns the starts, and the number of rows of N tokens."""
    filled, starts = [], np.zeros(len(lengths), np.int64)
    for i in np.argsort(-lengths, kind="stable"):
        row = next((r for r, n in enumerate(filled) if n + lengths[i] <= N), len(filled))
        filled += [0] * (row == len(filled))
        starts[i] = row * N + filled[row]
        filled[row] += lengths[i]
    return starts, len(filled)


def put(piece: Piece, mesh: Mesh) -> Piece:
    """Puts a planned piece on the devices; each process puts its own rows."""
    own = sharding.own_rows(mesh, len(piece.prompts))
    return sharding.put(jax.tree.map(lambda x: x[own], piece), mesh)


def take(tree: Any, piece: Piece, mesh: Mesh) -> Any:
    """Returns the piece's part of a pytree: [P, G, ...] becomes [p, g, ...].

    A field that is per prompt, by the metadata of its dataclass, becomes [p, ...]. Prompts stay on
    their shard.
    """

    def of_shard(tree, prompts, rollouts):
        def cut(x):
            if not dataclasses.is_dataclass(x):
                return x[prompts[:, None], rollouts]
            parts = {}
            for field in dataclasses.fields(x):
                value = getattr(x, field.name)
                parts[field.name] = (
                    jax.tree.map(lambda y: y[prompts], value)
                    if field.metadata == PER_PROMPT
                    else jax.tree.map(cut, value, is_leaf=dataclasses.is_dataclass)
                )
            return dataclasses.replace(x, **parts)

        return jax.tree.map(cut, tree, is_leaf=dataclasses.is_dataclass)

    return _by_shard(of_shard, mesh)(tree, piece.prompts, piece.rollouts)


def put_back(whole_PGT: Array, part_pgT: Array, piece: Piece, mesh: Mesh) -> Array:
    """Writes the piece's part into the whole array."""

    def of_shard(whole, part, prompts, rollouts):
        return whole.at[prompts[:, None], rollouts].set(part)

    return _by_shard(of_shard, mesh)(whole_PGT, part_pgT, piece.prompts, piece.rollouts)


def _by_shard(function, mesh):
    rows = PartitionSpec(sharding.BATCH_AXES)
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=rows,
        out_specs=rows,
        axis_names=set(sharding.BATCH_AXES),
        check_vma=False,
    )
