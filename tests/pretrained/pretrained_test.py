"""Hugging Face folders in and out: the same numbers, the same bits, and every mistake by name."""

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub.utils import filter_repo_objects

from mapo_jax import errors, model, pretrained, sampling, sharding
from mapo_jax.pretrained import configs, weights
from mapo_jax.rollouts import Prompts
from mapo_jax.text import load_tokenizer
from tests import small

LLAMA = small.replace(small.CONFIG, qkv_bias=False, qk_norm=False, max_positions=64)
GEMMA = small.replace(
    LLAMA,
    tie_embeddings=True,
    activation="gelu_tanh",
    post_norms=True,
    norm_offset=True,
    scale_embeddings=True,
    query_scale=9.0,
)
LLAMA3 = model.RopeScaling(8.0, 1.0, 4.0, 32)
ARCHITECTURES = {
    "llama": LLAMA,
    "llama3": small.replace(LLAMA, tie_embeddings=True, rope_scaling=LLAMA3),
    "llama_linear": small.replace(LLAMA, rope_scaling=model.RopeScaling(4.0)),
    "mistral": small.replace(LLAMA, windows=(3, 3)),
    "qwen2": small.replace(LLAMA, qkv_bias=True, rope_theta=1e6),
    "qwen2_windows": small.replace(LLAMA, qkv_bias=True, windows=(0, 5)),
    "qwen3": small.replace(LLAMA, qk_norm=True, norm_eps=1e-5),
    "gemma2": small.replace(GEMMA, windows=(4, 0), attention_softcap=50.0, logits_softcap=30.0),
    "gemma3_text": small.replace(
        GEMMA,
        windows=(4, 0),
        qk_norm=True,
        local_rope_theta=1e4,
        rope_theta=1e6,
        rope_scaling=model.RopeScaling(8.0),
    ),
}
every_architecture = pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
apply = jax.jit(model.apply, static_argnums=1)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def saved(tmp_path):
    """Saves a small policy and returns (folder, its fields of config.json, its tensors)."""

    def save(config=LLAMA, name="folder"):
        pretrained.save(tmp_path / name, config, small.params(config), None)
        fields = json.loads((tmp_path / name / "config.json").read_text())
        tensors = safetensors.numpy.load_file(tmp_path / name / "model.safetensors")
        return tmp_path / name, fields, tensors

    return save


def rewrite(folder, tensors):
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


@every_architecture
def test_a_policy_comes_back_bit_for_bit(config, tmp_path):
    pretrained.save(tmp_path / "a", config, small.params(config), None)
    read, params, tokenizer = pretrained.load(str(tmp_path / "a"))
    assert (read, tokenizer) == (config, None)
    equal(params, small.params(config))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))


def test_names_and_shapes_are_those_of_transformers(saved):
    _, fields, tensors = saved(ARCHITECTURES["qwen3"])
    assert fields["architectures"] == ["Qwen3ForCausalLM"]
    layers = {n.removeprefix("model.layers.1."): x.shape for n, x in tensors.items() if ".1." in n}
    assert layers == {
        "input_layernorm.weight": (16,),
        "post_attention_layernorm.weight": (16,),
        "self_attn.q_proj.weight": (32, 16),
        "self_attn.k_proj.weight": (16, 16),
        "self_attn.v_proj.weight": (16, 16),
        "self_attn.o_proj.weight": (16, 32),
        "self_attn.q_norm.weight": (8,),
        "self_attn.k_norm.weight": (8,),
        "mlp.gate_proj.weight": (24, 16),
        "mlp.up_proj.weight": (24, 16),
        "mlp.down_proj.weight": (16, 24),
    }
    assert {*tensors} - {f"model.layers.{i}.{name}" for i in (0, 1) for name in layers} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    }
    _, _, tensors = saved(ARCHITECTURES["gemma2"], "gemma")
    assert "model.layers.0.pre_feedforward_layernorm.weight" in tensors
    assert "model.layers.0.post_feedforward_layernorm.weight" in tensors
    assert "lm_head.weight" not in tensors


