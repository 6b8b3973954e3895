"""The tower that turns pictures into embeddings, for Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

A picture is encoded once per prompt, before the decoder's prompt pass, which puts the embeddings at
the places of the picture's tokens. So a token that the policy samples is never a picture, whatever
its number.

Attention is `attention.attend` over the patches of all pictures of a prompt. The number of a
patch's picture, or of its window, takes the place of its position, with a window of 1: a patch sees
the patches with its own number.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import sharding
from mapo_jax.model.attention import ABSENT, Segment, attend, cosine_and_sine, rotate
from mapo_jax.model.config import VisionConfig
from mapo_jax.model.layers import ACTIVATIONS, Linear, Norm, init, product, rounded, through
from mapo_jax.model.lora import Params
from mapo_jax.rollouts import Images

_THETA = 10_000.0  # base of the rotations, the same in all families
_CENTRE = 128  # taken off the bytes, so that bfloat16 holds them exactly and sums stay small


class Features(NamedTuple):
    """Embeddings of the pictures of P prompts, and where they stand in a stream of tokens."""

    cell_PGT: Array  # i32, the cell at the place of each token; -1 for text
    embeddings: Array  # [P, M, D], of M cells
    deep: Array | None  # [n, P, M, D], added after the decoder's first n layers

    def put(self, x_PGTD: Array) -> Array:
        """Replaces the embeddings of a stream's tokens at the places of pictures."""
        return jnp.where(self.cell_PGT[..., None] >= 0, self._at(self.embeddings), x_PGTD)

    def add(self, x_PGTD: Array, deep_PMD: Array) -> Array:
        """Adds the output of an early layer of the tower at the places of pictures."""
        return x_PGTD + jnp.where(self.cell_PGT[..., None] >= 0, self._at(deep_PMD), 0.0)

    def _at(self, cells_PMD: Array) -> Array:
        P, G, T = self.cell_PGT.shape
        index = jnp.maximum(self.cell_PGT, 0).reshape(P, G * T, 1)
        taken = jnp.take_along_axis(cells_PMD, index, 1).astype(jnp.float32)
        return taken.reshape(P, G, T, -1)


class Patches(nn.Module):
    """The first product, of patches u8[P, N, 3 * patch * patch].

    A picture is two equal frames of a film, as the parameters are those of a convolution over two.
    Scale and mean of the colours are folded into its weights, which stay as they are on disk.
    """

    config: VisionConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, patches_PNF: Array) -> Array:
        c = self.config
        shape = (3, 2, c.patch**2, c.embed_dim)

        def make(key, shape):
            return init(1.0)(key, (6 * c.patch**2, c.embed_dim)).reshape(shape)

        names = (None, None, None, "embed")
        kernel: Any = self.param("kernel", nn.with_logical_partitioning(make, names), shape)
        dtype = self.dtype or kernel.dtype
        mean, deviation = (255 * jnp.asarray(x)[:, None, None] for x in (c.mean, c.deviation))
        # Rounded before they are folded: the sampler's weights come rounded, too.
        kernel_CFD = rounded(kernel, names, dtype).sum(1) / deviation
        bias = (kernel_CFD * (_CENTRE - mean)).sum((0, 1))
        if c.patch_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
            added: Any = self.param("bias", zeros, (c.embed_dim,))
            bias = bias + rounded(added, ("embed",), dtype)
        x = (patches_PNF.astype(jnp.float32) - _CENTRE).astype(dtype)
        kernel_FD = kernel_CFD.reshape(-1, c.embed_dim)
        out = product(x, kernel_FD, (None, "embed"), 1, jnp.float32)
        return out + sharding.constrain(bias, ("embed",), sharding.GATHERED)[None, None]


