"""A run's metrics of the groups of a batch and of their advantages, each as (sum, number)."""

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked
from mapo_jax.advantages import paper
from mapo_jax.advantages.common import is_constant
from mapo_jax.advantages.registry import valid_rewards


def trajectory_certainty(success_PG: Array, mask_PG: Array) -> Array:
    """lambda(p) = 1 - 4 p (1 - p) of each group, f32[P]. arXiv 2509.18849 eq. 5."""
    return jax.vmap(paper.certainty)(success_PG, mask_PG)


def group_metrics(
    rewards_PG: Array, success_PG: Array, mask_PG: Array | None = None
) -> dict[str, tuple[Array, Array]]:
    """Metrics of the groups with at least one valid rollout, each as (sum, number of groups).

    `advantage/certainty` is lambda(p). `groups/degenerate` is the share of groups whose valid
    rewards are all equal; these teach nothing. `groups/successes` is the successes in a group.
    """
    mask_PG = valid_rewards(rewards_PG, mask_PG)
    present_P = jnp.any(mask_PG, axis=1)
    facts = {
        "advantage/certainty": trajectory_certainty(success_PG, mask_PG),
        "groups/degenerate": jax.vmap(is_constant)(rewards_PG, mask_PG).astype(jnp.float32),
        "groups/successes": jnp.sum(success_PG & mask_PG, axis=1, dtype=jnp.float32),
    }
    return {name: (masked.sum(x_P, present_P), present_P.sum()) for name, x_P in facts.items()}


def success_count_metrics(
    advantages_PG: Array, success_PG: Array, mask_PG: Array
) -> dict[str, tuple[Array, Array]]:
    """Metrics by the number K of successes in a group, K = 0 ... G, each as (sum [G + 1], number).

    `success_count` is the share of groups that have K successes, among the groups with a valid
    rollout (MAPO fig. 1). `advantage_of_success` and `advantage_of_failure` are the mean advantages
    of a success and of a failure in groups with K successes. `advantage_magnitude` is the mean
    |advantage| of all rollouts in these groups. Times `success_count` it is a cheap estimate of
    the share of the gradient that comes from them.
    """
    success_PG = success_PG & mask_PG
    failure_PG = ~success_PG & mask_PG
    counts_P1 = jnp.sum(success_PG, axis=1, keepdims=True)
    at_PK = counts_P1 == jnp.arange(success_PG.shape[1] + 1)[None]
    at_PK = (at_PK & jnp.any(mask_PG, axis=1, keepdims=True)).astype(jnp.float32)

    def by_count(x_PG, who_PG):
        """Returns the sums of x over `who` by count, and the number of summands."""
        return (
            jnp.sum(masked.sum(x_PG, who_PG, 1, keepdims=True) * at_PK, axis=0),
            jnp.sum(jnp.sum(who_PG, axis=1, keepdims=True) * at_PK, axis=0),
        )

    return {
        "success_count": (jnp.sum(at_PK, axis=0), jnp.sum(at_PK)),
        "advantage_of_success": by_count(advantages_PG, success_PG),
        "advantage_of_failure": by_count(advantages_PG, failure_PG),
        "advantage_magnitude": by_count(jnp.abs(advantages_PG), mask_PG),
    }
