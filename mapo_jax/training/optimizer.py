"""Makes the optimizer, AdamW with linear warm-up and gradient clipping, from optax alone."""

import jax
import optax

from mapo_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clips by global norm, then applies AdamW with decoupled weight decay to every parameter.

    The learning rate rises linearly over `schedule_steps` steps and then stays. It depends on the
    step, not on the length of the run. The vision tower has a rate of its own if
    `vision_learning_rate` is above 0; with 0 its parameters do not come here, see `TrainStep`.
    """
    c = config

    def adamw(rate: float) -> optax.GradientTransformation:
        steps = c.schedule_steps
        schedule = optax.schedules.linear_schedule(rate / (steps + 1), rate, steps)
        return optax.adamw(schedule, b1=c.b1, b2=c.b2, eps=c.eps, weight_decay=c.weight_decay)

    clip = optax.clip_by_global_norm(c.max_grad_norm)
    if not c.vision_learning_rate:
        return optax.chain(clip, adamw(c.learning_rate))
    rates = {"vision": c.vision_learning_rate}

    def scale(updates, params):
        return {
            name: jax.tree.map(lambda x: rates.get(name, c.learning_rate) * x, part)  # noqa: B023
            for name, part in updates.items()
        }

    return optax.chain(clip, adamw(1.0), optax.stateless(scale))
