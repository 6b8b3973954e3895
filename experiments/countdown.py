"""A small transformer learns Countdown: warm-up on demonstrations, then MAPO.

    python launch/run.py --config experiments/countdown.py [--workdir DIR]
    python launch/run.py --config experiments/countdown.py:tiny

Installed: `mapo run --config countdown`.

A question is "3 6 5=16": an expression has to use each number exactly once and equal 16. The
policy from scratch gets three numbers up to 6; mapo_jax/tasks/countdown.py says more. It is the
task of TinyZero and lmpo, whose numbers are larger.

Hardware: 2 CPU cores, five minutes; nothing is downloaded. Seen with seed 0: accuracy on held-out
problems, sampled at temperature 1, rises from 0.152 [0.124, 0.186] before RL to 0.230 [0.196,
0.269] after it, while greedy accuracy falls from 0.305 to 0.229. On the prompts of training it
rises from 0.21 to 0.45, so much of it is learnt by heart. `hard` stays at 0. The preset `tiny` runs
the same code in a minute or two and learns next to nothing.

Two presets have a pretrained policy and ask it in English. Nobody has run them here:

| preset | policy | numbers | batch |
| --- | --- | --- | --- |
| smollm2 | SmolLM2-135M-Instruct, after a warm-up | 3 up to 10 | 4 prompts x 4 |
| lmpo | Qwen3-1.7B as kvfrans/lmpo trains it, on 16 TPU v4 chips | 4 up to 99 | 256 prompts x 8 |

lmpo's README has accuracies of 0.446 before RL, 0.67 after 20 steps, 0.68 after 40 and 0.75 after
60. Differs from lmpo: the draw of problems; the reward, which is 0.9 accuracy + 0.1 format of the
box in place of 1 for a solution and 0.1 for the right numbers; and that it puts `<answer>` into a
response that is nearly at its end. Its flag kl_coef=0.001 is in no loss (core/grpo.py at 1020ac4),
so `beta` is 0.
"""

from ml_collections import ConfigDict

from experiments import common


def tiny(config: ConfigDict) -> None:
    """The same code in a minute or two."""
    config.steps = 4
    config.task.options.train_size = 2000
    config.task.options.eval_size = 64
    config.warmup.steps = 60
    config.policy.embed_dim = 64
    config.policy.head_dim = 16
    config.policy.mlp_dim = 128
    config.batch.prompts = 16
    config.batch.minibatch_prompts = 8
    config.batch.microbatch = (8, 4)
    config.eval.every = 2
    config.eval.problems = 64
    config.eval.batch = 64
    config.checkpoint.every = 2
    config.log.rollouts_every = 2


def _pretrained(config: ConfigDict, init: str) -> None:
    config.policy.init = init
    config.tokenizer.path = ""
    config.tokenizer.template = "chat"
    config.task.options.words = True
    config.data.max_prompt_tokens = 256


def smollm2(config: ConfigDict) -> None:
    """SmolLM2-135M-Instruct (docs/pretrained.md) on a CPU, easy numbers, after a warm-up."""
    _pretrained(config, "models/SmolLM2-135M-Instruct")
    config.steps = 20
    config.task.options.max_number = 10
    config.task.options.max_target = 60
    config.warmup.steps = 40
    config.warmup.learning_rate = 2e-4
    config.warmup.batch = 8
    config.batch.prompts = 4
    config.batch.group = 4
    config.batch.minibatch_prompts = 4
    config.batch.microbatch = (2, 4)
    config.rollout.max_new_tokens = 96
    config.optimizer.learning_rate = 1e-5
    config.eval.problems = 16
    config.eval.batch = 16


def lmpo(config: ConfigDict) -> None:
    """Qwen3-1.7B as in kvfrans/lmpo: GRPO, 256 prompts x 8, groups that differ, 60 steps."""
    common.METHODS["grpo"](config)
    _pretrained(config, "Qwen/Qwen3-1.7B")
    config.steps = 60
    config.task.options.numbers = (4,)
    config.task.options.max_number = 99
    config.task.options.max_target = 1000
    config.compute.dtype = "bfloat16"
    config.compute.matmul_precision = "default"
    config.compute.remat = True
    config.warmup.steps = 0
    config.batch.prompts = 256
    config.batch.group = 8
    config.batch.minibatch_prompts = 8  # its minibatch is 64 rollouts
    config.batch.microbatch = (1, 8)
    config.rollout.max_new_tokens = 1024
    config.rollout.lanes = 16
    config.algorithm.aggregation = "constant"
    config.algorithm.beta = 0.0
    config.algorithm.entropy = 0.001
    config.algorithm.old_logps = "rescored"
    config.dynamic.max_tries = 20  # it takes as many as it needs
    config.optimizer.learning_rate = 1e-6
    config.optimizer.schedule_steps = 0
    config.optimizer.b2 = 0.95
    config.mesh.data = 1
    config.mesh.fsdp = 8  # at most the prompts of an update
    config.mesh.tensor = -1
    config.eval.every = 20
    config.eval.batch = 64


PRESETS = {"tiny": tiny, "smollm2": smollm2, "lmpo": lmpo} | common.METHODS


def get_config(presets: str = "") -> ConfigDict:
    """Returns the experiment with the comma-separated `presets` applied."""
    config = common.get_config()
    config.steps = 40
    config.task.name = "countdown"
    options = config.task.options
    options.numbers = (3,)  # how many numbers a problem has
    options.max_number = 6  # largest in training; the set `hard` has larger ones
    options.max_target = 36  # also the largest result of a step
    options.train_size = 10_000  # examples
    options.eval_size = 512  # examples of each evaluation set
    options.mistake_rate = 0.5  # share of the demonstrations that hold a mistake
    options.words = False  # ask in English, for a pretrained policy
    config.data.max_prompt_tokens = 10
    config.tokenizer.path = "mapo_jax/tasks/countdown.model"
    config.policy.num_layers = 2
    config.policy.embed_dim = 128
    config.policy.num_heads = 4
    config.policy.num_kv_heads = 2
    config.policy.head_dim = 32
    config.policy.mlp_dim = 384
    config.policy.qk_norm = True
    config.compute.remat = False
    config.warmup.steps = 600
    config.warmup.learning_rate = 2e-3
    config.warmup.batch = 64
    config.warmup.schedule_steps = 20
    config.batch.prompts = 64
    config.batch.group = 8
    config.batch.minibatch_prompts = 32
    config.batch.microbatch = (32, 8)
    config.rollout.max_new_tokens = 48
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule_steps = 10
    config.eval.every = 20
    config.eval.problems = 512
    config.eval.batch = 512
    config.checkpoint.every = 20
    config.checkpoint.keep = 2
    config.log.rollouts_every = 10
    return common.apply(config, presets, PRESETS)
