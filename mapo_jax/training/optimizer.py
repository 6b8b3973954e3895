"""Makes the optimizer, AdamW with linear warm-up and gradient clipping, from optax alone."""

import optax

from mapo_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clips by global norm, then applies AdamW with decoupled weight decay to every parameter.

    The learning rate rises linearly over `schedule_steps` steps and then stays. It depends on the
    step, not on the length of the run.
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
