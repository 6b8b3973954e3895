"""GSM8K with a pretrained policy and the hyper-parameters of the MAPO paper (arXiv 2509.18849).

    python launch/run.py --config experiments/gsm8k.py --config.policy.init=DIR \
        --config.tokenizer.path=tokenizer.model [--config.data.path=DIR]
    python launch/run.py --config experiments/gsm8k.py:tiny --config.tokenizer.path=tokenizer.model

`data.path` holds train.jsonl and test.jsonl; without it the rows come through
tensorflow-datasets. The main experiment is a policy of the shape of Qwen2.5-0.5B and wants an
accelerator; hardware, time and expected result: not measured yet, see README. Loading Hugging Face
weights is not built yet, so `policy.init` has to be the work directory of another run. The preset
`tiny` trains a small policy from scratch on the real rows through the same code, on a CPU, in a
minute or two; it learns the format of the text, not arithmetic.

Differs from the paper: GSM8K and a text-only policy in place of Geometry3K and Qwen2.5-VL-7B; top-p
1 in place of 0.99, so that the sampled and the trained distribution are the same.
"""

from ml_collections import ConfigDict

from experiments import common


def tiny(config: ConfigDict) -> None:
    """A small policy from scratch: several minibatches, a reference, about a minute."""
    config.steps = 2
    config.data.max_prompt_tokens = 128
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


PRESETS = {"tiny": tiny} | common.METHODS


def get_config(presets: str = "") -> ConfigDict:
    """Returns the experiment with the comma-separated `presets` applied."""
    config = common.get_config()
    config.steps = 292  # 20 epochs of 7,473 rows
    config.task.name = "gsm8k"
    config.policy.init = "Qwen/Qwen2.5-0.5B-Instruct"
    config.policy.num_layers = 24
    config.policy.embed_dim = 896
    config.policy.num_heads = 14
    config.policy.num_kv_heads = 2
    config.policy.head_dim = 64
    config.policy.mlp_dim = 4864
    config.policy.rope_theta = 1_000_000.0
    config.policy.qkv_bias = True
    config.compute.dtype = "bfloat16"
    config.compute.matmul_precision = "default"
    config.batch.prompts = 512
    config.batch.group = 12
    config.batch.minibatch_prompts = 128
    config.batch.microbatch = (8, 12)
    config.algorithm.beta = 0.01
    config.optimizer.learning_rate = 1e-6
    config.eval.every = 5
    config.eval.problems = 1319
    config.checkpoint.every = 5
    return common.apply(config, presets, PRESETS)