def test_a_matrix_is_transposed_and_its_heads_lie_one_after_the_other(saved):
    _, _, tensors = saved()
    layer = jax.tree.map(lambda x: x[1], small.params(LLAMA)["layers"])
    q = tensors["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(q[8 * 2 + 3], layer["q"]["kernel"][:, 2, 3])
    o = tensors["model.layers.1.self_attn.o_proj.weight"]
    np.testing.assert_array_equal(o[:, 8 * 2 + 3], layer["o"]["kernel"][2, 3])
    np.testing.assert_array_equal(
        tensors["model.layers.1.mlp.up_proj.weight"], layer["up"]["kernel"].T
    )


@pytest.mark.parametrize("name", ["qwen2", "gemma3_text"])
def test_each_device_reads_its_part_of_the_files(name, saved, monkeypatch):
    config = small.replace(ARCHITECTURES[name], num_kv_heads=2)
    folder, _, _ = saved(config)
    read = []
    monkeypatch.setattr(
        weights,
        "_read",
        lambda f, a, i, d, old=weights._read: read.append(old(f, a, i, d)) or read[-1],
    )
    params = pretrained.load_params(folder, config, mesh=sharding.make_mesh(2, 2, 2))
    equal(params, small.params(config))
    expected = sharding.shardings(sharding.make_mesh(2, 2, 2), model.logical_axes(config))
    for x, where in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert x.sharding.is_equivalent_to(where, x.ndim)
    kernel = small.params(config)["layers"]["gate"]["kernel"]
    assert kernel.size // 4 in {x.size for x in read}
    assert kernel.size not in {x.size for x in read}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_read(dtype, saved):
    folder, _, tensors = saved()
    stored = {name: x.astype(jnp.dtype(dtype)) for name, x in tensors.items()}
    rewrite(folder, stored)
    for wanted in ("float32", "bfloat16"):
        _, params, _ = pretrained.load(folder, wanted)
        up = stored["model.layers.0.mlp.up_proj.weight"].astype(jnp.dtype(wanted))
        np.testing.assert_array_equal(params["layers"]["up"]["kernel"][0], up.T)
        assert {x.dtype.name for x in jax.tree.leaves(params)} == {wanted}


def test_bfloat16_keeps_its_bits(saved, tmp_path):
    folder, _, tensors = saved()
    stored = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
    rewrite(folder, stored)
    config, params, _ = pretrained.load(folder, "bfloat16")
    pretrained.save(tmp_path / "again", config, params, None)
    again = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    assert {*again} == {*stored}
    for name, x in stored.items():
        assert again[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(again[name].view(np.uint16), x.view(np.uint16))
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_large_policies_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_SHARD_BYTES", 5000)
    pretrained.save(tmp_path / "a", LLAMA, small.params(LLAMA), None)
    files = sorted(path.name for path in (tmp_path / "a").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "a" / "model.safetensors.index.json").read_text())
    assert {*index["weight_map"].values()} == {*files}
    equal(pretrained.load(tmp_path / "a")[1], small.params(LLAMA))
    monkeypatch.undo()
    other = small.params(LLAMA, 1)
    pretrained.save(tmp_path / "b", LLAMA, other, None)
    whole = (tmp_path / "b" / "model.safetensors").rename(tmp_path / "a" / "model.safetensors")
    equal(pretrained.load(tmp_path / "a")[1], other)  # as transformers does
    whole.unlink()
    (tmp_path / "a" / files[1]).unlink()
    with pytest.raises(errors.UserError, match=rf"1 of {len(files)} files .* missing.*{files[1]}"):
        pretrained.load(tmp_path / "a")


def test_a_tied_head_may_be_stored_all_the_same(saved):
    folder, _, tensors = saved(GEMMA)
    rewrite(folder, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
    equal(pretrained.load(folder)[1], small.params(GEMMA))
    for head in (tensors["model.embed_tokens.weight"][::-1].copy(), np.zeros((39, 16), np.float32)):
        rewrite(folder, tensors | {"lm_head.weight": head})
        with pytest.raises(errors.UserError, match=r"lm_head\.weight differs from the embedding"):
            pretrained.load(folder)


LINEAR = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({"rope_scaling": LINEAR | {"rope_theta": 3e5}}, 3e5, model.RopeScaling(2.0)),
        ({"rope_scaling": LINEAR, "rope_theta": 5e5}, 5e5, model.RopeScaling(2.0)),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 5e5}}, 5e5, 2.0),
        ({"rope_scaling": {}}, 5e5, None),
        ({"rope_scaling": None}, 5e5, None),
        ({"rope_scaling": LINEAR}, "put rope_theta into rope_scaling", None),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5}},
            "rope_scaling of type yarn is not supported",
            None,
        ),
        (
            {"rope_scaling": {"type": "yarn", "rope_type": "default", "rope_theta": 5e5}},
            "rope_scaling of type default/yarn is not supported",
            None,
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported", None),
    ],
)
def test_two_entries_for_rope(fields, theta, scaling):
    """As in transformers 5, rope_scaling replaces rope_parameters; nothing is dropped unsaid."""
    mistakes = []
    given = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    config = configs.from_fields(BASE | {"model_type": "llama"} | given | fields, mistakes)
    if isinstance(theta, str):
        assert len(mistakes) == 1
        assert theta in mistakes[0]
        return
    assert not mistakes
    scaling = model.RopeScaling(scaling) if isinstance(scaling, float) else scaling
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


