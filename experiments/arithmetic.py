"""A small transformer learns generated arithmetic: warm-up on demonstrations, then MAPO.

    python launch/run.py --config experiments/arithmetic.py [--workdir DIR]
    python launch/run.py --config experiments/arithmetic.py:tiny

Installed: `mapo run --config arithmetic`.

Hardware: 2 CPU cores, three to five minutes; nothing is downloaded. Expected result: held-out
accuracy sampled at temperature 1 rises from 0.3-0.4 before RL to 0.8-0.9 after it; docs/results.md
has the table. The preset `tiny` runs the same code in less than a minute and learns next to
nothing; `small` is for studies; `smollm2` has a pretrained policy, which takes half an hour.
"""

from ml_collections import ConfigDict

from experiments import common


def tiny(config: ConfigDict) -> None:
    """The same code in about a minute. One answer in 20 is right, enough for dynamic sampling."""
    config.steps = 4
    config.task.options.levels = (1,)
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


def small(config: ConfigDict) -> None:
    """Half the width and a longer warm-up, for studies: a run takes some 30 s on one core."""
    config.steps = 40
    config.warmup.steps = 1200
    config.checkpoint.every = 100
    config.policy.embed_dim = 64
    config.policy.head_dim = 16
    config.policy.mlp_dim = 192


def smollm2(config: ConfigDict) -> None:
    """SmolLM2-135M-Instruct (docs/pretrained.md) on a CPU, asked in English, after a warm-up."""
    config.policy.init = "models/SmolLM2-135M-Instruct"
    config.tokenizer.path = ""
    config.tokenizer.template = "chat"
    config.task.options.words = True
    config.data.max_prompt_tokens = 64
    config.steps = 30
    config.warmup.steps = 20  # which teach it the format, and mistakes
    config.warmup.learning_rate = 1e-4
    config.warmup.batch = 16
    config.batch.prompts = 8
    config.batch.minibatch_prompts = 8
    config.batch.microbatch = (4, 8)
    config.rollout.max_new_tokens = 40
    config.optimizer.learning_rate = 2e-5
    config.eval.every = 15
    config.eval.problems = 128
    config.eval.batch = 128
    config.checkpoint.every = 100  # one has 1.6 GB
    config.log.rollouts_every = 5


PRESETS = {"tiny": tiny, "small": small, "smollm2": smollm2} | common.METHODS


def get_config(presets: str = "") -> ConfigDict:
    """Returns the experiment with the comma-separated `presets` applied."""
    config = common.get_config()
    config.steps = 60
    config.task.name = "arithmetic"
    options = config.task.options
    options.levels = (1, 2)  # numbers of operations in a question
    options.max_operand = 12  # largest in training; the set `easy` has one digit, `hard` more
    options.train_size = 20_000  # examples
    options.eval_size = 512  # examples of each evaluation set
    options.mistake_rate = 0.6  # share of the demonstrations that hold a mistake
    config.data.max_prompt_tokens = 12
    config.tokenizer.path = "mapo_jax/tasks/arithmetic.model"
    config.policy.num_layers = 2
    config.policy.embed_dim = 128
    config.policy.num_heads = 4
    config.policy.num_kv_heads = 2
    config.policy.head_dim = 32
    config.policy.mlp_dim = 384
    config.policy.qk_norm = True
    config.compute.remat = False
    config.warmup.steps = 500
    config.warmup.learning_rate = 3e-3
    config.warmup.batch = 128
    config.warmup.schedule_steps = 20
    config.batch.prompts = 64
    config.batch.group = 8
    config.batch.minibatch_prompts = 32
    config.batch.microbatch = (32, 8)
    config.rollout.max_new_tokens = 32
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule_steps = 10
    config.eval.every = 20
    config.eval.problems = 512
    config.eval.batch = 512
    config.checkpoint.every = 20
    config.checkpoint.keep = 2
    config.log.rollouts_every = 10
    return common.apply(config, presets, PRESETS)
