"""Measures the phases of a batch's life: sampling, scoring, update and the whole step.

What launch/bench.py calls. The programs are the trainer's; weights and prompts are random, and
nothing ends a response but its limit, so the number of tokens is known beforehand.
"""

import dataclasses
import functools
import json
import operator
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table
from jax import Array
from jax.sharding import Mesh

from mapo_jax import advantages, model, optimizer, sampling, scoring, sharding, train_step
from mapo_jax import config as config_lib
from mapo_jax.rollouts import Batch, Rollouts


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    prompts: int
    group: int
    prompt_tokens: int
    microbatch: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    max_new_tokens: int
    mean_new_tokens: int
    lanes: int
    width: int


@dataclasses.dataclass(frozen=True)
class Config:
    """One measurement; experiments/bench.py says what each knob means."""

    seed: int
    repetitions: int
    policy: model.ModelConfig
    compute: config_lib.ComputeConfig
    batch: BatchConfig
    rollout: RolloutConfig
    mesh: config_lib.MeshConfig


def from_config_dict(config_dict: Mapping[str, Any]) -> Config:
    """Returns the frozen configuration; UserError lists unknown, missing and wrongly typed keys."""
    return config_lib.from_config_dict(config_dict, Config)


_LEAST = {"seed": 0, "repetitions": 1}
_LEAST |= {f"batch.{name}": 1 for name in ("prompts", "group", "prompt_tokens")}
_LEAST |= {"rollout.max_new_tokens": 1, "rollout.mean_new_tokens": 0}
_LEAST |= {"rollout.lanes": 0, "rollout.width": 0}


def validate(config: Config, device_count: int) -> list[str]:
    """The mistakes in `config`, one line each."""
    batch, policy, (p, g) = config.batch, config.policy, config.batch.microbatch
    values = {key: operator.attrgetter(key)(config) for key in _LEAST}
    lines = [f"{k}={v}: must be >= {_LEAST[k]}" for k, v in values.items() if v < _LEAST[k]]
    if min(p, g) < 1 or batch.prompts % p or batch.group % g:
        lines.append(
            f"batch.microbatch={p, g}: must divide batch.prompts={batch.prompts} and "
            f"batch.group={batch.group}; try {batch.prompts, batch.group}"
        )
    if policy.num_kv_heads < 1 or policy.num_heads % policy.num_kv_heads:
        lines.append(
            f"policy.num_kv_heads={policy.num_kv_heads}: must divide "
            f"policy.num_heads={policy.num_heads}"
        )
    try:
        data, fsdp, _ = sharding.mesh_shape(**dataclasses.asdict(config.mesh), device_count=device_count)
    except ValueError as error:
        lines.append(f"{error}; set one of mesh.data, mesh.fsdp and mesh.tensor to -1")
    else:
        if p % (data * fsdp):
            lines.append(
                f"batch.microbatch={p, g}: its prompts must be a multiple of the {data * fsdp} "
                "shards of the batch (mesh.data x mesh.fsdp)"
            )
    return lines


def draw_limits(settings: RolloutConfig, shape: tuple[int, int], seed: int) -> np.ndarray:
    """i32[P, G], tokens of each rollout: geometric with the configured mean, cut at the limit."""
    if not settings.mean_new_tokens:
        return np.full(shape, settings.max_new_tokens, np.int32)
    lengths = np.random.default_rng(seed).geometric(1 / settings.mean_new_tokens, shape)
    return np.minimum(lengths, settings.max_new_tokens).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One row of the table."""

    seconds: float  # median
    tokens: int  # response tokens that went through; of the whole batch
    compile_s: float  # tracing and compiling; 0 where other rows hold it

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclasses.dataclass(frozen=True)
class _Programs:
    """The compiled programs of a step, and what compiling each of them took."""

    sample: Callable[[model.Params], Rollouts]
    score: Callable[[model.Params, Rollouts], Array]
    advantages: Callable[[Array, Array], Array]
    update: Callable[..., tuple[train_step.TrainState, train_step.Metrics]]
    compile_s: dict[str, float]


def measure(config: Config) -> dict[str, Phase]:
    """Compiles everything, then runs each phase `config.repetitions` times after a first one.

    Returns:
      "sampling", "scoring", "update" and "step", the last one being the others without scoring and
      with rewards (made up on the host) and advantages.
    """
    batch = config.batch
    mesh = sharding.make_mesh(**dataclasses.asdict(config.mesh))
    by_prompt = sharding.by_prompt(mesh)
    tx = optimizer.make_optimizer(
        optimizer.OptimizerConfig(
            learning_rate=1e-6,
            schedule_steps=0,
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            weight_decay=0.01,
            max_grad_norm=1.0,
        )
    )

    @functools.partial(
        jax.jit, out_shardings=train_step.state_shardings(config.policy, tx, mesh)
    )
    def init(key):
        return train_step.init_state(model.init_params(key, config.policy), tx)

    with jax.default_matmul_precision(config.compute.matmul_precision):
        state = init(jax.random.key(config.seed))
        run = _compile(config, state, tx, mesh)

        def make_batch(rollouts, rewards):
            rewards, success = jax.device_put((rewards, rewards > 0.5), by_prompt)
            return Batch(rollouts, run.advantages(rewards, success), rollouts.logps, None)

        def step(state):
            rollouts = run.sample(state.params)
            state, metrics = run.update(state, make_batch(rollouts, _rewards(rollouts)), 0)
            return state, metrics

        seconds = {}
        rollouts = run.sample(state.params)
        whole = make_batch(rollouts, _rewards(rollouts))
        times = functools.partial(_median, config.repetitions)
        seconds["sampling"], state = times(lambda s: (s, run.sample(s.params)), state)
        seconds["scoring"], state = times(lambda s: (s, run.score(s.params, rollouts)), state)
        seconds["update"], state = times(lambda s: run.update(s, whole, 0), state)
        seconds["step"], state = times(step, state)
    tokens = int(np.asarray(rollouts.mask).sum())
    return {name: Phase(s, tokens, run.compile_s.get(name, 0.0)) for name, s in seconds.items()}
