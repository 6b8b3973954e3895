"""Sizes for launch/bench.py to measure, from random weights; it needs no data and no files.

    python launch/bench.py --config experiments/bench.py:small

Sampling at temperature 1 and top-p 1 without end of sequence, the MAPO advantage, beta 0, log-probs
from the sampler, one minibatch, one epoch. `small`, `stragglers` and `mid` are for a CPU,
`qwen2_5_0_5b` wants an accelerator.
"""

from ml_collections import ConfigDict

from experiments import common


def small(config: ConfigDict) -> None:
    """4 layers of 256, 8 prompts x 8, 64 + 128 tokens: seconds on a CPU."""
    # the defaults


def stragglers(config: ConfigDict) -> None:
    """The small policy, 64 prompts x 8 in 64 slots, responses of very different lengths."""
    config.repetitions = 3
    config.batch.prompts = 64
    config.rollout.mean_new_tokens = 32
    config.rollout.lanes = 8


def mid(config: ConfigDict) -> None:
    """12 layers of 512 and a vocabulary of 32,000, 4 prompts x 8, 64 + 64 tokens."""
    config.policy.vocab_size = 32_000
    config.policy.num_layers = 12
    config.policy.embed_dim = 512
    config.policy.num_heads = 8
    config.policy.mlp_dim = 2048
    config.batch.prompts = 4
    config.batch.microbatch = (4, 8)
    config.rollout.max_new_tokens = 64


def qwen2_5_0_5b(config: ConfigDict) -> None:
    """The shape of Qwen2.5-0.5B in bfloat16, 32 prompts x 16, 256 + 512 tokens."""
    config.policy.vocab_size = 151_936
    config.policy.num_layers = 24
    config.policy.embed_dim = 896
    config.policy.num_heads = 14
    config.policy.mlp_dim = 4864
    config.policy.rope_theta = 1_000_000.0
    config.policy.qkv_bias = True
    config.compute.dtype = "bfloat16"
    config.compute.matmul_precision = "default"
    config.compute.remat = True
    config.batch.prompts = 32
    config.batch.group = 16
    config.batch.prompt_tokens = 256
    config.batch.microbatch = (4, 16)
    config.rollout.max_new_tokens = 512


PRESETS = {"small": small, "mid": mid, "qwen2_5_0_5b": qwen2_5_0_5b, "stragglers": stragglers}


def get_config(presets: str = "") -> ConfigDict:
    """Returns `small`, with the comma-separated `presets` applied."""
    config = ConfigDict()
    config.seed = 0  # of parameters, prompts, lengths and draws
    config.repetitions = 5  # timed runs of each phase, after an untimed one

    config.policy = policy = ConfigDict()
    policy.vocab_size = 4096
    policy.num_layers = 4
    policy.embed_dim = 256  # width of the residual stream
    policy.num_heads = 4  # query heads
    policy.num_kv_heads = 2  # key and value heads; divides num_heads
    policy.head_dim = 64  # even, for RoPE
    policy.mlp_dim = 1024  # hidden width of the SwiGLU
    policy.rope_theta = 10_000.0  # base of the RoPE wavelengths
    policy.norm_eps = 1e-6  # of RMSNorm
    policy.tie_embeddings = True  # the LM head is the embedding
    policy.qkv_bias = False  # as Qwen2 and Qwen2.5
    policy.qk_norm = False  # as Qwen3

    base = common.get_config()
    config.compute = base.compute
    config.compute.remat = False

    config.batch = batch = ConfigDict()
    batch.prompts = 8  # per step, which is one minibatch
    batch.group = 8  # rollouts per prompt
    batch.prompt_tokens = 64  # of every prompt
    batch.microbatch = (8, 8)  # prompts, rollouts of each that a batch shard trains on at once

    config.rollout = rollout = ConfigDict()
    rollout.max_new_tokens = 128  # per response
    rollout.mean_new_tokens = 0  # of geometric lengths, cut at the maximum; 0: all have the maximum
    rollout.lanes = 0  # prompts decoded at once on each shard; 0: all
    rollout.width = 0  # rollouts of a prompt decoded at once; 0: the group

    config.mesh = base.mesh
    return common.apply(config, presets, PRESETS)
