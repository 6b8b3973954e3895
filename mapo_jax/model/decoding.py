"""Decoding's attention on GPUs by one kernel, if a check shows that it equals ours.

It replaces `attention.attend` where each slot has one query, and takes the same segments. XLA makes
two dozen small kernels of that function, whose scores and sums go through memory. Here a program
reads the keys and values of one slot and one key head once, a tile at a time, and keeps an online
softmax (FlashAttention-2, arXiv 2307.08691, algorithm 1). The kernel is written in Pallas for
Triton, which newer releases of JAX call deprecated; so it is imported where it is used.

Before the first step of a run `refusal` compares the kernel with `attention.attend` on the device.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mapo_jax.model import attention, config
from mapo_jax.model.attention import ABSENT, MASKED, Segment

# How a program goes through the keys.
_WARPS = 4
_STAGES = 2  # tiles in flight


def attend(
    q_PGTNH: Array,
    positions_PGT: Array,
    segments: list[Segment],
    *,
    scale: float,
    window: Array | int | None = None,
    softcap: float = 0.0,
    interpret: bool = False,
) -> Array:
    """Computes `attention.attend` for T = 1.

    Args:
      q_PGTNH: queries; N is a multiple of the segments' K.
      positions_PGT: i32, their positions in the order of the sequence.
      segments: keys and values, shared or own.
      scale: factor of the scores.
      window: how many positions back a query sees; None means all.
      softcap: changes scores to softcap * tanh(scores / softcap); 0 leaves them.
      interpret: computes the kernel without a GPU, for tests.

    Returns:
      [P, G, 1, N, H] in the queries' dtype.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    P, G, T, N, H = q_PGTNH.shape
    K = segments[0].k.shape[1]
    assert T == 1
    # Products of tensor cores have at least 16 rows and columns; sizes are powers of 2.
    rows, width = (max(16, pl.next_power_of_2(n)) for n in (N // K, H))
    keys = max(16, min(128, 2**14 // width) // q_PGTNH.dtype.itemsize)
    # Programs in the order of the grid run side by side: the slots of a lane share its prefix.
    grid = {"g": G, "k": K, "p": P}

    def spec(axes, *block):
        """The block of a program in an array whose first axes are these of the grid."""

        def index(*ids):
            of = dict(zip(grid, ids, strict=True))
            return (*(of[axis] for axis in axes), *(0 for _ in block))

        return pl.BlockSpec((*(None for _ in axes), *block), index)

    arrays, specs = [], []
    for k, v, places in segments:
        is_own, S = k.ndim == 5, pl.cdiv(k.shape[-2], keys) * keys
        arrays += [k, v, places]
        specs += [spec("pkg" if is_own else "pk", S, width)] * 2
        specs += [spec("pg" if is_own else "p", S)]
    positions = positions_PGT[:, :, 0]
    first = jnp.full_like(positions, -ABSENT) if window is None else positions - window + 1
    out = pl.pallas_call(
        functools.partial(
            _kernel,
            shape=(N // K, H),
            lengths=[s.k.shape[-2] for s in segments],
            scale=scale,
            softcap=softcap,
            keys=keys,
        ),
        out_shape=jax.ShapeDtypeStruct((P, G, K, N // K, H), q_PGTNH.dtype),
        grid=tuple(grid.values()),
        in_specs=[spec("pgk", rows, width), spec("pg"), spec("pg"), *specs],
        out_specs=spec("pgk", rows, width),
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
        interpret=interpret,
        name="decode_attention",
    )(q_PGTNH.reshape(P, G, K, N // K, H), first, positions, *arrays)
    return out.reshape(q_PGTNH.shape)


def _kernel(q_ref, first_ref, last_ref, *refs, shape, lengths, scale, softcap, keys):
    """Attends from the queries [rows, H] of one slot and one key head to all of its keys."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    *key_refs, out_ref = refs
    rows, width = q_ref.shape
    in_head = (jnp.arange(width) < shape[1])[None]
    in_queries = (jnp.arange(rows) < shape[0])[:, None] & in_head
    q = triton.load(q_ref, mask=in_queries, other=0.0)
    first, last = first_ref[...], last_ref[...]
    dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)

    def step(i, state, k_ref, v_ref, positions_ref, length):
        out, top, total = state
        here = pl.ds(i * keys, keys)
        exists = i * keys + jnp.arange(keys) < length

        def load(ref):  # a mask costs time where everything is there
            if length % keys == 0 and shape[1] == width:
                return ref[here, :]
            return triton.load(ref.at[here, :], mask=exists[:, None] & in_head, other=0.0)

        positions = triton.load(positions_ref.at[here], mask=exists, other=ABSENT)
        seen = (first <= positions) & (positions <= last)
        scores = dot(q, load(k_ref), (((1,), (1,)), ((), ()))) * scale
        if softcap:
            scores = softcap * jnp.tanh(scores / softcap)
        scores = jnp.where(seen[None], scores, MASKED)
        new_top = jnp.maximum(top, scores.max(1))
        weights = jnp.exp(scores - new_top[:, None])
        old = jnp.exp(top - new_top)
        v = load(v_ref)
        product = dot(weights.astype(v.dtype), v, (((1,), (0,)), ((), ())))
        return out * old[:, None] + product, new_top, total * old + weights.sum(1)

    state = (
        jnp.zeros((rows, width), jnp.float32),
        jnp.full(rows, MASKED, jnp.float32),
        jnp.zeros(rows, jnp.float32),
    )
    for number, length in enumerate(lengths):
        k_ref, v_ref, positions_ref = key_refs[3 * number : 3 * number + 3]
        one = functools.partial(
            step, k_ref=k_ref, v_ref=v_ref, positions_ref=positions_ref, length=length
        )
        state = jax.lax.fori_loop(0, pl.cdiv(length, keys), one, state)
    out, _, total = state
    out = (out / total[:, None]).astype(out_ref.dtype)
    triton.store(out_ref, out, mask=in_queries)


def refusal(
    config: config.ModelConfig,
    lengths: tuple[int, list[int]],
    dtype: str,
    interpret: bool = False,
) -> str:
    """Returns why the kernel may not replace `attention.attend` here; "" if it may.

    It may if it runs on this device and errs as little as `attention.attend`. Both run in `dtype`
    on random numbers, ragged prompts and responses, and `attention.attend` in float32 at the
    highest precision gives the exact values; see `attention.is_as_exact`.

    Args:
      config: the policy; its heads, windows and soft caps are used.
      lengths: S of the prompts, and the cells of each block of the cache.
      dtype: the run computes in it.
      interpret: see `attend`.
    """
    P, G, (S, cells) = 2, 3, lengths  # a few slots stand for all
    T, N, K, H = sum(cells), config.num_heads, config.num_kv_heads, config.head_dim
    rng = np.random.default_rng(0)
    prompt, age = rng.integers(0, S, (P, 1)), rng.integers(0, T, (P, G))
    ago = rng.permutation(T)  # steps since each cell was written
    now = (prompt + age)[..., None]
    places = [np.where(np.arange(S) < prompt, np.arange(S), ABSENT)]
    for cell_ago in np.split(ago, np.cumsum(cells)[:-1]):
        places.append(np.where(cell_ago <= age[..., None], now - cell_ago, ABSENT))
    now, places = jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), (now, places))
    sizes = [(P, K, S, H), *((P, K, G, n, H) for n in cells)]
    keys = iter(jax.random.split(jax.random.key(0), 1 + 2 * len(sizes)))
    q = jax.random.normal(next(keys), (P, G, 1, N, H), dtype)
    k, v = ([jax.random.normal(next(keys), size, dtype) for size in sizes] for _ in "kv")

    def of(function, dtype, **options):
        @jax.jit
        def attention_check(q, k, v, now, places):
            segments = [Segment(*parts) for parts in zip(k, v, places, strict=True)]
            return function(
                q,
                now,
                segments,
                scale=(config.query_scale or H) ** -0.5,
                window=max(config.windows, default=0) or None,
                softcap=config.attention_softcap,
                **options,
            )

        cast = jax.tree.map(lambda x: x.astype(dtype), (q, k, v))
        return np.asarray(attention_check(*cast, now, places), np.float32)

    try:
        with jax.default_matmul_precision("highest"):
            exact = of(attention.attend, "float32")
        plain = of(attention.attend, dtype)
        fused = of(attend, dtype, interpret=interpret)
    except Exception as error:  # no GPU, an old one, a JAX without Triton, too little memory
        return " ".join(f"{type(error).__name__}: {error}".split())[:120]
    is_close = attention.is_as_exact(fused, plain, exact, rounding=1e-5)  # float32's own
    return "" if is_close else "it computes something else here"
