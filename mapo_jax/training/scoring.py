"""Teacher-forced log-probs of sampled responses: what the trainer recomputes and differentiates."""

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

# Kernels of TPUs and GPUs, and what computes the same on any device, for tests.
_SPLASH = {"splash": {"interpret": False}, "splash_interpreted": {"interpret": True}}
_CUDNN = {"cudnn": {"implementation": "cudnn"}, "cudnn_imitated": {"implementation": "xla"}}


@dataclasses.dataclass(frozen=True)
class ScoringConfig:
    """How log-probs are computed; static. None of the memory knobs changes the result."""

    temperature: float = 1.0  # of the distribution; 0 (greedy) is scored at 1
    remat: bool = True  # recompute each layer in the backward pass
    head_chunk: int = 0  # tokens of a batch shard per piece of the LM head; 0: all at once
    attention_chunk: int = 0  # queries per piece of attention; 0: all at once
    attention: str = "plain"  # or of `_SPLASH` or `_CUDNN`
    entropy_gradient: bool = False  # for an entropy bonus; without one nobody pays for it


def score(
    params: model.Params,
    config: model.ModelConfig,
    rollouts: Rollouts,
    settings: ScoringConfig,
    dtype: Any = None,
) -> tuple[Array, Array]:
    """Log-probs of the response tokens and entropies of the distributions they came from.

    log p(token) under softmax(logits / temperature), without top-p or top-k. The prompt is computed
    once per group; the LM head runs on response positions only, in chunks that the backward pass
    recomputes: no [tokens, V] array is ever alive. Gradients flow through the entropies only with
    `entropy_gradient`.

    Returns:
      logps f32[P, G, T] and entropies f32[P, G, T] in nats, both 0 where not trained.
    """
    prompts, tokens, trained = rollouts.prompts, rollouts.tokens, rollouts.trained
    passes: dict[str, Any] = {
        "remat": settings.remat,
        "dtype": dtype,
    }
    stream = model.response_stream(prompts, tokens)
    if settings.attention in _SPLASH:
        row, packed = splash.pack(prompts, stream)
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
        hidden, _ = model.forward(params, config, *stream, prefix, **passes)
    logps, entropies = _head(params, config, hidden, tokens, settings, dtype)
    return jnp.where(trained, logps, 0.0), jnp.where(trained, entropies, 0.0)


def _head(params, config, hidden_PGTD, tokens_PGT, settings, dtype):
    """The LM head, by each batch shard on its own rows.

    Its weights are gathered once, before the pieces, and their gradient is summed over the pieces
    where it is and over shards once, after them.
    """
    one: Any = functools.partial(_head_of_shard, config=config, settings=settings, dtype=dtype)
    if not jax.sharding.get_abstract_mesh().empty:
        rows = PartitionSpec(sharding.BATCH_AXES)
        one = jax.shard_map(
            one,
            in_specs=(PartitionSpec(), rows, rows),
            out_specs=rows,
            axis_names=set(sharding.BATCH_AXES),  # `tensor` stays the compiler's
            check_vma=False,
        )
    return one(model.gather_ends(params, config, dtype), hidden_PGTD, tokens_PGT)


def _head_of_shard(params, hidden_PGTD, tokens_PGT, *, config, settings, dtype):
    """Log-probs and entropies, by pieces of time."""
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
