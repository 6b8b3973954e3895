"""Measures sampling, scoring, update and the whole step of a batch.

The programs are a run's own. Weights and prompts are random. Only its limit ends a response, so the
number of tokens is known beforehand.
"""

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import numpy as np
import rich.console
import rich.table

from mapo_jax import config as settings
from mapo_jax import model, sampling, sharding
from mapo_jax.rollouts import Batch, Experience, pad_prompts
from mapo_jax.run import checks
from mapo_jax.run.programs import Programs


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    repetitions: settings.Count
    vocab_size: settings.Count
    mean_new_tokens: Annotated[int, settings.at_least(0, "all have the maximum")]


@dataclasses.dataclass(frozen=True)
class Config(settings.Config):
    """A run's configuration with the settings of a measurement; see experiments/bench.py."""

    bench: BenchConfig


def read(tree: Mapping[str, Any]) -> Config:
    """Returns the frozen configuration; UserError lists unknown, missing and wrongly typed keys."""
    return settings.from_config_dict(tree, Config)


def architecture(config: Config) -> model.ModelConfig:
    """Returns the architecture of the measured policy."""
    numbers: dict[str, Any] = dataclasses.asdict(config.policy)
    del numbers["init"], numbers["revision"], numbers["checkpoint"]
    return model.ModelConfig(vocab_size=config.bench.vocab_size, **numbers)


def validate(config: Config, device_count: int) -> list[str]:
    """Lists the mistakes in `config`, one line each."""
    return checks.validate(config, device_count, architecture=architecture(config))


def draw_limits(config: Config) -> np.ndarray:
    """Draws the number of tokens of each rollout, i32[P, G].

    The numbers are geometric with the configured mean, cut at the limit. Without a mean all are the
    limit.
    """
    shape, most = (config.batch.prompts, config.batch.group), config.rollout.max_new_tokens
    if not config.bench.mean_new_tokens:
        return np.full(shape, most, np.int32)
    rng = np.random.default_rng(config.seed)
    lengths = rng.geometric(1 / config.bench.mean_new_tokens, shape)
    return np.minimum(lengths, most).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One row of the table."""

    seconds: float  # median
    tokens: int  # of all responses
    compile_s: float  # first call minus median; leaves out programs of earlier rows


def measure(config: Config) -> dict[str, Phase]:
    """Measures each phase on random weights and prompts.

    Returns:
        "sampling"; "scoring", the forward pass alone; "update", one optimizer step over all
        rollouts; "step", which is sampling, rewards (made up on the host), advantages and update.
    """
    c, policy = config, architecture(config)
    P, S = c.batch.prompts, c.data.max_prompt_tokens
    mesh = sharding.make_mesh(**dataclasses.asdict(c.mesh))
    programs = Programs(c, policy, (), mesh)
    key, rng = jax.random.key(c.seed), np.random.default_rng(c.seed)
    padded = pad_prompts(rng.integers(policy.vocab_size, size=(P, S)).tolist(), S)
    host = (padded, draw_limits(c), np.arange(P))
    prompts, limits_PG, draw_P = sharding.put(host, mesh)

    def sample(state):
        return sampling.sample(
            programs.serve(state.params),
            policy,
            prompts,
            key,
            programs.sampling,
            max_new_tokens_PG=limits_PG,
            mesh=mesh,
        )

    def advantages(rollouts):
        """Rewards the share of even tokens, on the host as a task does; returns the advantages."""
        r = jax.device_get(rollouts)
        rewards = (((r.tokens % 2 == 0) & r.trained).sum(-1) / r.length).astype(np.float32)
        judged = sharding.put((rewards, rewards > 0.5), mesh)
        experience = Experience(rollouts, *judged, parts={}, baseline=None, draw=draw_P)
        return programs.advantages(key, experience)[0]

    def update(state, rollouts, advantages_PG):
        batch = Batch(rollouts, advantages_PG, rollouts.logps, None)
        return programs.update(state, batch, np.int32(0), {})

    def step(state):
        rollouts = sample(state)
        return update(state, rollouts, advantages(rollouts))

    def timed(phase, state):
        """Returns the row of `phase(state) -> (state, anything)`, and the last state."""
        seconds = []
        for _ in range(c.bench.repetitions + 1):
            start = time.perf_counter()
            state, _ = jax.block_until_ready(phase(state))
            seconds.append(time.perf_counter() - start)
        first, *rest = seconds
        median = statistics.median(rest)
        return Phase(median, int(limits_PG.sum()), max(first - median, 0.0)), state

    # A phase returns the next state, because the update donates the state that it gets.
    found = {}
    with jax.default_matmul_precision(c.compute.matmul_precision):
        state = programs.fresh_state("rl", programs.init_trained(key))
        found["sampling"], state = timed(lambda state: (state, sample(state)), state)
        rollouts = sample(state)
        zeros_PG = sharding.put(np.zeros((P, c.batch.group), np.float32), mesh)
        found["scoring"], state = timed(
            lambda state: (state, programs.score(state.params, rollouts)), state
        )
        found["update"], state = timed(lambda state: update(state, rollouts, zeros_PG), state)
        found["step"], _ = timed(step, state)
    return found


def peak_memory() -> tuple[float, str]:
    """Returns GiB and their place: the fullest local device, or this process if no device tells."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(s["peak_bytes_in_use"] for s in stats) / 2**30, "of the fullest device"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak / 2**30, "resident in this process"


def report(config: Config, phases: dict[str, Phase]) -> None:
    """Prints the phases of `measure` as a table and, on the last line, as JSON."""
    memory, where = peak_memory()
    device = jax.devices()[0]
    table = rich.table.Table(
        title=f"{jax.device_count()} x {device.device_kind}; median of {config.bench.repetitions}",
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
