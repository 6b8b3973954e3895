"""The policy: one Flax Linen decoder for the Llama and Qwen2/2.5/3 families.

Flax stays in this file, behind pure functions; elsewhere parameters are nested dicts of arrays.
The layers' are stacked, [L, ...]: scoring scans over them, decoding takes them apart once, outside
its loop. A pass returns its keys and values; the prompt pass's are the response pass's prefix.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import sharding
from mapo_jax.attention import ABSENT, Segment, attend, rope_angles, rotate

Params = Any  # nested dict of arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture's numbers; hashable, so that it can be a static argument."""

    vocab_size: int  # V
    num_layers: int  # L
    embed_dim: int  # D
    num_heads: int  # N
    num_kv_heads: int  # K, divides N
    head_dim: int  # H, even; need not be D / N
    mlp_dim: int  # F
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True  # the head is the transposed embedding
    qkv_bias: bool = False  # Qwen2, Qwen2.5
    qk_norm: bool = False  # Qwen3


def _init(scale: float, *names: str):
    init = nn.initializers.variance_scaling(scale, "fan_in", "normal")
    return nn.with_logical_partitioning(init, names)


def _norm(config: ModelConfig, name: str, axis: str) -> nn.RMSNorm:
    ones = nn.with_logical_partitioning(nn.initializers.ones, (axis,))
    return nn.RMSNorm(epsilon=config.norm_eps, scale_init=ones, name=name)


class Block(nn.Module):
    """One layer: attention over the prefix and the own segment, then SwiGLU."""

    config: ModelConfig
    attention_chunk: int = 0  # queries at a time; 0: all

    @nn.compact
    def __call__(
        self,
        x_PGTD: Array,
        positions_PGT: Array,
        rope: tuple[Array, Array],
        prefix: Segment | None = None,
        cache: Segment | None = None,
        write_at: Array | int = 0,
    ) -> tuple[Array, tuple[Array, Array]]:
        """Returns x and the own keys and values, [P, K, G, T, H]: the pass's or the cache's."""
        c = self.config

        # Matrix products see [tokens, features]: over [P, G, T, features] a weight's gradient is a
        # product with three contracted axes, for which XLA:CPU transposes the activations first.
        rows = x_PGTD.shape[:-1]

        def flat(y):
            return y.reshape(-1, y.shape[-1])

        def heads(y, n, name, axis):
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, (axis, "head_dim"))
            return nn.DenseGeneral(
                (n, c.head_dim),
                use_bias=c.qkv_bias,
                kernel_init=_init(1.0, "embed", axis, "head_dim"),
                bias_init=zeros,
                name=name,
            )(flat(y)).reshape(*rows, n, c.head_dim)

        h = _norm(c, "attention_norm", "embed")(x_PGTD)
        q = heads(h, c.num_heads, "q", "heads")
        k = heads(h, c.num_kv_heads, "k", "kv_heads")
        v = heads(h, c.num_kv_heads, "v", "kv_heads")
        if c.qk_norm:
            q, k = _norm(c, "q_norm", "head_dim")(q), _norm(c, "k_norm", "head_dim")(k)
        q, k = rotate(q, rope), rotate(k, rope)
        k, v = (y.transpose(0, 3, 1, 2, 4) for y in (k, v))
        own = Segment(k, v, positions_PGT)
        if cache is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            own = Segment(
                write(cache.k, own.k, write_at, 3),
                write(cache.v, own.v, write_at, 3),
                cache.positions,
            )
        segments = [own] if prefix is None else [prefix, own]
        out = attend(q, positions_PGT, segments, self.attention_chunk)
        residual_scale = 1.0 / (2 * c.num_layers)  # of the variance: the stream keeps its size
        x = x_PGTD + nn.DenseGeneral(
            c.embed_dim,
            axis=(-2, -1),
            use_bias=False,
            kernel_init=_init(residual_scale, "heads", "head_dim", "embed"),
            name="o",
        )(out.reshape(-1, c.num_heads, c.head_dim)).reshape(x_PGTD.shape)

        def dense(y, n, name, scale, *names):
            return nn.Dense(n, use_bias=False, kernel_init=_init(scale, *names), name=name)(y)

        h = flat(_norm(c, "mlp_norm", "embed")(x))
        gate = dense(h, c.mlp_dim, "gate", 1.0, "embed", "mlp")
        up = dense(h, c.mlp_dim, "up", 1.0, "embed", "mlp")
        down = dense(nn.silu(gate) * up, c.embed_dim, "down", residual_scale, "mlp", "embed")
        return x + down.reshape(x.shape), (own.k, own.v)


class Ends(nn.Module):
    """Everything that is not a layer: embedding, final norm, head."""

    config: ModelConfig

    def setup(self):
        c = self.config
        embed = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        self.embedding: Any = self.param("embedding", embed, (c.vocab_size, c.embed_dim))
        self.norm = _norm(c, "norm", "embed")
        if not c.tie_embeddings:
            head = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("embed", "vocab"))
            self.head_kernel: Any = self.param("head", head, (c.embed_dim, c.vocab_size))

    def __call__(self, tokens):
        return self.head(self.encode(tokens))

    def encode(self, tokens):
        return self.embedding[tokens]

    def head(self, x):
        kernel = self.embedding.T if self.config.tie_embeddings else self.head_kernel
        return jnp.einsum("...d,dv->...v", self.norm(x), kernel, preferred_element_type=jnp.float32)


