"""The mesh and the one table that maps logical axes to it. One device is a mesh.

Mesh axes: `data` (across slices) and `fsdp` split prompts, `fsdp` splits stored parameters as well,
`tensor` splits heads, MLP and vocabulary.
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
# The layout in which weights are used, and in which the sampler keeps them: gathered over fsdp.
GATHERED = RULES | {"embed": None}


def mesh_shape(data: int, fsdp: int, tensor: int, device_count: int) -> tuple[int, ...]:
    """The mesh's sizes, with the one that is -1 filled in by the rest of the devices."""
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
    """A mesh with axes `AXES`; raises ValueError where the sizes do not fill the devices."""
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(data, fsdp, tensor, len(devices))
    # Unlike jax.make_mesh, which refuses 32 x 2 on a slice of 8 x 8: an axis may be a part of the
    # slice's own.
    array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # Auto: the default, Explicit, makes the embedding's gather ambiguous.
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * 3)


def batch_shards(mesh: Mesh) -> int:
    """How many pieces the prompts of a batch are split into."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def microbatch(mesh: Mesh, minibatch_prompts: int, size: tuple[int, int]) -> tuple[int, int]:
    """(prompts, rollouts of each) of all shards together, from those of one, `batch.microbatch`.

    Fewer prompts where a shard has not as many of the minibatch.
    """
    shards, (p, g) = batch_shards(mesh), size
    return min(p, minibatch_prompts // shards) * shards, g


def spec(names: Sequence[str | None], rules: dict = RULES) -> PartitionSpec:
    """The partition of an array whose axes have these logical names."""
    return PartitionSpec(*(rules[name] for name in names))


def shardings(mesh: Mesh, axes: Any, rules: dict = RULES) -> Any:
    """A tree of shardings from a tree of tuples of logical names."""
    return jax.tree.map(
        lambda names: NamedSharding(mesh, spec(names, rules)),
        axes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_prompt(mesh: Mesh) -> NamedSharding:
    """The first axis, prompts, over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


# With several processes each has its own rows of what is split by prompt, and only these.


def own_rows(mesh: Mesh, n: int) -> np.ndarray:
    """i64[...]: which of n rows lie on this process's devices, in order; all, if there is one."""
    indices = by_prompt(mesh).addressable_devices_indices_map((n,)).values()
    return np.unique(np.concatenate([np.arange(n)[index] for index in indices]))


def put(tree: Any, mesh: Mesh) -> Any:
    """Arrays split by prompt, from the host's own rows of each."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(by_prompt(mesh), np.asarray(x)), tree
    )


def own(x: Array) -> np.ndarray:
    """This process's rows of an array that is split by prompt, in order, on the host."""
    pieces = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(pieces[start]) for start in sorted(pieces)])


def own_tree(tree: Any) -> dict[str, np.ndarray]:
    """This process's rows of each leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): own(leaf) for path, leaf in leaves
    }


def everyones(x: np.ndarray, mesh: Mesh) -> np.ndarray:
    """All rows, on every process's host, from each one's own."""
    return np.asarray(_replicate(mesh)(put(x, mesh)))


@functools.cache
def _replicate(mesh):
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))


def constrain(x: Array, names: Sequence[str | None], rules: dict = RULES) -> Array:
    """Pins an intermediate's layout on the surrounding mesh; does nothing where there is none.

    Axes that a surrounding `shard_map` has made manual are left out: they are not the compiler's.
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
