"""Makes the optimizer, AdamW with a schedule and gradient clipping, from optax alone."""

import jax
import optax

from mapo_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, steps: int = 0) -> optax.GradientTransformation:
    """Clips by global norm, then applies AdamW with decoupled weight decay to every parameter.

    The learning rate rises linearly over `schedule_steps` steps. Then it stays, and depends on the
    step alone, or it falls along a line or half a cosine to 0 at `steps`, the length of the run
    (`decay`). The vision tower has a rate of its own if `vision_learning_rate` is above 0; with 0
    its parameters do not come here, see `TrainStep`.
    """
    c = config

    def adamw(rate: float) -> optax.GradientTransformation:
        rise = c.schedule_steps
        schedule = optax.schedules.linear_schedule(rate / (rise + 1), rate, rise)
        if c.decay != "constant":
            left = max(steps - rise, 1)  # of a phase without steps too
            fall = {
                "linear": optax.schedules.linear_schedule(rate, 0.0, left),
                "cosine": optax.schedules.cosine_decay_schedule(rate, left),
            }[c.decay]
            schedule = optax.schedules.join_schedules([schedule, fall], [rise])
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
