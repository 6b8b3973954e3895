"""Defines the pytrees of a batch's life, `Prompts`, `Rollouts`, `Experience` and `Batch`.

The group is an axis. Arrays are [P, G, ...], prompts by rollouts, and there are no ids. If the
arrays of a field are [P, ...], its metadata says so, and what cuts a batch looks at nothing else.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax import Array

PER_PROMPT = {"per_prompt": True}  # metadata of a field without a group axis


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Images:
    """The pictures of prompts, cut into patches; right-padded.

    merge x merge patches make a cell and follow each other. A cell becomes one embedding, which
    stands at the place of one token of the prompt.
    """

    patches: Array  # u8[P, N, 3 * patch * patch]
    picture: Array  # i32[P, N], number of the patch's picture in its prompt; -1 in padding
    place: Array  # i32[P, N, 2], row and column of the patch in its picture
    size: Array  # i32[P, N, 2], rows and columns of patches that its picture has
    cell: Array  # i32[P, S], the cell at the place of each token; -1 for text


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts, right-padded. The last token of each has its largest RoPE position."""

    tokens: Array  # i32[P, S]
    lengths: Array  # i32[P], tokens that exist; 0 in a padding row
    images: Images | None = None  # None for text alone
    # i32[P, S] or, with pictures, i32[P, S, 3] (time, row, column), RoPE positions of the tokens;
    # None means 0, 1, ...
    rope: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Prompts and their responses, both right-padded.

    If a token of a response exists but is not trained, the tokens after it see it, like a token of
    the prompt. Only its own loss does not count.
    """

    prompts: Prompts = dataclasses.field(metadata=PER_PROMPT)  # lengths >= 1
    example: Array = dataclasses.field(metadata=PER_PROMPT)  # i32[P], index in the data set
    tokens: Array  # i32[P, G, T]
    length: Array  # i32[P, G], tokens that exist, the end-of-sequence token included
    trained: Array  # bool[P, G, T], the loss counts; the policy sampled the token
    logps: Array  # f32[P, G, T], of the scaled, untruncated distribution; 0 if not trained
    finished: Array  # bool[P, G], true if it ended by itself, false if it was cut
    valid: Array  # bool[P, G], false if it counts in nothing (padding)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
    """Rollouts, and the verdicts of the reward function on them."""

    rollouts: Rollouts
    rewards: Array  # f32[P, G]; NaN if there is no reward
    success: Array  # bool[P, G], right on every metric
    parts: dict[str, Array]  # name -> f32[P, G]
    # f32[P], reward of the greedy response; None if the advantage does not need it
    baseline: Array | None = dataclasses.field(metadata=PER_PROMPT)
    # i32[P], the prompt's number among the prompts that the step has drawn
    draw: Array = dataclasses.field(metadata=PER_PROMPT)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """One rollout batch in the form that the update takes."""

    rollouts: Rollouts
    advantages: Array  # f32[P, G]
    old_logps: Array  # f32[P, G, T], the ratio divides by their exp
    ref_logps: Array | None  # f32[P, G, T] under the reference policy; None if beta is 0


def padded_length(longest: int, limit: int) -> int:
    """Returns the number of tokens to which prompts are padded: their longest, rounded up.

    It is rounded to 16 tokens, or to an eighth of the next power of two, so that sets of about the
    same lengths share their compiled programs. It is at most `limit`.
    """
    step = max(16, (1 << (longest - 1).bit_length()) // 8)
    return min(-(-longest // step) * step, limit)


def pad_prompts(prompts: Sequence[Sequence[int]], length: int) -> Prompts:
    """Pads prompts of text with zeros to `length` tokens; returns NumPy arrays."""
    tokens, lengths = _pad(prompts, length)
    return Prompts(tokens, lengths)


class Picture(NamedTuple):
    """A picture in a prompt."""

    patches: np.ndarray  # u8[rows * columns, 3 * patch * patch], cell by cell
    rows: int  # of patches, a multiple of merge
    columns: int
    place: int  # index of its first token in the prompt; its cells stand there row by row


def patch_rung(n: int, merge: int) -> int:
    """Returns the number of patches to which prompts are padded: n, rounded up to whole cells.

    There are four such numbers for each doubling, so that batches share their compiled programs.
    """
    cells = -(-n // merge**2)
    step = max(4, (1 << max(cells - 1, 1).bit_length()) // 8)
    return -(-cells // step) * step * merge**2


def with_pictures(
    prompts: Prompts, pictures: Sequence[Sequence[Picture]], N: int, patch: int, merge: int
) -> Prompts:
    """Adds pictures to prompts of `pad_prompts`; returns NumPy arrays.

    The RoPE positions are those of M-RoPE (Qwen2-VL, arXiv 2409.12191 sec. 2.1). Text counts up on
    all three. The cells of a picture at position c have (c, c + row, c + column). The next token
    has c plus the longer side.

    Args:
        prompts: of text; one token stands for each cell of a picture.
        pictures: of each prompt, in the order of their places.
        N: patches to which prompts are padded.
        patch: pixels of a side of a patch.
        merge: patches of a side of a cell.
    """
    P, S = prompts.tokens.shape
    patches = np.zeros((P, N, 3 * patch**2), np.uint8)
    picture = np.full((P, N), -1, np.int32)
    place, size = np.zeros((2, P, N, 2), np.int32)
    cell, rope = np.full((P, S), -1, np.int32), np.zeros((P, S, 3), np.int32)
    for i, row in enumerate(pictures):
        first = begins = position = 0  # patch, token and RoPE position after the picture before
        for number, one in enumerate(row):
            n, (rows, columns) = one.rows * one.columns, (one.rows // merge, one.columns // merge)
            these, tokens = slice(first, first + n), slice(one.place, one.place + rows * columns)
            patches[i, these], picture[i, these] = one.patches, number
            size[i, these] = one.rows, one.columns
            blocks = np.indices((rows, columns, merge, merge))  # a cell's patches are its last axes
            place[i, these] = (blocks[:2] * merge + blocks[2:]).reshape(2, n).T
            cell[i, tokens] = first // merge**2 + np.arange(rows * columns)
            rope[i, begins : one.place] = position + np.arange(one.place - begins)[:, None]
            position += one.place - begins
            rope[i, tokens, 0] = position
            rope[i, tokens, 1:] = position + np.indices((rows, columns)).reshape(2, -1).T
            first, begins, position = these.stop, tokens.stop, position + max(rows, columns)
        rope[i, begins:] = position + np.arange(S - begins)[:, None]
    arrays: Any = (patches, picture, place, size, cell)
    return Prompts(prompts.tokens, prompts.lengths, Images(*arrays), cast(Any, rope))


def demonstrations(
    prompts: Prompts, example_P: np.ndarray, responses: Sequence[Sequence[int]], length: int
) -> Rollouts:
    """Makes rollouts of given responses, one for each prompt; returns NumPy arrays.

    Args:
        prompts: made by `pad_prompts`.
        example_P: i32, their indices in the data set.
        responses: the tokens of each response; all of them are trained.
        length: T.
    """
    tokens, lengths = _pad(responses, length)
    trained = np.arange(length) < lengths[:, None]
    logps, true = np.zeros(trained.shape, np.float32), np.ones(len(trained), bool)
    of_group = (x[:, None] for x in (tokens, lengths, trained, logps, true, true))
    fields: Any = (prompts, example_P, *of_group)
    return Rollouts(*fields)


def _pad(rows, length) -> Any:
    """Returns tokens i32[n, length], padded with zeros on the right, and lengths i32[n]."""
    tokens = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens, np.asarray([len(ids) for ids in rows], np.int32)
