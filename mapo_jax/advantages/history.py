"""Remembers the rewards of a run's steps, for advantages that look back at them.

A `Memory` is part of the run's state: each step adds its batch, and checkpoints hold it. A
`History` is what one group sees of it.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations, as in Welford's algorithm."""

    number: Array  # f32[]
    mean: Array  # f32[]
    squares: Array  # f32[]

    @property
    def variance(self) -> Array:
        return self.squares / jnp.maximum(self.number, 1)

    def add(self, x: Array, mask: Array) -> "Moments":
        """Adds the values of `x` at true positions of `mask` (Chan, Golub and LeVeque 1979)."""
        fresh, mean = jnp.sum(mask), masked.mean(x, mask)
        squares = jnp.square(masked.std(x, mask)) * fresh
        number = self.number + fresh
        apart, share = mean - self.mean, fresh / jnp.maximum(number, 1)
        squares += self.squares + jnp.square(apart) * self.number * share
        return Moments(number, self.mean + apart * share, squares)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Sums over the rollouts that counted in all steps so far."""

    tries_E: Array  # f32, of each training example
    rewards_E: Array  # f32, sums of their rewards
    successes_E: Array  # f32
    rollouts: Moments  # of all rewards
    groups: Moments  # of the mean rewards of groups


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """What a group sees: its prompt in earlier steps, and the whole run, this step included."""

    tries: Array  # f32[], rollouts of the prompt that counted in earlier steps
    reward: Array  # f32[], their mean reward; 0 if there are none
    solved: Array  # f32[], the share of successes among them; 0 if there are none
    mean: Array  # f32[], mean of all rewards of the run
    variance: Array  # f32[], their variance
    variance_of_means: Array  # f32[], variance of the mean rewards of all groups


def nothing(examples: int) -> Memory:
    """Returns the memory with which a run over that many training examples begins."""
    zero, zero_E = jnp.zeros(()), jnp.zeros(examples)
    moments = Moments(zero, zero, zero)
    return Memory(zero_E, zero_E, zero_E, moments, moments)


def none(P: int) -> History:
    """Returns the history of P groups where there is none: all zeros."""
    return History(*[jnp.zeros(P)] * len(dataclasses.fields(History)))


def remember(
    memory: Memory, rewards_PG: Array, success_PG: Array, mask_PG: Array, example_P: Array
) -> tuple[Memory, History]:
    """Adds a batch to the memory and returns what its groups see.

    Args:
        memory: of the steps before.
        rewards_PG: float[P, G].
        success_PG: bool[P, G].
        mask_PG: bool[P, G], the rollouts that count.
        example_P: i32[P], indices of the training examples; one may occur twice.

    Returns:
        The new memory, and the history of each group, [P].
    """
    tries_P, rewards_P, successes_P = (
        x_E[example_P] for x_E in (memory.tries_E, memory.rewards_E, memory.successes_E)
    )
    after = Memory(
        memory.tries_E.at[example_P].add(mask_PG.sum(1)),
        memory.rewards_E.at[example_P].add(masked.sum(rewards_PG, mask_PG, 1)),
        memory.successes_E.at[example_P].add(masked.sum(success_PG, mask_PG, 1)),
        memory.rollouts.add(rewards_PG, mask_PG),
        memory.groups.add(masked.mean(rewards_PG, mask_PG, 1), mask_PG.any(1)),
    )
    whole = after.rollouts.mean, after.rollouts.variance, after.groups.variance
    number_P = jnp.maximum(tries_P, 1)
    return after, History(
        tries_P,
        rewards_P / number_P,
        successes_P / number_P,
        *(jnp.broadcast_to(x, tries_P.shape) for x in whole),
    )
