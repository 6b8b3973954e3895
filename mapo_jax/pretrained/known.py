"""Architectures of well-known policies by their hub ids, for a plan without their files.

The numbers come from their config.json. `Qwen2.5-7B` and its -Instruct have the same ones.
"""

from mapo_jax.model import ModelConfig

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
_SMOLLM2 = {
    "135M": (576, 1536, 30, 9, 3, 49_152, True),
    "360M": (960, 2560, 32, 15, 5, 49_152, True),
    "1.7B": (2048, 8192, 24, 32, 32, 49_152, True),
}


def _config(numbers: tuple, **fields) -> ModelConfig:
    hidden, mlp, layers, heads, kv_heads, vocabulary, is_tied = numbers
    return ModelConfig(
        vocab_size=vocabulary,
        num_layers=layers,
        embed_dim=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        mlp_dim=mlp,
        tie_embeddings=is_tied,
        **fields,
    )


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
KNOWN |= {f"{name}-Instruct": config for name, config in KNOWN.items()}
