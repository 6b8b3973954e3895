"""Computes teacher-forced log-probs of sampled responses, which the trainer differentiates."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from mapo_jax import model, sharding
from mapo_jax.model import cudnn, splash
from mapo_jax.rollouts import Rollouts
from mapo_jax.training.pieces import Piece

# The kernels of TPUs and GPUs, and for tests their imitations, which run on any device.
_SPLASH = {"splash": {"interpret": False}, "splash_interpreted": {"interpret": True}}
_CUDNN = {"cudnn": {"implementation": "cudnn"}, "cudnn_imitated": {"implementation": "xla"}}


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """Says how log-probs are computed; static. The memory knobs do not change the result."""

    temperature: float = 1.0  # of the distribution; 0 (greedy) counts as 1
    remat: bool = True  # recompute each layer in the backward pass
    head_chunk: int = 0  # tokens that a batch shard's LM head takes at once; 0 means all
    attention_chunk: int = 0  # queries that attention takes at once; 0 means all
    attention: str = "plain"  # or a name of `_SPLASH` or `_CUDNN`
    entropy_gradient: bool = False  # needed for an entropy bonus alone; it costs time and memory


def can_pack(settings: ScoringConfig) -> bool:
    """Says whether several responses may share a row; splash's mask is of one response a row."""
    return settings.attention not in _SPLASH


def score(
    params: model.Params,
    config: model.ModelConfig,
    rollouts: Rollouts,
    settings: ScoringConfig,
    dtype: Any = None,
    piece: Piece | None = None,
) -> tuple[Array, Array]:
    """Returns log-probs of the response tokens and entropies of the distributions they came from.

    A log-prob is log p(token) under softmax(logits / temperature), without top-p or top-k. The
    prompt is computed once per group, and so are its pictures. The LM head runs on response
    positions only, in chunks that the backward pass recomputes, so no [tokens, V] array is ever
    alive. Gradients flow through the entropies only with `entropy_gradient`.

    With a piece, only the tokens that it places are computed, in its rows; the others get 0.

    Returns:
      logps f32[P, G, T] and entropies f32[P, G, T] in nats, both 0 for untrained tokens.
    """
    prompts, tokens, trained = rollouts.prompts, rollouts.tokens, rollouts.trained
    passes: dict[str, Any] = {
        "remat": settings.remat,
        "dtype": dtype,
    }
    stream, owners = model.response_stream(prompts, tokens), None
    if piece is not None:
        T, places = tokens.shape[-1], piece.places
        if places.shape[1] < tokens.shape[1]:
            owners = places // T  # rows hold several responses
        stream = model.Stream(
            _gather(stream.tokens, places, 0),
            _gather(stream.positions, places, int(model.ABSENT)),
            _gather(stream.rope, places, 0),
        )
        tokens = _gather(tokens, places, 0)
    if settings.attention in _SPLASH:
        row, packed = splash.pack(prompts, stream)
        plain = functools.partial(model.attend, chunk=settings.attention_chunk)
        features = model.encode_images(params, config, prompts, attend=plain, **passes)
        passes["features"] = splash.pack_features(features, row)
        passes["attend"] = splash.make_attend(row, prompts.lengths, **_SPLASH[settings.attention])
        hidden, _ = model.forward(params, config, *packed, **passes)
        hidden = splash.unpack(hidden, row)
    else:
        passes["attend"] = (
            functools.partial(model.attend, chunk=settings.attention_chunk)
            if settings.attention == "plain"
            else functools.partial(cudnn.attend, **_CUDNN[settings.attention])
        )
        prefix = model.encode_prompts(params, config, prompts, **passes)
        passes["attend"] = functools.partial(passes["attend"], owners_PGT=owners)
        hidden, _ = model.forward(params, config, *stream, prefix, **passes)
    logps, entropies = _head(params, config, hidden, tokens, settings, dtype)
    if piece is not None:
        logps, entropies = (_gather(x, piece.found, 0.0) for x in (logps, entropies))
    return jnp.where(trained, logps, 0.0), jnp.where(trained, entropies, 0.0)


def _gather(x_PGT, index, fill):
    """Takes index i32[P, ...] from the flat [G * T] of each prompt; `fill` where it is G * T."""
    flat = x_PGT.reshape(len(x_PGT), -1)
    flat_index = index.reshape(len(x_PGT), -1)
    taken = jnp.take_along_axis(flat, flat_index, 1, mode="fill", fill_value=fill)
    return taken.reshape(index.shape)


def _head(params, config, hidden_PGTD, tokens_PGT, settings, dtype):
    """Runs the LM head; each batch shard computes its own rows.

    The weights are gathered once, before the pieces. Their gradient is summed over the pieces on
    each shard, and after them once over shards.
    """
    one: Any = functools.partial(_head_of_shard, config=config, settings=settings, dtype=dtype)
    if not jax.sharding.get_abstract_mesh().empty:
        rows = PartitionSpec(sharding.BATCH_AXES)
        one = jax.shard_map(
            one,
            in_specs=(PartitionSpec(), rows, rows),
            out_specs=rows,
            axis_names=set(sharding.BATCH_AXES),  # the compiler splits over `tensor`
            check_vma=False,
        )
    return one(model.gather_ends(params, config, dtype), hidden_PGTD, tokens_PGT)


def _head_of_shard(params, hidden_PGTD, tokens_PGT, *, config, settings, dtype):
    """Computes log-probs and entropies in pieces of the time axis."""
    P, G, T, _ = hidden_PGTD.shape
    size = min(T, max(1, settings.head_chunk // (P * G))) if settings.head_chunk else T
    n = -(-T // size)

    def cut(x):  # [P, G, T, ...] -> [n, P, G, size, ...]
        x = jnp.pad(x, [(0, 0), (0, 0), (0, n * size - T)] + [(0, 0)] * (x.ndim - 3))
        return jnp.moveaxis(x.reshape(P, G, n, size, *x.shape[3:]), 2, 0)

    @jax.checkpoint
    def piece(hidden, tokens):
        logits = model.head(params, config, hidden, dtype) / (settings.temperature or 1.0)
        logps = jax.nn.log_softmax(logits)
        all_logps = logps if settings.entropy_gradient else jax.lax.stop_gradient(logps)
        entropies = -(jnp.exp(all_logps) * all_logps).sum(-1)
        return jnp.take_along_axis(logps, tokens[..., None], -1)[..., 0], entropies

    out = jax.lax.map(lambda args: piece(*args), (cut(hidden_PGTD), cut(tokens_PGT)))
    return tuple(jnp.moveaxis(x, 0, 2).reshape(P, G, n * size)[..., :T] for x in out)
