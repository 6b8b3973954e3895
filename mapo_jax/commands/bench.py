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
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table

from mapo_jax import advantages, model, sampling, sharding, training
from mapo_jax.config import ComputeConfig, MeshConfig, OptimizerConfig, from_config_dict
from mapo_jax.rollouts import Batch, Prompts
from mapo_jax.run import programs


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """The numbers of a `model.ModelConfig` that are measured."""

    vocab_size: int
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool


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
    policy: PolicyConfig
    compute: ComputeConfig
    batch: BatchConfig
    rollout: RolloutConfig
    mesh: MeshConfig


def read(config_dict: Mapping[str, Any]) -> Config:
    """Returns the frozen configuration; UserError lists unknown, missing and wrongly typed keys."""
    return from_config_dict(config_dict, Config)


# Values do not matter here: the work is the same.
_OPTIMIZER = OptimizerConfig(
    learning_rate=1e-6,
    schedule_steps=0,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    max_grad_norm=1.0,
)

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
        data, fsdp, _ = sharding.mesh_shape(
            **dataclasses.asdict(config.mesh), device_count=device_count
        )
    except ValueError as error:
        lines.append(f"{error}; set one of mesh.data, mesh.fsdp and mesh.tensor to -1")
    else:
        shards = data * fsdp
        if batch.prompts % shards or (batch.prompts // shards) % min(p, batch.prompts // shards):
            lines.append(
                f"batch.prompts={batch.prompts}: must be a multiple of the {shards} shards of the "
                f"batch (mesh.data x mesh.fsdp) times batch.microbatch[0]={p}; try {shards * p}"
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
    tokens: int  # of all responses
    compile_s: float  # tracing and compiling what no row above has compiled


class _Compiled:
    """A jitted function that is compiled at its first call and keeps the time that took."""

    def __init__(self, jitted: Any):
        self.jitted, self.program, self.compile_s = jitted, None, 0.0

    def __call__(self, *args: Any) -> Any:
        if self.program is None:
            start = time.perf_counter()
            self.program = self.jitted.lower(*args).compile()
            self.compile_s = time.perf_counter() - start
        return self.program(*args)


def measure(config: Config) -> dict[str, Phase]:
    """Compiles everything and measures each phase on random weights and prompts.

    Returns:
      "sampling"; "scoring", the forward pass alone; "update", one optimizer step over all rollouts;
      "step", which is sampling, rewards (made up on the host), advantages and update.
    """
    batch, compute = config.batch, config.compute
    policy = model.ModelConfig(**dataclasses.asdict(config.policy))
    P, G = batch.prompts, batch.group
    mesh = sharding.make_mesh(**dataclasses.asdict(config.mesh))
    by_prompt = sharding.by_prompt(mesh)
    tx = training.make_optimizer(_OPTIMIZER)
    state_shardings = training.state_shardings(policy, tx, mesh)
    serving = sharding.shardings(mesh, model.logical_axes(policy), sharding.GATHERED)

    @functools.partial(jax.jit, out_shardings=state_shardings)
    def init(key):
        return training.init_state(model.init_params(key, policy), tx)

    settings = sampling.SamplingConfig(
        group_size=G,
        max_new_tokens=config.rollout.max_new_tokens,
        lanes=config.rollout.lanes or None,
        width=config.rollout.width or None,
    )

    @functools.partial(jax.jit, out_shardings=by_prompt)
    def sample_all(params, prompts, limits_PG, key):
        params = model.cast(params, compute.dtype)
        params = jax.lax.with_sharding_constraint(params, serving)
        options = {"max_new_tokens_PG": limits_PG, "mesh": mesh}
        return sampling.sample(params, policy, prompts, key, settings, **options)

    scoring_settings = training.ScoringConfig(
        remat=compute.remat,
        head_chunk=compute.head_chunk,
        attention_chunk=compute.attention_chunk,
        attention=programs.choose_attention(
            compute,
            policy,
            mesh,
            batch.microbatch,
            (batch.prompt_tokens, config.rollout.max_new_tokens),
        ),
    )
    microbatch = sharding.microbatch(mesh, batch.prompts, batch.microbatch)
    split = {"microbatch": microbatch, "dtype": compute.dtype}
    sample = _Compiled(sample_all)
    score = _Compiled(training.make_score(policy, scoring_settings, mesh, **split))
    advantage = _Compiled(
        jax.jit(functools.partial(advantages.group_advantages, "mapo"), out_shardings=by_prompt)
    )
    update = _Compiled(
        training.make_train_step(
            policy,
            scoring_settings,
            training.policy_loss(
                surrogate="clipped",
                clip_low=0.2,
                clip_high=0.3,
                clip_dual=3.0,
                beta=0.0,
                kl="k3",
                entropy=0.0,
            ),
            tx,
            mesh,
            aggregation="token_mean",
            minibatch_prompts=P,
            **split,
        )
    )

    rng = np.random.default_rng(config.seed)
    tokens_PS = rng.integers(policy.vocab_size, size=(P, batch.prompt_tokens))
    limits_PG = draw_limits(config.rollout, (P, G), config.seed)
    lengths_P = np.full(P, batch.prompt_tokens)
    padded: Any = (x.astype(np.int32) for x in (tokens_PS, lengths_P))
    prompts = jax.device_put((Prompts(*padded), limits_PG), by_prompt)
    key = jax.random.key(config.seed)

    def judge(rollouts):
        """The share of even tokens, for want of a task; judged on the host as tasks are."""
        r = jax.device_get(rollouts)
        rewards = ((r.tokens % 2 == 0) & r.trained).sum(-1) / r.length
        return jax.device_put((rewards.astype(np.float32), rewards > 0.5), by_prompt)

    def make_batch(rollouts):
        return Batch(rollouts, advantage(*judge(rollouts)), rollouts.logps, None)

    with jax.default_matmul_precision(compute.matmul_precision):
        state = init(key)
        rollouts = sample(state.params, *prompts, key)
        whole = make_batch(rollouts)
        # Each returns the state to go on with: the update donates the one it gets.
        phases = {
            "sampling": lambda state: (state, sample(state.params, *prompts, key)),
            "scoring": lambda state: (state, score(state.params, rollouts)),
            "update": lambda state: update(state, whole, 0),
            "step": lambda state: update(state, make_batch(sample(state.params, *prompts, key)), 0),
        }
        seconds = {}
        for name, phase in phases.items():
            seconds[name], state = _median(phase, state, config.repetitions)
    tokens = int(jax.device_get(rollouts.length).sum())
    compile_s = [f.compile_s for f in (sample, score, update, advantage)]
    return {
        name: Phase(seconds[name], tokens, compiled)
        for name, compiled in zip(phases, compile_s, strict=True)
    }


def _median(phase, state, repetitions):
    """Seconds of `phase(state) -> (state, anything)` after an untimed call, and the last state."""
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(phase(state))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), state


def peak_memory() -> tuple[float, str]:
    """GiB, and of what: the fullest local device or, where devices do not say, this process."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(s["peak_bytes_in_use"] for s in stats) / 2**30, "of the fullest device"
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak / 2**30, "resident in this process"


def report(config: Config, phases: dict[str, Phase]) -> None:
    """Prints what `measure` returned: a table and, on the last line, JSON."""
    memory, where = peak_memory()
    device = jax.devices()[0]
    table = rich.table.Table(
        title=f"{jax.device_count()} x {device.device_kind}; median of {config.repetitions}",
        caption=f"peak memory {memory:.2f} GiB, {where}",
    )
    for column in ("", "seconds", "response tokens/s", "compile seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, phase in phases.items():
        rate = phase.tokens / phase.seconds
        table.add_row(name, f"{phase.seconds:.3f}", f"{rate:,.0f}", f"{phase.compile_s:.1f}")
    rich.console.Console().print(table)
    figures = {
        "sample_tokens_per_s": phases["sampling"].tokens / phases["sampling"].seconds,
        "score_tokens_per_s": phases["scoring"].tokens / phases["scoring"].seconds,
        "update_s": phases["update"].seconds,
        "step_s": phases["step"].seconds,
        "compile_s": sum(phase.compile_s for phase in phases.values()),
        "peak_memory_gib": memory,
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
