"""The update, from a minibatch of a rollout batch to new parameters.

The gradient is the same for every split into microbatches [p, g], every padding and every order of
groups, because a loss is `sum(weights * per_token_loss)` with weights from the whole minibatch.
Metrics are (sum, count) pairs, which are exact under any split; maxima are kept apart.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from mapo_jax import model, sharding
from mapo_jax.rollouts import Batch, Rollouts
from mapo_jax.training import losses, pieces, scoring
from mapo_jax.training.objective import LossFn, Metrics

# The largest weight of a token in float16's backward pass, see `_loss_scale`. With SmolLM2-135M the
# gradient errs by 0.4% for weights from 1 to 1,000 and overflows above; at 1/16 it errs by 1%, at
# 1/256 by 5%. In bfloat16 it errs by 3%.
_WEIGHT = 16.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes."""

    step: Array  # i32[], optimizer steps of this phase, skipped ones included
    skipped: Array  # i32[], steps that changed nothing, see `TrainStep`
    in_a_row: Array  # i32[], skipped steps since the last step that was not skipped
    params: model.Params  # float32: all parameters, or the adapters alone
    opt_state: Any
    # `advantages.Memory` of the steps of RL, if the advantage looks back; no update changes it
    memory: Any = None


def init_state(
    params: model.Params,
    tx: optax.GradientTransformation,
    trains_vision: bool = True,
    memory: Any = None,
) -> TrainState:
    """Makes the state with which a new phase starts from `params`."""
    opt_state = tx.init(moving_params(params, trains_vision)[0])
    return TrainState(jnp.int32(0), jnp.int32(0), jnp.int32(0), params, opt_state, memory)


def state_shardings(
    config: model.ModelConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    trains_vision: bool = True,
) -> TrainState:
    """Returns the shardings of a state without memory; moments have those of their parameters."""
    replicated: Any = sharding.replicated(mesh)
    params = sharding.shardings(mesh, model.partition(model.logical_axes(config))[0])
    shapes = model.partition(model.abstract_params(config))[0]
    moving, shapes = (moving_params(tree, trains_vision)[0] for tree in (params, shapes))
    initable: Any = tx
    opt_state = optax.tree_utils.tree_map_params(
        initable,
        lambda _, s: s,
        jax.eval_shape(tx.init, shapes),
        moving,
        transform_non_params=lambda _: replicated,
    )
    return TrainState(replicated, replicated, replicated, params, opt_state)


def moving_params(params: model.Params, trains_vision: bool) -> tuple[model.Params, model.Params]:
    """Splits parameters of a state into those that an update changes, and a tower that stays."""
    still = {} if trains_vision else {"vision"} & params.keys()
    moving = {name: part for name, part in params.items() if name not in still}
    return moving, {name: params[name] for name in still}


