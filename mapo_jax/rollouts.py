"""Defines the pytrees of a batch's life, `Prompts`, `Rollouts`, `Experience` and `Batch`.

The group is an axis. Arrays are [P, G, ...], prompts by rollouts, and there are no ids. If the
arrays of a field are [P, ...], its metadata says so, and `to_microbatches` looks at nothing else.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
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


def to_microbatches(tree: Any, whole: tuple[int, int], piece: tuple[int, int]) -> Any:
    """Cuts a pytree of [P, G, ...] into [n, p, g, ...], n = PG / pg.

    A field that is per prompt, by the metadata of its dataclass, becomes [n, p, ...]. If a group is
    split, each piece holds its prompt. A microbatch takes every (P/p)-th prompt, so that prompts
    stay on their shard.

    Args:
        tree: arrays [P, G, ...] and dataclasses of this module.
        whole: (P, G).
        piece: (p, g); p divides P and g divides G.
    """
    (P, G), (p, g) = whole, piece

    def deal(x):  # [P, G/g, ...] -> [n, p, ...]
        x = jnp.moveaxis(x.reshape(p, P // p, *x.shape[1:]), 0, 2)  # [P/p, G/g, p, ...]
        return x.reshape(-1, *x.shape[2:])

    def cut_prompt(x):
        return deal(jnp.broadcast_to(x[:, None], (P, G // g, *x.shape[1:])))

    def cut(x):
        if not dataclasses.is_dataclass(x):
            return deal(x.reshape(P, G // g, g, *x.shape[2:]))
        parts = {}
        for field in dataclasses.fields(x):
            cut_part = cut_prompts if field.metadata == PER_PROMPT else cut_all
            parts[field.name] = cut_part(getattr(x, field.name))
        return dataclasses.replace(x, **parts)

    cut_prompts = functools.partial(jax.tree.map, cut_prompt)
    cut_all = functools.partial(jax.tree.map, cut, is_leaf=dataclasses.is_dataclass)
    return cut_all(tree)


def from_microbatches(x: Array, whole: tuple[int, int]) -> Array:
    """Undoes `to_microbatches`; turns an array [n, p, g, ...] into [P, G, ...]."""
    (P, G), (p, g) = whole, x.shape[1:3]
    x = jnp.moveaxis(x.reshape(P // p, G // g, p, g, *x.shape[3:]), 2, 0)
    return x.reshape(P, G, *x.shape[4:])


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
