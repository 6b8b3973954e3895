import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from mapo_jax import model, sharding
from tests import small


@pytest.mark.parametrize(
    ("sizes", "devices", "shape"),
    [
        ((-1, 1, 1), 1, (1, 1, 1)),
        ((-1, 1, 1), 8, (8, 1, 1)),
        ((-1, 2, 2), 8, (2, 2, 2)),
        ((2, -1, 2), 8, (2, 2, 2)),
        ((1, 1, -1), 8, (1, 1, 8)),
        ((2, 4, 1), 8, (2, 4, 1)),
    ],
)
def test_mesh_shape(sizes, devices, shape):
    assert sharding.mesh_shape(*sizes, devices) == shape


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (1, 1, 1), (16, 1, 1), (-1, 16, 1)])
def test_mesh_shape_must_fill_the_devices(sizes):
    with pytest.raises(ValueError, match="does not fill 8 devices"):
        sharding.mesh_shape(*sizes, 8)


def test_mesh():
    mesh = sharding.make_mesh(-1, 2, 2)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == (2, 2, 2)
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert sharding.batch_shards(mesh) == 4
    one = sharding.make_mesh(devices=jax.devices()[:1])
    assert one.devices.shape == (1, 1, 1)
    assert sharding.batch_shards(one) == 1


@pytest.mark.parametrize(
    ("sizes", "minibatch", "expected"),
    [
        ((1, 1, 1), 16, (4, 3)),
        ((2, 1, 1), 16, (8, 3)),
        ((2, 2, 2), 16, (16, 3)),
        ((8, 1, 1), 8, (8, 3)),
    ],
)
def test_a_microbatch_is_of_every_shard_at_most_what_it_has(sizes, minibatch, expected):
    mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    assert sharding.microbatch(mesh, minibatch, (4, 3)) == expected


def test_rule_table():
    names = ("layers", "embed", "heads", "head_dim")
    assert sharding.spec(names) == PartitionSpec(None, "fsdp", "tensor", None)
    assert sharding.spec(names, sharding.GATHERED) == PartitionSpec(None, None, "tensor", None)
    assert sharding.spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)
    with pytest.raises(KeyError):
        sharding.spec(("no_such_name",))


def test_parameters_lie_where_the_rules_say():
    """Every matrix is split 4 ways by fsdp x tensor, and no array is split along the layers."""
    mesh = sharding.make_mesh(2, 2, 2)
    shardings = sharding.shardings(mesh, model.logical_axes(small.CONFIG))
    params = jax.device_put(small.params(), shardings)
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        ways = x.size // x.addressable_shards[0].data.size
        if "kernel" in name or "embedding" in name or "head" in name:
            assert ways == 4, name
        if "bias" in name or "q_norm" in name or "k_norm" in name:
            assert ways == (2 if "bias" in name else 1), name
        if "layers" in name:
            assert x.addressable_shards[0].data.shape[0] == small.CONFIG.num_layers, name


def test_batch_is_split_by_prompts():
    mesh = sharding.make_mesh(2, 2, 2)
    x = jax.device_put(np.arange(16).reshape(8, 2), sharding.by_prompt(mesh))
    assert {s.data.shape for s in x.addressable_shards} == {(2, 2)}
    y = jax.device_put(np.arange(16), sharding.replicated(mesh))
    assert {s.data.shape for s in y.addressable_shards} == {(16,)}


def test_constrain():
    x = jnp.ones((8, 4))
    assert sharding.constrain(x, ("batch", "mlp")) is x  # does nothing without a mesh
    mesh = sharding.make_mesh(2, 2, 2)

    def inside(x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return sharding.constrain(x, ("batch", "mlp"))

    spread = jax.device_put(x, sharding.replicated(mesh))
    assert jax.jit(inside)(spread).sharding.shard_shape(x.shape) == (2, 2)


def test_constrain_leaves_manual_axes_alone():
    mesh = sharding.make_mesh(2, 2, 2)
    by_prompt = PartitionSpec(sharding.BATCH_AXES)
    f = jax.shard_map(
        lambda x: sharding.constrain(x, ("batch", "mlp")),
        mesh=mesh,
        in_specs=by_prompt,
        out_specs=by_prompt,
        axis_names=set(sharding.BATCH_AXES),
    )
    x = np.arange(32.0).reshape(8, 4)
    out = jax.jit(f)(jax.device_put(x, sharding.by_prompt(mesh)))
    assert out.sharding.shard_shape(x.shape) == (2, 2)
    np.testing.assert_array_equal(out, x)


def test_rows_go_to_the_devices_and_come_back():
    mesh = sharding.make_mesh(2, 2, 2)
    np.testing.assert_array_equal(sharding.own_rows(mesh, 12), np.arange(12))
    rows = {"a": np.arange(24.0).reshape(12, 2), "b": np.arange(12)}
    put = sharding.put(rows, mesh)
    assert put["a"].sharding == sharding.by_prompt(mesh)
    assert put["a"].addressable_shards[0].data.shape == (3, 2)
    np.testing.assert_array_equal(sharding.own(put["a"]), rows["a"])
    np.testing.assert_array_equal(sharding.own(put["b"]), rows["b"])
    np.testing.assert_array_equal(sharding.everyones(rows["a"], mesh), rows["a"])