def test_a_second_entry_for_rope_goes_to_full_attention():
    parts = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
    }
    fields = {"rope_parameters": parts, "rope_scaling": LINEAR, "num_attention_heads": 8}
    mistakes = []
    config = configs.from_fields(BASE | {"model_type": "gemma3_text"} | fields, mistakes)
    assert not mistakes
    assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e3)
    assert config.rope_scaling == model.RopeScaling(2.0)


ODD = [None, "x", [], {}, [[]], 2.5, -1, 0, True, False, float("inf"), float("nan")]
FIELDS = [
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "rope_theta"),
    *("rope_scaling", "rope_parameters", "rope_local_base_freq", "sliding_window", "layer_types"),
    *("max_window_layers", "sliding_window_pattern", "hidden_act", "hidden_activation"),
    *("tie_word_embeddings", "attn_logit_softcapping", "query_pre_attn_scalar", "text_config"),
    *("model_type", "architectures", "attention_bias", "use_sliding_window", "quantization_config"),
]


@pytest.mark.parametrize("kind", configs.FAMILIES)
def test_no_field_of_another_type_is_a_traceback(kind):
    base = {**BASE, "model_type": kind, "num_attention_heads": 8, "use_sliding_window": True}
    nested: dict = {"rope_type": "llama3"}
    nested |= dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor"), 2.0)
    nested |= {"original_max_position_embeddings": 8}
    cases = [base | {name: value} for name in FIELDS for value in ODD]
    for odd in ODD:
        cases += [base | {"rope_scaling": nested | {k: odd}} for k in [*nested, "rope_theta"]]
        parts = {"full_attention": odd, "sliding_attention": odd}
        cases.append(base | {"rope_parameters": parts})
    for fields in cases:
        mistakes = []
        config = configs.from_fields(fields, mistakes)
        assert config is not None or mistakes
        if not mistakes:
            hash(config)
            assert 0 < config.rope_theta < float("inf")


def test_the_text_part_of_a_gemma_3_with_pictures(saved):
    config = ARCHITECTURES["gemma3_text"]
    folder, fields, tensors = saved(config)
    inner = {k: v for k, v in fields.items() if k != "architectures"}
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}
    (folder / "config.json").write_text(json.dumps(outer | {"text_config": inner}))
    for prefix in ("language_model.model.", "model.language_model."):
        named = {prefix + name.removeprefix("model."): x for name, x in tensors.items()}
        rewrite(folder, named | {"vision_tower.a": np.zeros(2, np.float32)})
        read, params, _ = pretrained.load(folder)
        assert read == config
        equal(params, small.params(config))


# ---- config.json ----

