"""The policy: one Flax Linen decoder for the Llama, Mistral, Qwen2/2.5/3 and Gemma 2/3 families.

Flax stays in this room, behind pure functions; other rooms see parameters as nested dicts of
arrays. The parameters of the layers are stacked, [L, ...]. A pass scans over them or takes them
apart, see `layers.through`; decoding takes them apart once, outside its loop. A pass returns its
keys and values, and the response pass takes the keys and values of the prompt pass as its prefix.
Embeddings of pictures come from vision.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mapo_jax import images, sharding
from mapo_jax.model import vision
from mapo_jax.model.attention import ABSENT, Segment, attend, rope_angles, rotate, written
from mapo_jax.model.config import ModelConfig
from mapo_jax.model.layers import ACTIVATIONS, Linear, Norm, init, lookup, product, rounded, through
from mapo_jax.model.lora import SUFFIX, Lora, Params
from mapo_jax.model.streams import prompt_stream
from mapo_jax.model.vision import Features
from mapo_jax.rollouts import Picture, Prompts, with_pictures


class Kind(NamedTuple):
    """The inputs of a layer that may differ from layer to layer, besides the weights."""

    rope: tuple[Array, Array]
    window: Array | None  # i32[]


def kinds(config: ModelConfig, rope_positions: Array) -> Any:
    """Returns a function from a layer's entry of `config.windows`, traced or not, to its `Kind`.

    `rope_positions` are i32[P, G, T], or i32[P, G, T, 3] for M-RoPE.
    """
    axes = config.rope_axes if rope_positions.ndim == 4 else None
    rope = rope_angles(
        rope_positions, config.head_dim, config.rope_theta, config.rope_scaling, axes
    )
    local = rope
    if config.local_rope_theta:
        local = rope_angles(rope_positions, config.head_dim, config.local_rope_theta)

    def kind(window):
        if not config.windows:
            return Kind(rope, None)
        has_window = jnp.asarray(window) > 0
        chosen = jax.tree.map(lambda a, b: jnp.where(has_window, a, b), local, rope)
        return Kind(chosen, jnp.where(has_window, window, ABSENT))

    return kind


class Block(nn.Module):
    """One layer: attention over the prefix and the own segment, then the gated MLP."""

    config: ModelConfig
    dtype: Any = None  # to compute in; None: the dtype of the parameters

    @nn.compact
    def __call__(
        self,
        x_PGTD: Array,
        positions_PGT: Array,
        kind: Kind,
        prefix: Segment | None = None,
        cache: Sequence[Segment] = (),
        write_at: Array | int = 0,
        attend: Callable = attend,
    ) -> tuple[Array, list[tuple[Array, Array]]]:
        """Returns x and the own keys and values [P, K, G, T, H].

        A cache is a row of blocks, which are returned with this pass's keys and values written at
        one cell. Without a cache the only block is this pass itself. `positions_PGT` is the order
        in the sequence; `kind` holds the RoPE positions.
        """
        c = self.config
        residual_scale = 1.0 / (2 * c.num_layers)  # of variance; the residual stream keeps its size

        # Matrix products get [tokens, features]. With [P, G, T, features] the gradient of a weight
        # contracts three axes, and for that XLA:CPU transposes the activations first.
        rows = x_PGTD.shape[:-1]

        def flat(y):
            return y.reshape(-1, y.shape[-1])

        def norm(y, name, axis="embed"):
            return Norm(axis, c.norm_eps, self.dtype, c.norm_offset, name=name)(y)

        def linear(y, name, axes, *features, scale=1.0, bias=False):
            out = Linear(axes, features, init(scale), bias, name=name)(y)
            if name in c.lora_targets:
                out += Lora(c, axes, features, name=name + SUFFIX)(y)
            return out

        def heads(y, n, name, axis):
            out = linear(y, name, ("embed", axis, "head_dim"), n, c.head_dim, bias=c.qkv_bias)
            return out.reshape(*rows, n, c.head_dim)

        h = flat(norm(x_PGTD, "attention_norm"))
        q = heads(h, c.num_heads, "q", "heads")
        k = heads(h, c.num_kv_heads, "k", "kv_heads")
        v = heads(h, c.num_kv_heads, "v", "kv_heads")
        if c.qk_norm:
            q, k = norm(q, "q_norm", "head_dim"), norm(k, "k_norm", "head_dim")
        q, k = rotate(q, kind.rope), rotate(k, kind.rope)
        k, v = (y.transpose(0, 3, 1, 2, 4) for y in (k, v))
        own = [Segment(k, v, positions_PGT)]
        if cache:
            own = written(cache, k, v, write_at)
        out = attend(
            q,
            positions_PGT,
            own if prefix is None else [prefix, *own],
            scale=(c.query_scale or c.head_dim) ** -0.5,
            window=kind.window,
            softcap=c.attention_softcap,
        )
        out = out.reshape(-1, c.num_heads, c.head_dim)
        axes = ("heads", "head_dim", "embed")
        out = linear(out, "o", axes, c.embed_dim, scale=residual_scale).reshape(x_PGTD.shape)
        x = x_PGTD + (norm(out, "attention_post_norm") if c.post_norms else out)

        h = flat(norm(x, "mlp_norm"))
        gate = linear(h, "gate", ("embed", "mlp"), c.mlp_dim)
        up = linear(h, "up", ("embed", "mlp"), c.mlp_dim)
        h = ACTIVATIONS[c.activation](gate) * up
        down = linear(h, "down", ("mlp", "embed"), c.embed_dim, scale=residual_scale)
        out = down.reshape(x.shape)
        x = x + (norm(out, "mlp_post_norm") if c.post_norms else out)
        return x, [(block.k, block.v) for block in own]


class Ends(nn.Module):
    """The parts before and after the layers: embedding, final norm and head."""

    config: ModelConfig
    dtype: Any = None  # to compute in; None: the dtype of the parameters

    def setup(self):
        c = self.config
        embed = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        self.embedding: Any = self.param("embedding", embed, (c.vocab_size, c.embed_dim))
        self.norm = Norm("embed", c.norm_eps, self.dtype, c.norm_offset)
        if not c.tie_embeddings:
            head = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("embed", "vocab"))
            self.head_kernel: Any = self.param("head", head, (c.embed_dim, c.vocab_size))

    def __call__(self, tokens):
        return self.head(self.encode(tokens))

    def encode(self, tokens):
        dtype = self.dtype or self.embedding.dtype
        x = lookup(self.embedding, tokens, ("vocab", "embed"), dtype)
        return x * jnp.asarray(x.shape[-1] ** 0.5, x.dtype) if self.config.scale_embeddings else x

    def head(self, x):
        c = self.config
        kernel = self.embedding.T if c.tie_embeddings else self.head_kernel
        x = self.norm(x)
        logits = product(x, kernel, ("embed", "vocab"), 1, jnp.float32)
        cap = c.logits_softcap
        return cap * jnp.tanh(logits / cap) if cap else logits


def _boxed_params(key: Array, config: ModelConfig) -> Params:
    ends_key, layers_key = jax.random.split(key)
    tokens = jnp.zeros((1, 1, 1), jnp.int32)
    x = jnp.zeros((1, 1, 1, config.embed_dim))
    block, kind = Block(config), kinds(config, tokens)(0)
    layers = jax.vmap(lambda k: block.init(k, x, tokens, kind)["params"])(
        jax.random.split(layers_key, config.num_layers)
    )
    layers = jax.tree.map(
        lambda box: box.replace(names=("layers", *box.names)),
        layers,
        is_leaf=lambda x: isinstance(x, nn.Partitioned),
    )
    params = {"ends": Ends(config).init(ends_key, tokens)["params"], "layers": layers}
    if config.vision is not None:
        vision_key = jax.random.fold_in(key, 2)
        params["vision"] = vision.boxed_params(vision_key, config.vision, config.embed_dim)
    return params


def init_params(key: Array, config: ModelConfig) -> Params:
    """Makes float32 parameters {"ends": {...}, "layers": {...}}; layers are stacked on axis 0.

    A policy that reads pictures has a third subtree, "vision".
    """
    return nn.unbox(_boxed_params(key, config))


@functools.cache
def logical_axes(config: ModelConfig) -> Params:
    """Returns the tree of `init_params` with a tuple of logical axis names for each array."""
    boxed = jax.eval_shape(lambda: _boxed_params(jax.random.key(0), config))
    return jax.tree.map(lambda b: b.names, boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))


def abstract_params(config: ModelConfig) -> Params:
    """Returns the tree of `init_params` as shapes and dtypes; nothing is computed."""
    return jax.eval_shape(lambda: init_params(jax.random.key(0), config))


def cast(params: Params, dtype: Any) -> Params:
    """Casts the parameters to another dtype, as a layer does when it uses them."""
    return jax.tree.map(lambda x: x.astype(dtype), params)


def embed(params: Params, config: ModelConfig, tokens: Array, dtype: Any = None) -> Array:
    """Token embeddings f32[..., D].

    The residual stream begins here and stays in float32, whatever dtype the layers compute in. If
    it were rounded to bfloat16 after each layer, that would become the largest difference between
    sampler and scorer.
    """
    out: Any = Ends(config, dtype).apply({"params": params["ends"]}, tokens, method="encode")
    return out.astype(jnp.float32)


def head(params: Params, config: ModelConfig, hidden: Array, dtype: Any = None) -> Array:
    """Logits f32[..., V] from the last layer's output [..., D], by the final norm and LM head."""
    out: Any = Ends(config, dtype).apply({"params": params["ends"]}, hidden, method="head")
    return out


