"""Facts about the groups of a batch and their advantages: a run's metrics, as (sum, number)."""

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
    """Facts about the groups with at least one valid rollout, each as (sum, number of groups).

    `advantage/certainty`: lambda(p). `groups/degenerate`: share of groups whose valid rewards are
    all equal, which teach nothing. `groups/successes`: successes in a group.
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
    """Facts by the number K of successes in a group, K = 0 ... G, each as (sum [G + 1], number).

    `success_count`: share of the groups with a valid rollout that have K successes (MAPO fig. 1).
    `advantage_of_success`, `advantage_of_failure`: mean advantage of such rollouts in such groups.
    `advantage_magnitude`: mean |advantage| of all their rollouts; times `success_count` a cheap
    stand-in for the share of the gradient that comes from such groups.
    """
    success_PG = success_PG & mask_PG
    failure_PG = ~success_PG & mask_PG
    counts_P1 = jnp.sum(success_PG, axis=1, keepdims=True)
    at_PK = counts_P1 == jnp.arange(success_PG.shape[1] + 1)[None]
    at_PK = (at_PK & jnp.any(mask_PG, axis=1, keepdims=True)).astype(jnp.float32)

    def by_count(x_PG, who_PG):
        """Sums of x over `who` by count, and how many they are."""
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
