"""Reads and writes the part of config.json that concerns pictures, in all its forms.

The decoder of Qwen2-VL and Qwen2.5-VL is that of `qwen2`, the decoder of Qwen3-VL that of `qwen3`.
Their fields stand in `text_config`, or at the top beside `vision_config`, as transformers wrote
them before 4.52. An absent field has the default of transformers' own class: the hub's
Qwen2.5-VL-7B states almost none of its tower.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mapo_jax.model import ModelConfig, VisionConfig
from mapo_jax.pretrained import preparation
from mapo_jax.pretrained.fields import entry, positive
from mapo_jax.pretrained.preparation import CLIP, Preparation


class Family(NamedTuple):
    """Properties of a model_type that config.json does not name."""

    architecture: str
    processor: str
    text: str  # model_type of its decoder
    text_defaults: dict[str, Any]  # of fields that may be absent
    vision_defaults: dict[str, Any]
    flags: dict[str, Any]  # of VisionConfig
    sections: list[int]  # of M-RoPE, if absent


_BLOCKS = [16, 24, 24]
_TEXT = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "num_key_value_heads": 8,
    "max_window_layers": 80,
    "max_position_embeddings": 32_768,
}
_VISION = {
    "depth": 32,
    "hidden_size": 3584,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
FAMILIES = {
    "qwen2_vl": Family(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLProcessor",
        "qwen2",
        _TEXT,
        _VISION | {"embed_dim": 1280, "mlp_ratio": 4, "hidden_act": "quick_gelu"},
        CLIP,
        _BLOCKS,
    ),
    "qwen2_5_vl": Family(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLProcessor",
        "qwen2",
        _TEXT,
        _VISION
        | {
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
            "hidden_act": "silu",
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        CLIP | {"norm": "rms", "is_gated": True},
        _BLOCKS,
    ),
    "qwen3_vl": Family(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLProcessor",
        "qwen3",
        # No rope_theta: it is 5e6 in transformers 4, 5e5 in transformers 5.
        {"num_key_value_heads": 32, "max_position_embeddings": 128_000},
        _VISION
        | {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "out_hidden_size": 3584,
            "hidden_act": "gelu_pytorch_tanh",
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        {"patch_bias": True, "min_pixels": 65_536, "max_pixels": 16_777_216},
        [24, 20, 20],
    ),
}
# Others that see pictures: what it would take to compute them.
_IDEFICS = (
    "a SigLIP tower with a table of positions over tiles of 512 x 512 pixels, a pixel shuffle, one "
    "product without bias, and prompts that name each tile's row and column"
)
RELATIVES = {
    "smolvlm": _IDEFICS,
    "idefics3": _IDEFICS,
    "qwen3_vl_moe": "experts",
    "qwen2_5_omni": "sound and speech",
    "qwen3_omni_moe": "experts, sound and speech",
    "qwen3_5": "layers of linear attention",
    "qwen3_5_moe": "experts and layers of linear attention",
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
_TOKENS = {"image_token_id": 151_655, "vision_start_token_id": 151_652}
_TOKENS |= {"vision_end_token_id": 151_653}
_WINDOWS = ("sliding_window", "layer_types", "use_sliding_window", "max_window_layers")
_PREFIXES = {"visual.": "model.visual.", "model.": "model.language_model."}
_MROPE = ("mrope_section", "mrope_interleaved")
_THETA = 10_000.0  # of the tower's RoPE


def text_fields(fields: Mapping[str, Any], mistakes: list[str]) -> dict[str, Any]:
    """Returns config.json of the decoder alone, without M-RoPE."""
    family = FAMILIES[fields["model_type"]]
    nested = entry(fields, "text_config", mistakes)
    text = family.text_defaults | dict(nested or fields)
    text["model_type"] = family.text
    # Versions write it at the top, in text_config or in both, true in one of them.
    tied = [x.get("tie_word_embeddings") for x in (fields, nested)]
    text["tie_word_embeddings"] = next((x for x in tied if x not in (None, False)), False)
    text["quantization_config"] = text.get("quantization_config") or fields.get(
        "quantization_config"
    )
    thetas = [text.get("rope_theta")]
    for name in ("rope_parameters", "rope_scaling"):
        rope = dict(entry(text, name, mistakes))
        thetas.append(rope.get("rope_theta"))
        found = {str(rope[key]) for key in ("type", "rope_type") if rope.get(key)}
        if others := sorted(found - {"mrope", "default"}):
            mistakes.append(
                f"{name} of type {'/'.join(others)} is not supported beside pictures; mrope and "
                "default are"
            )
        kept = {k: v for k, v in rope.items() if k not in ("type", *_MROPE)}
        text[name] = kept | {"rope_type": "default"} if rope else None
    if family.text == "qwen3":  # no window, unlike the plain decoder
        text |= dict.fromkeys(_WINDOWS)
    if not any(thetas):
        mistakes.append("rope_theta is missing; transformers 4 takes 5e6, transformers 5 takes 5e5")
    return text


def add(
    text: ModelConfig,
    fields: Mapping[str, Any],
    prepared: Preparation | None,
    mistakes: list[str],
) -> ModelConfig:
    """Adds to a decoder its tower and M-RoPE.

    Args:
        text: of `text_fields`.
        fields: config.json.
        prepared: of `preparation.read`.
        mistakes: gets what is wrong.
    """
    kind = fields["model_type"]
    nested = entry(fields, "text_config", [])
    tokens = {name: fields.get(name, default) for name, default in _TOKENS.items()}
    for name, token in tokens.items():
        most = text.vocab_size if name == "image_token_id" else math.inf
        if type(token) is not int or not 0 <= token < most:
            mistakes.append(f"{name}={token} must be a token below vocab_size={text.vocab_size}")
    if text.num_heads * text.head_dim != text.embed_dim and FAMILIES[kind].text == "qwen2":
        mistakes.append(
            f"head_dim={text.head_dim} must be hidden_size / num_attention_heads in {kind}"
        )
    image, start, end = tokens.values()
    return dataclasses.replace(
        text,
        vision=_tower(kind, fields, prepared, text, mistakes),
        image_token=image,
        image_frame=(start, end),
        rope_sections=_sections(kind, nested or fields, text.head_dim, mistakes),
        rope_interleaved=kind == "qwen3_vl",
    )


def _sections(kind: str, fields: Mapping[str, Any], head_dim: int, mistakes: list[str]) -> tuple:
    """Returns the pairs of a head that each of the three positions turns."""
    found = [entry(fields, name, []) for name in ("rope_scaling", "rope_parameters")]
    sections = next((x["mrope_section"] for x in found if x.get("mrope_section")), None)
    sections = FAMILIES[kind].sections if sections is None else sections
    counts = isinstance(sections, list) and all(type(n) is int and n >= 0 for n in sections)
    if not counts or len(sections) != 3 or 2 * sum(sections) != head_dim:
        mistakes.append(
            f"mrope_section={sections} must be three numbers whose sum is head_dim / 2, "
            f"{head_dim // 2}"
        )
        return (0, 0, head_dim // 2)
    return tuple(sections)


def _tower(
    kind: str,
    fields: Mapping[str, Any],
    prepared: Preparation | None,
    text: ModelConfig,
    mistakes: list[str],
) -> VisionConfig:
    family = FAMILIES[kind]
    given = entry(fields, "vision_config", mistakes)
    given = family.vision_defaults | {k: v for k, v in given.items() if v is not None}
    wrong: list[str] = []

    def number(name: str) -> int:
        return positive(name, given[name], int, wrong)

    def layers(name: str) -> tuple[int, ...]:
        value = given.get(name, [])
        if not isinstance(value, list) or not all(type(i) is int and i >= 0 for i in value):
            wrong.append(f"{name}={value} must be a list of layers")
            return ()
        return tuple(value)

    depth, heads, patch, merge = map(
        number, ("depth", "num_heads", "patch_size", "spatial_merge_size")
    )
    is_first = kind == "qwen2_vl"  # its hidden_size is the decoder's
    width = number("embed_dim" if is_first else "hidden_size")
    if width % (4 * heads):
        wrong.append(f"num_heads={heads} must divide a quarter of the tower's width, {width}")
    mlp = width * number("mlp_ratio") if is_first else number("intermediate_size")
    out = "hidden_size" if is_first else "out_hidden_size"
    if given[out] != text.embed_dim:
        wrong.append(f"{out}={given[out]} must be the decoder's hidden_size, {text.embed_dim}")
    if str(given["hidden_act"]) not in _ACTIVATIONS:
        wrong.append(
            f"hidden_act={given['hidden_act']} is not supported; {', '.join(_ACTIVATIONS)} are"
        )
    for name in ("in_channels", "temporal_patch_size"):
        if given[name] != _VISION[name]:
            wrong.append(f"{name}={given[name]} is not supported; {_VISION[name]} is")
    theta = entry(given, "rope_parameters", wrong).get("rope_theta", _THETA)
    if theta != _THETA:
        wrong.append(f"rope_theta={theta} is not supported; {_THETA} is")
    numbers: dict[str, Any] = {
        "num_layers": depth,
        "embed_dim": width,
        "num_heads": heads,
        "mlp_dim": mlp,
        "patch": patch,
        "merge": merge,
        "activation": _ACTIVATIONS.get(str(given["hidden_act"]), "silu"),
    }
    if "window_size" in given:
        cells = number("window_size") // (merge * patch)
        if not cells:
            wrong.append(f"window_size={given['window_size']} must be {merge * patch} or more")
        full = tuple(sorted({i for i in layers("fullatt_block_indexes") if i < depth}))
        numbers |= {"window": cells * merge, "full_layers": full}
    if "num_position_embeddings" in given:
        rows = number("num_position_embeddings")
        if math.isqrt(rows) ** 2 != rows:
            wrong.append(f"num_position_embeddings={rows} must be a square number")
        deep = layers("deepstack_visual_indexes")
        if [*deep] != sorted({*deep}) or max(deep, default=0) >= depth:
            wrong.append(f"deepstack_visual_indexes={[*deep]} must rise and be below {depth}")
        if len(deep) > text.num_layers:
            wrong.append("deepstack_visual_indexes are more than the decoder's layers")
        numbers |= {"position_table": math.isqrt(rows), "deepstack": deep}
    given = prepared._asdict() if prepared else {}
    for name, theirs in (("patch", "patch_size"), ("merge", "merge_size")):
        if given.get(name) not in (None, numbers[name]):
            wrong.append(
                f"{theirs} is {numbers[name]} here and {given[name]} in {preparation.FILE}; put "
                "back the file that belongs here"
            )
    numbers = family.flags | given | numbers
    mistakes += [f"vision_config: {line}" for line in wrong]
    return VisionConfig(**numbers)


def to_fields(kind: str, config: ModelConfig, text: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json of a policy with a tower.

    Args:
        kind: one of `FAMILIES`.
        config: has a tower.
        text: config.json of its decoder alone.
    """
    v = config.vision
    assert v is not None
    activations = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    vision: dict[str, Any] = {
        "model_type": kind,
        "depth": v.num_layers,
        "hidden_size": v.embed_dim,
        "hidden_act": activations[v.activation],
        "intermediate_size": v.mlp_dim,
        "num_heads": v.num_heads,
        "in_channels": 3,
        "in_chans": 3,
        "patch_size": v.patch,
        "spatial_patch_size": v.patch,
        "spatial_merge_size": v.merge,
        "temporal_patch_size": 2,
        "out_hidden_size": config.embed_dim,
    }
    if kind == "qwen2_vl":
        vision |= {"embed_dim": v.embed_dim, "hidden_size": config.embed_dim}
        vision |= {"mlp_ratio": v.mlp_dim // v.embed_dim}
        del vision["intermediate_size"], vision["out_hidden_size"]
    if kind == "qwen2_5_vl":
        vision |= {"window_size": v.window * v.patch, "fullatt_block_indexes": [*v.full_layers]}
    if kind == "qwen3_vl":
        vision |= {"num_position_embeddings": v.position_table**2}
        vision |= {"deepstack_visual_indexes": [*v.deepstack]}
    fields = dict(zip(_TOKENS, (config.image_token, *config.image_frame), strict=False))
    fields |= {"video_token_id": 151_656}  # transformers 4.49 has no default
    fields |= {"vision_config": vision, "tie_word_embeddings": config.tie_embeddings}
    names = {"architectures": [FAMILIES[kind].architecture], "model_type": kind}
    sections = {"mrope_section": [*config.rope_sections]}
    if is_nested(config):
        sections |= {"mrope_interleaved": True, "rope_type": "default"}
        text = {**text, "model_type": f"{kind}_text", "rope_scaling": sections}
        for name in ("architectures", *_WINDOWS):
            del text[name]
        return names | fields | {"text_config": text}
    return {**text, **names, **fields, "rope_scaling": {"type": "mrope", **sections}}


def is_nested(config: ModelConfig) -> bool:
    """Whether config.json has the decoder's fields in an object, and tensors long names."""
    return config.rope_interleaved


def stored(config: ModelConfig, name: str) -> str:
    """Returns the name that a tensor gets on disk, of its name in `plain`'s form."""
    if is_nested(config):
        for short, long in _PREFIXES.items():
            if name.startswith(short):
                return long + name.removeprefix(short)
    return name


def plain(name: str) -> str:
    """Returns the name that a tensor had on disk before transformers 4.52: visual.*, model.*."""
    for short, long in _PREFIXES.items():
        if name.startswith(long):
            return short + name.removeprefix(long)
    return name


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """Returns the names of a tower's tensors in `plain`'s form, by the path of our parameter.

    They have neither .weight nor .bias; {} is the layer.
    """
    block, merger = "visual.blocks.{}.", "visual.merger."
    mlp = ("mlp.fc1", "mlp.fc2")
    ends = ("ln_q", "mlp.0", "mlp.2")
    if is_nested(config):
        mlp, ends = ("mlp.linear_fc1", "mlp.linear_fc2"), ("norm", "linear_fc1", "linear_fc2")
    if config.vision and config.vision.is_gated:
        mlp = ("mlp.up_proj", "mlp.down_proj")
    names = {
        "layers.attention_norm": block + "norm1",
        "layers.qkv": block + "attn.qkv",
        "layers.o": block + "attn.proj",
        "layers.mlp_norm": block + "norm2",
        "layers.gate": block + "mlp.gate_proj",
        "layers.up": block + mlp[0],
        "layers.down": block + mlp[1],
        "patches": "visual.patch_embed.proj",
        "positions": "visual.pos_embed",
    }
    for ours, theirs in zip(("norm", "fc1", "fc2"), ends, strict=True):
        names[f"merger.{ours}"] = merger + theirs
        names[f"deepstack.{ours}"] = "visual.deepstack_merger_list.{}." + theirs
    return names
