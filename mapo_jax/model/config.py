"""Configurations that hold the numbers of an architecture."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Makes rotations slower for longer contexts.

    With `original_length` 0 all frequencies are divided by `factor` (linear). Otherwise it follows
    Llama 3.1. Frequencies that turn less than `low_freq_factor` times in the original length are
    divided by `factor`. Frequencies that turn more than `high_freq_factor` times stay. Between the
    two the change is linear in the number of turns.
    """

    factor: float
    low_freq_factor: float = 0.0  # turns
    high_freq_factor: float = 0.0  # turns
    original_length: int = 0  # tokens; 0 means linear

    def __call__(self, frequencies: Array) -> Array:
        """Scales frequencies f32[H/2], in radians per token."""
        if not self.original_length:
            return frequencies / self.factor
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = jnp.clip(kept, 0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / self.factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The numbers of a tower that turns pictures into embeddings, and how pictures come to it."""

    num_layers: int
    embed_dim: int  # D of the tower
    num_heads: int  # divides embed_dim
    mlp_dim: int
    patch: int  # pixels of a side
    merge: int  # patches of a side that become one embedding of the decoder
    norm: str = "layer"  # LayerNorm; or "rms": RMSNorm
    norm_eps: float = 1e-6
    is_gated: bool = False  # of the MLP: gate, up and down; else up and down
    activation: str = "gelu_tanh"  # or "silu", "quick_gelu"
    patch_bias: bool = False  # of the first product
    window: int = 0  # patches of a side that a layer sees together; 0: the whole picture
    full_layers: tuple[int, ...] = ()  # layers without that window
    position_table: int = 0  # rows of a square table of learned positions; 0: none
    deepstack: tuple[int, ...] = ()  # layers whose output is added in the decoder's first layers
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of red, green and blue, in [0, 1]
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)
    min_pixels: int = 3136  # a smaller picture is enlarged
    max_pixels: int = 12_845_056  # a larger picture is made smaller

    @property
    def factor(self) -> int:
        """Pixels of a side that become one embedding; the sides of a picture are multiples."""
        return self.patch * self.merge


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture's numbers; hashable, so that it can be a static argument."""

    vocab_size: int  # V
    num_layers: int  # L
    embed_dim: int  # D
    num_heads: int  # N
    num_kv_heads: int  # K, divides N
    head_dim: int  # H, even; may differ from D / N
    mlp_dim: int  # F
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True  # the head is the transposed embedding
    qkv_bias: bool = False  # Qwen2, Qwen2.5
    qk_norm: bool = False  # Qwen3, Gemma 3
    rope_scaling: RopeScaling | None = None  # Llama 3.1 and later; Gemma 3 layers without a window
    windows: tuple[int, ...] = ()  # tokens a layer sees, the own included; 0 or (): all
    local_rope_theta: float = 0.0  # unscaled, for layers with a window; 0: rope_theta, scaled
    activation: str = "silu"  # or "gelu_tanh": Gemma
    post_norms: bool = False  # Gemma: also norms after attention and MLP
    norm_offset: bool = False  # Gemma: norms multiply by 1 + scale
    scale_embeddings: bool = False  # Gemma: embeddings are multiplied by sqrt(D)
    query_scale: float = 0.0  # queries are divided by its square root; 0: head_dim
    attention_softcap: float = 0.0  # Gemma 2: cap * tanh(scores / cap); 0: none
    logits_softcap: float = 0.0  # Gemma 2: the same for logits
    max_positions: int = 0  # trained for prompt + response of so many tokens; 0: unknown
    vision: VisionConfig | None = None  # the tower for pictures; None: the policy reads text alone
    image_token: int = -1  # stands in a prompt for each embedding of a picture
    image_frame: tuple[int, ...] = ()  # tokens before and after a picture, without a chat template
    # M-RoPE: pairs of a head that the three RoPE positions of a picture's token turn.
    rope_sections: tuple[int, ...] = ()
    rope_interleaved: bool = False  # Qwen3-VL: these pairs alternate; else they are three blocks
    lora_rank: int = 0  # 0: no adapters
    lora_alpha: float = 0.0  # adapters are multiplied by alpha / rank
    lora_targets: tuple[str, ...] = ()  # some of LORA_TARGETS

    @property
    def picture_ids(self) -> tuple[int, ...]:
        """The tokens of a picture in plain text: the image token in its frame; () for no tower.

        A policy of few tokens may not have those of the frame.
        """
        if self.vision is None:
            return ()
        frame = self.image_frame if max(self.image_frame, default=0) < self.vocab_size else ()
        return (*frame[:1], self.image_token, *frame[1:])

    @property
    def rope_axes(self) -> np.ndarray:
        """i32[H/2], the RoPE position that turns each pair: 0 time, 1 row, 2 column (M-RoPE).

        Either the pairs of a section follow each other (Qwen2-VL), or rows and columns take every
        third pair until their section is full (Qwen3-VL).
        """
        _, rows, columns = self.rope_sections
        if not self.rope_interleaved:
            return np.repeat(np.arange(3), self.rope_sections)
        pair = np.arange(self.head_dim // 2)
        is_row, is_column = pair % 3 == 1, pair % 3 == 2
        return np.where(is_row & (pair < 3 * rows), 1, 0) + np.where(
            is_column & (pair < 3 * columns), 2, 0
        )


LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