def gather_ends(params: Params, config: ModelConfig, dtype: Any = None) -> Params:
    """Gathers the parameters that `head` needs, so that each batch shard has them whole.

    They are float32, rounded to values that `dtype` can hold. So their gradient can be summed in
    float32 over many calls of `head`, and then once over shards.
    """
    axes = logical_axes(config)["ends"]
    return {
        "ends": jax.tree.map(
            lambda w, names: rounded(w, names, dtype or w.dtype), params["ends"], axes
        )
    }


def forward(
    params: Params,
    config: ModelConfig,
    tokens_PGT: Array,
    positions_PGT: Array,
    rope_PGT: Array,
    prefix: Segment | None = None,
    *,
    features: Features | None = None,
    remat: bool | None = None,
    dtype: Any = None,
    attend: Callable = attend,
) -> tuple[Array, tuple[Array, Array]]:
    """Runs one pass over a stream of tokens.

    Args:
      params: as `init_params` makes them.
      config: the architecture.
      tokens_PGT: i32. The prompt pass has G = 1.
      positions_PGT: i32, order in the sequence, which decides who sees whom; ABSENT if there is no
        token.
      rope_PGT: i32, RoPE positions; [P, G, T, 3] for M-RoPE.
      prefix: keys and values of all layers that the stream can see, [L, P, K, S, H] twice, with
        positions i32[P, S].
      features: of the pictures in the stream, see `encode_images`.
      remat: recompute each layer in the backward pass; None if there is no backward pass.
      dtype: to compute in; None means the dtype of the parameters.
      attend: `attention.attend`, or an equal for some device, see splash.py and cudnn.py.

    Returns:
      hidden f32[P, G, T, D], and the stream's keys and values, [L, P, K, G, T, H] twice.
    """
    block = Block(config, dtype)
    kind = kinds(config, rope_PGT)
    windows_L = jnp.asarray(config.windows) if config.windows else None

    def body(x, layer):
        weights, kv, window, deep = layer
        shared = None if prefix is None else Segment(kv[0], kv[1], prefix.positions)
        out: Any = block.apply(
            {"params": weights}, x, positions_PGT, kind(window), shared, attend=attend
        )
        x = out[0] if features is None or deep is None else features.add(out[0], deep)
        return sharding.constrain(x, ("batch", None, None, None)), out[1][0]

    x = embed(params, config, tokens_PGT, dtype)
    x = x if features is None else features.put(x)
    x = sharding.constrain(x, ("batch", None, None, None))
    shared = None if prefix is None else (prefix.k, prefix.v)
    layers, deep = (params["layers"], shared, windows_L), None
    if features is None or (deep := features.deep) is None:
        return through(body, x, (*layers, None), remat)
    first, rest = (
        jax.tree.map(lambda y: y[part], layers)  # noqa: B023
        for part in (slice(len(deep)), slice(len(deep), None))
    )
    x, early = through(body, x, (*first, deep), remat)
    x, late = through(body, x, (*rest, None), remat)
    return x, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)