class Block(nn.Module):
    """One layer: attention among patches with the same number, then the MLP."""

    config: VisionConfig
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x_PND: Array, rope: tuple[Array, Array], number_PN: Array, attend: Callable = attend
    ) -> Array:
        c = self.config
        P, N, D = x_PND.shape
        scale = 1.0 / (2 * c.num_layers)  # of variance; the residual stream keeps its size
        heads = (3, c.num_heads, D // c.num_heads)

        def norm(name):
            return Norm("embed", c.norm_eps, self.dtype, is_centred=c.norm == "layer", name=name)

        def linear(y, name, axes, *features, scale=1.0):
            return Linear(axes, features, init(scale), True, name=name)(y)

        h = norm("attention_norm")(x_PND).reshape(P * N, D)
        axes = ("embed", None, "heads", "head_dim")
        q, k, v = jnp.moveaxis(linear(h, "qkv", axes, *heads).reshape(P, 1, N, *heads), 3, 0)
        rope = (rope[0][:, None], rope[1][:, None])
        q, k = rotate(q, rope), rotate(k, rope)
        k, v = (y.transpose(0, 3, 1, 2, 4) for y in (k, v))
        number_P1N = number_PN[:, None]
        out = attend(
            q,
            number_P1N,
            [Segment(k, v, number_P1N)],
            scale=heads[-1] ** -0.5,
            window=jnp.int32(1),
        )
        out = out.reshape(P * N, *heads[1:])
        out = linear(out, "o", ("heads", "head_dim", "embed"), D, scale=scale)
        x = x_PND + out.reshape(x_PND.shape)
        h = norm("mlp_norm")(x).reshape(P * N, D)
        up, activation = linear(h, "up", ("embed", "mlp"), c.mlp_dim), ACTIVATIONS[c.activation]
        if c.is_gated:
            h = activation(linear(h, "gate", ("embed", "mlp"), c.mlp_dim)) * up
        else:
            h = activation(up)
        return x + linear(h, "down", ("mlp", "embed"), D, scale=scale).reshape(x.shape)


class Merger(nn.Module):
    """Makes one embedding of the decoder of each cell."""

    config: VisionConfig
    features: int  # D of the decoder
    norms_cells: bool  # the norm takes whole cells; else single patches
    dtype: Any = None

    @nn.compact
    def __call__(self, x_PND: Array) -> Array:
        c, (P, N, D) = self.config, x_PND.shape
        size = c.merge**2 * D
        norm = Norm("embed", c.norm_eps, self.dtype, is_centred=c.norm == "layer", name="norm")
        x = x_PND.reshape(P, -1, size)
        x = norm(x) if self.norms_cells else norm(x_PND).reshape(x.shape)
        x = x.reshape(-1, size)
        x = Linear(("embed", "mlp"), (size,), init(1.0), True, name="fc1")(x)
        x = nn.gelu(x, approximate=False)
        x = Linear(("mlp", "embed"), (self.features,), init(1.0), True, name="fc2")(x)
        return x.reshape(P, N // c.merge**2, -1)


def boxed_params(key: Array, config: VisionConfig, features: int) -> Params:
    """Makes the parameters of a tower with their logical axes; `features` is the decoder's D."""
    c = config
    patches, positions, layers, merger, deep = jax.random.split(key, 5)
    x, number = jnp.zeros((1, c.merge**2, c.embed_dim)), jnp.zeros((1, c.merge**2), jnp.int32)
    head_dim = c.embed_dim // c.num_heads
    rope = (jnp.zeros((1, c.merge**2, head_dim // 2)),) * 2
    raw = jnp.zeros((1, 1, 3 * c.patch**2), jnp.uint8)

    def stacked(make, key, n):
        tree = jax.vmap(make)(jax.random.split(key, n))
        return jax.tree.map(
            lambda box: box.replace(names=("layers", *box.names)),
            tree,
            is_leaf=lambda x: isinstance(x, nn.Partitioned),
        )

    def block(key):
        return Block(c).init(key, x, rope, number)["params"]

    def last(key, norms_cells):
        return Merger(c, features, norms_cells).init(key, x)["params"]

    params: Params = {
        "patches": Patches(c).init(patches, raw)["params"],
        "layers": stacked(block, layers, c.num_layers),
        "merger": last(merger, False),
    }
    if c.position_table:
        table = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
        params["positions"] = table(positions, (c.position_table**2, c.embed_dim))
    if c.deepstack:
        make = functools.partial(last, norms_cells=True)
        params["deepstack"] = stacked(make, deep, len(c.deepstack))
    return params


def encode(
    params: Params,
    config: VisionConfig,
    features: int,
    images: Images,
    *,
    remat: bool | None = None,
    dtype: Any = None,
    attend: Callable = attend,
) -> Features:
    """Runs the tower on the pictures of prompts.

    Args:
      params: the subtree "vision".
      config: of the tower.
      features: D of the decoder.
      images: of P prompts.
      remat: recompute each layer in the backward pass; None if there is no backward pass.
      dtype: to compute in; None means the dtype of the parameters.
      attend: `attention.attend`, or an equal for some device.

    Returns:
      The embeddings f32 or `dtype` [P, M, D]; their places are in prompt streams [P, 1, S].
    """
    c = config
    x: Any = Patches(c, dtype).apply({"params": params["patches"]}, images.patches)
    if c.position_table:
        table = params["positions"]
        x += _learned(rounded(table, (None, "embed"), dtype or table.dtype), c, images)
    x = sharding.constrain(x, ("batch", None, None))
    half = c.embed_dim // c.num_heads // 2
    frequencies = _THETA ** (-jnp.arange(0, half, 2, dtype=jnp.float32) / half)
    angles = images.place[..., None].astype(jnp.float32) * frequencies.reshape(1, 1, 1, -1)
    angles = angles.reshape(*images.picture.shape, -1)
    rope = cosine_and_sine(angles)
    whole = jnp.where(images.picture < 0, ABSENT, images.picture)
    windows = _windows(c, images, whole)
    is_full_L = jnp.asarray([not c.window or i in c.full_layers for i in range(c.num_layers)])

    def body(x, layer):
        weights, is_full = layer
        number = jnp.where(is_full, whole, windows)
        out: Any = Block(c, dtype).apply({"params": weights}, x, rope, number, attend=attend)
        return sharding.constrain(out, ("batch", None, None)), None

    borders, deep = [0, *(i + 1 for i in c.deepstack), c.num_layers], []
    for n, (start, end) in enumerate(itertools.pairwise(borders)):
        part = jax.tree.map(lambda y: y[start:end], (params["layers"], is_full_L))  # noqa: B023
        x, _ = through(body, x, part, remat)
        if n < len(c.deepstack):
            weights = jax.tree.map(lambda y: y[n], params["deepstack"])  # noqa: B023
            deep.append(Merger(c, features, True, dtype).apply({"params": weights}, x))
    embeddings: Any = Merger(c, features, False, dtype).apply({"params": params["merger"]}, x)
    return Features(images.cell[:, None], embeddings, jnp.stack(deep) if deep else None)


def _windows(c: VisionConfig, images: Images, whole_PN: Array) -> Array:
    """i32[P, N], the number of each patch's window; windows lie from the top left corner on."""
    if not c.window:
        return whole_PN
    row, column = jnp.moveaxis(images.place // c.window, -1, 0)
    # A picture has less than 1,024 windows a side, as its sides differ by a factor of 200 at most.
    number = (images.picture << 20) + (row << 10) + column
    return jnp.where(images.picture < 0, ABSENT, number)


def _learned(table: Array, c: VisionConfig, images: Images) -> Array:
    """f32[P, N, D], the table of positions stretched over each picture, bilinear, edge to edge."""
    side = c.position_table
    most = jnp.maximum(images.size - 1, 1).astype(jnp.float32)
    at = images.place.astype(jnp.float32) * (side - 1) / most  # [P, N, 2]
    low = jnp.floor(at).astype(jnp.int32)
    high, share = jnp.minimum(low + 1, side - 1), at - low
    out: Any = 0.0
    for rows, columns in itertools.product((0, 1), (0, 1)):
        row, weight = (high[..., 0], share[..., 0]) if rows else (low[..., 0], 1 - share[..., 0])
        column, other = (
            (high[..., 1], share[..., 1]) if columns else (low[..., 1], 1 - share[..., 1])
        )
        out += (weight * other)[..., None] * table[row * side + column]
    return out
