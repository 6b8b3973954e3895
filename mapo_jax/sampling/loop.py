"""Samples `Rollouts` from prompts, the first half of a batch's life on the device.

The decode batch has `lanes x width` slots. A lane holds the prefix of one prompt, computed once for
the group. Its slots take the waiting rollouts of that prompt. When all its slots are idle, the lane
takes the next prompt.

The cache of the responses holds the last steps of all slots. A step writes one cell, the same one
for all slots, so slots of different age need no scatter: the cell that was written longest ago. A
cell that was written before the slot's rollout began has position ABSENT. The cache lies in a few
blocks, and a step reads only as many of them as the oldest rollout has needed so far. So short
responses do not pay for a long limit. Each number of blocks has a loop of its own, one after the
other.

The code is written for one shard and `shard_map`ped over the prompts. Each shard loops as long as
its own rows need, and the loop has no collective over `data` or `fsdp`. On a CPU the prompts may be
decoded in parts, side by side, see cores.py.
"""

import dataclasses
import functools
import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from mapo_jax import model, sharding
from mapo_jax.model import ABSENT, Segment, Turned, decoding
from mapo_jax.rollouts import Prompts, Rollouts
from mapo_jax.sampling import cores
from mapo_jax.sampling.config import SamplingConfig
from mapo_jax.sampling.draw import draw

PREFILL_TOKENS = 8192  # of prompts that each shard encodes at once
PREFILL_PATCHES = 16_384  # of their pictures
PREFILL_CHUNK = 256  # queries whose scores exist at once
_INTERPRETED = functools.partial(decoding.attend, interpret=True)  # for tests
_ATTENTION = {  # how a step attends, and how the blocks of its cache lie
    "plain": (model.attend, Segment),
    "turned": (model.attend, Turned),
    "triton": (decoding.attend, Segment),
    "triton_interpreted": (_INTERPRETED, Segment),
}


def sample(
    params: model.Params,
    config: model.ModelConfig,
    prompts: Prompts,
    key: Array,
    settings: SamplingConfig,
    *,
    max_new_tokens_PG: Array | np.ndarray | None = None,
    example_P: Array | np.ndarray | None = None,
    prompt_index_P: Array | np.ndarray | None = None,
    mesh: Mesh | None = None,
) -> Rollouts:
    """Samples a group of responses to each prompt.

    The randomness of a draw depends on (key, rollout, age) alone; the rollout is p * G + g. So
    lanes, width and mesh do not change the tokens, up to float rounding.

    Args:
      params: in the dtype to compute in.
      config: the architecture.
      prompts: P of them; the rollouts of a padding row are not valid.
      key: typed PRNG key.
      settings: see `SamplingConfig`.
      max_new_tokens_PG: i32, a limit for each rollout, at most `settings.max_new_tokens`; None
        means `settings.max_new_tokens` for all.
      example_P: i32, copied to the result; None means 0, 1, ...
      prompt_index_P: i32, the p of the draws, for a call that samples a part of a batch; None means
        0, 1, ...
      mesh: the devices to sample on; None means one device. Its data x fsdp shards must divide P.

    Returns:
      Rollouts. Their `logps` belong to the temperature-scaled, untruncated distribution; here
      temperature 0 counts as 1. Top-p and top-k only restrict the draw.

    Raises:
      ValueError: the shards do not divide P, or the prompts have pictures and the policy no tower.
    """
    P = prompts.tokens.shape[0]
    if mesh is not None and P % sharding.batch_shards(mesh):
        raise ValueError(f"{P} prompts do not divide by {sharding.batch_shards(mesh)} shards")
    inputs = (prompts, max_new_tokens_PG, example_P, prompt_index_P)
    n = cores.parts(params, P, settings, mesh)
    if n == 1:
        return program(params, inputs, key, *split(settings), config, mesh)
    count = jnp.arange(P, dtype=jnp.int32)
    example, index = (count if x is None else x for x in (example_P, prompt_index_P))
    lanes = min(settings.lanes or P, P) // n
    settings = dataclasses.replace(settings, lanes=lanes)

    def one(part):
        return program(params, part, key, *split(settings), config, mesh)

    return cores.side_by_side(one, (prompts, max_new_tokens_PG, example, index), n)


