"""Compiles a run's programs for a TPU slice that is not here, and reads the compiler's figures."""

import collections
import dataclasses
import importlib.util
import os
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mapo_jax import errors, model, sampling, sharding
from mapo_jax.config import Config
from mapo_jax.rollouts import Batch, Images, Prompts, Rollouts, patch_rung
from mapo_jax.run import programs


class Compiled(NamedTuple):
    """The compiler's figures of one program, per device."""

    seconds: float  # compilation
    arguments: int  # bytes
    peak: int  # bytes, arguments included
    collectives: dict[str, int]  # kind -> number of them in the program


def devices(topology: str) -> list:
    """Returns the devices of a topology; none of them need be on this machine."""
    if importlib.util.find_spec("libtpu") is None:
        raise errors.UserError(
            f'--topology={topology}: needs the compiler for TPUs; pip install "jax[tpu]" (700 MB), '
            "or leave --topology out for the figures that need none"
        )
    # Otherwise libtpu asks for settings and takes a lock, which only a machine with a TPU needs.
    os.environ |= {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)
    except Exception as error:  # libtpu has no own class for this error
        raise errors.UserError(
            f"--topology={topology}: the compiler does not know it "
            f"({' '.join(str(error).split())[:160]})"
        ) from None


def sizes(c: Config) -> tuple[int, int, int, int]:
    """Returns P, G, S and T of a rollout batch."""
    return c.batch.prompts, c.batch.group, c.data.max_prompt_tokens, c.rollout.max_new_tokens


def picture_patches(c: Config, architecture: model.ModelConfig) -> int:
    """Returns the most patches that the pictures of a prompt have; 0 without a tower.

    They have at most data.max_prompt_tokens cells, and images.max_pixels, or the policy's limit.
    """
    if (v := architecture.vision) is None:
        return 0
    cells = (c.images.max_pixels or v.max_pixels) // v.factor**2
    return min(c.data.max_prompt_tokens, cells) * v.merge**2


def abstract_batch(c: Config, architecture: model.ModelConfig, mesh: Any) -> Batch:
    """Returns a rollout batch of shapes, dtypes and shardings, without data."""
    P, G, S, T = sizes(c)

    def array(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.by_prompt(mesh))

    logps = array((P, G, T), jnp.float32)
    prompts = Prompts(array((P, S), jnp.int32), array((P,), jnp.int32))
    v, n = architecture.vision, picture_patches(c, architecture)
    if v is not None and n:
        N = patch_rung(n, v.merge)
        images = Images(
            patches=array((P, N, 3 * v.patch**2), jnp.uint8),
            picture=array((P, N), jnp.int32),
            place=array((P, N, 2), jnp.int32),
            size=array((P, N, 2), jnp.int32),
            cell=array((P, S), jnp.int32),
        )
        rope = array((P, S, 3), jnp.int32)
        prompts = dataclasses.replace(prompts, images=images, rope=rope)
    rollouts = Rollouts(
        prompts=prompts,
        example=array((P,), jnp.int32),
        tokens=array((P, G, T), jnp.int32),
        length=array((P, G), jnp.int32),
        trained=array((P, G, T), jnp.bool_),
        logps=logps,
        finished=array((P, G), jnp.bool_),
        valid=array((P, G), jnp.bool_),
    )
    return Batch(rollouts, array((P, G), jnp.float32), logps, logps if c.algorithm.beta else None)


def compile_programs(
    config: Config, architecture: model.ModelConfig, mesh: Mesh
) -> dict[str, Compiled | str]:
    """Compiles the run's own train step, in two parts, and sampler for the devices of `mesh`.

    Returns:
        The compiler's figures for each program, or its message if the program does not fit.
    """
    c = config
    jax.config.update("jax_default_matmul_precision", c.compute.matmul_precision)
    made = programs.Programs(c, architecture, (0,), mesh)
    batch = abstract_batch(c, architecture, mesh)
    shapes, axes = model.abstract_params(architecture), model.logical_axes(architecture)

    def laid_out(tree, names, rules):
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.dtype(c.compute.dtype), sharding=s),
            tree,
            sharding.shardings(mesh, names, rules),
        )

    frozen = model.partition(shapes)[1]
    if frozen:
        frozen = laid_out(frozen, model.partition(axes)[1], sharding.RULES)
    key = jax.eval_shape(lambda: jax.random.key(0))
    chunk = c.batch.prompts // c.rollout.chunks
    prompts, example = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((chunk, *x.shape[1:]), x.dtype, sharding=x.sharding),
        (batch.rollouts.prompts, batch.rollouts.example),
    )
    found = made.update.lower(made.abstract_state("rl"), batch, frozen)
    found["sampling"] = sampling.program.lower(
        laid_out(shapes, axes, sharding.GATHERED),
        (prompts, None, example, example),
        key,
        *sampling.split(made.sampling),
        architecture,
        mesh,
    )
    return {name: _compile(lowered) for name, lowered in found.items()}


def _compile(lowered: Any) -> Compiled | str:
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return " ".join(str(error).split())
    used = compiled.memory_analysis()
    return Compiled(
        time.perf_counter() - start,
        used.argument_size_in_bytes,
        used.peak_memory_in_bytes,
        collectives(compiled.as_text()),
    )


def collectives(hlo: str) -> dict[str, int]:
    """Counts each kind of collective in a compiled program; those in a loop count once."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found: collections.Counter[str] = collections.Counter()
    is_scatter = False  # true inside a TPU's reduce-scatter, an all-reduce fused with a slice
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            is_scatter = line.startswith("%all-reduce-scatter")
        for kind in re.findall(rf" ({kinds})(?:-start)?\(", line):
            found["reduce-scatter" if is_scatter else kind] += 1
    return dict(found)
