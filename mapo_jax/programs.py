"""What a run compiles, made from its configuration: the functions that the trainer's loop calls.

Between the configuration and the loop; nothing is compiled before it is first called.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mapo_jax import (
    advantages,
    loading,
    masked,
    model,
    optimizer,
    sampling,
    scoring,
    sharding,
    train_step,
)
from mapo_jax import config as config_lib


class Programs:
    """The two phases' steps and optimizers, scoring, advantages, the sampler's settings."""

    def __init__(
        self,
        config: config_lib.Config,
        policy: model.ModelConfig,
        eos_ids: tuple[int, ...],
        mesh: Mesh,
    ):
        c = config
        self.policy = policy
        common: dict[str, Any] = {"mesh": mesh, "dtype": c.compute.dtype}
        memory = {
            name: getattr(c.compute, name) for name in ("remat", "head_chunk", "attention_chunk")
        }
        settings = scoring.ScoringConfig(temperature=c.rollout.temperature, **memory)
        names = ("clip_low", "clip_high", "clip_dual", "beta")
        self.txs = {
            "warmup": optimizer.make_optimizer(
                dataclasses.replace(
                    c.optimizer,
                    learning_rate=c.warmup.learning_rate,
                    schedule_steps=c.warmup.schedule_steps,
                )
            ),
            "rl": optimizer.make_optimizer(c.optimizer),
        }
        self.warmup_step = train_step.make_train_step(
            policy,
            scoring.ScoringConfig(**memory),
            train_step.cross_entropy_loss,
            self.txs["warmup"],
            aggregation="token_mean",
            minibatch_prompts=c.warmup.batch,
            microbatch=(c.warmup.batch, 1),
            **common,
        )
        self.update = train_step.make_train_step(
            policy,
            settings,
            train_step.policy_loss(**{name: getattr(c.algorithm, name) for name in names}),
            self.txs["rl"],
            aggregation=c.algorithm.aggregation,
            minibatch_prompts=c.batch.minibatch_prompts,
            microbatch=c.batch.microbatch,
            **common,
        )
        self.score = train_step.make_score(
            policy, settings, microbatch=c.batch.microbatch, **common
        )
        self.sampling = sampling.SamplingConfig(
            group_size=c.batch.group,
            max_new_tokens=c.rollout.max_new_tokens,
            temperature=c.rollout.temperature,
            top_p=c.rollout.top_p,
            top_k=c.rollout.top_k,
            eos_ids=eos_ids,
            lanes=c.rollout.lanes or None,
            width=c.rollout.width or None,
        )
        advantage: str | Callable = c.algorithm.advantage
        if ".py:" in c.algorithm.advantage:
            advantage = loading.load_function(c.algorithm.advantage, "algorithm.advantage")
        self.advantages = jax.jit(
            functools.partial(
                _advantages,
                advantage,
                dict(c.algorithm.advantage_options),
                c.algorithm.truncated,
            ),
            out_shardings=(*(sharding.by_prompt(mesh),) * 2, sharding.replicated(mesh)),
        )
        # The chunks of a rollout batch, back in the order of its prompts.
        self.join = jax.jit(
            lambda *pieces: jax.tree.map(lambda *x: jnp.concatenate(x), *pieces),
            out_shardings=sharding.by_prompt(mesh),
        )
        # The sampler's weights: the trainer's cast, gathered over fsdp once per rollout phase.
        axes = model.logical_axes(policy)
        self.serve = jax.jit(
            lambda params: train_step.cast(params, c.compute.dtype),
            out_shardings=sharding.shardings(mesh, axes, sharding.GATHERED),
        )
        self.shardings = {
            phase: train_step.state_shardings(policy, tx, mesh) for phase, tx in self.txs.items()
        }

    def init_params(self, key: jax.Array, phase: str) -> model.Params:
        """Random parameters, each array where it belongs."""
        init = functools.partial(model.init_params, config=self.policy)
        return jax.jit(init, out_shardings=self.shardings[phase].params)(key)

    def fresh_state(self, phase: str, params: model.Params) -> train_step.TrainState:
        """A state with a new optimizer. One jit for the whole: it keeps every array's sharding."""
        init = functools.partial(train_step.init_state, tx=self.txs[phase])
        return jax.jit(init, out_shardings=self.shardings[phase])(params)

    def abstract_state(self, phase: str) -> train_step.TrainState:
        """Shapes, dtypes and shardings of a phase's state, to restore it by."""
        shapes = jax.eval_shape(
            lambda: train_step.init_state(
                model.init_params(jax.random.key(0), self.policy), self.txs[phase]
            )
        )
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            self.shardings[phase],
        )


def _advantages(advantage, options, truncated, key, rollouts, rewards_PG, success_PG, parts):
    """(advantages f32[P, G], valid bool[P, G], facts), facts as `advantages.group_metrics`."""
    lengths_PG = rollouts.mask.sum(-1)
    valid_PG = advantages.valid_rewards(rewards_PG, rollouts.valid)
    if truncated == "mask":
        valid_PG &= rollouts.finished
    advantages_PG = advantages.group_advantages(
        advantage,
        rewards_PG,
        success_PG,
        valid_PG,
        key=key,
        lengths_PG=lengths_PG,
        components_PGC=jnp.stack([parts[name] for name in sorted(parts)], -1)
        if parts
        else jnp.zeros((*rewards_PG.shape, 0)),
        **options,
    )

    def mean(x_PG, mask_PG):
        return masked.sum(x_PG, mask_PG), mask_PG.sum()

    facts = {
        "reward/mean": mean(rewards_PG, valid_PG),
        "reward/success": mean(success_PG, valid_PG),
        "reward/invalid": mean(~jnp.isfinite(rewards_PG), rollouts.valid),
        **{f"reward/{name}": mean(x_PG, valid_PG) for name, x_PG in parts.items()},
        "rollout/length_mean": mean(lengths_PG, rollouts.valid),
        "rollout/length_max": (lengths_PG.max(), jnp.int32(1)),
        "rollout/truncated": mean(~rollouts.finished, rollouts.valid),
        **advantages.group_metrics(rewards_PG, success_PG, valid_PG),
        **advantages.success_count_metrics(advantages_PG, success_PG, valid_PG),
    }
    return advantages_PG, valid_PG, facts
