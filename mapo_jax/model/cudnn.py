"""Training's attention on GPUs by cuDNN's kernel, if a check shows that it equals ours.

It replaces `attention.attend` and takes the same segments. It lays their keys side by side, repeats
the keys that a group shares for each of its rollouts, and makes a mask from the positions. Scores
never exist in memory. cuDNN computes in bfloat16 or float16 and has no soft caps.

Before the first step of a run `refusal` compares the kernel with `attention.attend`, gradients
included, on the device and in the shapes of the run.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from mapo_jax import sharding
from mapo_jax.model import attention, config
from mapo_jax.model.attention import ABSENT, Segment


def attend(
    q_PGTNH: Array,
    positions_PGT: Array,
    segments: list[Segment],
    *,
    scale: float,
    window: Array | int | None = None,
    softcap: float = 0.0,
    owners_PGT: Array | None = None,
    implementation: Any = "cudnn",
) -> Array:
    """Computes `attention.attend` by one kernel on each device's prompts and heads.

    Args:
      q_PGTNH: queries, bfloat16 or float16.
      positions_PGT: i32, their positions in the order of the sequence.
      segments: keys and values, shared or own.
      scale: factor of the queries.
      window: how many positions back a query sees; None means all.
      softcap: must be 0.
      owners_PGT: see `attention.attend`.
      implementation: "cudnn", or "xla", JAX's version of the same function for any device.

    Returns:
      [P, G, T, N, H] in the queries' dtype.
    """
    assert not softcap  # `refusal` names the soft caps of a policy that has them
    one: Any = functools.partial(_attend, scale=scale, implementation=implementation)
    if not jax.sharding.get_abstract_mesh().empty:
        rows = PartitionSpec(sharding.BATCH_AXES)
        keys = PartitionSpec(sharding.BATCH_AXES, "tensor")
        queries = PartitionSpec(sharding.BATCH_AXES, None, None, "tensor")
        layouts = [(keys, keys, rows) for _ in segments]
        one = jax.shard_map(
            one,
            in_specs=(queries, rows, layouts, PartitionSpec(), rows),
            out_specs=queries,
            check_vma=False,
        )
    return one(q_PGTNH, positions_PGT, [tuple(s) for s in segments], window, owners_PGT)


def _attend(q_PGTNH, positions_PGT, segments, window, owners_PGT, *, scale, implementation):
    P, G, T, N, H = q_PGTNH.shape

    def side_by_side(pieces):  # [P, K, S, H] or [P, K, G, S, H] -> [P * G, all S, K, H]
        own = [
            x if x.ndim == 5 else jnp.broadcast_to(x[:, :, None], (*x.shape[:2], G, *x.shape[2:]))
            for x in pieces
        ]
        x = jnp.concatenate(own, 3).transpose(0, 2, 3, 1, 4)
        return x.reshape(P * G, *x.shape[2:])

    k, v = (side_by_side([s[i] for s in segments]) for i in (0, 1))
    visible = functools.partial(
        attention.visible, window=window, owners_PGT=owners_PGT, key_owners_PGS=owners_PGT
    )
    seen = jnp.concatenate([visible(positions_PGT, s[2]) for s in segments], -1)
    q, seen = q_PGTNH.reshape(P * G, T, N, H), seen.reshape(P * G, 1, T, -1)
    # cuDNN's gradient needs even numbers of queries and of keys. An added query sees all keys.
    more_q, more_k = [(0, 0), (0, T % 2)], [(0, 0), (0, k.shape[1] % 2)]
    none = (0, 0)
    q = jnp.pad(q, [*more_q, none, none])
    k, v = (jnp.pad(x, [*more_k, none, none]) for x in (k, v))
    seen = jnp.pad(seen, [none, *more_q, none], constant_values=True)
    seen = jnp.pad(seen, [none, none, *more_k])
    out = jax.nn.dot_product_attention(
        q, k, v, mask=seen, scale=scale, implementation=implementation
    )
    return out[:, :T].reshape(P, G, T, N, H)


def refusal(
    config: config.ModelConfig,
    shape: tuple[int, int, int, int],
    dtype: str,
    chunk: int,
    implementation: str = "cudnn",
) -> str:
    """Returns why the kernel may not replace `attention.attend` here; "" if it may.

    It may if it runs on this device and errs as little as `attention.attend`.

    Both run in `dtype` on random numbers and ragged prompts, and `attention.attend` in float32
    gives the exact values. The output and the gradients of queries, keys and values are compared
    one by one, by `attention.is_as_exact`.

    Args:
      config: the policy; its numbers of heads and their size are used.
      shape: (P, G, S, T) of a microbatch on one device.
      dtype: the run computes in it.
      chunk: queries that the plain path computes at a time.
      implementation: see `attend`.
    """
    if config.attention_softcap:
        return "the policy has soft caps"
    P, G, S, T = shape
    N, K, H = config.num_heads, config.num_kv_heads, config.head_dim
    rng = np.random.default_rng(0)
    lengths, steps = rng.integers(0, S, (P, 1, 1)), np.arange(T)
    positions = jnp.asarray(np.broadcast_to(lengths + steps, (P, G, T)), jnp.int32)
    places = np.where(np.arange(S) < lengths[:, 0], np.arange(S), ABSENT)
    places = jnp.asarray(places, jnp.int32)
    sizes = [(P, G, T, N, H), *[(P, K, S, H)] * 2, *[(P, K, G, T, H)] * 2]
    arrays = [jnp.asarray(rng.normal(size=size), dtype) for size in sizes]
    slope = jnp.asarray(rng.normal(size=sizes[0]), dtype)

    def of(function, dtype, **options):
        def run(q, shared_k, shared_v, own_k, own_v):
            segments = [Segment(shared_k, shared_v, places), Segment(own_k, own_v, positions)]
            return function(q, positions, segments, scale=H**-0.5, **options)

        @jax.jit
        def attention_check(arrays, slope):
            out, gradient = jax.vjp(run, *arrays)
            return out, *gradient(slope)

        cast = jax.tree.map(lambda x: x.astype(dtype), (arrays, slope))
        return [np.asarray(x, np.float32) for x in attention_check(*cast)]

    try:
        exact = of(attention.attend, "float32", chunk=chunk)
        plain = of(attention.attend, dtype, chunk=chunk)
        fused = of(attend, dtype, implementation=implementation)
    except Exception as error:  # no GPU, an old one, another dtype, a shape, too little memory
        return " ".join(f"{type(error).__name__}: {error}".split())[:120]
    is_close = all(map(attention.is_as_exact, fused, plain, exact))
    return "" if is_close else "it computes something else here"