BASE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# The fields that transformers 5 and transformers 4 write for the same config.
STYLES = {
    "llama": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "num_key_value_heads": 2},
        {"rope_theta": 5e5, "rope_scaling": None, "num_key_value_heads": 2},
        {"rope_theta": 5e5, "num_kv_heads": 2, "head_dim": 4},
    ),
    "llama3": (
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        {
            "rope_scaling": {
                "type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        {"rope_scaling": LLAMA3, "num_kv_heads": 4, "head_dim": 4},
    ),
    "mistral": (
        {"sliding_window": 5, "head_dim": 8},
        {"sliding_window": 5, "head_dim": 8, "rope_theta": 1e4},
        {"windows": (5, 5), "num_kv_heads": 8, "head_dim": 8},
    ),
    "mistral_full": (
        {"sliding_window": None, "num_key_value_heads": 2},
        {"sliding_window": None, "num_key_value_heads": 2, "torch_dtype": "bfloat16"},
        {"num_kv_heads": 2, "head_dim": 4},
    ),
    "qwen2": (
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["full_attention", "sliding_attention"],
        },
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        {"qkv_bias": True, "windows": (0, 5), "num_kv_heads": 4, "head_dim": 4},
    ),
    "qwen2_unused": (
        {"use_sliding_window": False, "sliding_window": None},
        {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 0},
        {"qkv_bias": True, "num_kv_heads": 4, "head_dim": 4},
    ),
    "qwen3": (
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": True, "head_dim": None},
        {"qk_norm": True, "tie_embeddings": True, "num_kv_heads": 4, "head_dim": 128},
    ),
    "gemma2": (
        {"layer_types": ["sliding_attention", "full_attention"], "num_attention_heads": 8},
        {"hidden_act": "gelu", "num_attention_heads": 8},
        {
            **{k: getattr(GEMMA, k) for k in ("activation", "post_norms", "norm_offset")},
            "scale_embeddings": True,
            "tie_embeddings": True,
            "windows": (4096, 0),
            "query_scale": 256.0,
            "attention_softcap": 50.0,
            "logits_softcap": 30.0,
            "num_heads": 8,
            "num_kv_heads": 4,
            "head_dim": 256,
        },
    ),
    "gemma3_text": (
        {
            "sliding_window": 6,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            },
        },
        {
            "sliding_window": 6,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window_pattern": 2,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 1e3,
        },
        {
            **{k: getattr(GEMMA, k) for k in ("activation", "post_norms", "norm_offset")},
            "scale_embeddings": True,
            "tie_embeddings": True,
            "qk_norm": True,
            "windows": (6, 0),
            "query_scale": 8.0,
            "rope_theta": 1e6,
            "local_rope_theta": 1e3,
            "rope_scaling": model.RopeScaling(8.0),
            "num_kv_heads": 4,
            "head_dim": 8,
        },
    ),
}


@pytest.mark.parametrize("name", STYLES)
def test_both_styles_of_config(name):
    kind = {"llama3": "llama", "mistral_full": "mistral", "qwen2_unused": "qwen2"}.get(name, name)
    *styles, expected = STYLES[name]
    for style in styles:
        if name == "mistral":
            style = {"num_key_value_heads": 8, "num_attention_heads": 8} | style
            expected = expected | {"num_heads": 8}
        mistakes = []
        config = configs.from_fields(BASE | {"model_type": kind} | style, mistakes)
        assert not mistakes
        plain = {
            "vocab_size": 40,
            "embed_dim": 16,
            "mlp_dim": 24,
            "num_layers": 2,
            "num_heads": 4,
            "tie_embeddings": False,
        }
        assert config == model.ModelConfig(**(plain | expected))


@every_architecture
def test_fields_are_read_as_they_were_written(config):
    fields = configs.to_fields(config)
    assert configs.from_fields(json.loads(json.dumps(fields)), []) == config


def test_what_no_family_has_is_refused(tmp_path):
    mixed = small.CONFIG  # bias and norms of queries and keys
    with pytest.raises(errors.UserError, match=r"--output=.*: none of llama, .* this architecture"):
        pretrained.save(tmp_path / "a", mixed, small.params(mixed), None)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "mixtral"}, r"model_type=mixtral \(LlamaForCausalLM\): .* not supported"),
        ({"model_type": None}, "model_type=None"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"hidden_act": "relu"}, "hidden_act=relu is not supported"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ({"is_causal": False}, "is_causal=False is not supported"),
        ({"attention_multiplier": 0.1}, "attention_multiplier=0.1 is not supported"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not supported"),
        ({"num_local_experts": 8}, "num_local_experts is not supported"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling of type yarn is not supported"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling has factor and no rope_type; name one"),
        ({"rope_scaling": {"type": None, "factor": 4.0}}, "rope_scaling has factor and no rope_"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "needs low_freq_factor, high"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 must divide 4 heads"),
    ],
)
def test_what_cannot_be_computed_is_named(changes, what, saved):
    folder, fields, _ = saved()
    (folder / "config.json").write_text(json.dumps(fields | changes))
    with pytest.raises(errors.UserError, match=what) as caught:
        pretrained.load(folder)
    assert all(
        line.startswith(f"policy.init={folder}: config.json: ") for line in caught.value.lines
    )


