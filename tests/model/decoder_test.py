import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mapo_jax import model, sampling, sharding, training
from tests import small

LLAMA = model.ModelConfig(
    vocab_size=40,
    num_layers=2,
    embed_dim=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=24,
    norm_eps=1e-5,
)
CONFIGS = {
    "llama_tied": LLAMA,
    "llama_untied": dataclasses.replace(LLAMA, tie_embeddings=False, num_kv_heads=4),
    "qwen2": dataclasses.replace(LLAMA, qkv_bias=True, rope_theta=1e6),
    "qwen3": dataclasses.replace(LLAMA, qk_norm=True, head_dim=8, tie_embeddings=False),
}
GEMMA = dataclasses.replace(
    LLAMA,
    activation="gelu_tanh",
    post_norms=True,
    norm_offset=True,
    scale_embeddings=True,
    query_scale=9.0,
)
FAMILIES = CONFIGS | {
    "llama3": dataclasses.replace(
        LLAMA, head_dim=8, rope_scaling=model.RopeScaling(8.0, 0.05, 0.4, 40)
    ),
    "mistral": dataclasses.replace(LLAMA, windows=(3, 3)),
    "gemma2": dataclasses.replace(GEMMA, windows=(2, 0), attention_softcap=1.5, logits_softcap=3.0),
    "gemma3": dataclasses.replace(
        GEMMA,
        windows=(2, 0),
        qk_norm=True,
        local_rope_theta=100.0,
        rope_scaling=model.RopeScaling(4.0),
    ),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
apply = jax.jit(model.apply, static_argnums=1)
init_params = jax.jit(model.init_params, static_argnums=1)


def decoder(params, c, tokens, rope=None, shown=None, deep=()):
    """Logits [T, V] of one row, in float64 NumPy: the papers' formulas, one head at a time.

    Pictures give each token three RoPE positions [T, 3], embeddings {index: [D]} that are shown in
    place of tokens, and the same for the first layers, after which they are added.
    """
    rope = np.arange(len(tokens)) if rope is None else rope
    turned = rope[:, None] if rope.ndim == 1 else rope[:, mrope_axes(c)]
    params = jax.tree.map(lambda x: np.asarray(x, float), params)

    def norm(x, scale):
        scale = scale["scale"] + c.norm_offset
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * scale

    def slow(speed):  # arXiv 2407.21783 and its released code, one frequency at a time
        r = c.rope_scaling
        wavelength = 2 * np.pi / speed
        if not r.original_length or wavelength > r.original_length / r.low_freq_factor:
            return speed / r.factor
        if wavelength < r.original_length / r.high_freq_factor:
            return speed
        smooth = (r.original_length / wavelength - r.low_freq_factor) / (
            r.high_freq_factor - r.low_freq_factor
        )
        return (1 - smooth) * speed / r.factor + smooth * speed

    def turn(x, window):  # [T, H]
        half = c.head_dim // 2
        is_local = window and c.local_rope_theta
        theta = c.local_rope_theta if is_local else c.rope_theta
        speeds = theta ** (-np.arange(half) / half)
        if c.rope_scaling and not is_local:
            speeds = np.array([slow(speed) for speed in speeds])
        angle = turned * speeds
        z = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], -1)

    def head(x, w, n, norm_scale, window):
        y = x @ w["kernel"][:, n] + (w["bias"][n] if c.qkv_bias else 0)
        return turn(norm(y, norm_scale) if c.qk_norm else y, window)

    def capped(x, cap):
        return cap * np.tanh(x / cap) if cap else x

    def gated(x):
        if c.activation == "silu":
            return x / (1 + np.exp(-x))
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    ends = params["ends"]
    x = ends["embedding"][tokens] * (c.embed_dim**0.5 if c.scale_embeddings else 1)
    for index, embedding in (shown or {}).items():
        x[index] = embedding
    for i in range(c.num_layers):
        window = c.windows[i] if c.windows else 0
        w = jax.tree.map(lambda a: a[i], params["layers"])  # noqa: B023
        h, out = norm(x, w["attention_norm"]), 0
        for n in range(c.num_heads):
            m = n // (c.num_heads // c.num_kv_heads)
            q = head(h, w["q"], n, w["q_norm"] if c.qk_norm else None, window)
            k = head(h, w["k"], m, w["k_norm"] if c.qk_norm else None, window)
            v = h @ w["v"]["kernel"][:, m] + (w["v"]["bias"][m] if c.qkv_bias else 0)
            scores = capped(q @ k.T / np.sqrt(c.query_scale or c.head_dim), c.attention_softcap)
            scores[np.triu_indices(len(x), 1)] = -np.inf
            if window:
                scores[np.tril_indices(len(x), -window)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out += weights / weights.sum(-1, keepdims=True) @ v @ w["o"]["kernel"][n]
        x = x + (norm(out, w["attention_post_norm"]) if c.post_norms else out)
        h = norm(x, w["mlp_norm"])
        out = (gated(h @ w["gate"]["kernel"]) * (h @ w["up"]["kernel"])) @ w["down"]["kernel"]
        x = x + (norm(out, w["mlp_post_norm"]) if c.post_norms else out)
        for index, embedding in (deep[i] if i < len(deep) else {}).items():
            x[index] += embedding
    logits = norm(x, ends["norm"]) @ (ends["embedding"].T if c.tie_embeddings else ends["head"])
    return capped(logits, c.logits_softcap)


def mrope_axes(c):
    """The position of each pair: in blocks, or t h w t h w ... while there are some left."""
    if not c.rope_interleaved:
        return [axis for axis, n in enumerate(c.rope_sections) for _ in range(n)]
    left, axes = list(c.rope_sections), []
    for pair in range(c.head_dim // 2):
        axis = pair % 3 if left[pair % 3] else 0
        left[axis] -= 1
        axes.append(axis)
    return axes


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_apply_equals_the_formulas(config):
    params, tokens = small.params(config), small.rollouts().tokens[0]
    logits = apply(params, config, tokens)
    assert logits.dtype == jnp.float32
    expected = np.stack([decoder(params, config, row) for row in tokens])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["gemma3", *small.slow(["llama_tied"], ["qwen2"], ["qwen3"], ["gemma2"])]
)
def test_shared_prefix_equals_plain_forward(name):
    """The prompt is computed once per group; logits and gradients are those of every whole row."""
    config, rollouts = FAMILIES[name], small.rollouts(P=4, G=3)
    weights = np.random.default_rng(1).normal(size=rollouts.trained.shape) * rollouts.trained

    def shared(params):
        logps = training.score(params, config, rollouts, training.ScoringConfig())[0]
        return (logps * weights).sum(), logps

    def plain(params):
        logps = jnp.where(rollouts.trained, small.plain_logps(params, config, rollouts), 0)
        return (logps * weights).sum(), logps

    (gradient, logps), (plain_gradient, plain_logps) = (
        jax.jit(jax.grad(f, has_aux=True))(small.params(config)) for f in (shared, plain)
    )
    np.testing.assert_allclose(logps, plain_logps, atol=2e-5)
    small.assert_trees_close(gradient, plain_gradient, 1e-5)


@pytest.mark.parametrize("config", [CONFIGS["llama_untied"], CONFIGS["qwen3"]], ids=str)
def test_no_token_sees_a_later_one(config):
    T = 6
    tokens = np.arange(T, dtype=np.int32)[None]  # all distinct: an input is its embedding's row

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def gradient(params, output_at):
        return jax.grad(lambda p: (model.apply(p, config, tokens)[0, :, 7] * output_at).sum())(
            params
        )["ends"]["embedding"][:T]

    reach = np.abs(gradient(small.params(config), jnp.eye(T))).max(-1)  # [output, input]
    assert (reach[np.triu_indices(T, 1)] == 0).all()
    assert (reach[np.tril_indices(T)] > 1e-6).all()


def test_parameter_tree_is_pinned():
    """Checkpoints and the pretrained loaders rely on these names and shapes."""
    config = dataclasses.replace(CONFIGS["qwen3"], qkv_bias=True)
    shapes = model.abstract_params(config)
    assert {
        jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves(shapes)
    } == {
        "ends/embedding": (40, 16),
        "ends/head": (16, 40),
        "ends/norm/scale": (16,),
        "layers/attention_norm/scale": (2, 16),
        "layers/down/kernel": (2, 24, 16),
        "layers/gate/kernel": (2, 16, 24),
        "layers/k/bias": (2, 2, 8),
        "layers/k/kernel": (2, 16, 2, 8),
        "layers/k_norm/scale": (2, 8),
        "layers/mlp_norm/scale": (2, 16),
        "layers/o/kernel": (2, 4, 8, 16),
        "layers/q/bias": (2, 4, 8),
        "layers/q/kernel": (2, 16, 4, 8),
        "layers/q_norm/scale": (2, 8),
        "layers/up/kernel": (2, 16, 24),
        "layers/v/bias": (2, 2, 8),
        "layers/v/kernel": (2, 16, 2, 8),
    }
    assert {x.dtype for _, x in leaves(shapes)} == {np.dtype("float32")}
    plain = model.abstract_params(LLAMA)
    extra = {".k.bias", ".q.bias", ".v.bias", ".q_norm.scale", ".k_norm.scale"}
    assert len(leaves(plain)) == len(leaves(shapes)) - len(extra) - 1  # and the head


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@every_config
def test_logical_axes_name_every_dimension(config):
    axes = model.logical_axes(config)
    shapes = model.abstract_params(config)
    sizes = {
        "layers": config.num_layers,
        "embed": config.embed_dim,
        "vocab": config.vocab_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "mlp": config.mlp_dim,
    }
    assert sizes.keys() <= sharding.RULES.keys()
    is_names = lambda x: isinstance(x, tuple)  # noqa: E731
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(shapes)
    for names, x in zip(
        jax.tree.leaves(axes, is_leaf=is_names), jax.tree.leaves(shapes), strict=True
    ):
        assert tuple(sizes[name] for name in names) == x.shape


@pytest.mark.parametrize(
    "name", ["qwen3", *small.slow(["llama_tied"], ["llama_untied"], ["qwen2"])]
)
def test_fresh_parameters_train(name):
    config = CONFIGS[name]
    params = init_params(jax.random.key(0), config)
    tokens = small.rollouts(P=2, G=1, T=8).tokens[:, 0]
    tx = optax.adam(1e-2)

    def loss(params):
        logits = model.apply(params, config, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    @jax.jit
    def step(params, opt_state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, value, gradient

    opt_state, values = tx.init(params), []
    for i in range(30):
        params, opt_state, value, gradient = step(params, opt_state)
        values.append(float(value))
        if i == 0:
            for path, x in leaves(gradient):
                parts = x if path[0].key == "layers" else x[None]  # each layer's
                assert (np.abs(parts).max(axis=tuple(range(1, parts.ndim))) > 0).all(), path
    assert abs(values[0] - np.log(config.vocab_size)) < 0.2  # nearly uniform at first
    assert values[-1] < 0.3 * values[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", *small.nightly(["gemma2"])])
def test_decoding_sees_through_the_same_windows(name):
    """The sampler's log-probs, by its ring cache, are those of a plain pass."""
    config = FAMILIES[name]
    params, prompts = small.params(config), small.rollouts(P=4, G=2).prompts
    settings = sampling.SamplingConfig(group_size=2, max_new_tokens=7, lanes=2)
    rollouts = sampling.sample(
        params,
        config,
        prompts,
        jax.random.key(1),
        settings,
        max_new_tokens_PG=np.array([[3, 7], [7, 1], [5, 2], [7, 7]]),
    )
    logps = jnp.where(rollouts.trained, small.plain_logps(params, config, rollouts), 0)
    np.testing.assert_allclose(rollouts.logps, logps, atol=2e-5)


LORA = dataclasses.replace(
    CONFIGS["qwen2"], lora_rank=2, lora_alpha=3.0, lora_targets=model.LORA_TARGETS
)


@pytest.mark.slow
def test_fresh_adapters_change_nothing():
    params = init_params(jax.random.key(0), LORA)
    trained, frozen = model.partition(params)
    assert {*trained["layers"]} == {f"{name}_lora" for name in model.LORA_TARGETS}
    plain = init_params(jax.random.key(0), CONFIGS["qwen2"])
    jax.tree.map(np.testing.assert_array_equal, frozen, plain)
    joined = model.combine(trained, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    tokens = small.rollouts().tokens[0]
    np.testing.assert_array_equal(
        apply(params, LORA, tokens), apply(frozen, CONFIGS["qwen2"], tokens)
    )


def test_merged_adapters_compute_the_same():
    params, tokens = small.params(LORA), small.rollouts().tokens[0]
    merged, config = model.merge_adapters(params, LORA)
    assert config == CONFIGS["qwen2"]
    logits = apply(merged, config, tokens)
    np.testing.assert_allclose(logits, apply(params, LORA, tokens), atol=1e-4)
    without = apply(model.partition(params)[1], config, tokens)
    assert np.abs(logits - without).max() > 1
    same, config = model.merge_adapters(merged, config)  # nothing left to merge
    assert same is merged


def test_layers_and_keys_differ():
    a, b = (init_params(jax.random.key(k), CONFIGS["qwen2"]) for k in (0, 1))
    kernel = a["layers"]["gate"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])
    assert not np.array_equal(kernel, b["layers"]["gate"]["kernel"])
