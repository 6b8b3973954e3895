"""Follows the exact expected update of an advantage on a bandit: one prompt with K answers.

No batch of a run passes through here: it is the smallest problem on which one can see where an
advantage leads, and how fast. The policy is a softmax over K answers whose rewards are known. A
group of G answers is a multinomial draw, and there are few different ones, so the mean of the
update over all groups is a finite sum. `docs/method.md` shows the results.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mapo_jax.advantages import diagnostics


class Bandit(NamedTuple):
    """The M different groups of G of K answers, and an advantage's values in them."""

    counts_MK: np.ndarray  # i64, how often each answer is in the group
    ways_M: np.ndarray  # f64, ln of the number of orders that give the group
    sums_MK: np.ndarray  # f64, sum of the advantages of the answers of one kind


def make(advantage: diagnostics.Advantage, rewards_K: Any, G: int, **options: Any) -> Bandit:
    """Computes the advantages of all M = C(G + K - 1, G) different groups.

    Args:
        advantage: as in `diagnostics.values`, which says how it is measured.
        rewards_K: float[K], of the answers; 1 is a success.
        G: answers in a group.
        **options: the advantage's options.
    """
    rewards_K = np.asarray(rewards_K, float)
    answers = np.arange(len(rewards_K))
    answers_MG = np.array(list(itertools.combinations_with_replacement(answers, G)))
    values_MG = diagnostics.values(advantage, rewards_K[answers_MG], **options)
    is_answer_MGK = answers_MG[..., None] == answers
    counts_MK = is_answer_MGK.sum(1)
    ways_M = [math.lgamma(G + 1) - sum(math.lgamma(n + 1) for n in row) for row in counts_MK]
    return Bandit(counts_MK, np.array(ways_M), (is_answer_MGK * values_MG[..., None]).sum(1))


def update(bandit: Bandit, logits_NK: Array) -> Array:
    """Returns the mean update of the logits, f32[N, K], of N policies.

    It is the mean over groups of sum_i A_i grad log pi(o_i) / G: the gradient that the clipped
    surrogate climbs on fresh samples, without KL. With 0/1 rewards it is F'(p) grad p, F' being
    `diagnostics.slope`.
    """
    counts_MK, ways_M, sums_MK = (jnp.asarray(x, jnp.float32) for x in bandit)
    logps_NK = jax.nn.log_softmax(logits_NK)
    chances_NM = jnp.exp(ways_M[None] + logps_NK @ counts_MK.T)
    pushed_NK = chances_NM @ sums_MK / counts_MK[0].sum()
    return pushed_NK - pushed_NK.sum(1, keepdims=True) * jnp.exp(logps_NK)


@functools.partial(jax.jit, static_argnames="steps")
def follow(bandit: Bandit, logits_NK: Array, steps: int, rate: float) -> Array:
    """Climbs the mean update by plain gradient ascent.

    Args:
        bandit: of `make`.
        logits_NK: N policies to start from.
        steps: number of updates.
        rate: learning rate.

    Returns:
        f32[steps + 1, N, K], the policies' probabilities before each update and after the last.
    """

    def step(logits_NK, _):
        return logits_NK + rate * update(bandit, logits_NK), jax.nn.softmax(logits_NK)

    last_NK, policies_TNK = jax.lax.scan(step, jnp.asarray(logits_NK), length=steps)
    return jnp.concatenate([policies_TNK, jax.nn.softmax(last_NK)[None]])