def test_all_that_cannot_be_computed_is_named_at_once(saved):
    folder, fields, _ = saved()
    wrong = {"hidden_act": "relu", "mlp_bias": True, "rope_scaling": {"type": "dynamic"}}
    (folder / "config.json").write_text(json.dumps(fields | wrong))
    with pytest.raises(errors.UserError) as caught:
        pretrained.load(folder)
    assert len(caught.value.lines) == 3


# ---- files ----


def drop(folder, tensors):
    del tensors["model.norm.weight"], tensors["model.layers.0.mlp.up_proj.weight"]
    rewrite(folder, tensors)


def reshape(folder, tensors):
    rewrite(folder, tensors | {"model.norm.weight": np.zeros(17, np.float32)})


def quantise(folder, tensors):
    rewrite(folder, tensors | {"model.norm.weight": np.zeros(16, np.int8)})


def add(folder, tensors):
    rewrite(folder, tensors | {"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)})


def truncate(folder, tensors):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def corrupt(folder, tensors):
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def remove(folder, tensors):
    (folder / "model.safetensors").unlink()


def torch_only(folder, tensors):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def not_finite(folder, tensors):
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    rewrite(folder, tensors)


def double(folder, tensors):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    some = {"model.norm.weight": tensors["model.norm.weight"] + 1}
    safetensors.numpy.save_file(some, folder / "b.safetensors")
    places = dict.fromkeys(tensors, "a.safetensors") | {"x": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def break_index(folder, tensors):
    remove(folder, tensors)
    (folder / "model.safetensors.index.json").write_text("{")


def break_config(folder, tensors):
    (folder / "config.json").write_text("{")


def list_config(folder, tensors):
    (folder / "config.json").write_text("[]")


def headless(folder, tensors):
    del tensors["lm_head.weight"]
    rewrite(folder, tensors)


def adapters(folder, tensors):
    (folder / "config.json").rename(folder / "adapter_config.json")


def no_config(folder, tensors):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (drop, r"2 of 21 tensors are missing: model\.\w+.*; model\..*; download"),
        (
            reshape,
            r"1 of 21 tensors do not have the shapes of config\.json: model\.norm\.weight is",
        ),
        (quantise, "1 of 21 tensors are none of F32, BF16, F16, F64: model.norm.weight is I8"),
        (
            add,
            r"1 tensors that an architecture .* not have: model\.layers\.0\.self_attn\.q_proj\.b",
        ),
        (truncate, r"model\.safetensors cannot be read .* download it again"),
        (corrupt, r"model\.safetensors cannot be read .* download it again"),
        (remove, r"has no model\.safetensors; give a folder"),
        (torch_only, r"pytorch_model\.bin is in PyTorch's own format: give"),
        (break_index, r"index\.json is broken; download it again"),
        (not_finite, r"the tensor model\.layers\.1\.mlp\.up_proj\.weight holds NaN or an inf"),
        (double, r"the tensor model\.norm\.weight stands twice, in a\.safetensors and in b"),
        (break_config, r"config\.json is broken"),
        (list_config, r"config\.json is broken \(not a JSON object\)"),
        (
            headless,
            r"1 of 21 tensors are missing: lm_head\.weight; set tie_word_embeddings to true",
        ),
        (adapters, r"holds adapters \(adapter_config\.json\) and no whole policy; merge them"),
        (no_config, r"config\.json cannot be read"),
    ],
)
def test_a_broken_folder_is_one_line(spoil, what, saved):
    folder, _, tensors = saved()
    spoil(folder, tensors)
    with pytest.raises(errors.UserError, match=what) as caught:
        pretrained.load(folder)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(f"policy.init={folder}: ")


def test_a_tokenizer_that_knows_more_than_the_policy(saved, pytestconfig):
    few = small.replace(LLAMA, vocab_size=8)
    folder, _, _ = saved(few)
    load_tokenizer(str(pytestconfig.rootpath / "mapo_jax/tasks/arithmetic.model")).save(folder)
    with pytest.raises(
        errors.UserError, match="the tokenizer has 22 tokens, but the policy knows 8"
    ):
        pretrained.load(folder)


def test_the_tokenizer_goes_along(tmp_path, pytestconfig):
    tokenizer = load_tokenizer(str(pytestconfig.rootpath / "mapo_jax/tasks/arithmetic.model"))
    pretrained.save(tmp_path / "a", LLAMA, small.params(LLAMA), tokenizer)
    again = pretrained.load(tmp_path / "a")[2]
    assert again.encode_prompt("17+5=") == tokenizer.encode_prompt("17+5=")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "a" / name).read_text())["eos_token_id"] == 2