def split(settings: SamplingConfig) -> tuple[np.float32, SamplingConfig]:
    """Returns the temperature and the static rest; all temperatures share a program."""
    return np.float32(settings.temperature), dataclasses.replace(settings, temperature=1.0)


def sampler(params, inputs, key, temperature, settings, config, mesh):
    """The part of `sample` that is compiled, as `program`; a plan lowers it without data."""
    prompts, max_new_tokens, example, index = inputs
    P, G = prompts.tokens.shape[0], settings.group_size
    count = jnp.arange(P, dtype=jnp.int32)
    limits = jnp.full((P, G), settings.max_new_tokens, jnp.int32)
    if max_new_tokens is not None:
        limits = jnp.minimum(limits, max_new_tokens)
    one_shard = functools.partial(_sample_shard, config=config, settings=settings)
    if mesh is not None:
        by_prompt = PartitionSpec(sharding.BATCH_AXES)
        one_shard = jax.shard_map(
            one_shard,
            mesh=mesh,
            in_specs=(PartitionSpec(), by_prompt, PartitionSpec(), PartitionSpec()),
            out_specs=by_prompt,
            axis_names=set(sharding.BATCH_AXES),  # the compiler splits over `tensor`
            check_vma=False,
        )
    inputs = (prompts, limits, count if index is None else index)
    tokens, length, trained, logps, finished, valid = one_shard(params, inputs, key, temperature)
    return Rollouts(
        prompts=dataclasses.replace(prompts, lengths=jnp.maximum(prompts.lengths, 1)),
        example=count if example is None else example,
        tokens=tokens,
        length=length,
        trained=trained,
        logps=logps,
        finished=finished,
        valid=valid,
    )


program = jax.jit(sampler, static_argnums=(4, 5, 6))