class TrainStep:
    """One optimizer step, `(state, batch, index, frozen) -> (state, metrics)`.

    It takes the index-th `minibatch_prompts` prompts of the batch. `frozen`: the untrained
    parameters (`model.partition`); None without LoRA. The state is donated. The metrics describe
    the minibatch before the update. If the loss, the gradient or the update is not finite, or if no
    rollout of the minibatch is valid, parameters and optimizer state stay as they were and
    `skipped` goes up by one.

    It is three jitted programs: `begin` takes the minibatch, `add` adds the gradient of one
    microbatch, which is compiled for each shape of `pieces.plan`, and `finish` updates.
    """

    def __init__(
        self,
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
        trains_vision: bool = True,
    ):
        """Builds the step.

        Args:
          config: the architecture.
          settings: temperature and memory knobs of scoring.
          loss_fn: `policy_loss(...)` or `cross_entropy_loss`.
          tx: the optimizer.
          mesh: made by `sharding.make_mesh`.
          aggregation: a name in `losses.AGGREGATIONS`, for the weights of a minibatch's tokens.
          minibatch_prompts: prompts per optimizer step.
          microbatch: (p, g), prompts, and rollouts of each prompt, that are computed at a time.
          dtype: to compute in; parameters, sums of gradients and optimizer stay float32. In float16
            the loss is scaled for the backward pass.
          trains_vision: False leaves the vision tower as it is. It then has neither a gradient nor
            moments, and its activations are not kept.
        """
        self._mesh = mesh
        # Plans the microbatches, `(lengths_PG, T=...) -> list[Piece]`.
        self.plan = functools.partial(
            pieces.plan,
            shards=sharding.batch_shards(mesh),
            size=microbatch,
            is_packed=scoring.can_pack(settings),
        )
        shardings = state_shardings(config, tx, mesh, trains_vision)
        by_prompt, replicated = sharding.by_prompt(mesh), sharding.replicated(mesh)

        def begin(batch, index):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                batch = _take(batch, index, minibatch_prompts)
            r = batch.rollouts
            weights = losses.AGGREGATIONS[aggregation](r.trained & r.valid[..., None])
            return (batch, weights), jnp.where(r.valid, r.length, 0), r.valid.any()

        def loss(moving, still, frozen, minibatch, piece, scale):
            batch, weights = pieces.take(minibatch, piece, mesh)
            whole = model.combine({**moving, **still}, frozen)
            logps, entropies = scoring.score(whole, config, batch.rollouts, settings, dtype, piece)
            value, metrics = loss_fn(logps, entropies, batch, weights)
            return value * scale, metrics

        def one(params, frozen, minibatch, piece):
            scale = _loss_scale(minibatch[1], dtype)
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                gradient = jax.value_and_grad(loss, has_aux=True)
                parts = moving_params(params, trains_vision)
                (_, metrics), gradients = gradient(*parts, frozen, minibatch, piece, scale)
            return jax.tree.map(lambda g: g / scale, gradients), metrics

        def add_gradient(total, params, frozen, minibatch, piece):
            gradients, metrics = one(params, frozen, minibatch, piece)
            return jax.tree.map(jnp.add, total[0], gradients), total[1].merge(metrics)

        def update(state, total, is_any):
            gradients, metrics = total
            norm = optax.tree.norm(gradients)
            moving, still = moving_params(state.params, trains_vision)
            updates, opt_state = tx.update(gradients, state.opt_state, moving)
            moved: Any = optax.apply_updates(moving, updates)
            params = {**moved, **still}
            sizes = jnp.stack([metrics.losses["loss/total"], norm, optax.tree.norm(updates)])
            taken = jnp.isfinite(sizes).all() & is_any
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(taken, new, old),
                (params, opt_state),
                (state.params, state.opt_state),
            )
            skipped = state.skipped + jnp.where(taken, 0, 1)
            in_a_row = jnp.where(taken, 0, state.in_a_row + 1)
            metrics.losses["policy/grad_norm"] = norm
            state = TrainState(state.step + 1, skipped, in_a_row, params, opt_state, state.memory)
            return state, metrics

        sums = (moving_params(shardings.params, trains_vision)[0], replicated)
        self.begin = jax.jit(begin, out_shardings=(by_prompt, replicated, replicated))
        self.add = jax.jit(add_gradient, donate_argnums=0, out_shardings=sums)
        shardings = dataclasses.replace(shardings, memory=replicated)
        self.finish = jax.jit(update, donate_argnums=0, out_shardings=(shardings, replicated))
        self._one, self._sums, self._zeros = one, sums, {}

    def __call__(
        self, state: TrainState, batch: Batch, index: Any, frozen: Any = None
    ) -> tuple[TrainState, Metrics]:
        """Makes the step."""
        minibatch, lengths_PG, is_any = self.begin(batch, index)
        planned = self.plan(jax.device_get(lengths_PG), T=batch.rollouts.tokens.shape[-1])
        form = jax.tree.structure((frozen, minibatch))  # without a reference there is no KL
        if form not in self._zeros:
            shapes = jax.eval_shape(self._one, state.params, frozen, minibatch, planned[0])
            self._zeros[form] = jax.jit(
                lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
                out_shardings=self._sums,
            )
        total = self._zeros[form]()
        for piece in planned:
            piece = pieces.put(piece, self._mesh)
            total = self.add(total, state.params, frozen, minibatch, piece)
        return self.finish(state, total, is_any)

    def lower(self, state: TrainState, batch: Batch, frozen: Any = None) -> dict[str, Any]:
        """Lowers "gradient", one microbatch of full lengths, and "update", what comes after them.

        The arguments may be shapes with shardings.
        """

        def placed(shapes, layouts):
            return jax.tree.map(
                lambda layout, part: jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), part
                ),
                layouts,
                shapes,
            )

        by_prompt = sharding.by_prompt(self._mesh)
        minibatch, lengths_PG, is_any = jax.eval_shape(self.begin, batch, np.int32(0))
        T = batch.rollouts.tokens.shape[-1]
        piece = self.plan(np.full(lengths_PG.shape, T), T=T)[0]
        minibatch, piece = placed((minibatch, piece), (by_prompt, by_prompt))
        shapes = jax.eval_shape(self._one, state.params, frozen, minibatch, piece)
        total = placed(shapes, self._sums)
        return {
            "gradient": self.add.lower(total, state.params, frozen, minibatch, piece),
            "update": self.finish.lower(state, total, is_any),
        }