def test_a_full_directory_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(errors.UserError, match=r"--output=.*: is there and not empty"):
        pretrained.save(tmp_path, LLAMA, small.params(LLAMA), None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    pretrained.save(tmp_path / "empty", LLAMA, small.params(LLAMA), None)
    assert (tmp_path / "empty" / "model.safetensors").stat().st_mode & 0o044


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(errors.UserError, match="cannot be written"):
        pretrained.save(tmp_path / "a", LLAMA, small.params(LLAMA), None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "a/b/c", "./a"])
def test_no_such_folder(name):
    with pytest.raises(errors.UserError, match=rf"policy\.init={name}: no such folder; give one"):
        pretrained.folder(name)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(errors.UserError, match="is a file; give the folder"):
        pretrained.folder(tmp_path / "model.safetensors")


def test_the_hub(monkeypatch, tmp_path):
    with pytest.raises(
        errors.UserError, match=r"hub cannot give it \(LocalEntryNotFound"
    ) as caught:
        pretrained.folder("someone/something")  # the tests are offline
    assert len(caught.value.lines) == 1
    hub = pretrained.huggingface_hub
    asked = {}

    def download(name, **options):
        asked.update(options)
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert pretrained.folder("someone/something") == tmp_path / "someone/something"
    assert asked["revision"] is None
    pretrained.folder("someone/something", revision="a1b2")
    assert asked["revision"] == "a1b2"
    there = ["config.json", "model-1.safetensors", "consolidated.safetensors", "a/consolidated.0"]
    fetched = filter_repo_objects(
        there, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert [*fetched] == there[:2]  # Mistral's folders hold the weights twice


# ---- transformers, if its saved outputs are at hand ----


@pytest.mark.parametrize("family", ["qwen2", "gemma3", *small.slow(["llama"], ["qwen3"])])
def test_equals_transformers(family):
    """Logits, log-probs, the embedding's gradient and greedy tokens equal transformers 5's."""
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("set MAPO_JAX_DATA to a folder with oracles/*/{config.json,oracle.npz,...}")
    folder = pathlib.Path(os.environ["MAPO_JAX_DATA"]) / "oracles" / family
    config, params, _ = pretrained.load(folder)
    oracle = np.load(folder / "oracle.npz")
    prompts = np.zeros(oracle["input_ids"].shape, np.int32)  # right-padded
    lengths = oracle["attention_mask"].sum(1).astype(np.int32)
    for row, n in enumerate(lengths):
        prompts[row, :n] = oracle["input_ids"][row, -n:]
    scored = np.arange(prompts.shape[1] - 1) < lengths[:, None] - 1

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logits = model.apply(params, config, prompts)
        logps = jax.nn.log_softmax(logits[:, :-1])
        logps = jnp.take_along_axis(logps, prompts[:, 1:, None], -1)[..., 0]
        return -(logps * scored).sum() / scored.sum(), (logits, logps)

    (value, (logits, logps)), gradient = jax.jit(loss)(params)
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(logits[row, :n], oracle["logits"][row, -n:], atol=1e-4)
        theirs = oracle["token_logprobs"][row, 1 - n :]
        np.testing.assert_allclose(logps[row, : n - 1], theirs, atol=1e-4)
    np.testing.assert_allclose(value, oracle["loss"], atol=1e-4)
    np.testing.assert_allclose(gradient["ends"]["embedding"], oracle["grad_embed"], atol=1e-4)
    greedy = sampling.SamplingConfig(
        group_size=1, max_new_tokens=oracle["greedy_ids"].shape[1], temperature=0.0
    )
    rollouts = sampling.sample(params, config, Prompts(prompts, lengths), jax.random.key(0), greedy)
    np.testing.assert_array_equal(rollouts.tokens[:, 0], oracle["greedy_ids"])
