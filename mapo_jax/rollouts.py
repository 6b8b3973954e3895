"""Defines the pytrees of a batch's life, `Prompts`, `Rollouts`, `Experience` and `Batch`.

The group is an axis. Arrays are [P, G, ...], prompts by rollouts, and there are no ids. If the
arrays of a field are [P, ...], its metadata says so, and what cuts a batch looks at nothing else.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

PER_PROMPT = {"per_prompt": True}  # metadata of a field without a group axis


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts, right-padded. The last token of each has its largest RoPE position."""

    tokens: Array  # i32[P, S]
    lengths: Array  # i32[P], tokens that exist; 0 in a padding row
    images: Any = None  # a pytree of arrays [P, ...]; None for text alone
    rope: Array | None = None  # i32[P, S], RoPE positions of the tokens; None means 0, 1, ...


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
