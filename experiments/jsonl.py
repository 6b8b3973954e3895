"""Your own rows of JSON lines: a small policy from scratch, warm-up on demonstrations, then MAPO.

    python launch/run.py --config experiments/jsonl.py --config.data.path=DIR \
        --config.tokenizer.path=tokenizer.model --config.task.options.demonstration=TEMPLATE

`data.path` is a directory with train.jsonl and one or more other *.jsonl files for evaluation, or
one file; a tenth of that file is held out. docs/own.md makes such data and a tokenizer for it.
Hardware: a few CPU cores, minutes. How far accuracy rises depends on the data. The preset `tiny`
runs the same code in about a minute and learns next to nothing.
"""

from ml_collections import ConfigDict

from experiments import common


def tiny(config: ConfigDict) -> None:
    """The same code in about a minute."""
    config.steps = 4
    config.warmup.steps = 20
    config.warmup.batch = 32
    config.policy.embed_dim = 64
    config.policy.head_dim = 16
    config.policy.mlp_dim = 128
    config.batch.prompts = 16
    config.batch.minibatch_prompts = 8
    config.batch.microbatch = (8, 4)
    config.eval.every = 2
    config.eval.problems = 32
    config.eval.batch = 32
    config.checkpoint.every = 2
    config.log.rollouts_every = 2


PRESETS = {"tiny": tiny} | common.METHODS


def get_config(presets: str = "") -> ConfigDict:
    """Returns the experiment with the comma-separated `presets` applied."""
    config = common.get_config()
    config.steps = 60
    config.task.name = "jsonl"
    options = config.task.options
    options.template = "{question}\n"  # the prompt; {field} stands for a row's field
    options.answer = "answer"  # name of the field with the right answer
    options.demonstration = ""  # template of a response for the warm-up; "": none
    options.held_out = 10  # if data.path is one file, every 10th prompt is for evaluation
    options.images = ""  # name of the field with the pictures; "": text alone
    options.placeholder = r"<image\d*>"  # regular expression of a picture's place in the prompt
    config.data.max_prompt_tokens = 64
    config.policy.num_layers = 2
    config.policy.embed_dim = 128
    config.policy.num_heads = 4
    config.policy.num_kv_heads = 2
    config.policy.head_dim = 32
    config.policy.mlp_dim = 384
    config.policy.qk_norm = True
    config.compute.remat = False
    config.warmup.steps = 300
    config.warmup.learning_rate = 3e-3
    config.warmup.batch = 128
    config.warmup.schedule_steps = 20
    config.batch.prompts = 64
    config.batch.group = 8
    config.batch.minibatch_prompts = 32
    config.batch.microbatch = (32, 8)
    config.rollout.max_new_tokens = 64
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule_steps = 10
    config.eval.every = 20
    config.eval.problems = 256
    config.eval.batch = 256
    config.checkpoint.every = 20
    return common.apply(config, presets, PRESETS)