def encode_images(
    params: Params, config: ModelConfig, prompts: Prompts, **options
) -> Features | None:
    """Runs the tower on the pictures of prompts; None if there are none.

    Args:
      params, config: as in `forward`.
      prompts: P of them.
      options: remat, dtype and attend, as in `forward`.

    Raises:
      ValueError: the policy has no tower.
    """
    if prompts.images is None:
        return None
    if config.vision is None:
        raise ValueError("Prompts.images must be None: the policy has no tower for pictures")
    D, images = config.embed_dim, prompts.images
    return vision.encode(params["vision"], config.vision, D, images, **options)


def encode_prompts(params: Params, config: ModelConfig, prompts: Prompts, **options) -> Segment:
    """Runs the prompt pass; returns every layer's prefix, all prompt tokens but the last.

    The last prompt token begins the response stream. So the first sampled token is not special,
    no LM head is needed here, and a prompt of length 1 works.

    Raises:
      ValueError: see `encode_images`.
    """
    stream = prompt_stream(prompts)
    features = encode_images(params, config, prompts, **options)
    _, (k, v) = forward(params, config, *stream, features=features, **options)
    steps = stream.positions[:, 0]
    positions = jnp.where(steps < prompts.lengths[:, None] - 1, steps, ABSENT)
    return Segment(k[:, :, :, 0], v[:, :, :, 0], positions)


