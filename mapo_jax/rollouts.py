"""What is handed along in the life of a batch: `Rollouts`, `Experience`, `Batch`.

The group is an axis: everything is [P, G, ...], prompts by rollouts. There are no ids.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Prompts and their sampled responses. Both are right-padded; `mask` says what was sampled."""

    prompt_tokens: Array  # i32[P, S]
    prompt_lengths: Array  # i32[P], >= 1
    example: Array  # i32[P], index of the prompt's example in its data set
    tokens: Array  # i32[P, G, T]
    mask: Array  # bool[P, G, T], true up to and including the end-of-sequence token
    logps: Array  # f32[P, G, T], of the temperature-scaled, untruncated distribution; 0 off mask
    finished: Array  # bool[P, G], stopped by itself rather than cut
    valid: Array  # bool[P, G], false: counts in nothing (padding)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
    """Rollouts, and what the reward function found about them."""

    rollouts: Rollouts
    rewards: Array  # f32[P, G]; NaN where there is no reward
    success: Array  # bool[P, G], right on every metric
    parts: dict[str, Array]  # name -> f32[P, G]
    baseline: Array | None  # f32[P], reward of the greedy response; None: nobody asks for it
    draw: Array  # i32[P], the prompt's number among those that the step has drawn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """One rollout batch as the update sees it."""

    rollouts: Rollouts
    advantages: Array  # f32[P, G]
    old_logps: Array  # f32[P, G, T], what the ratio divides by
    ref_logps: Array | None  # f32[P, G, T] under the reference policy; None where beta is 0


_PER_PROMPT = ("prompt_tokens", "prompt_lengths", "example")  # the leaves without a group axis


def split(tree: Any, whole: tuple[int, int], piece: tuple[int, int]) -> Any:
    """Cuts a pytree of [P, ...] and [P, G, ...] into [n, p, ...] and [n, p, g, ...], n = PG / pg.

    A group that is split takes its prompt along into each piece. A microbatch takes every (P/p)-th
    prompt, so that prompts stay on the shard they are on.
    """
    (P, G), (p, g) = whole, piece

    def cut(path, x):
        if getattr(path[-1], "name", None) in _PER_PROMPT:
            x = jnp.broadcast_to(x[:, None], (P, G // g, *x.shape[1:]))
        else:
            x = x.reshape(P, G // g, g, *x.shape[2:])
        x = jnp.moveaxis(x.reshape(p, P // p, *x.shape[1:]), 0, 2)  # [P/p, G/g, p, ...]
        return x.reshape(-1, *x.shape[2:])

    return jax.tree_util.tree_map_with_path(cut, tree)


def join(x: Array, whole: tuple[int, int]) -> Array:
    """Undoes `split` for an array [n, p, g, ...]: [P, G, ...]."""
    (P, G), (p, g) = whole, x.shape[1:3]
    x = jnp.moveaxis(x.reshape(P // p, G // g, p, g, *x.shape[3:]), 2, 0)
    return x.reshape(P, G, *x.shape[4:])


def pad_prompts(prompts: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads prompts on the right, with zeros.

    Returns:
        tokens i32[P, length] and lengths i32[P].
    """
    tokens = np.zeros((len(prompts), length), np.int32)
    for row, ids in zip(tokens, prompts, strict=True):
        row[: len(ids)] = ids
    return tokens, np.asarray([len(ids) for ids in prompts], np.int32)


def pad_responses(responses: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads one response per prompt on the right, with zeros: a group of one.

    Returns:
        tokens i32[P, 1, length] and mask bool[P, 1, length].
    """
    tokens, lengths = pad_prompts(responses, length)
    mask = np.arange(length) < lengths[:, None]
    return tokens[:, None], mask[:, None]
