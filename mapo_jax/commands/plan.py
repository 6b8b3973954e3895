"""Tells without the hardware whether a run fits and how much a step costs, for launch/plan.py.

Parameters, optimizer state and caches are counted exactly from shapes and shardings. FLOPs and
bytes come from the formulas below. All figures are for full lengths, and for a policy with a tower
each prompt has as many pictures as the configuration allows. With a topology, libtpu compiles the
train step and the sampler for it, without a TPU. The plan then shows the memory that the compiler
reports and the collectives that it has put in.
"""

import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from etils import epath
from jax.sharding import AbstractMesh, AxisType

from mapo_jax import errors, model, pretrained, rollouts, sampling, sharding, training
from mapo_jax.commands import aot, work
from mapo_jax.config import Config
from mapo_jax.pretrained.known import KNOWN
from mapo_jax.run import sources
from mapo_jax.run.checks import validate


class Phase(NamedTuple):
    """FLOPs of all devices together, and bytes that each device moves, in one step."""

    flops: float
    bytes: float  # read from memory per device; 0 if arithmetic limits the phase
    tower: float  # part of the FLOPs


def run(config: Config, topology: str, efficiency: float) -> None:
    """Prints the plan of a configuration.

    Args:
        config: a run's configuration; policy, data and tokenizer need not be there.
        topology: the slice to compile for, as in v5e:8x8; "" compiles nothing and takes as many
            devices as mesh.* multiply to.
        efficiency: share of a chip's peak that its arithmetic and its memory reach.

    Raises:
        UserError: the configuration has a mistake, the topology is unknown, libtpu is missing, or
            the programs do not fit.
    """
    architecture = find_architecture(config)
    chip = _chip(topology) if topology else None
    devices = aot.devices(topology) if topology else None
    sizes = dataclasses.asdict(config.mesh)
    count = len(devices) if devices else math.prod(n for n in sizes.values() if n > 0)
    platform = "tpu" if topology else ""
    if lines := validate(config, count, architecture=architecture, platform=platform):
        raise errors.UserError(*lines)
    shape = sharding.mesh_shape(**sizes, device_count=count)
    mesh: Any = AbstractMesh(shape, sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    screen = rich.console.Console()
    wide = screen if screen.is_terminal else rich.console.Console(width=110)
    parts = memory(config, architecture, mesh, tile=128 if topology else 1)  # a TPU's lanes
    where = f"{count} device{'s' if count > 1 else ''}{f' of {topology}' if topology else ''}"
    title = f"{where}: data {shape[0]} x fsdp {shape[1]} x tensor {shape[2]}"
    _print_memory(wide, title, architecture, parts, chip)
    _print_cost(wide, phases(config, architecture, mesh), count, chip, efficiency)
    _print_prompt(wide, config, architecture)
    if devices:
        _print_compiled(wide, config, architecture, devices, parts, chip)


def find_architecture(config: Config) -> model.ModelConfig:
    """Finds the policy's numbers in its folder or run, or by its name; reads no weights.

    Raises:
        UserError: the policy is neither there nor known.
    """
    init = config.policy.init
    if init and not epath.Path(init).is_dir():
        if init not in KNOWN:
            raise errors.UserError(
                f"policy.init={init}: no such folder, and not one of the policies whose numbers a "
                f"plan knows{errors.did_you_mean(init, KNOWN)}; give a folder with its "
                f"config.json, or one of {', '.join(KNOWN)}"
            )
        return sources.adapted(KNOWN[init], config.lora)
    if init and not (epath.Path(init) / "checkpoints").is_dir():
        return sources.adapted(pretrained.read_config(pretrained.folder(init)), config.lora)
    return sources.find(config).architecture


def _chip(topology: str) -> work.Chip:
    name, _, shape = topology.partition(":")
    if name not in work.TPUS or not re.fullmatch(r"\d+(x\d+)+", shape):
        raise errors.UserError(
            f"--topology={topology}: must be GENERATION:AxB or AxBxC, as in v5e:8x8 or v5p:4x4x4; "
            f"generations: {', '.join(work.TPUS)}"
        )
    return work.TPUS[name]


# Memory


def memory(
    config: Config, architecture: model.ModelConfig, mesh: Any, tile: int = 1
) -> dict[str, int]:
    """Returns the exact bytes per device of a step's arrays, by name.

    `tile` is the number to whose multiple a device pads the last axis of keys and values, a head.

    "serving" is the sampler's copy of the trained parameters, which lives while it samples;
    "served" is its copy of the frozen parameters, which stays. "batch" is the data that an update
    reads beside the state. "cache" and "prefix" are the sampler's keys and values of responses and
    of prompts, "layers" its second copy of the layers' weights, which are stacked in the first, and
    "prefill" the temporaries of the prompts that it encodes at once, which are counted roughly.
    "activations" are those of a microbatch in an update with compute.remat, also counted roughly.
    """
    c = config
    axes = model.logical_axes(architecture)
    trained, frozen = model.partition(model.abstract_params(architecture))
    trained_axes, frozen_axes = model.partition(axes)
    tx = training.make_optimizer(c.optimizer)
    trains_vision = c.optimizer.trains_vision
    state = jax.eval_shape(lambda params: training.init_state(params, tx, trains_vision), trained)
    layout = training.state_shardings(architecture, tx, mesh, trains_vision)
    moving = [training.moving_params(x.params, trains_vision)[0] for x in (state, layout)]
    width = jnp.dtype(c.compute.dtype).itemsize
    parts = {
        "parameters": _bytes(state.params, layout.params),
        "optimizer": _bytes(state, layout) - _bytes(state.params, layout.params),
        "frozen": _bytes(frozen, sharding.shardings(mesh, frozen_axes), width) if frozen else 0,
        "gradients": _bytes(moving[0], moving[1]),
        "reference": _bytes(state.params, layout.params, width) if c.algorithm.beta else 0,
    }
    for name, tree, names in (
        ("serving", trained, trained_axes),
        ("served", frozen, frozen_axes),
    ):
        gathered = sharding.shardings(mesh, names, sharding.GATHERED)
        parts[name] = _bytes(tree, gathered, width) if tree else 0
    if mesh.shape["fsdp"] == 1:  # sampler and trainer lay arrays out alike and share them
        parts["served"] = 0
    shards, tensor = sharding.batch_shards(mesh), mesh.shape["tensor"]
    P, G, S, T = aot.sizes(c)
    prompts = P // c.rollout.chunks // shards
    lanes = min(c.rollout.lanes or prompts, prompts)
    slots = lanes * min(c.rollout.width or G, G)
    head = -(-architecture.head_dim // tile) * tile
    key_and_value = 2 * architecture.num_layers * architecture.num_kv_heads // tensor * head * width
    parts["cache"] = slots * T * key_and_value
    parts["prefix"] = (prompts + (lanes if lanes < prompts else 0)) * S * key_and_value
    a, whole = architecture, model.abstract_params(architecture)
    gathered = sharding.shardings(mesh, axes["layers"], sharding.GATHERED)
    parts["layers"] = _bytes(whole["layers"], gathered, width)
    n = aot.picture_patches(c, a)
    N = rollouts.patch_rung(n, a.vision.merge) if a.vision and n else 0
    # A prompt's token has its keys and values twice, stacked and by layers, beside the activations.
    at_once = 2 * key_and_value + (3 * a.mlp_dim // tensor + a.embed_dim) * width + 8 * a.embed_dim
    parts["prefill"] = sampling.prefill_size(prompts, S, N) * max(
        S * at_once, N * _patch_at_once(a, tensor, width)
    )
    parts["activations"] = _activations(c, a, N, mesh, width) if c.compute.remat else 0
    batch = aot.abstract_batch(c, architecture, mesh)
    parts["batch"] = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(batch)
    )
    return parts


def _patch_at_once(a, tensor, width):
    """Bytes of a patch in one layer of the tower in sampling: roughly, all that exists at once."""
    if (v := a.vision) is None:
        return 0
    streams = 3 * v.embed_dim * 4  # the residual stream, before and after, and its norm
    products = (3 * v.embed_dim + 3 * v.mlp_dim) // tensor * width
    scores = sampling.PREFILL_CHUNK * v.num_heads // tensor * (4 + width)
    return streams + products + scores


def _activations(c, a, N, mesh, width):
    """Bytes of a microbatch's activations at the peak of an update with compute.remat, roughly.

    These are the float32 inputs of all layers, which are kept, and either the LM head with its
    gradient, in float32, and logits, or one layer in its backward pass.
    """
    shards, tensor, (_, _, S, T) = sharding.batch_shards(mesh), mesh.shape["tensor"], aot.sizes(c)
    p, g = sharding.microbatch(mesh, c.batch.minibatch_prompts, c.batch.microbatch)
    p //= shards
    tokens = p * (S + g * T)
    kept = a.num_layers * tokens * a.embed_dim
    if a.vision and not a.lora_rank and c.optimizer.trains_vision:
        kept += a.vision.num_layers * p * N * a.vision.embed_dim
    logits = min(c.compute.head_chunk or p * g * T, p * g * T)
    head = (2 * a.embed_dim + 3 * logits) * a.vocab_size // tensor * 4
    layer = tokens * (6 * a.mlp_dim // tensor * width + 6 * a.embed_dim * 4)
    return 4 * kept + max(head, layer)


def _bytes(tree: Any, shardings: Any, width: int = 0) -> int:
    """Returns bytes per device; each element takes `width` bytes, or its dtype's if that is 0."""
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * (width or x.dtype.itemsize),
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


# Cost


def phases(config: Config, architecture: model.ModelConfig, mesh: Any) -> dict[str, Phase]:
    """Returns FLOPs of all devices and bytes per device of a step's phases, at full lengths.

    A prompt and its pictures are computed once for its group; in scoring and update once for each
    of the parts into which batch.microbatch splits the group. An update computes forward once, and
    its backward pass costs two forward passes; compute.remat computes the layers once more. A tower
    that stays as it is has no backward pass. Sampling waits for memory, not for arithmetic, because
    every decode step reads the weights and the caches of all slots.
    """
    c, a = config, architecture
    P, G, S, T = aot.sizes(c)
    layers, head = work.forward(a, np.full(P, S), np.full((P, G), T))
    tower = P * sum(work.tower(a, np.asarray([aot.picture_patches(c, a)])))
    parts = memory(c, a, mesh)
    own = P // c.rollout.chunks // sharding.batch_shards(mesh)
    lanes, width = min(c.rollout.lanes or own, own), min(c.rollout.width or G, G)
    steps = c.rollout.chunks * T * math.ceil(own / lanes) * math.ceil(G / width)
    cached = parts["cache"] + parts["prefix"] * lanes / max(own + (lanes < own) * lanes, 1)
    weights = parts["serving"] + (parts["served"] or parts["frozen"])
    found = {"sampling": Phase(layers + head + tower, steps * (weights + cached), tower)}
    splits = G // c.batch.microbatch[1]
    layers += (splits - 1) * work.forward(a, np.full(P, S), np.empty((P, 0))).layers
    tower *= splits
    scored = (c.algorithm.old_logps == "rescored") + bool(c.algorithm.beta)
    if scored:
        found["scoring"] = Phase(scored * (layers + head + tower), 0, scored * tower)
    passes = 4 if c.compute.remat else 3
    is_still = c.lora.rank or not c.optimizer.trains_vision
    tower *= c.batch.epochs * (1 if is_still else passes)
    update = c.batch.epochs * (passes * layers + 4 * head)  # the head is always recomputed
    return found | {"update": Phase(update + tower, 0, tower)}


def sharing(config: Config, architecture: model.ModelConfig) -> tuple[float, float]:
    """Returns the FLOPs of a group's forward pass: with one prompt pass, and with one a response.

    The pictures belong to the prompt.
    """
    a, (_, G, S, T) = architecture, aot.sizes(config)
    patches, prompt = np.asarray([aot.picture_patches(config, a)]), np.asarray([S])
    once = sum(work.tower(a, patches)) + work.forward(a, prompt, np.empty((1, 0))).layers
    shared = sum(work.tower(a, patches)) + sum(work.forward(a, prompt, np.full((1, G), T)))
    return shared, shared + (G - 1) * once


# The screen


_NAMES = {
    "parameters": "parameters, float32",
    "optimizer": "optimizer's moments, float32",
    "frozen": "frozen parameters",
    "gradients": "gradients, float32",
    "reference": "reference, in the compute dtype",
    "served": "frozen parameters, for the sampler",
    "serving": "sampler's weights",
    "layers": "sampler's weights, layer by layer",
    "cache": "sampler's cache, responses",
    "prefix": "sampler's cache, prompts",
    "prefill": "prompts that are encoded at once",
    "batch": "rollout batch",
    "activations": "activations of a microbatch",
}


_SAMPLING = ("serving", "layers", "cache", "prefix", "prefill")
_LASTING = ("parameters", "optimizer", "frozen", "served", "reference", "batch")

_KNOBS = {
    "gradient": "batch.microbatch, compute.head_chunk or compute.attention_chunk, raise mesh.fsdp",
    "update": "mesh.data for a larger mesh.fsdp",
    "sampling": "rollout.lanes or rollout.width, raise rollout.chunks or mesh.tensor",
}


_FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")
_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = min(int(math.log(value, base)), len(units) - 1) if value else 0
    return f"{value / base**power:.4g} {units[power]}" if value else ""


def _memory(value: float) -> str:
    return _scaled(value, 1024, _BYTES)


def _print_memory(screen, title, architecture, parts, chip) -> None:
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(model.abstract_params(architecture)))
    screen.print(f"{count:,} parameters on {title}")
    table = rich.table.Table("memory per device", "")
    table.columns[1].justify = "right"
    for name, label in _NAMES.items():
        if parts[name]:
            table.add_row(label, _memory(parts[name]))
    table.add_section()
    lasting = sum(parts[name] for name in _LASTING)
    sampled = lasting + sum(parts[name] for name in _SAMPLING)
    table.add_row("while sampling", _memory(sampled))
    updated = lasting + parts["gradients"] + parts["activations"]
    without = "" if parts["activations"] else ", without activations"
    table.add_row(f"while updating{without}", _memory(updated))
    if chip:
        table.add_row("a device has", _memory(chip.memory))
    screen.print(table)


def _print_cost(screen, found, count, chip, efficiency) -> None:
    table = rich.table.Table(
        "a step, at full lengths",
        "operations",
        "read per device",
    )
    has_tower = any(phase.tower for phase in found.values())
    if has_tower:
        table.add_column("of the operations, the tower's")
    if chip:
        table.add_column(f"seconds at {efficiency:.0%} of the peak")
    total = 0.0
    for name, phase in found.items():
        row = [name, _scaled(phase.flops, 1000, _FLOPS), _memory(phase.bytes)]
        if has_tower:
            row.append(f"{_scaled(phase.tower, 1000, _FLOPS)} ({phase.tower / phase.flops:.0%})")
        if chip:
            seconds = max(phase.flops / count / chip.flops, phase.bytes / chip.bandwidth)
            total += seconds / efficiency
            row.append(f"{seconds / efficiency:,.1f}")
        table.add_row(*row)
    if chip:
        table.add_row("all", *[""] * (2 + has_tower), f"{total:,.1f}")
    for column in table.columns[1:]:
        column.justify = "right"
    screen.print(table)


def _print_prompt(screen, config, architecture) -> None:
    shared, alone = sharing(config, architecture)
    what = "A prompt"
    if n := aot.picture_patches(config, architecture):
        v, limit = architecture.vision, config.images.max_pixels
        needed, masked = work.tower(architecture, np.asarray([n]))
        bound = f"images.max_pixels={limit}" if limit else "the policy's limit of pixels"
        screen.print(
            f"Pictures of a prompt: at most {n:,} patches, {n // v.merge**2:,} tokens "
            f"(data.max_prompt_tokens={config.data.max_prompt_tokens} and {bound} allow no more); "
            f"arrays have room for {rollouts.patch_rung(n, v.merge):,} patches."
        )
        if masked:
            screen.print(
                "The tower computes its windows as masks over all patches of a prompt: "
                f"{masked / (needed + masked):.0%} of its operations are of masked pairs."
            )
        what = "A prompt, with its pictures,"
    screen.print(
        f"{what} computed once for {config.batch.group} responses: {_scaled(shared, 1000, _FLOPS)} "
        f"forward; once for each: {_scaled(alone, 1000, _FLOPS)}, {alone / shared:.1f} times."
    )


def _print_compiled(screen, config, architecture, devices, parts, chip) -> None:
    mesh = sharding.make_mesh(**dataclasses.asdict(config.mesh), devices=devices)
    with screen.status("compiling"):
        found = aot.compile_programs(config, architecture, mesh)
    table = rich.table.Table(
        "compiled, per device",
        "arguments",
        "peak",
        "with what else lives",
        "collectives",
        "seconds",
    )
    state = parts["parameters"] + parts["optimizer"]
    kept = parts["reference"] + parts["served"]
    others = {
        "gradient": kept + parts["optimizer"] + parts["batch"],
        "update": kept + parts["frozen"] + parts["batch"],
        "sampling": state + parts["reference"] + (parts["frozen"] if parts["served"] else 0),
    }
    lines = []
    for name, program in found.items():
        knobs = _KNOBS[name]
        if architecture.vision and name != "update":
            knobs += ", lower images.max_pixels"
        if isinstance(program, str):
            lines.append(
                f"{name}: does not fit ({program[:200]}); lower {knobs}, or take more chips"
            )
            continue
        need = program.peak + others[name]
        if need > chip.memory:
            lines.append(
                f"{name}: does not fit (needs {_memory(need)}, a device has "
                f"{_memory(chip.memory)}); lower {knobs}, or take more chips"
            )
        table.add_row(
            name,
            _memory(program.arguments),
            _memory(program.peak),
            f"{_memory(need)} of {_memory(chip.memory)}",
            ", ".join(f"{n} {kind}" for kind, n in sorted(program.collectives.items())) or "none",
            f"{program.seconds:.0f}",
        )
    for column in (1, 2, 3, 5):
        table.columns[column].justify = "right"
    screen.print(table)
    expected = state + parts["gradients"]
    if not isinstance(found["update"], str):
        share = found["update"].arguments / expected - 1
        padded = " (it pads small arrays to whole tiles)" if share > 0.01 else ""
        screen.print(
            f"State and gradient counted from shapes: {_memory(expected)}; the compiler's "
            f"arguments of the update: {share:+.2%}{padded}."
        )
    if lines:
        raise errors.UserError(*lines)
    screen.print(f"It fits: {_memory(chip.memory)} a device.")
