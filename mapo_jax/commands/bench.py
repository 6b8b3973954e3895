"""Measures sampling, scoring, update and the whole step of a batch.

The programs are a run's own. Weights, prompts and pictures are random. Only its limit ends a
response, so the numbers of tokens, operations and bytes are known beforehand; see work.py.
"""

import contextlib
import dataclasses
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from jax.experimental.compilation_cache import compilation_cache

from mapo_jax import config as settings
from mapo_jax import model, sampling, sharding
from mapo_jax.commands import plan, work
from mapo_jax.rollouts import (
    Batch,
    Experience,
    Picture,
    Prompts,
    pad_prompts,
    padded_length,
    patch_rung,
    with_pictures,
)
from mapo_jax.run import checks, sources
from mapo_jax.run.programs import Programs

Length = Annotated[int, settings.at_least(0, "the limit")]


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    repetitions: settings.Count
    vocab_size: settings.Count
    prompt_tokens: Length
    new_tokens: Length
    mean_new_tokens: Annotated[int, settings.at_least(0, "all have the most")]
    picture_sides: Annotated[
        settings.Pair, settings.Limit("(a, b) with 0 <= a <= b", lambda x: 0 <= x[0] <= x[1])
    ]


@dataclasses.dataclass(frozen=True)
class Config(settings.Config):
    """A run's configuration with the settings of a measurement; see experiments/bench.py."""

    bench: BenchConfig


def read(tree: Mapping[str, Any]) -> Config:
    """Returns the frozen configuration; UserError lists unknown, missing and wrongly typed keys."""
    return settings.from_config_dict(tree, Config)


def architecture(config: Config) -> model.ModelConfig:
    """Returns the architecture of the measured policy; see `plan.find_architecture` for names."""
    if config.policy.init:
        return plan.find_architecture(config)
    return sources.from_scratch(config.policy, config.bench.vocab_size)


