"""A small policy with eyes learns to read diagrams: warm-up on demonstrations, then MAPO.

    python launch/run.py --config experiments/diagrams.py [--workdir DIR]
    python launch/run.py --config experiments/diagrams.py:tiny

Installed: `mapo run --config diagrams`.

Pictures are squared paper with a rectangle or a right triangle on it, and the question is "area?"
or "perimeter?", so only the picture has the numbers; mapo_jax/tasks/diagrams.py says more. The
tower has a layer with windows and one without, batches mix pictures of two sizes, and RL trains the
tower too. Half of the demonstrations hold a mistake.

Hardware: 2 CPU cores, four to eight minutes; nothing is downloaded. Expected result: accuracy on
shapes that were held out, sampled at temperature 1, rises from 0.32-0.46 before RL to 0.84-0.96
after it with seven of eight seeds, and from 0.23 to 0.61 with the eighth. It stays at 0 under white
pictures; docs/results.md has the tables. The presets `white_pictures` and `shuffled_pictures` are
controls, which must not learn to read, and `frozen_tower` trains the decoder alone. The preset
`tiny` runs the same code in a minute or two and learns next to nothing.
"""

from ml_collections import ConfigDict

from experiments import common


def tiny(config: ConfigDict) -> None:
    """The same code in a minute or two."""
    config.steps = 4
    config.task.options.train_size = 2000
    config.task.options.eval_size = 64
    config.warmup.steps = 20
    config.warmup.batch = 32
    config.policy.embed_dim = 64
    config.policy.head_dim = 16
    config.policy.mlp_dim = 128
    config.policy.vision.embed_dim = 32
    config.policy.vision.mlp_dim = 64
    config.batch.prompts = 16
    config.batch.minibatch_prompts = 8
    config.batch.microbatch = (8, 4)
    config.eval.every = 2
    config.eval.problems = 64
    config.eval.batch = 64
    config.checkpoint.every = 2
    config.log.rollouts_every = 2


def white_pictures(config: ConfigDict) -> None:
    """A control: all pictures of training are white."""
    config.task.options.pictures = "blank"


def shuffled_pictures(config: ConfigDict) -> None:
    """A control: prompts of training have each other's pictures."""
    config.task.options.pictures = "shuffled"


def frozen_tower(config: ConfigDict) -> None:
    """RL leaves the tower as the warm-up left it."""
    config.optimizer.vision_learning_rate = 0.0


PRESETS = {
    "tiny": tiny,
    "white_pictures": white_pictures,
    "shuffled_pictures": shuffled_pictures,
    "frozen_tower": frozen_tower,
} | common.METHODS


def get_config(presets: str = "") -> ConfigDict:
    """Returns the experiment with the comma-separated `presets` applied."""
    config = common.get_config()
    config.steps = 40
    config.task.name = "diagrams"
    options = config.task.options
    options.train_size = 20_000  # examples
    options.eval_size = 512  # examples of each evaluation set
    options.mistake_rate = 0.5  # share of the demonstrations that hold a mistake
    options.pictures = "drawn"  # of training; or the controls "blank", "shuffled"
    config.data.max_prompt_tokens = 16  # the picture has 9 or 12, and the question one
    config.tokenizer.path = "mapo_jax/tasks/diagrams.model"
    config.policy.num_layers = 2
    config.policy.embed_dim = 128
    config.policy.num_heads = 4
    config.policy.num_kv_heads = 2
    config.policy.head_dim = 32
    config.policy.mlp_dim = 256
    config.policy.qk_norm = True
    config.policy.vision.num_layers = 2
    config.policy.vision.embed_dim = 64
    config.policy.vision.num_heads = 4
    config.policy.vision.mlp_dim = 192
    config.policy.vision.window = 4
    config.images.min_pixels = 1024  # no picture is enlarged
    config.compute.remat = False
    config.optimizer.b2 = 0.98
    config.warmup.steps = 2200
    config.warmup.learning_rate = 1.5e-3
    config.warmup.batch = 32  # small batches learn to read from the fewest pictures
    config.warmup.schedule_steps = 50
    config.batch.prompts = 64
    config.batch.group = 8
    config.batch.minibatch_prompts = 32
    config.batch.microbatch = (32, 8)
    config.rollout.max_new_tokens = 32  # two demonstrations are longer and left out
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule_steps = 10
    config.eval.every = 40
    config.eval.problems = 512
    config.eval.batch = 512
    config.checkpoint.every = 100
    config.checkpoint.keep = 2
    config.log.rollouts_every = 10
    config.log.rollouts_prompts = 4
    return common.apply(config, presets, PRESETS)
