"""Sizes for launch/bench.py to measure, from random weights; it needs no data and no files.

    python launch/bench.py --config experiments/bench.py:small

It samples at temperature 1 and top-p 1 without end of sequence, and trains with the MAPO advantage,
beta 0, the sampler's log-probs, one minibatch and one epoch. The presets of Qwen's shapes
need an accelerator, the others are for a CPU.
"""

from ml_collections import ConfigDict

from experiments import common


def small(config: ConfigDict) -> None:
    """4 layers of 256, 8 prompts x 8, 64 + 128 tokens: seconds on a CPU."""
    # nothing to change: these are the defaults


def stragglers(config: ConfigDict) -> None:
    """The small policy, 64 prompts x 8 in 64 slots, responses of very different lengths."""
    config.bench.repetitions = 3
    config.bench.mean_new_tokens = 32
    config.batch.prompts = config.batch.minibatch_prompts = 64
    config.rollout.lanes = 8


def long_limits(config: ConfigDict) -> None:
    """The small policy and lengths under limits of 2,048 + 1,024 tokens."""
    config.bench.prompt_tokens = config.data.max_prompt_tokens
    config.bench.new_tokens = config.rollout.max_new_tokens
    config.data.max_prompt_tokens = 2048
    config.rollout.max_new_tokens = 1024


def mid(config: ConfigDict) -> None:
    """12 layers of 512 and a vocabulary of 32,000, 4 prompts x 8, 64 + 64 tokens."""
    config.bench.vocab_size = 32_000
    config.policy.num_layers = 12
    config.policy.embed_dim = 512
    config.policy.num_heads = 8
    config.policy.mlp_dim = 2048
    config.batch.prompts = config.batch.minibatch_prompts = 4
    config.batch.microbatch = (4, 8)
    config.rollout.max_new_tokens = 64


def qwen2_5_0_5b(config: ConfigDict) -> None:
    """The shape of Qwen2.5-0.5B in bfloat16, 32 prompts x 16, 256 + 512 tokens."""
    config.policy.num_layers = 24
    config.policy.embed_dim = 896
    config.policy.num_heads = 14
    config.policy.mlp_dim = 4864
    _qwen2_5(config)
    config.batch.microbatch = (4, 16)


def qwen2_5_1_5b(config: ConfigDict) -> None:
    """The shape of Qwen2.5-1.5B in bfloat16, 64 prompts x 16, about as long as GSM8K's.

    Prompts have 128 tokens, responses have geometric lengths with mean 200, cut at 512.
    """
    config.bench.mean_new_tokens = 200
    config.policy.num_layers = 28
    config.policy.embed_dim = 1536
    config.policy.num_heads = 12
    config.policy.head_dim = 128
    config.policy.mlp_dim = 8960
    _qwen2_5(config)
    config.data.max_prompt_tokens = 128
    config.batch.prompts = config.batch.minibatch_prompts = 64
    config.batch.microbatch = (4, 16)
    config.rollout.width = 8


def pictures(config: ConfigDict) -> None:
    """The small policy with a tower of 2 layers of 64; pictures of 48 x 48 to 64 x 64 pixels."""
    config.bench.picture_sides = (48, 64)
    config.policy.vision.num_layers = 2
    config.policy.vision.window = 4


def qwen2_5_vl_7b(config: ConfigDict) -> None:
    """The shape of Qwen2.5-VL-7B in bfloat16, 64 prompts x 12 about a picture of a megapixel.

    Prompts have 1,296 + 200 tokens, responses have geometric lengths with mean 400, cut at 1,024.
    """
    config.bench.mean_new_tokens = 400
    config.bench.picture_sides = (1008, 1008)
    config.policy.init = "Qwen/Qwen2.5-VL-7B-Instruct"
    _accelerated(config)
    config.data.max_prompt_tokens = 1496
    config.batch.prompts = config.batch.minibatch_prompts = 64
    config.batch.group = 12
    config.batch.microbatch = (1, 4)
    config.rollout.max_new_tokens = 1024
    config.mesh.data = 1
    config.mesh.fsdp = -1


def _qwen2_5(config):
    config.bench.vocab_size = 151_936
    config.policy.rope_theta = 1_000_000.0
    config.policy.qkv_bias = True
    _accelerated(config)
    config.data.max_prompt_tokens = 256
    config.batch.prompts = config.batch.minibatch_prompts = 32
    config.batch.group = 16
    config.rollout.max_new_tokens = 512


def _accelerated(config):
    config.compute.dtype = "bfloat16"
    config.compute.matmul_precision = "default"
    config.compute.remat = True


PRESETS = {
    "small": small,
    "stragglers": stragglers,
    "long_limits": long_limits,
    "mid": mid,
    "qwen2_5_0_5b": qwen2_5_0_5b,
    "qwen2_5_1_5b": qwen2_5_1_5b,
    "pictures": pictures,
    "qwen2_5_vl_7b": qwen2_5_vl_7b,
}


def get_config(presets: str = "") -> ConfigDict:
    """Returns `small`, with the comma-separated `presets` applied."""
    config = common.get_config()
    config.bench = bench = ConfigDict()
    bench.repetitions = 5  # timed runs of each phase, after an untimed one
    bench.vocab_size = 4096  # of the policy; a policy.init that `plan` knows has its own
    bench.prompt_tokens = 0  # of every prompt; 0: data.max_prompt_tokens
    bench.new_tokens = 0  # of the longest response; 0: rollout.max_new_tokens
    bench.mean_new_tokens = 0  # of geometric lengths, cut at new_tokens; 0: all are that long
    # Pixels of a side of each prompt's square picture: the least, the most; (0, 0): no pictures.
    bench.picture_sides = (0, 0)
    config.policy.update(num_layers=4, embed_dim=256, head_dim=64, mlp_dim=1024)
    config.compute.remat = False
    config.data.max_prompt_tokens = 64
    config.batch.update(prompts=8, group=8, minibatch_prompts=8, microbatch=(8, 8))
    config.rollout.max_new_tokens = 128
    config.mesh.data = -1
    return common.apply(config, presets, PRESETS)
