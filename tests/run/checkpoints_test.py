"""Checkpoints come back bit for bit, on any devices; the newest and the best are kept."""

import dataclasses
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mapo_jax import errors
from mapo_jax.run import checkpoints


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    params: Any
    opt_state: Any


def make_state(device_count: int = 8, width: int = 3) -> State:
    """A state as the trainer's: a sharded matrix, a bfloat16 leaf, optax's tuples, scalars."""
    mesh = Mesh(np.array(jax.devices()[:device_count]), ("fsdp",))
    params = {
        "embed": jax.random.normal(jax.random.key(0), (8, width)) / 3,
        "layers": {"scale": jnp.full((5,), 1 / 3, jnp.bfloat16)},
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = State(jnp.int32(7), params, tx.init(params))
    specs = {(8, width): PartitionSpec("fsdp")}
    return jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, specs.get(x.shape, PartitionSpec()))), state
    )


def abstract(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same_bits(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def kept(directory: Path) -> list[int]:
    return sorted(int(name) for name in os.listdir(directory) if name.isdigit())


def test_a_state_comes_back_with_its_position(tmp_path):
    state = make_state()
    position = {"phase": "warmup", "step": 3, "examples": 384}
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=2)
    assert store.latest() is None
    store.save(3, state, position, None)
    store.close()

    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=2)
    assert store.latest() == 3
    _, restored, found = store.restore(lambda _: abstract(state))
    store.close()
    assert found == position
    assert_same_bits(restored, state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert a.sharding == b.sharding
        assert a.committed


@pytest.mark.parametrize("device_count", [1, 2])
def test_other_devices(tmp_path, device_count):
    store = checkpoints.Checkpoints(tmp_path, keep=1)
    store.save(1, make_state(8), {}, None)
    store.wait()
    fewer = make_state(device_count)
    _, restored, _ = store.restore(lambda _: abstract(fewer))
    store.close()
    assert_same_bits(restored, fewer)
    assert restored.params["embed"].sharding == fewer.params["embed"].sharding


def test_the_state_may_be_donated_while_it_is_saved(tmp_path):
    state = make_state()
    expected = jax.tree.map(np.array, state)
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    store = checkpoints.Checkpoints(tmp_path, keep=1)
    store.save(1, state, {}, None)
    for _ in range(5):
        state = advance(state)
    store.wait()
    _, restored, _ = store.restore(lambda _: abstract(state))
    store.close()
    assert_same_bits(restored, expected)


def test_the_newest_and_the_best_are_kept(tmp_path):
    """NaN and None are no measurements: they are not the best and do not cost it its place."""
    state = make_state()
    metrics = [0.1, np.float32(0.9), 0.5, float("nan"), None, jnp.float32(0.3)]
    store = checkpoints.Checkpoints(tmp_path, keep=2)
    for index, metric in enumerate(metrics):
        store.save(index, state, {"index": index}, metric)
    store.close()
    assert kept(tmp_path) == [1, 4, 5]

    store = checkpoints.Checkpoints(tmp_path, keep=2)  # a continued run knows the best as well
    store.save(6, state, {}, 0.95)
    store.wait()
    assert kept(tmp_path) == [5, 6]
    store.save(7, state, {}, 0.2)
    store.save(8, state, {}, float("nan"))
    store.close()
    assert kept(tmp_path) == [6, 7, 8]


def test_other_shapes_and_dtypes_are_refused(tmp_path):
    """Orbax itself would cast to the dtype that is asked for."""
    state = make_state()
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=1)
    store.save(1, state, {}, None)
    store.wait()
    wanted = abstract(state)
    wrong = dataclasses.replace(
        wanted,
        params={
            "embed": jax.ShapeDtypeStruct(
                (8, 4), jnp.float32, sharding=state.params["embed"].sharding
            ),
            "layers": {
                "scale": jax.ShapeDtypeStruct((5,), jnp.float32, sharding=state.step.sharding)
            },
        },
    )
    with pytest.raises(errors.UserError) as caught:
        store.restore(lambda _: wrong)
    store.close()
    embed, scale = caught.value.lines
    assert f"--workdir={tmp_path}: params.embed is float32[8, 3] there and float32[8, 4]" in embed
    assert "params.layers.scale is bfloat16[5] there and float32[5]" in scale