def _sample_shard(params, inputs, key, temperature, *, config, settings):
    """Encodes the prompts, then decodes; see the module docstring."""
    prompts, limits_PG, prompt_index = inputs
    P, G, T = prompts.tokens.shape[0], settings.group_size, settings.max_new_tokens
    R = P * G  # number of rollouts; a slot whose row is R is idle
    Q, W = min(settings.lanes or P, P), min(settings.width or G, G)
    limits_R = jnp.where(prompts.lengths[:, None] > 0, limits_PG, 0).reshape(R)
    rollout_R = (prompt_index[:, None] * G + jnp.arange(G)[None]).reshape(R)
    start = model.response_starts(prompts)
    prefix_keys, prefix_positions_PS = _prefill(params, config, prompts)
    # Sliced once, outside the loop; a scan over layers would copy weights and cache in every step.
    layers = [
        jax.tree.map(operator.itemgetter(i), params["layers"]) for i in range(config.num_layers)
    ]
    sizes = rungs(T)  # cells of the first block, of the first two, ...
    block, windows = model.Block(config), config.windows or (0,) * config.num_layers
    attend, own = _ATTENTION[settings.attention]

    def take_prefix(lane_Q):
        if Q == P:  # every prompt keeps its lane
            return prefix_keys, prefix_positions_PS
        return jax.tree.map(lambda x: x[lane_Q], (prefix_keys, prefix_positions_PS))

    def decode_step(state, cells):
        """Returns the logits of every slot's next token [Q * W, V], and the caches.

        Reads and writes the first `cells` cells of the cache.
        """
        at = jnp.argmin(state["written"][:cells]).astype(jnp.int32)
        written = state["written"].at[at].set(state["step"])
        positions, rope = (  # [Q, W, 1]
            (x[state["lane"]][:, None] + state["age"])[..., None]
            for x in (start.positions, start.rope)
        )
        ago = (state["step"] - written)[None, None]  # steps since each cell was written
        cell_positions = jnp.where(ago <= state["age"][..., None], positions - ago, ABSENT)
        borders = [0, *sizes[: sizes.index(cells) + 1]]
        places = [cell_positions[..., a:b] for a, b in itertools.pairwise(borders)]
        kind = model.kinds(config, rope)
        prefix, prefix_positions = state["prefix"]
        x = model.embed(params, config, state["token"][..., None])
        caches = []
        for layer, (k, v), cache, window in zip(
            layers, prefix, state["caches"], windows, strict=True
        ):
            x, used = block.apply(
                {"params": layer},
                x,
                positions,
                kind(window),
                Segment(k, v, prefix_positions),
                [own(a, b, cells_at) for (a, b), cells_at in zip(cache, places, strict=False)],
                at,
                attend=attend,
            )
            caches.append(used + cache[len(used) :])
        logits = model.head(params, config, x[:, :, 0]).reshape(Q * W, -1)
        # Gathered over `tensor`. With split logits the draw would communicate a dozen times a step,
        # in part by collective-permute, which can wait for shards whose loop has ended (XLA:CPU
        # hangs).
        return sharding.constrain(logits, (None, None)), caches, written

    def body(state, cells):
        row, age, lane = state["row"], state["age"], state["lane"]
        logits, caches, written = decode_step(state, cells)
        rollout = rollout_R[jnp.minimum(row, R - 1)].reshape(-1)
        keys = jax.vmap(lambda r, a: jax.random.fold_in(jax.random.fold_in(key, r), a))(
            rollout, age.reshape(-1)
        )
        token, logp = (x.reshape(Q, W) for x in draw(logits, keys, temperature, settings))
        if settings.on_token is not None:
            jax.debug.callback(settings.on_token, token, ordered=True)
        ended = functools.reduce(jnp.logical_or, [token == e for e in settings.eos_ids], False)
        used = age + 1
        stop = (row < R) & (ended | (used >= limits_R[jnp.minimum(row, R - 1)]))
        # A free slot takes a waiting rollout; a lane with only idle slots takes a new prompt.
        waiting = state["started"][:, None] + jnp.cumsum(stop, 1) - 1
        next_row = jnp.where(waiting < G, lane[:, None] * G + waiting, R)
        new_row = jnp.where(stop, next_row, row)
        idle = (new_row == R).all(1)
        next_lane = state["next_lane"] + jnp.cumsum(idle) - 1
        switch = idle & (next_lane < P)
        lane = jnp.where(switch, next_lane, lane)
        new_row = jnp.where(switch[:, None], lane[:, None] * G + jnp.arange(W)[None], new_row)
        fresh = (stop & (new_row < R)) | switch[:, None]
        prefix = state["prefix"]
        if Q < P:  # without the cond every step would copy the prefixes
            prefix = jax.lax.cond(switch.any(), lambda: take_prefix(lane), lambda: prefix)
        return {
            "step": state["step"] + 1,
            "lane": lane,
            "next_lane": state["next_lane"] + switch.sum(),
            "started": jnp.where(switch, W, state["started"] + stop.sum(1)),
            "row": new_row,
            "age": jnp.where(fresh, 0, used),
            "token": jnp.where(fresh, start.tokens[lane][:, None], token),
            "prefix": prefix,
            "caches": caches,
            "written": written,
            # Row R does not exist, so an idle slot's write is dropped.
            "tokens": state["tokens"].at[row, age].set(token, mode="drop"),
            "logps": state["logps"].at[row, age].set(logp, mode="drop"),
            "lengths": state["lengths"].at[row].set(used, mode="drop"),
            "ended": state["ended"].at[row].set(ended & (row < R), mode="drop"),
        }

    lane = jnp.arange(Q)
    K, H, dtype = config.num_kv_heads, config.head_dim, prefix_keys[0][0].dtype

    def empty(cells):
        k, v = (jnp.zeros((Q, K, W, cells, H), dtype) for _ in "kv")
        return k.swapaxes(3, 4) if own is Turned else k, v

    state: dict[str, Any] = {
        "step": jnp.int32(0),
        "lane": lane,
        "next_lane": jnp.int32(Q),
        "started": jnp.full(Q, W),  # rollouts of the lane's prompt that have or had a slot
        "row": lane[:, None] * G + jnp.arange(W)[None],  # the slot's rollout
        "age": jnp.zeros((Q, W), jnp.int32),  # tokens of the slot's rollout so far
        "token": jnp.broadcast_to(start.tokens[lane][:, None], (Q, W)),  # the slot's next input
        "prefix": take_prefix(lane),
        "caches": [[empty(b - a) for a, b in itertools.pairwise([0, *sizes])] for _ in layers],
        "written": jnp.full(T, -1),  # the step of each cell
        "tokens": jnp.zeros((R, T), jnp.int32),
        "logps": jnp.zeros((R, T), jnp.float32),
        "lengths": jnp.zeros(R, jnp.int32),
        "ended": jnp.zeros(R, bool),
    }

    def goes_on(state, cells):
        alive = state["row"] < R
        return alive.any() & (jnp.where(alive, state["age"], 0).max() < cells)

    for cells in sizes:
        state = jax.lax.while_loop(
            functools.partial(goes_on, cells=cells), functools.partial(body, cells=cells), state
        )
    # A rollout with limit 0 (a padding row) has still drawn one token, which is dropped here.
    length = jnp.minimum(state["lengths"], limits_R)
    trained = jnp.arange(T)[None] < length[:, None]
    return (
        jnp.where(trained, state["tokens"], 0).reshape(P, G, T),
        length.reshape(P, G),
        trained.reshape(P, G, T),
        jnp.where(trained, state["logps"], 0.0).reshape(P, G, T),
        (state["ended"] & (limits_R > 0)).reshape(P, G),
        jnp.broadcast_to((prompts.lengths > 0)[:, None], (P, G)),
    )


