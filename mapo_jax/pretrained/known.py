"""Architectures of well-known policies by their hub ids, for a plan without their files.

The numbers come from their config.json. `Qwen2.5-7B` and its -Instruct have the same ones.
"""

from typing import Any

from mapo_jax.model import ModelConfig, VisionConfig
from mapo_jax.pretrained.vision import FAMILIES

# Hidden size, MLP, layers, heads, key and value heads, vocabulary, whether the head is tied.
_QWEN2_5 = {
    "0.5B": (896, 4864, 24, 14, 2, 151_936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936, True),
    "3B": (2048, 11_008, 36, 16, 2, 151_936, True),
    "7B": (3584, 18_944, 28, 28, 4, 152_064, False),
    "14B": (5120, 13_824, 48, 40, 8, 152_064, False),
    "32B": (5120, 27_648, 64, 40, 8, 152_064, False),
    "72B": (8192, 29_568, 80, 64, 8, 152_064, False),
}
_QWEN3 = {
    "0.6B": (1024, 3072, 28, 16, 8, 151_936, True),
    "1.7B": (2048, 6144, 28, 16, 8, 151_936, True),
}
_SMOLLM2 = {
    "135M": (576, 1536, 30, 9, 3, 49_152, True),
    "360M": (960, 2560, 32, 15, 5, 49_152, True),
    "1.7B": (2048, 8192, 24, 32, 32, 49_152, True),
}
_QWEN2_VL = {
    "2B": (1536, 8960, 28, 12, 2, 151_936, True),
    "7B": (3584, 18_944, 28, 28, 4, 152_064, False),
}
_QWEN3_VL = {
    "2B": (2048, 6144, 28, 16, 8, 151_936, True),
    "4B": (2560, 9728, 36, 32, 8, 151_936, True),
    "8B": (4096, 12_288, 36, 32, 8, 151_936, False),
}
# Of the tower: width, MLP, layers, layers whose output goes to the decoder's first ones.
_QWEN3_TOWER = {
    "2B": (1024, 4096, 24, (5, 11, 17)),
    "4B": (1024, 4096, 24, (5, 11, 17)),
    "8B": (1152, 4304, 27, (8, 16, 24)),
}


def _config(numbers: tuple, **fields) -> ModelConfig:
    hidden, mlp, layers, heads, kv_heads, vocabulary, is_tied = numbers
    return ModelConfig(
        vocab_size=vocabulary,
        num_layers=layers,
        embed_dim=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        mlp_dim=mlp,
        tie_embeddings=is_tied,
        **{"head_dim": hidden // heads} | fields,
    )


def _tower(kind: str, width: int, mlp: int, layers: int, **fields: Any) -> dict[str, Any]:
    tower = VisionConfig(
        embed_dim=width,
        mlp_dim=mlp,
        num_layers=layers,
        num_heads=16,
        merge=2,
        **FAMILIES[kind].flags | fields,
    )
    return {
        "vision": tower,
        "image_token": 151_655,
        "image_frame": (151_652, 151_653),
        "rope_sections": tuple(FAMILIES[kind].sections),
        "norm_eps": 1e-6,
    }


_TOWERS = {
    "2": _tower("qwen2_vl", 1280, 5120, 32, patch=14, activation="quick_gelu"),
    "2.5": _tower(
        "qwen2_5_vl",
        1280,
        3420,
        32,
        patch=14,
        window=8,
        full_layers=(7, 15, 23, 31),
        activation="silu",
    ),
} | {
    f"3-{size}": _tower(
        "qwen3_vl", *numbers, patch=16, deepstack=deep, position_table=48, activation="gelu_tanh"
    )
    for size, (*numbers, deep) in _QWEN3_TOWER.items()
}


KNOWN = {
    f"Qwen/Qwen2.5-{size}": _config(
        numbers, rope_theta=1e6, norm_eps=1e-6, qkv_bias=True, max_positions=32_768
    )
    for size, numbers in _QWEN2_5.items()
} | {
    f"HuggingFaceTB/SmolLM2-{size}": _config(
        numbers, rope_theta=1e5, norm_eps=1e-5, max_positions=8192
    )
    for size, numbers in _SMOLLM2.items()
}
KNOWN |= {
    f"Qwen/Qwen2-VL-{size}": _config(
        numbers, rope_theta=1e6, qkv_bias=True, max_positions=32_768, **_TOWERS["2"]
    )
    for size, numbers in _QWEN2_VL.items()
}
KNOWN |= {f"{name}-Instruct": config for name, config in KNOWN.items()}
KNOWN |= {
    f"Qwen/Qwen3-{size}{kind}": _config(
        numbers, head_dim=128, rope_theta=1e6, norm_eps=1e-6, qk_norm=True, max_positions=positions
    )
    for size, numbers in _QWEN3.items()
    for kind, positions in (("", 40_960), ("-Base", 32_768))
}
# Where a recipe of docs/recipes.md starts.
KNOWN["ichovpanTT/qwen3-0.6b-base-think-sft"] = KNOWN["Qwen/Qwen3-0.6B-Base"]
# These have no name without -Instruct.
KNOWN |= {
    f"Qwen/Qwen2.5-VL-{size}-Instruct": _config(
        _QWEN2_5[size], rope_theta=1e6, qkv_bias=True, max_positions=128_000, **_TOWERS["2.5"]
    )
    for size in ("3B", "7B")
} | {
    f"Qwen/Qwen3-VL-{size}-Instruct": _config(
        numbers,
        head_dim=128,
        rope_theta=5e6,
        qk_norm=True,
        rope_interleaved=True,
        max_positions=262_144,
        **_TOWERS[f"3-{size}"],
    )
    for size, numbers in _QWEN3_VL.items()
}
