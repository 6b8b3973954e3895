"""Tiny policies that read pictures, and prompts with and without them, for the device core."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mapo_jax import images, model
from mapo_jax.rollouts import Picture, Prompts, patch_rung, with_pictures
from tests import small

IMAGE = 39  # the image token; it may be sampled, and then it is a token like any other
TEXT = small.replace(
    small.CONFIG,
    head_dim=16,
    qk_norm=False,
    image_token=IMAGE,
    rope_sections=(2, 3, 3),
)
TOWER = model.VisionConfig(
    num_layers=3,
    embed_dim=16,
    num_heads=2,
    mlp_dim=24,
    patch=2,
    merge=2,
    mean=(0.4, 0.5, 0.6),
    deviation=(0.2, 0.3, 0.4),
)
CONFIGS = {
    "qwen2_vl": small.replace(TEXT, vision=small.replace(TOWER, activation="quick_gelu")),
    "qwen2_5_vl": small.replace(
        TEXT,
        vision=small.replace(
            TOWER, norm="rms", is_gated=True, activation="silu", window=4, full_layers=(1,)
        ),
    ),
    "qwen3_vl": small.replace(
        TEXT,
        qkv_bias=False,
        qk_norm=True,
        rope_interleaved=True,
        vision=small.replace(TOWER, patch_bias=True, position_table=5, deepstack=(0, 1)),
    ),
}
CONFIG = CONFIGS["qwen2_5_vl"]
# For each prompt the tokens of its text, with the sides in cells of a picture before some of them.
ROWS = [
    [(3, 2), 5, 6, 7],
    [4, 8, 9],
    [1, (1, 4), 2, (3, 3), 3],
    [5],
    [11, 12, (2, 2), 13, 14, 15],
    [(1, 1), 6],
    [7, 7, 7, 7, 7],
    [9, (5, 1), 10],
]


def parts(row, config, seed=0):
    """Returns the tokens of a row of `ROWS`, and its pictures u8[h, w, 3] with their places."""
    rng, tokens, pictures = np.random.default_rng((seed, len(row))), [], []
    for part in row:
        if isinstance(part, int):
            tokens.append(part)
            continue
        rows, columns = part
        pixels = rng.integers(0, 256, (rows * config.vision.factor, columns * config.vision.factor))
        pixels = pixels[..., None] * np.asarray([1, 0.7, 0.3])
        pictures.append((pixels.astype(np.uint8), len(tokens)))
        tokens += [IMAGE] * (rows * columns)
    return tokens, pictures


def prompts(rows=ROWS, config=CONFIG, S=16, N=None, seed=0):
    """Returns the rows as `Prompts` of NumPy arrays, with pictures if any row has some."""
    return pad([parts(row, config, seed) for row in rows], config, S, N)


def pad(found, config, S, N=None):
    """Returns `Prompts` of rows (tokens, [(picture, place)])."""
    c, lengths = config.vision, np.asarray([len(tokens) for tokens, _ in found], np.int32)
    tokens = np.full((len(found), S), 7, np.int32)  # what follows a prompt is junk
    for line, (row, _) in zip(tokens, found, strict=True):
        line[: len(row)] = row
    cut = [
        [
            Picture(images.patches(x, c.patch, c.merge), *(n // c.patch for n in x.shape[:2]), at)
            for x, at in pictures
        ]
        for _, pictures in found
    ]
    made = Prompts(tokens, lengths)
    if not any(cut):
        return made
    N = N or patch_rung(max(sum(len(x.patches) for x in row) for row in cut), c.merge)
    return with_pictures(made, cut, N, c.patch, c.merge)


def rollouts(G=4, T=6, seed=0, **options):
    """Random rollouts of these prompts; the image token stands in some responses."""
    made = small.rollouts(len(options.get("rows", ROWS)), G, 16, T, seed=seed)
    tokens = made.tokens.copy()
    tokens[:, :, 1::3] = IMAGE
    return small.replace(made, prompts=prompts(**options), tokens=tokens)


apply = jax.jit(
    lambda params, config, prompts: model.head(
        params,
        config,
        model.forward(
            params,
            config,
            *model.prompt_stream(prompts),
            features=model.encode_images(params, config, prompts),
        )[0][:, 0],
    ),
    static_argnums=1,
)


@functools.cache
def logits(name, **options):
    """Logits [P, S, V] of the prompts of a family."""
    config = CONFIGS[name]
    made = jax.tree.map(jnp.asarray, prompts(config=config, **options))
    return np.asarray(apply(small.params(config), config, made))
