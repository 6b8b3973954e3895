"""The losses that a step minimises, in RL and in warm-up, and the metrics that they report."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import masked
from mapo_jax.rollouts import Batch
from mapo_jax.training import losses
from mapo_jax.training.corrections import Correction
from mapo_jax.training.surrogates import Surrogate

# (logps, entropies, microbatch, weights, all [p, g, T]) -> (loss, metrics). See `Metrics`.
LossFn = Callable[[Array, Array, Batch, Array], tuple[Array, "Metrics"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """Values that a step reports, in a form that can be merged over microbatches."""

    losses: dict[str, Array]  # f32[], parts of the loss, which are summed over microbatches
    means: dict[str, tuple[Array, Array]]  # (sum, count), f32[] each
    maxima: dict[str, Array]  # f32[]

    def merge(self, other: "Metrics") -> "Metrics":
        """Returns the metrics of both parts together."""
        losses, means = jax.tree.map(
            jnp.add, (self.losses, self.means), (other.losses, other.means)
        )
        return Metrics(losses, means, jax.tree.map(jnp.maximum, self.maxima, other.maxima))


def policy_loss(
    surrogate: Surrogate,
    *,
    beta: float,
    kl: str,
    entropy: float,
    correction: Correction | None = None,
) -> LossFn:
    """surrogate + beta * KL to the reference - entropy * mean entropy, with the batch's advantages.

    With "clipped" and "k3" it is the objective of arXiv 2509.18849 sec. 3. On policy the ratio is
    1. Then the value of that surrogate is minus the mean advantage, about 0, but its gradient is
    not 0.

    Args:
      surrogate: made by `make_surrogate`.
      beta: weight of the KL, if the batch has a reference.
      kl: a name of `losses.KLS`.
      entropy: weight of the bonus; it trains only with `ScoringConfig.entropy_gradient`.
      correction: made by `make_correction`; its weights multiply the surrogate of each token.
    """
    kl_fn = losses.KLS[kl]

    def loss_fn(logps, entropies, batch, weights):
        mask = batch.rollouts.trained & batch.rollouts.valid[..., None]
        advantages = batch.advantages[..., None]
        per_token, values = surrogate(logps, batch.old_logps, advantages, mask)
        if correction is not None:
            factors, more = correction(batch.old_logps, batch.rollouts.logps, mask)
            per_token, values = factors * per_token, values | more
        loss = (weights * per_token).sum()
        parts = {"loss/surrogate": loss}
        if batch.ref_logps is not None:
            parts["loss/kl"] = (weights * kl_fn(logps, batch.ref_logps, mask)).sum()
            loss += beta * parts["loss/kl"]
        if entropy:
            parts["loss/entropy"] = -masked.sum(weights * entropies, mask)
            loss += entropy * parts["loss/entropy"]
        gap = jnp.abs(logps - batch.rollouts.logps)
        values = values | {"policy/entropy": entropies, "policy/logp_gap_mean": gap}
        means = {name: _sum_count(x, mask) for name, x in values.items()}
        maxima = {"policy/logp_gap_max": jnp.where(mask, gap, 0.0).max()}
        return loss, Metrics(parts | {"loss/total": loss}, means, maxima)

    return loss_fn


def cross_entropy_loss(logps, entropies, batch, weights) -> tuple[Array, Metrics]:
    """-log p of a demonstration's tokens, the warm-up's loss."""
    mask = batch.rollouts.trained & batch.rollouts.valid[..., None]
    loss = (weights * losses.cross_entropy(logps, mask)).sum()
    return loss, Metrics({"loss/total": loss}, {"policy/entropy": _sum_count(entropies, mask)}, {})


def _sum_count(x, mask):
    return jnp.where(mask, x, 0.0).sum(), mask.sum().astype(jnp.float32)