def _boxed_params(key: Array, config: ModelConfig) -> Params:
    ends_key, layers_key = jax.random.split(key)
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    x = jnp.zeros((1, 1, 1, config.embed_dim))
    rope = rope_angles(tokens, config.head_dim, config.rope_theta)
    block = Block(config)
    layers = jax.vmap(lambda k: block.init(k, x, tokens, rope)["params"])(
        jax.random.split(layers_key, config.num_layers)
    )
    layers = jax.tree.map(
        lambda box: box.replace(names=("layers", *box.names)),
        layers,
        is_leaf=lambda x: isinstance(x, nn.Partitioned),
    )
    return {"ends": Ends(config).init(ends_key, tokens)["params"], "layers": layers}


def init_params(key: Array, config: ModelConfig) -> Params:
    """Fresh float32 parameters: {"ends": {...}, "layers": {...}}, the layers stacked on axis 0."""
    return nn.unbox(_boxed_params(key, config))


@functools.cache
def logical_axes(config: ModelConfig) -> Params:
    """The tree of `init_params` with a tuple of logical axis names for each array."""
    boxed = jax.eval_shape(lambda: _boxed_params(jax.random.key(0), config))
    return jax.tree.map(lambda b: b.names, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def _gather(params: Params, axes: Params) -> Params:
    """Weights as they are used: gathered over fsdp, else the compiler moves activations instead."""
    return jax.tree.map(lambda w, a: sharding.constrain(w, a, sharding.GATHERED), params, axes)


def embed(params: Params, config: ModelConfig, tokens: Array) -> Array:
    """Token embeddings [..., D]."""
    ends = _gather(params["ends"], logical_axes(config)["ends"])
    out: Any = Ends(config).apply({"params": ends}, tokens, method="encode")
    return out


def head(params: Params, config: ModelConfig, hidden: Array) -> Array:
    """Logits f32[..., V] of the last layer's output [..., D]: final norm and LM head."""
    ends = _gather(params["ends"], logical_axes(config)["ends"])
    out: Any = Ends(config).apply({"params": ends}, hidden, method="head")
    return out


def forward(
    params: Params,
    config: ModelConfig,
    tokens_PGT: Array,
    positions_PGT: Array,
    prefix: Segment | None = None,
    *,
    remat: bool = False,
    attention_chunk: int = 0,
) -> tuple[Array, tuple[Array, Array]]:
    """One pass over a stream of tokens, by a scan over the layers.

    Args:
      params: as of `init_params`, in the dtype to compute in.
      config: the architecture.
      tokens_PGT: i32. The prompt pass has G = 1.
      positions_PGT: i32, RoPE and mask positions; ABSENT where there is no token.
      prefix: keys and values of all layers that the stream can see, [L, P, K, S, H] twice, with
        positions i32[P, S].
      remat: recompute each layer in the backward pass.
      attention_chunk: see `attend`.

    Returns:
      hidden [P, G, T, D], and the stream's keys and values, [L, P, K, G, T, H] twice.
    """
    axes = logical_axes(config)["layers"]
    axes = jax.tree.map(lambda names: names[1:], axes, is_leaf=lambda x: isinstance(x, tuple))
    block = Block(config, attention_chunk)
    rope = rope_angles(positions_PGT, config.head_dim, config.rope_theta)

    def body(x, layer):
        weights, kv = layer
        weights = _gather(weights, axes)  # a layer at a time
        shared = None if prefix is None else Segment(kv[0], kv[1], prefix.positions)
        out: Any = block.apply({"params": weights}, x, positions_PGT, rope, shared)
        return sharding.constrain(out[0], ("batch", None, None, None)), out[1]

    x = embed(params, config, tokens_PGT)
    x = sharding.constrain(x, ("batch", None, None, None))
    shared = None if prefix is None else (prefix.k, prefix.v)
    return jax.lax.scan(jax.checkpoint(body) if remat else body, x, (params["layers"], shared))


def encode_prompts(
    params: Params, config: ModelConfig, tokens_PS: Array, lengths_P: Array, **options
) -> Segment:
    """The prompt pass. Returns the prefix of every layer: all prompt tokens but the last.

    The last prompt token is the first of the response stream, so the first sampled token is not
    special, no LM head is needed here, and a prompt of length 1 works.
    """
    P, S = tokens_PS.shape
    steps = jnp.arange(S)[None]
    positions = jnp.broadcast_to(steps, (P, S))
    _, (k, v) = forward(params, config, tokens_PS[:, None], positions[:, None], **options)
    return Segment(
        k[:, :, :, 0], v[:, :, :, 0], jnp.where(steps < lengths_P[:, None] - 1, steps, ABSENT)
    )


def last_tokens(tokens_PS: Array, lengths_P: Array) -> Array:
    """The token i32[P] that starts each response stream."""
    return jnp.take_along_axis(tokens_PS, jnp.maximum(lengths_P, 1)[:, None] - 1, 1)[:, 0]


def apply(params: Params, config: ModelConfig, tokens_BT: Array) -> Array:
    """Logits f32[B, T, V] of a plain causal forward pass without padding."""
    positions = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden, _ = forward(params, config, tokens_BT[:, None], positions[:, None])
    return head(params, config, hidden[:, 0])