def test_the_reference_is_kept_apart(tmp_path):
    state = make_state()
    store = checkpoints.Checkpoints(tmp_path, keep=1)
    store.save_reference(jax.tree.map(jnp.zeros_like, state.params))
    store.save_reference(state.params)  # as when a run died before its next checkpoint
    assert_same_bits(store.restore_reference(abstract(state.params)), state.params)
    for index in range(3):
        store.save(index, state, {}, None)
    store.close()
    assert kept(tmp_path) == [2]
    store = checkpoints.Checkpoints(tmp_path, keep=1)
    assert store.latest() == 2
    assert_same_bits(store.restore_reference(abstract(state.params)), state.params)
    store.close()


def test_parameters_of_another_run(tmp_path):
    state = make_state()
    newer = dataclasses.replace(state, params=jax.tree.map(lambda x: x * 2, state.params))
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=2)
    store.save(1, state, {}, 0.9)
    store.save(2, newer, {}, 0.1)
    store.close()
    params, index = checkpoints.restore_params(tmp_path, abstract(state.params), "x")
    assert index == 2
    assert_same_bits(params, newer.params)

    wider = abstract(make_state(width=5).params)
    with pytest.raises(errors.UserError) as caught:
        checkpoints.restore_params(tmp_path, wider, f"policy.init={tmp_path}")
    assert caught.value.lines == (
        f"policy.init={tmp_path}: its checkpoint is not of the policy that {tmp_path}/policy "
        "describes (1 of 2 arrays; first params.embed is float32[8, 3] there and float32[8, 5] by "
        "that); give a work directory that nobody has changed",
    )


def test_parameters_of_a_chosen_checkpoint(tmp_path):
    state = make_state()
    states = [
        dataclasses.replace(state, params=jax.tree.map(lambda x, i=i: x * i, state.params))
        for i in range(4)
    ]
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=4)
    for index, metric in ((1, 0.2), (2, 0.7), (3, None)):
        store.save(index, states[index], {}, metric)
    store.close()
    wanted = abstract(state.params)
    for which, index in (("newest", 3), ("best", 2), ("1", 1)):
        params, found = checkpoints.restore_params(tmp_path, wanted, "x", which)
        assert found == index
        assert_same_bits(params, states[index].params)
    for which in ("4", "bset", "01"):
        with pytest.raises(errors.UserError) as caught:
            checkpoints.restore_params(tmp_path, wanted, "--workdir=x", which)
        line = f"--workdir=x: has no checkpoint {which}; give newest, best or one of 1, 2, 3"
        assert caught.value.lines == (line,)
    (tmp_path / "checkpoints" / "2" / "manifest" / "metadata").write_text("{}")
    with pytest.raises(errors.UserError, match=r"checkpoint 2 is damaged .* and may be the best"):
        checkpoints.restore_params(tmp_path, wanted, "--workdir=x", "best")


def test_a_checkpoint_that_is_measured_afterwards_may_be_the_best(tmp_path):
    state = make_state()
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=1)
    store.save(1, state, {"step": 1}, None)
    store.wait()
    with pytest.raises(errors.UserError, match="none of its checkpoints was evaluated"):
        checkpoints.restore_params(tmp_path, abstract(state.params), "x", "best")
    assert store.is_best(0.1)
    assert not store.is_best(None)
    assert not store.is_best(float("nan"))
    store.measure(1, 0.5)
    store.measure(1, None)
    assert [store.is_best(x) for x in (0.4, 0.5, 0.6)] == [False, False, True]
    store.save(2, state, {}, 0.4)
    store.save(3, state, {}, None)
    store.close()
    assert kept(tmp_path / "checkpoints") == [1, 3]
    assert checkpoints.restore_params(tmp_path, abstract(state.params), "x", "best")[1] == 1
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=1)
    assert not store.is_best(0.5)
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "3")
    store.close()
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", keep=1)
    _, restored, position = store.restore(lambda _: abstract(state))  # its manifest is still whole
    store.close()
    assert position == {"step": 1}
    assert_same_bits(restored, state)


