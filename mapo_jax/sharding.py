"""Defines the mesh and the one table that maps logical axes to it. One device is a mesh.

The mesh axes `data` (across slices) and `fsdp` split prompts, `fsdp` also splits stored parameters,
and `tensor` splits heads, MLP and vocabulary.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
RULES = {
    "batch": BATCH_AXES,
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
    "layers": None,
    None: None,
}
# Weights are used, and kept by the sampler, in this layout, which is gathered over fsdp.
GATHERED = RULES | {"embed": None}


def mesh_shape(data: int, fsdp: int, tensor: int, device_count: int) -> tuple[int, ...]:
    """Returns the mesh's sizes; the one that is -1 is computed from the number of devices."""
    known = math.prod(n for n in (data, fsdp, tensor) if n != -1)
    rest = device_count // known
    shape = tuple(rest if n == -1 else n for n in (data, fsdp, tensor))
    if math.prod(shape) != device_count:
        raise ValueError(
            f"mesh data x fsdp x tensor = {shape} does not fill {device_count} devices"
        )
    return shape


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence | None = None
) -> Mesh:
    """Makes a mesh with axes `AXES`; raises ValueError if the sizes do not fill the devices."""
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(data, fsdp, tensor, len(devices))
    # An axis may be a part of the slice's own axis, as for 32 x 2 on a slice of 8 x 8, which
    # jax.make_mesh refuses.
    array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # Auto, as the default, Explicit, makes the embedding's gather ambiguous.
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * 3)


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of pieces into which the prompts of a batch are split."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def microbatch(mesh: Mesh, minibatch_prompts: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns (prompts, rollouts of each) of a microbatch over all shards together.

    `size`, from `batch.microbatch`, is for one shard. A shard that has fewer prompts of the
    minibatch takes all of them.
    """
    shards, (p, g) = batch_shards(mesh), size
    return min(p, minibatch_prompts // shards) * shards, g


def spec(names: Sequence[str | None], rules: dict = RULES) -> PartitionSpec:
    """Returns the partition of an array whose axes have these logical names."""
    return PartitionSpec(*(rules[name] for name in names))


def shardings(mesh: Mesh, axes: Any, rules: dict = RULES) -> Any:
    """Makes a tree of shardings from a tree of tuples of logical names."""
    return jax.tree.map(
        lambda names: NamedSharding(mesh, spec(names, rules)),
        axes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_prompt(mesh: Mesh) -> NamedSharding:
    """Splits the first axis, prompts, over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


# If there are several processes, each has only its own rows of arrays that are split by prompt.


def own_rows(mesh: Mesh, n: int) -> np.ndarray:
    """Returns i64[...], the rows out of n on this process's devices; all if it is alone."""
    indices = by_prompt(mesh).addressable_devices_indices_map((n,)).values()
    return np.unique(np.concatenate([np.arange(n)[index] for index in indices]))


def put(tree: Any, mesh: Mesh) -> Any:
    """Makes arrays that are split by prompt from this process's rows of each."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(by_prompt(mesh), np.asarray(x)), tree
    )


def own(x: Array) -> np.ndarray:
    """Returns this process's rows of an array that is split by prompt, in order, on the host."""
    pieces = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(pieces[start]) for start in sorted(pieces)])


def own_tree(tree: Any) -> dict[str, np.ndarray]:
    """Returns this process's rows of each leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): own(leaf) for path, leaf in leaves
    }


def everyones(x: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Gathers the rows of all processes on the host of each."""
    return np.asarray(_replicate(mesh)(put(x, mesh)))


@functools.cache
def _replicate(mesh):
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def constrain(x: Array, names: Sequence[str | None], rules: dict = RULES) -> Array:
    """Pins an intermediate's layout on the surrounding mesh; does nothing if there is none.

    Axes that a surrounding `shard_map` has made manual are left out, as they are not the
    compiler's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    manual = set(mesh.manual_axes)

    def free(axes):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        return tuple(a for a in axes if a not in manual) or None

    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(*(free(rules[name]) for name in names))
    )
