"""Checkpoints, by orbax: all of orbax that the project uses is wrapped here.

A checkpoint is saved after a step's records are written and holds the whole state and the position
in the run. A save is atomic: it is written under another name and renamed.

A state is stored as a flat dict of its leaves by path, so that what is on disk does not depend on
the Python classes of the state. Its leaves are arrays; PRNG keys are not among them, as they follow
from the seed and the step.
"""

import errno
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import absl.logging
import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from mapo_jax import errors

# Orbax logs every step of a save, and prints an error's traceback four times before raising it.
absl.logging.set_verbosity(absl.logging.FATAL)

T = TypeVar("T")
_REFERENCE = "reference"
_METRIC = "metric"


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, the best, and the reference policy."""

    def __init__(self, directory: epath.Path, keep: int):
        """Opens or creates `directory`.

        Args:
            directory: `checkpoints/` of a work directory.
            keep: how many of the newest to keep; the best by `metric` is kept as well.
        """
        self._directory = _absolute(directory)
        self._manager = _manager(self._directory, keep)

    def latest(self) -> int | None:
        """The index of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self, index: int, state: Any, position: Mapping[str, Any], metric: float | None
    ) -> None:
        """Begins to save a checkpoint; it is there when `wait` or the next `save` has returned.

        Args:
            index: increases over the run, phases included.
            state: pytree of arrays; it may be donated as soon as this returns.
            position: JSON-able, where in the run it is.
            metric: what the best checkpoint is best by; None or NaN where it was not measured.
        """
        params, rest = _split(state)
        metrics = None if metric is None or math.isnan(metric) else {_METRIC: float(metric)}
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            rest=ocp.args.StandardSave(rest),
            position=ocp.args.JsonSave(dict(position)),
        )
        _save(lambda: self._manager.save(index, args=args, metrics=metrics, force=True))

    def restore(self, abstract: T) -> tuple[T, dict[str, Any]]:
        """Restores the newest checkpoint, bit for bit, onto the devices that `abstract` names.

        Args:
            abstract: the state with jax.ShapeDtypeStruct leaves that carry shardings.

        Returns:
            The state, and its position.

        Raises:
            UserError: a leaf has another shape or dtype there, or is missing on either side.
        """
        params, rest = _split(abstract)
        index = self._manager.latest_step()
        if index is None:
            raise FileNotFoundError(f"no checkpoint in {self._directory}")
        saved = self._manager.item_metadata(index)
        where = f"--workdir={self._directory.parent}"
        _check({**saved["params"].tree, **saved["rest"].tree}, {**params, **rest}, where)
        restored = self._manager.restore(
            index,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(params),
                rest=ocp.args.StandardRestore(rest),
                position=ocp.args.JsonRestore(),
            ),
        )
        leaves = {**restored["params"], **restored["rest"]}
        return _unflatten(abstract, leaves), restored["position"]

    def save_reference(self, params: Any) -> None:
        """Saves the reference policy, at once and in place of an older one."""
        with ocp.StandardCheckpointer() as checkpointer:
            path = self._directory / _REFERENCE
            _save(lambda: checkpointer.save(path, _flatten(params), force=True))
            _save(checkpointer.wait_until_finished)

    def restore_reference(self, abstract: T) -> T:
        """Restores the reference policy onto the devices that `abstract` names."""
        path = self._directory / _REFERENCE
        with ocp.StandardCheckpointer() as checkpointer:
            flat = _flatten(abstract)
            _check(checkpointer.metadata(path).item_metadata.tree, flat, f"--workdir={path}")
            return _unflatten(abstract, checkpointer.restore(path, flat))

    def wait(self) -> None:
        """Waits until the last save is whole; raises what went wrong with it."""
        _save(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits and closes."""
        self.wait()
        self._manager.close()


def restore_params(workdir: epath.Path, abstract: T, where: str) -> tuple[T, int]:
    """Restores the parameters of a run's newest checkpoint.

    Args:
        workdir: of the run.
        abstract: the parameters with jax.ShapeDtypeStruct leaves that carry shardings.
        where: begins the line of a mistake, as in policy.init=DIR.

    Returns:
        The parameters and the checkpoint's index.

    Raises:
        UserError: there is no checkpoint, or it does not fit.
    """
    directory = _absolute(workdir / "checkpoints")
    if not directory.is_dir():
        raise errors.UserError(f"{where}: has no checkpoints/; give the work directory of a run")
    manager = _manager(directory, keep=None)
    index = manager.latest_step()
    if index is None:
        raise errors.UserError(f"{where}: holds no checkpoint yet; let that run save one first")
    flat = {f"params.{path}": leaf for path, leaf in _flatten(abstract).items()}
    saved = manager.item_metadata(index)["params"].tree
    if differences := _differences(saved, flat):
        raise errors.UserError(
            f"{where}: its checkpoint is not of the policy that {workdir}/policy describes "
            f"({len(differences)} of {len({*saved, *flat})} arrays; first {differences[0]} by "
            "that); give a work directory that nobody has changed"
        )
    args = ocp.args.Composite(params=ocp.args.StandardRestore(flat))
    restored = manager.restore(index, args=args)["params"]
    manager.close()
    flat = {path.removeprefix("params."): x for path, x in restored.items()}
    return _unflatten(abstract, flat), index


def _absolute(path: epath.Path) -> epath.Path:
    """As orbax wants it; a remote path is absolute already."""
    return path if "://" in str(path) else path.absolute()


def _manager(directory: epath.Path, keep: int | None) -> ocp.CheckpointManager:
    """A manager; `keep` None opens the directory to read only."""

    def metric(metrics: Mapping[str, float]) -> float:
        return metrics[_METRIC]

    policies = [
        checkpoint_managers.LatestN(keep),
        checkpoint_managers.BestN(
            get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False
        ),
    ]
    options = ocp.CheckpointManagerOptions(
        best_fn=metric,  # without it metrics are not written
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=keep is not None,
        create=keep is not None,
        read_only=keep is None,
    )
    handlers = {  # named here, else the metadata of a manager that has saved nothing yet are empty
        "params": ocp.StandardCheckpointHandler(),
        "rest": ocp.StandardCheckpointHandler(),
        "position": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def _flatten(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _split(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The flat parameters, which other runs may start from, and the flat rest of a state."""
    flat = _flatten(state)
    params = {path: leaf for path, leaf in flat.items() if path.startswith("params.")}
    return params, {path: leaf for path, leaf in flat.items() if path not in params}


def _unflatten(abstract: T, flat: Mapping[str, Any]) -> T:
    return jax.tree.unflatten(
        jax.tree.structure(abstract), [flat[path] for path in _flatten(abstract)]
    )


def _check(saved: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    lines = [
        f"{where}: {difference} in this configuration; make the policy.* keys those of that run"
        for difference in _differences(saved, wanted)
    ]
    if lines:
        raise errors.UserError(*lines)


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Compares names, shapes and dtypes: orbax casts to another dtype without a word."""

    def describe(tree: Mapping[str, Any], path: str) -> str:
        return f"{tree[path].dtype}{list(tree[path].shape)}" if path in tree else "absent"

    return [
        f"{path} is {describe(saved, path)} there and {describe(wanted, path)}"
        for path in sorted({*saved, *wanted})
        if describe(saved, path) != describe(wanted, path)
    ]


def _save(act: Callable[[], Any]) -> None:
    """Runs a part of a save; a full disk becomes the user's line."""
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