def validate(config: Config, device_count: int) -> list[str]:
    """Lists the mistakes in `config`, one line each."""
    policy = architecture(config)
    lines = checks.validate(config, device_count, architecture=policy)
    if config.lora.rank:
        lines.append(f"lora.rank={config.lora.rank}: bench trains all weights; set it to 0")
    limits = {
        "prompt_tokens": ("data.max_prompt_tokens", config.data.max_prompt_tokens),
        "new_tokens": ("rollout.max_new_tokens", config.rollout.max_new_tokens),
    }
    for name, (key, limit) in limits.items():
        value = getattr(config.bench, name)
        if value > limit:
            lines.append(f"bench.{name}={value}: must be at most {key}, {limit}")
    vision, (least, most) = policy.vision, config.bench.picture_sides
    shown = f"bench.picture_sides={config.bench.picture_sides}"
    if most and vision is None:
        lines.append(f"{shown}: the policy has no tower; set policy.vision.num_layers, or (0, 0)")
    elif most and vision is not None:
        cells = (most // vision.factor) ** 2
        if not least or any(side % vision.factor for side in (least, most)):
            lines.append(f"{shown}: must be multiples of {vision.factor}, the pixels of a token")
        elif cells >= prompt_tokens(config):
            lines.append(
                f"{shown}: a picture has up to {cells} tokens, and a prompt of "
                f"{prompt_tokens(config)} must have one more; lower it, or raise "
                "data.max_prompt_tokens"
            )
    return lines


def prompt_tokens(config: Config) -> int:
    """Returns the length of every prompt."""
    return config.bench.prompt_tokens or config.data.max_prompt_tokens


def draw_limits(config: Config) -> np.ndarray:
    """Draws the number of tokens of each rollout, i32[P, G].

    The numbers are geometric with the configured mean, cut at bench.new_tokens. Without a mean all
    are bench.new_tokens.
    """
    shape = (config.batch.prompts, config.batch.group)
    most = config.bench.new_tokens or config.rollout.max_new_tokens
    if not config.bench.mean_new_tokens:
        return np.full(shape, most, np.int32)
    rng = np.random.default_rng(config.seed)
    lengths = rng.geometric(1 / config.bench.mean_new_tokens, shape)
    return np.minimum(lengths, most).astype(np.int32)


def draw_patches(config: Config, policy: model.ModelConfig) -> np.ndarray:
    """Draws the patches of a side of each prompt's picture, which is square, i[P]; 0 for none."""
    P, sides = config.batch.prompts, config.bench.picture_sides
    if policy.vision is None or not any(sides):
        return np.zeros(P, int)
    factor, merge = policy.vision.factor, policy.vision.merge
    rng = np.random.default_rng(config.seed)
    return rng.integers(sides[0] // factor, sides[1] // factor, P, endpoint=True) * merge


def make_prompts(config: Config, policy: model.ModelConfig) -> Prompts:
    """Makes random prompts, each with a picture in front if there are any; NumPy arrays."""
    P, length = config.batch.prompts, prompt_tokens(config)
    S = padded_length(length, config.data.max_prompt_tokens)
    rng = np.random.default_rng(config.seed)
    # At the places of pictures the tokens are not read.
    prompts = pad_prompts(rng.integers(policy.vocab_size, size=(P, length)).tolist(), S)
    sides = draw_patches(config, policy)
    if policy.vision is None or not sides.any():
        return prompts
    patch, merge = policy.vision.patch, policy.vision.merge
    N = patch_rung(int(sides.max()) ** 2, merge)
    pictures = [
        [Picture(rng.integers(256, size=(n * n, 3 * patch**2), dtype=np.uint8), n, n, place=0)]
        for n in sides.tolist()
    ]
    return with_pictures(prompts, pictures, N, patch, merge)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One row of the table."""

    seconds: list[float]  # of each repetition
    tokens: int  # of all responses
    flops: float  # of the model, on real tokens; see `costs`
    bytes: float  # read by decoding; 0 if arithmetic limits the phase
    padding: float  # share of the computed tokens, or of the slots of all steps, that is not real
    cold_s: float  # first call minus median; leaves out programs of earlier rows
    cached_s: float  # the same, if the programs are on disk

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def costs(config: Config, programs: Programs) -> dict[str, tuple[float, float, float]]:
    """Counts FLOPs, bytes and the share of padding of each phase, for all devices together.

    FLOPs are those that the real tokens and patches need: a forward pass, and for the update three;
    the tower takes one if it stays as it is. Layers and logits that are computed again to save
    memory, pairs of patches in different windows, and padding, do not count. So FLOPs per second
    against the peak are the model FLOPs utilization (PaLM, arXiv 2204.02311, appendix B).
    """
    c, policy, lengths_PG = config, programs.architecture, draw_limits(config)
    P, G = lengths_PG.shape
    s, S = prompt_tokens(c), padded_length(prompt_tokens(c), c.data.max_prompt_tokens)
    decoder = sum(work.forward(policy, np.full(P, s), lengths_PG))
    tower = work.tower(policy, draw_patches(c, policy) ** 2).needed
    forward = decoder + tower
    update = 3 * decoder + (3 if c.optimizer.trains_vision else 1) * tower
    mesh = sharding.make_mesh(**dataclasses.asdict(c.mesh))
    served = jax.eval_shape(programs.serve, model.abstract_params(policy))
    cores, shards = sampling.parts(served, P, programs.sampling, mesh), sharding.batch_shards(mesh)
    own = P // shards
    lanes, width = min(c.rollout.lanes or own, own) // cores, min(c.rollout.width or G, G)
    steps = [work.decode_steps(part, lanes, width) for part in np.split(lengths_PG, shards * cores)]
    number = jnp.dtype(c.compute.dtype).itemsize
    rungs = sampling.rungs(c.rollout.max_new_tokens)
    read = sum(work.decode_bytes(policy, n, rungs, (lanes, width), S, number) for n in steps)
    idle = 1 - lengths_PG.sum() / (sum(map(len, steps)) * lanes * width)
    pieces = programs.update.plan(lengths_PG, T=c.rollout.max_new_tokens)
    computed = sum(piece.places.size + len(piece.prompts) * S for piece in pieces)
    padding = 1 - (lengths_PG.sum() + P * s) / computed
    return {
        "sampling": (forward, read, idle),
        "scoring": (forward, 0, padding),
        "update": (update, 0, padding),
        "step": (forward + update, 0, 0),
    }


def measure(config: Config) -> dict[str, Phase]:
    """Measures each phase on random weights and prompts.

    Returns:
        "sampling"; "scoring", the forward pass alone; "update", one optimizer step over all
        rollouts; "step", which is sampling, rewards (made up on the host), advantages and update.
    """
    with tempfile.TemporaryDirectory(prefix="mapo_jax_bench-") as folder, _kept_in(folder):
        programs, seconds, cold = _time(config, config.bench.repetitions)
        jax.clear_caches()
        *_, cached = _time(config, 0)
    counted, tokens = costs(config, programs), int(draw_limits(config).sum())
    return {
        name: Phase(
            seconds[name],
            tokens,
            *counted[name],
            *(max(x[name] - statistics.median(seconds[name]), 0.0) for x in (cold, cached)),
        )
        for name in seconds
    }


@contextlib.contextmanager
def _kept_in(folder: str) -> Iterator[None]:
    """Context manager: all compiled programs are kept in `folder`, and looked for there alone."""
    values = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in values}
    _configure(values)
    try:
        yield
    finally:
        _configure(before)


def _configure(values):
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it does not look at its settings again by itself


def _time(
    config: Config, repetitions: int
) -> tuple[Programs, dict[str, list[float]], dict[str, float]]:
    """Runs each phase once, and then so many times more; returns these times and the first ones."""
    c, policy = config, architecture(config)
    P = c.batch.prompts
    mesh = sharding.make_mesh(**dataclasses.asdict(c.mesh))
    programs = Programs(c, policy, (), mesh, P)
    key = jax.random.key(c.seed)
    host = (make_prompts(c, policy), draw_limits(c), np.arange(P))
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

    def advantages(rollouts, memory):
        """Rewards the share of even tokens, on the host as a task does; returns the advantages."""
        r = jax.device_get(rollouts)
        rewards = (((r.tokens % 2 == 0) & r.trained).sum(-1) / r.length).astype(np.float32)
        judged = sharding.put((rewards, rewards > 0.5), mesh)
        experience = Experience(rollouts, *judged, parts={}, baseline=None, draw=draw_P)
        return programs.advantages(key, experience, memory)[0]

    def update(state, rollouts, advantages_PG):
        batch = Batch(rollouts, advantages_PG, rollouts.logps, None)
        return programs.update(state, batch, np.int32(0), {})

    def step(state):
        rollouts = sample(state)
        return update(state, rollouts, advantages(rollouts, state.memory))

    seconds, first = {}, {}

    def timed(name: str, phase: Callable, state: Any) -> Any:
        """Times `phase(state) -> (state, anything)`; returns the last state."""
        times = []
        for _ in range(repetitions + 1):
            start = time.perf_counter()
            state, _ = jax.block_until_ready(phase(state))
            times.append(time.perf_counter() - start)
        first[name], *seconds[name] = times
        return state

    # A phase returns the next state, because the update donates the state that it gets.
    jax.config.update("jax_default_matmul_precision", c.compute.matmul_precision)
    state = programs.fresh_state("rl", programs.init_trained(key))
    state = timed("sampling", lambda state: (state, sample(state)), state)
    rollouts = sample(state)
    zeros_PG = sharding.put(np.zeros((P, c.batch.group), np.float32), mesh)
    state = timed("scoring", lambda state: (state, programs.score(state.params, rollouts)), state)
    state = timed("update", lambda state: update(state, rollouts, zeros_PG), state)
    timed("step", step, state)
    return programs, seconds, first


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
    device, count = jax.devices()[0], jax.device_count()
    chip = work.find_chip(device.device_kind)
    table = rich.table.Table(
        title=f"{count} x {device.device_kind}; median of {config.bench.repetitions}",
        caption=f"peak memory {memory:.2f} GiB, {where}",
    )
    columns = ("", "seconds", "range", "tokens/s", "padding", "GFLOP/s", "GB/s", "compile s: cold")
    for column in (*columns, "cached"):
        table.add_column(column, justify="right" if column else "left")
    for name, phase in phases.items():
        flops = phase.flops / phase.median / count
        moved = phase.bytes / phase.median / count
        of_peak = of_bandwidth = ""
        if chip and config.compute.dtype != "float32":
            of_peak = f" ({flops / chip.flops:.0%})"
        if chip:
            of_bandwidth = f" ({moved / chip.bandwidth:.0%})"
        table.add_row(
            name,
            f"{phase.median:.3f}",
            f"{min(phase.seconds):.3f}-{max(phase.seconds):.3f}",
            f"{phase.tokens / phase.median:,.0f}",
            f"{phase.padding:.0%}" if name != "step" else "",
            f"{flops / 1e9:,.0f}{of_peak}",
            f"{moved / 1e9:.3g}{of_bandwidth}" if phase.bytes else "",
            f"{phase.cold_s:.1f}",
            f"{phase.cached_s:.1f}",
        )
    screen = rich.console.Console()
    (screen if screen.is_terminal else rich.console.Console(width=110)).print(table)
    median = {name: phase.median for name, phase in phases.items()}
    sampled, updated = phases["sampling"], phases["update"]
    figures = {
        "sample_tokens_per_s": sampled.tokens / median["sampling"],
        "score_tokens_per_s": sampled.tokens / median["scoring"],
        "update_s": median["update"],
        "step_s": median["step"],
        "compile_s": sum(phase.cold_s for phase in phases.values()),
        "compile_cached_s": sum(phase.cached_s for phase in phases.values()),
        "peak_memory_gib": memory,
        "sample_bytes_per_s": sampled.bytes / median["sampling"] / count,
        "update_flops_per_s": updated.flops / median["update"] / count,
    }
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