def apply(
    params: Params,
    config: ModelConfig,
    tokens_BT: Array,
    pictures: Sequence[Sequence[np.ndarray]] | None = None,
) -> Array:
    """Logits f32[B, T, V] of a plain causal forward pass without padding.

    Args:
      params: as `init_params` makes them.
      config: the architecture.
      tokens_BT: i32, with an image token for each cell of a picture.
      pictures: for each row its pictures u8[h, w, 3], whose sides are multiples of
        `config.vision.factor`; None for text alone.

    Raises:
      ValueError: the policy has no tower, or a row has another number of image tokens than its
        pictures have cells.
    """
    prompts = Prompts(tokens_BT, jnp.full(len(tokens_BT), tokens_BT.shape[1]))
    if pictures is not None and any(map(len, pictures)):
        prompts = _with_pictures(prompts, config, pictures)
    features = encode_images(params, config, prompts)
    hidden, _ = forward(params, config, *prompt_stream(prompts), features=features)
    return head(params, config, hidden[:, 0])


def _with_pictures(prompts, config, pictures):
    """Cuts pictures into patches and finds their places, the runs of image tokens."""
    if (c := config.vision) is None:
        raise ValueError("pictures must be None: the policy has no tower for them")
    found = []
    for tokens, row in zip(np.asarray(prompts.tokens), pictures, strict=True):
        free = np.flatnonzero(tokens == config.image_token)
        sizes = [(x.shape[0] // c.patch, x.shape[1] // c.patch) for x in row]
        ends = np.cumsum([0, *(rows * columns // c.merge**2 for rows, columns in sizes)])
        if len(free) != ends[-1]:
            raise ValueError(f"{len(free)} image tokens, but pictures of {ends[-1]} cells")
        found.append(
            [
                Picture(images.patches(x, c.patch, c.merge), *size, int(free[start]))
                for x, size, start in zip(row, sizes, ends, strict=False)
            ]
        )
    N = max(sum(one.rows * one.columns for one in row) for row in found)
    return with_pictures(prompts, found, N, c.patch, c.merge)
