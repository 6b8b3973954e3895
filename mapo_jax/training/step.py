"""The update, one jitted, donated step from a minibatch of a rollout batch to new parameters.

The gradient is the same for every split into microbatches [p, g], every padding and every order of
groups, because a loss is `sum(weights * per_token_loss)` with weights from the whole minibatch.
Metrics are (sum, count) pairs, which are exact under any split; maxima are kept apart.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from mapo_jax import model, sharding
from mapo_jax.rollouts import Rollouts, from_microbatches, to_microbatches
from mapo_jax.training import losses, scoring
from mapo_jax.training.objective import LossFn, Metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that an optimizer step changes."""

    step: Array  # i32[], optimizer steps of this phase, skipped ones included
    skipped: Array  # i32[], steps that changed nothing, see `make_train_step`
    in_a_row: Array  # i32[], skipped steps since the last step that was not skipped
    params: model.Params  # float32, the trained parameters: all, or the adapters alone
    opt_state: Any


def init_state(params: model.Params, tx: optax.GradientTransformation) -> TrainState:
    """Makes the state with which a new phase starts from `params`."""
    return TrainState(jnp.int32(0), jnp.int32(0), jnp.int32(0), params, tx.init(params))


def state_shardings(
    config: model.ModelConfig, tx: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns the state's tree of shardings; moments have the sharding of their parameters."""
    replicated: Any = sharding.replicated(mesh)
    params = sharding.shardings(mesh, model.partition(model.logical_axes(config))[0])
    initable: Any = tx
    opt_state = optax.tree_utils.tree_map_params(
        initable,
        lambda _, s: s,
        jax.eval_shape(tx.init, model.partition(model.abstract_params(config))[0]),
        params,
        transform_non_params=lambda _: replicated,
    )
    return TrainState(replicated, replicated, replicated, params, opt_state)


def make_train_step(
    config: model.ModelConfig,
    settings: scoring.ScoringConfig,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    aggregation: str,
    minibatch_prompts: int,
    microbatch: tuple[int, int],
    dtype: str,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds the jitted step `(state, batch, index, frozen) -> (state, metrics)`.

    It takes the index-th `minibatch_prompts` prompts of the batch. `frozen`: the untrained
    parameters (`model.partition`); None without LoRA. The state is donated. If the loss, the
    gradient or the update is not finite, or if no rollout of the minibatch is valid, parameters
    and optimizer state stay as they were and `skipped` goes up by one.

    Args:
      config: the architecture.
      settings: temperature and memory knobs of scoring.
      loss_fn: `policy_loss(...)` or `cross_entropy_loss`.
      tx: the optimizer.
      mesh: made by `sharding.make_mesh`.
      aggregation: a name in `losses.AGGREGATIONS`, for the weights of a minibatch's tokens.
      minibatch_prompts: prompts per optimizer step.
      microbatch: (p, g), prompts, and rollouts of each prompt, that are computed at a time.
      dtype: to compute in; parameters, sums of gradients and optimizer stay float32.

    Returns:
      The step; its metrics describe its minibatch before the update.
    """
    shardings = state_shardings(config, tx, mesh)

    def loss(params, frozen, batch, weights):
        whole = model.combine(params, frozen)
        logps, entropies = scoring.score(whole, config, batch.rollouts, settings, dtype)
        return loss_fn(logps, entropies, batch, weights)

    def gradient(params, frozen, batch):
        """Sums the minibatch's gradient and metrics in float32 over its microbatches."""
        trained = batch.rollouts.trained & batch.rollouts.valid[..., None]
        weights = losses.AGGREGATIONS[aggregation](trained)
        pieces = to_microbatches((batch, weights), batch.advantages.shape, microbatch)

        def one(piece):
            (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params, frozen, *piece)
            return jax.lax.with_sharding_constraint(gradients, shardings.params), metrics

        def add(total, piece):
            gradients, metrics = one(piece)
            return (jax.tree.map(jnp.add, total[0], gradients), total[1].merge(metrics)), None

        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], pieces))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, pieces)[0]

    def step(state, batch, index, frozen=None):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            batch = _take(batch, index, minibatch_prompts)
            gradients, metrics = gradient(state.params, frozen, batch)
            norm = optax.tree.norm(gradients)
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            sizes = jnp.stack([metrics.losses["loss/total"], norm, optax.tree.norm(updates)])
            taken = jnp.isfinite(sizes).all() & batch.rollouts.valid.any()
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(taken, new, old),
                (params, opt_state),
                (state.params, state.opt_state),
            )
            skipped = state.skipped + jnp.where(taken, 0, 1)
            in_a_row = jnp.where(taken, 0, state.in_a_row + 1)
            metrics.losses["policy/grad_norm"] = norm
            return TrainState(state.step + 1, skipped, in_a_row, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))


def make_score(
    config: model.ModelConfig,
    settings: scoring.ScoringConfig,
    mesh: Mesh,
    *,
    microbatch: tuple[int, int],
    dtype: str,
) -> Callable[[model.Params, Rollouts], Array]:
    """Builds the jitted `(params, rollouts) -> logps f32[P, G, T]`, a microbatch at a time.

    A run uses it for the reference policy and for `old_logps = "rescored"`.
    """

    def score(params, rollouts):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            whole = rollouts.valid.shape
            pieces = to_microbatches(rollouts, whole, microbatch)
            logps = jax.lax.map(
                lambda r: scoring.score(params, config, r, settings, dtype)[0], pieces
            )
            return from_microbatches(logps, whole)

    return jax.jit(score, out_shardings=sharding.by_prompt(mesh))


def _take(batch, index, size):
    def take(x):
        x = jax.lax.dynamic_slice_in_dim(x, index * size, size)
        return sharding.constrain(x, ("batch",) + (None,) * (x.ndim - 1))

    return jax.tree.map(take, batch)
