"""Saves and restores checkpoints. Orbax is used here and nowhere else.

A checkpoint is saved after the step's records have been written. It holds the whole state and the
position in the run. A save is atomic: orbax writes under another name and renames. Orbax does not
notice flipped bits, so a manifest beside the arrays holds a digest of each. Digests are taken on
the devices before the save and compared after a restore. A checkpoint that differs is renamed, and
the one before it is used.

A state is stored as a flat dict from paths to leaves, so that the files do not depend on the Python
classes of the state. PRNG keys are not stored: they follow from the seed and the step.
"""

import contextlib
import errno
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeGuard, TypeVar

import absl.logging
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from mapo_jax import errors
from mapo_jax.run import digests, workdirs

# Orbax logs every step of a save, and prints an error's traceback four times before raising it;
# asyncio, by which it saves, once more.
absl.logging.set_verbosity(absl.logging.FATAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

T = TypeVar("T")
_REFERENCE = "reference"
# Errors of a disk or a bucket that cannot be reached now: the checkpoint may still be whole.
_UNREACHABLE = re.compile(
    "UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED"
)


class _Damaged(Exception):
    """A checkpoint differs from the one that was saved; the text says in which part."""

    is_local = False  # True: perhaps only this one of several processes has noticed


class _Unreadable(_Damaged):
    is_local = True


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, the best, and the reference policy."""

    def __init__(self, directory: epath.Path, keep: int):
        """Opens or creates `directory`.

        Args:
            directory: `checkpoints/` of a work directory.
            keep: how many of the newest to keep; the best by `metric` is kept as well.
        """
        self._directory = _absolute(directory)
        self._keep = _Keep(keep)
        self._manager = _manager(self._directory, self._keep)
        self._saved: int | None = None  # the save that is going on
        for index in self._manager.all_steps():
            with contextlib.suppress(_Damaged):  # `restore` names it if it matters
                self._keep.metrics[index] = _manifest_of(self._manager, index)["metric"]

    def latest(self) -> int | None:
        """The index of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def is_best(self, metric: float | None) -> bool:
        """Whether no checkpoint so far has such a large metric."""
        known = [x for x in self._keep.metrics.values() if x is not None]
        return _is_measured(metric) and metric > max(known, default=-math.inf)

    def measure(self, index: int, metric: float | None) -> None:
        """Notes the metric of a checkpoint that was saved before it was evaluated."""
        if not _is_measured(metric):
            return
        self.wait()
        self._note(index, float(metric))

    def forget_metrics(self) -> None:
        """Takes the metrics from all checkpoints, as those to come are of something else."""
        for index in [i for i, metric in self._keep.metrics.items() if metric is not None]:
            self._note(index, None)

    def _note(self, index: int, metric: float | None) -> None:
        manifest = _manifest_of(self._manager, index) | {"metric": metric}
        if jax.process_index() == 0:
            path = self._directory / str(index) / "manifest" / "metadata"
            workdirs.write_json(path, _signed(manifest))
        self._keep.metrics[index] = metric

    def save(
        self, index: int, state: Any, position: Mapping[str, Any], metric: float | None
    ) -> None:
        """Begins to save a checkpoint; it is there when `wait` or the next `save` has returned.

        Args:
            index: increases over the run, phases included.
            state: pytree of arrays; it may be donated as soon as this returns.
            position: JSON-able, where in the run it is.
            metric: the best checkpoint has the largest; None, or not finite, if it was not
                measured.
        """
        self.wait()
        params, rest = _split(state)
        self._keep.metrics[index] = float(metric) if _is_measured(metric) else None
        manifest = _manifest(params | rest, position, self._keep.metrics[index])
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            rest=ocp.args.StandardSave(rest),
            manifest=ocp.args.JsonSave(manifest),
        )
        _save(lambda: self._manager.save(index, args=args, force=True))
        self._saved = index

    def restore(
        self, abstract: Callable[[int], T], note: Callable[[str], Any] = print
    ) -> tuple[int, T, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole, bit for bit.

        A damaged one is renamed `checkpoints/damaged-INDEX`, and the one before it is tried.

        Args:
            abstract: maps a checkpoint's index to its state with jax.ShapeDtypeStruct leaves; the
                state is restored to their shardings.
            note: is told which checkpoints are damaged.

        Returns:
            The index, the state and the position; None if there is no checkpoint.

        Raises:
            UserError: a leaf has another shape or dtype in the checkpoint, or is missing on either
                side; or all checkpoints are damaged.
            StartAgain: this one of several processes cannot read the newest checkpoint, which it
                has renamed.
        """
        where = f"--workdir={self._directory.parent}"
        indices = sorted(self._manager.all_steps(), reverse=True)
        for index in indices:
            try:
                return index, *self._restore(index, abstract(index), where)
            except _Damaged as damage:
                alone = damage.is_local and jax.process_count() > 1
                line = f"checkpoint {index} is damaged ({damage}); {self._set_aside(index, alone)}"
                if alone:  # the others wait for what this process could not read
                    raise errors.StartAgain(
                        f"{line}; start the same command on all processes again"
                    ) from None
                note(line)
        if indices:
            raise errors.UserError(
                f"{where}: all of its checkpoints are damaged ({', '.join(map(str, indices))}, now "
                "checkpoints/damaged-*); put a copy of one back, or start again in another one"
            )
        return None

    def _restore(self, index: int, abstract: T, where: str) -> tuple[T, dict[str, Any]]:
        params, rest = _split(abstract)
        manifest = _manifest_of(self._manager, index)
        _check(manifest["leaves"], params | rest, where)
        args = ocp.args.Composite(
            params=ocp.args.StandardRestore(params), rest=ocp.args.StandardRestore(rest)
        )
        restored = _read(lambda: self._manager.restore(index, args=args))
        leaves = {**restored["params"], **restored["rest"]}
        _compare(leaves, manifest["leaves"])
        return _unflatten(abstract, leaves), manifest["position"]

    def _set_aside(self, index: int, alone: bool) -> str:
        """Renames a checkpoint, so that nobody uses it; returns a sentence that says so."""
        source, target = self._directory / str(index), self._directory / f"damaged-{index}"
        self._keep.metrics[index] = None  # no longer the best
        if alone or jax.process_index() == 0:
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # another was faster
                if target.exists() and source.exists():
                    target.rmtree()
                source.rename(target)
        if not alone:
            _wait_for_all("set_aside")
            self._manager.reload()
        return f"it is checkpoints/{target.name} now"

    def save_reference(self, params: Any) -> None:
        """Saves the reference policy at once; an older one is replaced."""
        flat = _flatten(params)
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(flat), manifest=ocp.args.JsonSave(_manifest(flat))
        )
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            _save(lambda: checkpointer.save(self._directory / _REFERENCE, args=args, force=True))

    def restore_reference(self, abstract: T) -> T:
        """Restores the reference policy onto the devices that `abstract` names.

        Raises:
            UserError: it does not fit, or is damaged.
        """
        where, flat = f"--workdir={self._directory.parent}", _flatten(abstract)

        def read(**items: Any) -> Any:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
                return checkpointer.restore(
                    self._directory / _REFERENCE, args=ocp.args.Composite(**items)
                )

        try:
            manifest = _read_manifest(lambda: read(manifest=ocp.args.JsonRestore())["manifest"])
            _check(manifest["leaves"], flat, where)
            args = ocp.args.StandardRestore(flat)
            leaves = _read(lambda: read(params=args)["params"])
            _compare(leaves, manifest["leaves"])
        except _Damaged as damage:
            raise errors.UserError(
                f"{where}: checkpoints/{_REFERENCE}, the policy that algorithm.beta pulls to, is "
                f"damaged ({damage}); put a copy of it back, or start again in another one"
            ) from None
        return _unflatten(abstract, leaves)

    def wait(self) -> None:
        """Waits until the last save is whole and can be read; raises its error if it failed."""
        _save(self._manager.wait_until_finished)
        saved, self._saved = self._saved, None
        for item in ("params", "rest") if saved is not None else ():
            # Orbax merges the pieces of all processes into this at the end, or says nothing.
            if not (self._directory / str(saved) / item / "manifest.ocdbt").exists():
                raise errors.UserError(
                    f"--workdir={self._directory.parent}: checkpoint {saved} was written but "
                    f"cannot be read ({item}/manifest.ocdbt is missing); choose another directory"
                )

    def close(self) -> None:
        """Waits and closes."""
        self.wait()
        self._manager.close()


def restore_params(
    workdir: epath.Path, abstract: T, where: str, which: str = "newest"
) -> tuple[T, int]:
    """Restores the parameters of one of a run's checkpoints.

    Args:
        workdir: of the run.
        abstract: the parameters with jax.ShapeDtypeStruct leaves that carry shardings.
        where: begins the line of a mistake, as in policy.init=DIR.
        which: "newest", "best", or the name of a folder in checkpoints/.

    Returns:
        The parameters and the checkpoint's index.

    Raises:
        UserError: there is no such checkpoint, or it is of another policy.
    """
    directory = _absolute(workdir / "checkpoints")
    if "\\" in str(directory):
        raise errors.UserError(f"{where}: orbax cannot read a path with a backslash; move it")
    if not directory.is_dir():
        raise errors.UserError(f"{where}: has no checkpoints/; give the work directory of a run")
    manager = _manager(directory, None)
    index = _choose(manager, which, where)
    flat = {f"params.{path}": leaf for path, leaf in _flatten(abstract).items()}
    args = ocp.args.Composite(params=ocp.args.StandardRestore(flat))
    try:
        saved = _manifest_of(manager, index)["leaves"]
        saved = {path: leaf for path, leaf in saved.items() if path.startswith("params.")}
        if differences := digests.differences(saved, flat):
            raise errors.UserError(
                f"{where}: its checkpoint is not of the policy that {workdir}/policy describes "
                f"({len(differences)} of {len({*saved, *flat})} arrays; first {differences[0]} by "
                "that); give a work directory that nobody has changed"
            )
        restored = _read(lambda: manager.restore(index, args=args))["params"]
        _compare(restored, saved)
    except _Damaged as damage:
        raise errors.UserError(
            f"{where}: its checkpoint {index} is damaged ({damage}); continue that run, which goes "
            "back to the one before it"
        ) from None
    manager.close()
    flat = {path.removeprefix("params."): x for path, x in restored.items()}
    return _unflatten(abstract, flat), index


def _choose(manager: ocp.CheckpointManager, which: str, where: str) -> int:
    """The index of the checkpoint that `which` names, see `restore_params`."""
    indices = sorted(manager.all_steps())
    if not indices:
        raise errors.UserError(f"{where}: holds no checkpoint yet; let that run save one first")
    if which == "newest":
        return indices[-1]
    if which in map(str, indices):
        return int(which)
    listed = ", ".join(map(str, indices))
    if which != "best":
        raise errors.UserError(
            f"{where}: has no checkpoint {which}; give newest, best or one of {listed}"
        )
    measured = []
    for index in indices:
        try:
            metric = _manifest_of(manager, index)["metric"]
        except _Damaged as damage:
            raise errors.UserError(
                f"{where}: its checkpoint {index} is damaged ({damage}) and may be the best; give "
                f"newest or one of {listed}"
            ) from None
        measured += [] if metric is None else [(metric, index)]
    if not measured:
        raise errors.UserError(
            f"{where}: none of its checkpoints was evaluated, so none is the best; give newest or "
            f"one of {listed}"
        )
    return max(measured)[1]


def _absolute(path: epath.Path) -> epath.Path:
    """The path as orbax needs it; a remote path is absolute already."""
    return path if "://" in str(path) else path.absolute()


class _Keep:
    """Tells orbax which checkpoints stay: the newest, and the one with the largest metric."""

    def __init__(self, newest: int):
        self._newest = newest
        self.metrics: dict[int, float | None] = {}  # by index

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = [(x, index) for index, x in self.metrics.items() if x is not None]
        best = {index for _, index in sorted(ranked)[-1:]}
        return [step in best or step in steps[-self._newest :] for step in steps]


def _manager(directory: epath.Path, keep: _Keep | None) -> ocp.CheckpointManager:
    """A manager; `keep` None opens the directory to read only."""
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep,
        cleanup_tmp_directories=keep is not None,
        create=keep is not None,
        read_only=keep is None,
    )
    handlers = {  # else a manager that has saved nothing yet cannot read a checkpoint's items
        "params": ocp.StandardCheckpointHandler(),
        "rest": ocp.StandardCheckpointHandler(),
        "manifest": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def _flatten(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a state into its flat parameters and the flat rest; other runs read the former."""
    flat = _flatten(state)
    params = {path: leaf for path, leaf in flat.items() if path.startswith("params.")}
    return params, {path: leaf for path, leaf in flat.items() if path not in params}


def _unflatten(abstract: T, flat: Mapping[str, Any]) -> T:
    return jax.tree.unflatten(
        jax.tree.structure(abstract), [flat[path] for path in _flatten(abstract)]
    )


# The manifest: {"position": ..., "metric": ..., "leaves": {path: [dtype, shape, digest]}}, and its
# own digest.


def _manifest(
    flat: Mapping[str, jax.Array],
    position: Mapping[str, Any] = MappingProxyType({}),
    metric: float | None = None,
) -> dict[str, Any]:
    leaves = digests.describe(flat)
    return _signed({"position": dict(position), "metric": metric, "leaves": leaves})


def _signed(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, "sha256": digests.of_json(content)}


def _is_measured(metric: float | None) -> TypeGuard[float]:
    return metric is not None and math.isfinite(metric)


def _manifest_of(manager: ocp.CheckpointManager, index: int) -> dict[str, Any]:
    args = ocp.args.Composite(manifest=ocp.args.JsonRestore())
    return _read_manifest(lambda: manager.restore(index, args=args)["manifest"])


def _read_manifest(read: Callable[[], Any]) -> dict[str, Any]:
    manifest = _read(read)
    if not isinstance(manifest, dict) or manifest.pop("sha256", None) != digests.of_json(manifest):
        raise _Damaged("its manifest is not what was saved")
    return manifest


def _compare(restored: Mapping[str, jax.Array], saved: Mapping[str, list[Any]]) -> None:
    found = digests.describe(restored)
    if wrong := [path for path in found if found[path] != saved[path]]:
        raise _Damaged(f"{len(wrong)} of {len(found)} arrays, first {wrong[0]}")


def _read(act: Callable[[], Any]) -> Any:
    """Runs a part of a restore; turns the errors of damaged files into `_Unreadable`."""
    try:
        return act()
    except (MemoryError, PermissionError, ConnectionError, TimeoutError):
        raise
    except Exception as error:  # orbax, tensorstore and json each have their own
        if _UNREACHABLE.search(str(error)):
            raise
        raise _Unreadable("it cannot be read: " + " ".join(str(error).split())[:120]) from None


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _check(saved: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    if found := digests.differences(saved, wanted):
        end = "in this configuration; make the policy.* keys those of that run"
        raise errors.UserError(*(f"{where}: {difference} {end}" for difference in found))


def _save(act: Callable[[], Any]) -> None:
    """Runs a part of a save; turns the error of a full disk into a line for the user."""
    try:
        act()
    except Exception as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if not full and "No space left" not in str(error):
            raise
        raise errors.UserError(
            "checkpoint: the disk is full; free some, lower checkpoint.keep or choose another "
            "--workdir, then the same command continues"
        ) from error
