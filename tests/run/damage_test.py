"""Damage of a checkpoint: every flipped bit is noticed or changes nothing."""

import gc
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from mapo_jax import errors
from mapo_jax.run import checkpoints, digests
from tests import small
from tests.run.checkpoints_test import abstract, assert_same_bits, make_state

# Orbax leaves a coroutine behind for each array that it gives up.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _leave_nothing_behind():
    gc.freeze()  # it looks through what this test leaves, not through all that there is
    yield
    gc.collect()
    gc.unfreeze()


POSITION = {"phase": "rl", "step": 12, "drawn": 192, "first": [0, 1]}


def opened(directory: Path) -> checkpoints.Checkpoints:
    return checkpoints.Checkpoints(epath.Path(directory / "checkpoints"), keep=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's checkpoints 1 and 2, and its reference."""
    directory = tmp_path_factory.mktemp("saved")
    store, state = opened(directory), make_state(width=2000)
    store.save(1, state, POSITION | {"step": 1}, 0.5)
    later = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state)
    store.save(2, later, POSITION, 0.25)
    store.save_reference(state.params)
    store.close()
    return directory, state, later


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def restored_or_noticed(directory: Path, state, later) -> str:
    """The outcome of a continuation from the newest checkpoint; there are no others."""
    store, notes = opened(directory), []
    index, found, position = store.restore(lambda _: abstract(state), notes.append)
    store.close()
    if index == 2:
        assert_same_bits(found, later)
        assert position == POSITION
        return "harmless"
    assert index == 1
    assert_same_bits(found, state)
    assert position["step"] == 1
    assert notes[0].startswith("checkpoint 2 is damaged (")
    assert (directory / "checkpoints" / "damaged-2").is_dir()
    return "noticed"


@pytest.mark.slow
@pytest.mark.parametrize("bits", [20, *small.nightly([50])])
def test_flipped_bits_are_noticed_or_harmless(saved, tmp_path, bits):
    """Single bits, half of them in the largest files, where the numbers are."""
    directory, state, later = saved
    rng = random.Random(0)
    whole = files(directory / "checkpoints" / "2")
    largest = sorted(whole, key=lambda path: -path.stat().st_size)[:4]
    counts = {"noticed": 0, "harmless": 0}
    for number in range(bits):
        path = rng.choice(largest if number % 2 else whole)
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        flip(copy / path.relative_to(directory), rng.randrange(8 * path.stat().st_size))
        counts[restored_or_noticed(copy, state, later)] += 1
        shutil.rmtree(copy)
    assert counts["noticed"] >= 0.4 * bits


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", *small.nightly(["removed"], ["emptied"], ["zeroed"])])
def test_other_damage(saved, tmp_path, damage):
    directory, state, later = saved
    outcomes = []
    for number, path in enumerate(files(directory / "checkpoints" / "2")):
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        path = copy / path.relative_to(directory)
        size = path.stat().st_size
        match damage:
            case "cut":
                path.write_bytes(path.read_bytes()[: size // 2])
            case "emptied":
                path.write_bytes(b"")
            case "removed":
                path.unlink()
            case "zeroed":
                path.write_bytes(bytes(size))
        outcomes.append(restored_or_noticed(copy, state, later))
        shutil.rmtree(copy)
    assert "noticed" in outcomes


def test_a_damaged_reference_is_named(saved, tmp_path):
    directory, state, _ = saved
    rng = random.Random(1)
    noticed = 0
    for number in range(10):
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        path = max(files(copy / "checkpoints" / "reference"), key=lambda path: path.stat().st_size)
        flip(path, rng.randrange(8 * path.stat().st_size))
        store = opened(copy)
        try:
            assert_same_bits(store.restore_reference(abstract(state.params)), state.params)
        except errors.UserError as error:
            noticed += "checkpoints/reference" in str(error)
        store.close()
        shutil.rmtree(copy)
    assert noticed


def test_without_a_whole_checkpoint_nothing_begins_anew(saved, tmp_path):
    directory, state, _ = saved
    shutil.copytree(directory, tmp_path / "run")
    for index in (1, 2):
        (tmp_path / "run" / "checkpoints" / str(index) / "manifest" / "metadata").write_text("{}")
    store = opened(tmp_path / "run")
    with pytest.raises(errors.UserError, match=r"all of its checkpoints are damaged \(2, 1, now"):
        store.restore(lambda _: abstract(state), lambda _: None)
    store.close()


def test_an_unreachable_disk_is_no_damage(saved, tmp_path, monkeypatch):
    directory, state, _ = saved
    shutil.copytree(directory, tmp_path / "run")
    store = opened(tmp_path / "run")

    def refuse(*_, **__):
        raise ValueError("UNAVAILABLE: Error reading gs://bucket/run")

    monkeypatch.setattr(store._manager, "restore", refuse)
    with pytest.raises(ValueError, match="UNAVAILABLE"):
        store.restore(lambda _: abstract(state))
    store.close()
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()


def test_what_one_of_several_processes_cannot_read_ends_it(saved, tmp_path, monkeypatch):
    """The others wait for it: it sets the checkpoint aside, and the next start finds another."""
    directory, state, _ = saved
    shutil.copytree(directory, tmp_path / "run")
    store = opened(tmp_path / "run")
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def unreadable(*_):
        raise checkpoints._Unreadable("cut")

    monkeypatch.setattr(store, "_restore", unreadable)
    with pytest.raises(
        errors.StartAgain, match=r"checkpoint 2 is damaged \(cut\); it is .*damaged-2 now; st"
    ):
        store.restore(lambda _: abstract(state))
    monkeypatch.undo()
    store.close()
    store = opened(tmp_path / "run")
    assert store.latest() == 1
    store.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_the_digest_sees_every_bit_and_every_place(dtype):
    """Of one element any change shows, whatever the mesh; exchanged elements too."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2, (8, 6)) if dtype == "bool" else rng.integers(0, 100, (8, 6))
    x = np.asarray(jnp.asarray(numbers, dtype))

    def digest(array):
        return digests.describe({"x": jnp.asarray(array)})["x"]

    whole = digest(x)
    assert whole[:2] == [dtype, [8, 6]]
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("fsdp")))
    assert digests.describe({"x": split})["x"] == whole
    seen = {tuple(whole[2:])}
    for place in range(x.size):
        for bit in range(1 if dtype == "bool" else 8 * x.itemsize):
            changed = x.copy().reshape(-1)
            changed.view(f"uint{8 * x.itemsize}")[place] ^= 1 << bit
            seen.add(tuple(digest(changed.reshape(x.shape))[2:]))
    assert len(seen) == 1 + x.size * (1 if dtype == "bool" else 8 * x.itemsize)
    assert digest(x[::-1]) != whole
