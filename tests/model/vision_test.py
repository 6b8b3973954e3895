"""A tower and its decoder against formulas in NumPy, and against outputs of transformers."""

import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mapo_jax import model, pretrained, sampling
from mapo_jax.rollouts import Prompts, patch_rung
from tests import pictures, small
from tests.model.decoder_test import decoder

every_family = pytest.mark.parametrize("name", pictures.CONFIGS)


# ---- formulas ----


def tower(params, c, picture):
    """Embeddings [M, D] of one picture, and of its deep layers, in float64 NumPy."""
    params = jax.tree.map(lambda x: np.asarray(x, float), params)
    height, width, p, m = *picture.shape[:2], c.patch, c.merge
    mean, deviation = np.asarray(c.mean), np.asarray(c.deviation)
    cells = itertools.product(range(height // p // m), range(width // p // m))
    places = [
        (row * m + i, column * m + j)
        for row, column in cells
        for i, j in itertools.product(range(m), range(m))
    ]

    def norm(x, w):
        if c.norm == "rms":
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * w["scale"]
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * w["scale"] + w["bias"]

    def patch(row, column):
        pixels = picture[row * p : (row + 1) * p, column * p : (column + 1) * p] / 255
        colours = ((pixels - mean) / deviation).reshape(p * p, 3)
        out = np.einsum("xc,cfxd->d", colours, params["patches"]["kernel"])  # both frames
        return out + (params["patches"]["bias"] if c.patch_bias else 0)

    def learned(row, column):
        table = params["positions"].reshape(c.position_table, c.position_table, -1)
        at = [
            n * (c.position_table - 1) / max(size // p - 1, 1)
            for n, size in ((row, height), (column, width))
        ]
        tent = [np.maximum(0, 1 - np.abs(x - np.arange(c.position_table))) for x in at]
        return np.einsum("i,j,ijd->d", *tent, table)

    activations = {
        "silu": lambda x: x * scipy.special.expit(x),
        "quick_gelu": lambda x: x * scipy.special.expit(1.702 * x),
        "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    }
    half = c.embed_dim // c.num_heads // 2
    speeds = 10_000.0 ** (-np.arange(half // 2) / (half // 2))
    angles = np.asarray([[*(row * speeds), *(column * speeds)] for row, column in places])

    def turn(x):
        z = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
        return np.concatenate([z.real, z.imag], -1)

    def merged(x, w, norms_cells=False):
        x = x if norms_cells else norm(x, w["norm"])
        x = x.reshape(len(x) // m**2, -1)
        x = norm(x, w["norm"]) if norms_cells else x
        x = x @ w["fc1"]["kernel"] + w["fc1"]["bias"]
        x = x / 2 * (1 + scipy.special.erf(x / np.sqrt(2)))
        return x @ w["fc2"]["kernel"] + w["fc2"]["bias"]

    x, deep = np.asarray([patch(*place) for place in places]), []
    if c.position_table:
        x = x + np.asarray([learned(*place) for place in places])
    for i in range(c.num_layers):
        w = jax.tree.map(lambda a: a[i], params["layers"])  # noqa: B023
        groups = [
            (row // c.window, column // c.window) if c.window else 0 for row, column in places
        ]
        groups = [0] * len(places) if i in c.full_layers else groups
        h, out = norm(x, w["attention_norm"]), w["o"]["bias"]
        for n in range(c.num_heads):
            q, k, v = (h @ w["qkv"]["kernel"][:, j, n] + w["qkv"]["bias"][j, n] for j in range(3))
            scores = turn(q) @ turn(k).T / np.sqrt(2 * half)
            scores[[[a != b for b in groups] for a in groups]] = -np.inf
            out = out + scipy.special.softmax(scores, -1) @ v @ w["o"]["kernel"][n]
        x = x + out
        h = norm(x, w["mlp_norm"])
        up, *rest = (
            h @ w[name]["kernel"] + w[name]["bias"] for name in ("up", "gate") if name in w
        )
        activate = activations[c.activation]
        h = activate(rest[0]) * up if c.is_gated else activate(up)
        x = x + h @ w["down"]["kernel"] + w["down"]["bias"]
        if i in c.deepstack:
            w = jax.tree.map(lambda a: a[c.deepstack.index(i)], params["deepstack"])  # noqa: B023
            deep.append(merged(x, w, norms_cells=True))
    return merged(x, params["merger"]), deep


def positions(row):
    """RoPE positions (time, row, column) of a row of `pictures.ROWS`."""
    found, now = [], 0
    for part in row:
        if isinstance(part, int):
            found.append((now,) * 3)
            now += 1
        else:
            found += [(now, now + i, now + j) for i, j in np.ndindex(*part)]
            now += max(part)
    return np.asarray(found)


def expected_logits(row, config):
    """Logits of a row by the formulas."""
    params = small.params(config)
    tokens, shown = pictures.parts(row, config)
    at, deep_at = {}, [{} for _ in config.vision.deepstack]
    for picture, place in shown:
        embeddings, deep = tower(params["vision"], config.vision, picture)
        for into, found in zip([at, *deep_at], [embeddings, *deep], strict=True):
            into.update(enumerate(found, place))
    return decoder(params, config, np.asarray(tokens), positions(row), at, deep_at)


@every_family
def test_a_mixed_batch_equals_the_formulas(name):
    """Rows with one, two and no pictures, windows at edges, padding of tokens and patches."""
    found = pictures.logits(name)
    for row, logits in zip(pictures.ROWS, found, strict=True):
        expected = expected_logits(row, pictures.CONFIGS[name])
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(logits[: len(expected)], expected, rtol=1e-5, atol=5e-5)


@pytest.mark.slow
def test_apply_takes_pictures():
    config = pictures.CONFIG
    row = pictures.ROWS[2]
    tokens, shown = pictures.parts(row, config)
    found = model.apply(
        small.params(config), config, jnp.asarray([tokens]), [[x for x, _ in shown]]
    )
    np.testing.assert_allclose(found[0], expected_logits(row, config), rtol=1e-5, atol=5e-5)
    with pytest.raises(ValueError, match="13 image tokens, but pictures of 4 cells"):
        model.apply(small.params(config), config, jnp.asarray([tokens]), [[shown[0][0]]])


def test_positions():
    made = pictures.prompts()
    start = model.response_starts(made)
    for row, rope, begins in zip(pictures.ROWS, made.rope, start.rope, strict=True):
        expected = positions(row)
        np.testing.assert_array_equal(rope[: len(expected)], expected)
        assert begins == expected.max()


def test_text_alone_is_the_program_of_text():
    """Rows without pictures have the same logits beside pictures and alone, to the last bit."""
    config = pictures.CONFIGS["qwen2_vl"]
    plain = small.replace(config, vision=None, rope_sections=())
    rows = [row for row in pictures.ROWS if all(isinstance(part, int) for part in row)]
    params = small.params(config)
    made = jax.tree.map(jnp.asarray, pictures.prompts(rows, config))
    assert made.images is None
    assert made.rope is None
    alone = pictures.apply(params, config, made)
    text = {name: params[name] for name in ("ends", "layers")}
    np.testing.assert_array_equal(alone, pictures.apply(text, plain, made))
    beside = [
        logits
        for row, logits in zip(pictures.ROWS, pictures.logits("qwen2_vl"), strict=True)
        if row in rows
    ]
    exists = np.arange(16) < np.asarray(made.lengths)[:, None]
    np.testing.assert_allclose(alone[exists], np.stack(beside)[exists], rtol=1e-5, atol=2e-5)


def test_rungs_of_patches():
    assert [patch_rung(n, merge=2) for n in (1, 4, 16, 17, 64, 65, 1296, 1409, 5184)] == [
        *(16, 16, 16, 32, 64, 80, 1536, 1536, 6144)
    ]
    assert [patch_rung(n, merge=3) for n in (9, 90, 1305)] == [36, 108, 1440]  # whole cells


# ---- transformers ----


def rows_of(oracle, c):
    """Yields tokens, pictures with their places, and the prefix of the names of each row."""
    for r in range(4):
        tokens = oracle[f"r{r}_ids"]
        shown = [oracle[name] for j in range(9) if (name := f"r{r}_image_{j}") in oracle.files]
        places, free = [], np.flatnonzero(tokens == c.image_token).tolist()
        for picture in shown:
            places.append(free[0])
            free = free[picture.shape[0] * picture.shape[1] // c.vision.factor**2 :]
        yield tokens, list(zip(shown, places, strict=True)), f"r{r}_"


@every_family
def test_it_equals_transformers(name):
    """Embeddings, positions, log-probs, greedy tokens and gradients of a padded batch."""
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with oracles/vl/)")
    folder = Path(os.environ["MAPO_JAX_DATA"]) / "oracles" / "vl" / name
    oracle = np.load(folder / "oracle.npz")
    c, params, _ = pretrained.load(folder)
    rows = [*rows_of(oracle, c)]
    made = jax.tree.map(jnp.asarray, pictures.pad([row[:2] for row in rows], c, S=48))
    features = model.encode_images(params, c, made)
    for i, (tokens, shown, prefix) in enumerate(rows):
        n = len(tokens)
        np.testing.assert_array_equal(made.rope[i, :n].T, oracle[f"{prefix}pos"].reshape(3, n))
        delta = int(oracle[f"{prefix}delta"].reshape(()))
        assert model.response_starts(made).rope[i] == n - 1 + delta
        cells = sum(x.shape[0] * x.shape[1] for x, _ in shown) // c.vision.factor**2
        if cells:
            expected = oracle[f"{prefix}embeds"]
            np.testing.assert_allclose(features.embeddings[i, :cells], expected, atol=2e-5)
        for j in range(len(c.vision.deepstack) if cells else 0):
            expected = oracle[f"{prefix}deep_{j}"]
            np.testing.assert_allclose(features.deep[j, i, :cells], expected, atol=2e-5)

    settings = sampling.SamplingConfig(1, 8, temperature=0.0)
    greedy = sampling.sample(params, c, made, jax.random.key(0), settings).tokens[:, 0]
    np.testing.assert_array_equal(greedy, [oracle[f"{prefix}greedy"] for *_, prefix in rows])

    @jax.jit
    def logps(params):
        logits = pictures.apply(params, c, made)
        found = jax.nn.log_softmax(logits)[:, :-1]
        return logits, jnp.take_along_axis(found, made.tokens[:, 1:, None], 2)[..., 0]

    def loss(params):
        """The mean over rows of the mean over their tokens."""
        exists = jnp.arange(47)[None] < made.lengths[:, None] - 1
        return -(jnp.where(exists, logps(params)[1], 0).sum(1) / (made.lengths - 1)).mean()

    for (tokens, _, prefix), logits, found in zip(rows, *logps(params), strict=True):
        n = len(tokens)
        np.testing.assert_allclose(logits[:n], oracle[f"{prefix}logits"], atol=1e-4)
        np.testing.assert_allclose(found[: n - 1], oracle[f"{prefix}logps"], atol=1e-4)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, oracle["loss"], rtol=1e-5)
    found = dict(pretrained.weights.tensors(c, gradient))
    listed = {n.removeprefix("grad_"): oracle[n] for n in oracle.files if n.startswith("grad_")}
    small.assert_trees_close({n: found[n] for n in listed}, listed, 1e-4)


def test_a_policy_without_a_tower_takes_no_pictures():
    made = pictures.prompts()
    with pytest.raises(ValueError, match="has no tower"):
        model.encode_images({}, small.CONFIG, made)
    assert model.encode_images({}, small.CONFIG, Prompts(made.tokens, made.lengths)) is None
    with pytest.raises(ValueError, match="has no tower"):
        model.apply({}, small.CONFIG, jnp.zeros((1, 4), jnp.int32), [[np.zeros((4, 4, 3))]])


@pytest.mark.slow
def test_a_tower_in_bfloat16_takes_weights_that_are_rounded_or_not():
    """The sampler's are, the scorer's are not; what they compute is the same to the last bit."""
    config = pictures.CONFIGS["qwen3_vl"]  # a bias of patches, and learned positions
    params = small.params(config)
    encode = jax.jit(
        lambda params, prompts, dtype: model.encode_images(params, config, prompts, dtype=dtype),
        static_argnums=2,
    )
    made = jax.tree.map(jnp.asarray, pictures.prompts(pictures.ROWS[:1], config=config))
    sampled = encode(model.cast(params, "bfloat16"), made, None)
    scored = encode(params, made, "bfloat16")
    jax.tree.map(np.testing.assert_array_equal, sampled, scored)


@pytest.mark.slow
def test_cells_of_three_patches_a_side():
    """The rungs of patches are whole cells."""
    config = pictures.CONFIG
    config = small.replace(config, vision=small.replace(config.vision, merge=3))
    params, rows = small.params(config), [[(2, 3), 5], [(1, 1), 6]]
    made = jax.tree.map(jnp.asarray, pictures.prompts(rows, config))
    found = model.encode_images(params, config, made).embeddings
    for row, embeddings in zip(rows, found, strict=True):
        ((picture, _),) = pictures.parts(row, config)[1]
        expected, _ = tower(params["vision"], config.vision, picture)
        np.testing.assert_allclose(embeddings[: len(expected)], expected, rtol=1e-5, atol=5e-5)