def test_metrics_of_something_else_are_forgotten(tmp_path):
    """In a later process too."""
    directory, state = epath.Path(tmp_path / "checkpoints"), make_state()
    store = checkpoints.Checkpoints(directory, keep=3)
    for index, metric in ((1, 0.9), (2, None)):
        store.save(index, state, {}, metric)
    store.wait()
    assert not store.is_best(0.1)
    store.forget_metrics()
    assert store.is_best(0.1)
    store.save(3, state, {}, 0.1)
    store.close()
    wanted = abstract(state.params)
    assert checkpoints.restore_params(epath.Path(tmp_path), wanted, "w", "best")[1] == 3
    again = checkpoints.Checkpoints(directory, keep=3)
    assert again.is_best(0.2)
    again.close()


def test_a_run_without_checkpoints_is_named(tmp_path):
    with pytest.raises(errors.UserError, match="has no checkpoints/"):
        checkpoints.restore_params(tmp_path, {}, "policy.init=x")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(errors.UserError, match="holds no checkpoint yet"):
        checkpoints.restore_params(tmp_path, {}, "policy.init=x")


def test_an_unfinished_save_is_not_there(tmp_path):
    """The rest that a killed process leaves is not the newest checkpoint and not in the way."""
    store = checkpoints.Checkpoints(tmp_path, keep=2)
    store.save(1, make_state(), {}, None)
    store.close()
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    store = checkpoints.Checkpoints(tmp_path, keep=2)
    assert store.latest() == 1
    store.save(2, make_state(), {}, None)
    store.close()
    assert kept(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    "error",
    [ValueError("RESOURCE_EXHAUSTED: write: No space left on device"), OSError(28, "No space")],
)
def test_a_full_disk_is_the_users_line(tmp_path, monkeypatch, error):
    """It shows when the save is waited for, not when it begins."""
    store = checkpoints.Checkpoints(tmp_path, keep=1)

    def fail():
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store._manager, "wait_until_finished", fail)
        with pytest.raises(errors.UserError, match=r"checkpoint\.keep"):
            store.wait()
    store.close()


def test_other_errors_of_a_save_surface(tmp_path):
    store = checkpoints.Checkpoints(tmp_path, keep=1)

    def save():
        store.save(1, make_state(), {"not JSON": object()}, None)
        store.wait()

    with pytest.raises(TypeError):
        save()


def test_orbax_is_silent(tmp_path, capfd, caplog):
    caplog.set_level(logging.WARNING)
    store = checkpoints.Checkpoints(tmp_path, keep=1)
    store.save(1, make_state(), {}, None)
    store.save(2, make_state(), {}, 0.5)
    store.close()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_remote_directory_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(checkpoints._absolute(epath.Path("gs://bucket/run"))) == "gs://bucket/run"
    assert checkpoints._absolute(epath.Path("run")) == tmp_path / "run"


def test_a_checkpoint_that_cannot_be_read_is_noticed_when_it_is_written(tmp_path):
    """Orbax takes brackets for a pattern, finds nothing to merge, and says nothing."""
    saved = checkpoints.Checkpoints(epath.Path(tmp_path / "a[bc]d" / "checkpoints"), keep=2)
    saved.save(1, make_state(), {"step": 1}, None)
    with pytest.raises(errors.UserError, match=r"checkpoint 1 was written but cannot be read"):
        saved.wait()
    saved.close()


def test_a_run_is_read_where_it_was_moved_to(tmp_path):
    saved, state = checkpoints.Checkpoints(epath.Path(tmp_path / "a/checkpoints"), 2), make_state()
    saved.save(1, state, {"step": 1}, None)
    saved.close()
    wanted = abstract(state.params)
    for name in ("x[bc]d", "x y", "x*?#"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
        found, _ = checkpoints.restore_params(epath.Path(tmp_path / name), wanted, "w")
        assert_same_bits(found, state.params)
    with pytest.raises(errors.UserError, match=r"^w: orbax cannot read a path"):
        checkpoints.restore_params(epath.Path(tmp_path / "x\\y"), wanted, "w")