def rungs(T: int) -> list[int]:
    """Numbers of cells that a step may read: 128, 512, 2,048, ... and T; 64 and T for a short one.

    Few, because each has a loop of its own, with all layers in it, which takes its time to compile.
    """
    sizes = [64] if T <= 128 else [128 * 4**i for i in range(T.bit_length())]
    return [*(n for n in sizes if n < T), T]


def prefill_size(P: int, S: int, N: int = 0) -> int:
    """Returns how many of a shard's P prompts are encoded at once: a divisor of P.

    Args:
        P: prompts of the shard.
        S: tokens to which they are padded.
        N: patches to which their pictures are padded; 0 for text alone.
    """
    most = min(PREFILL_TOKENS // S, PREFILL_PATCHES // N if N else P, P)
    return max(n for n in range(1, max(most, 1) + 1) if P % n == 0)


def _prefill(params, config, prompts):
    """Encodes some prompts at a time; see `model.encode_prompts`.

    Returns:
        Keys and values of each layer, [P, K, S, H] twice; positions i32[P, S].
    """
    P, S = prompts.tokens.shape
    size = prefill_size(P, S, 0 if prompts.images is None else prompts.images.patches.shape[1])
    attend = functools.partial(model.attend, chunk=PREFILL_CHUNK)

    def encode(some):
        found = model.encode_prompts(params, config, some, attend=attend)
        return [(found.k[i], found.v[i]) for i in range(config.num_layers)], found.positions

    if size == P:
        return encode(prompts)
    blocks = jax.tree.map(lambda x: x.reshape(P // size, size, *x.shape[1:]), prompts)
    shapes = jax.eval_shape(encode, jax.tree.map(lambda x: x[0], blocks))
    whole = jax.tree.map(lambda x: jnp.zeros((P, *x.shape[1:]), x.dtype), shapes)

    def add(whole, block):
        i, some = block
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=i, axis=0)
        return jax.tree.map(write, whole, encode(some)), None

    return jax.lax.scan(add, whole, (jnp.arange(0, P, size), blocks))[0]