class Score:
    """Computes log-probs, `(params, rollouts) -> logps f32[P, G, T]`, a microbatch at a time.

    A run uses it for the reference policy and for `old_logps = "rescored"`.
    """

    def __init__(
        self,
        config: model.ModelConfig,
        settings: scoring.ScoringConfig,
        mesh: Mesh,
        *,
        microbatch: tuple[int, int],
        dtype: str,
    ):
        """Builds the programs; for the arguments see `TrainStep`."""
        self._mesh, self._size, self._is_packed = mesh, microbatch, scoring.can_pack(settings)
        by_prompt, replicated = sharding.by_prompt(mesh), sharding.replicated(mesh)

        def add_logps(logps, params, rollouts, piece):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                part = pieces.take(rollouts, piece, mesh)
                found, _ = scoring.score(params, config, part, settings, dtype, piece)
                return pieces.put_back(logps, found, piece, mesh)

        self.add = jax.jit(add_logps, donate_argnums=0, out_shardings=by_prompt)
        self._zeros = jax.jit(lambda x: jnp.zeros(x.shape), out_shardings=by_prompt)
        self._lengths = jax.jit(lambda r: jnp.where(r.valid, r.length, 0), out_shardings=replicated)

    def __call__(self, params: model.Params, rollouts: Rollouts) -> Array:
        """Returns the log-probs."""
        lengths_PG, T = jax.device_get(self._lengths(rollouts)), rollouts.tokens.shape[-1]
        shards = sharding.batch_shards(self._mesh)
        logps = self._zeros(rollouts.tokens)
        for piece in pieces.plan(lengths_PG, shards, self._size, T, is_packed=self._is_packed):
            logps = self.add(logps, params, rollouts, pieces.put(piece, self._mesh))
        return logps


def _loss_scale(weights, dtype):
    """The factor of the loss in the backward pass, a power of two; 1 unless `dtype` is float16.

    float16 ends at 6e-8, and gradients of the tokens of a large minibatch lie below that. Scaled,
    the weightiest token weighs `_WEIGHT` to half of it, however many there are, so the scale needs
    no state. A gradient that overflows nevertheless is skipped.
    """
    if jnp.dtype(dtype) != jnp.float16:
        return 1.0
    _, exponent = jnp.frexp(weights.max())
    return jnp.ldexp(jnp.float32(_WEIGHT), -exponent)


def _take(batch, index, size):
    def take(x):
        x = jax.lax.dynamic_slice_in_dim(x, index * size, size)
        return sharding.constrain(x, ("batch",) + (None,) * (x.ndim - 1))

    return jax.tree.map(take, batch)
