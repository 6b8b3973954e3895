"""Cuts a call of the sampler into parts that decode side by side on the cores of a CPU.

XLA:CPU computes the small operations of a decode step on one core each, and one after the other. So
a policy of a few million weights keeps one core busy. Several calls, each with some of the prompts,
keep all busy: `experiments/arithmetic.py` samples 1.7 times as fast on two cores. A draw depends on
its rollout alone, so the tokens stay the same, up to float rounding.
"""

import concurrent.futures
import functools
import operator
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mapo_jax import model
from mapo_jax.rollouts import Rollouts
from mapo_jax.sampling.config import SamplingConfig

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FEWEST_SLOTS = 32  # of a part; two parts of 32 gain a fifth
MOST_BYTES = 2**25  # of weights, which each part reads; some 20 MB gain, 250 MB lose


def parts(params: model.Params, P: int, settings: SamplingConfig, mesh: Mesh | None = None) -> int:
    """Returns the number of parts: at most one for each core, and 1 on all other devices.

    A part has at least `FEWEST_SLOTS` slots, and the weights have at most `MOST_BYTES`: twelve
    layers of 512 lose a sixth of their speed in two parts.

    Args:
      params: of the policy, or their shapes and dtypes.
      P: prompts of the call.
      settings: lanes, width and group; with `on_token` there is one part.
      mesh: the devices of the call; a call on several is not cut.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    is_one = mesh is None or mesh.size == 1
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    if device.platform != "cpu" or not is_one or settings.on_token or size > MOST_BYTES:
        return 1
    lanes = min(settings.lanes or P, P)
    slots = lanes * min(settings.width or settings.group_size, settings.group_size)
    most = max(min(CORES, slots // FEWEST_SLOTS), 1)
    return max(n for n in range(1, most + 1) if P % n == lanes % n == 0)


def side_by_side(call: Callable[[Any], Rollouts], inputs: Any, n: int) -> Rollouts:
    """Calls a compiled sampler for n parts of the inputs, [P, ...] each, and joins the results.

    It does not wait for them. JAX runs the calls of one thread one after the other, so each part
    has its own thread. The first call, which may compile, is made before the others. Context
    managers of JAX hold in their own thread alone, so the others have the global settings.
    """
    first, *rest = _cut(inputs, n)
    return _join([call(first), *_threads().map(call, rest)])


@functools.cache
def _threads():
    return concurrent.futures.ThreadPoolExecutor(CORES, thread_name_prefix="sampling")


@functools.partial(jax.jit, static_argnums=1)
def _cut(tree, n):
    size = len(jax.tree.leaves(tree)[0]) // n
    rows = [slice(i * size, (i + 1) * size) for i in range(n)]
    return [jax.tree.map(operator.itemgetter(part), tree) for part in rows]


@jax.jit
def _join(some):
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *some)
