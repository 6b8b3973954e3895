"""The optimizer: AdamW with linear warm-up and gradient clipping, all of it optax."""

import optax

from mapo_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with decoupled weight decay on every parameter.

    The learning rate rises linearly over `schedule_steps` and stays: a function of the step, not of
    the run's length.
    """
    rate = optax.schedules.linear_schedule(
        config.learning_rate / (config.schedule_steps + 1),
        config.learning_rate,
        config.schedule_steps,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay
        ),
    )
