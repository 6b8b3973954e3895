"""Checks and holds a run's directory, describes each start in it, and brings records there.

A directory may be remote, gs://..., or refuse appends: there objects are written whole or not at
all. So records grow in a local directory and are uploaded whole.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import io
import json
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

import mapo_jax
from mapo_jax import errors
from mapo_jax.run.continuation import continuation_mistakes

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy")
_RECORDS = ("metrics.jsonl", "rollouts.jsonl", "run.json")
_RECORDED = (*_RECORDS, "report.html", "figures", "tensorboard", "evaluation.json", "evaluation")
_RECORDED += ("skipped", "pictures", "solved.json")


@contextlib.contextmanager
def hold(workdir: epath.Path) -> Iterator[None]:
    """Context manager: keeps other runs out of a work directory, as `lock` does.

    Raises:
        UserError: another process holds it, and which one; or its path is one that checkpoints
            cannot be read from.
    """
    path = os.path.abspath(workdir)
    if re.search(r"\[.*\]|\\", path):
        raise errors.UserError(
            f"--workdir={workdir}: has [...] or a backslash in its path, {path}, and orbax reads "
            "these as a pattern, so no checkpoint could be read; choose another directory"
        )
    doing = "is training there; wait until it ends, or choose another directory"
    with lock(workdir, f"--workdir={workdir}", doing):
        yield


@contextlib.contextmanager
def lock(directory: epath.Path, where: str, doing: str) -> Iterator[None]:
    """Context manager: keeps other processes out of a directory, which it makes if it is missing.

    The system frees the lock with the process, however that ends. An object store has no locks, and
    some file systems have none: there nothing is held.

    Args:
        directory: to be held.
        where, doing: the line is "WHERE: HOLDER DOING".

    Raises:
        UserError: another process holds it, and which one.
    """
    if "://" in str(directory):
        yield
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT)
    except OSError:  # whoever writes there next says so
        yield
        return
    try:
        with contextlib.suppress(OSError):  # no locks here
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise errors.UserError(f"{where}: {_holder(file)} {doing}") from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(file, 0)
    finally:
        os.close(file)


def _holder(file: int) -> str:
    for _ in range(20):  # it writes its name just after it has got the lock
        if name := os.pread(file, 1000, 0).decode(errors="replace").strip():
            return name
        time.sleep(0.05)
    return "another process"


def check(workdir: epath.Path, config: Mapping[str, Any], writes: bool) -> None:
    """Makes the directory if it is missing, and checks that this run may go there.

    Args:
        workdir: of the run.
        config: `config.to_dict` of the run.
        writes: whether this process writes there.

    Raises:
        UserError: it cannot be written, or holds another run, or files that are no run.
    """
    where, path, has_begun = f"--workdir={workdir}", workdir / "config.json", False
    try:
        if writes:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / "config.tmp").write_text("")
            (workdir / "config.tmp").unlink()
        has_begun = (workdir / "checkpoints").is_dir()
        old = json.loads(path.read_text()) if path.exists() else None
        strangers = [name for name in _RECORDS if old is None and (workdir / name).exists()]
    except ImportError:
        raise errors.UserError(f"{where}: needs the package gcsfs; pip install gcsfs") from None
    except ValueError as error:
        if has_begun:
            raise errors.UserError(
                f"{path}: is broken ({error}); delete it, and the run trusts the configuration "
                "that it is given now"
            ) from None
        old, strangers = {}, []
    except OSError as error:
        raise errors.UserError(
            f"{where}: cannot be written ({error.strerror or error}); choose another directory"
        ) from None
    if strangers and not has_begun:
        raise errors.UserError(
            f"{where}: holds files but no run (no config.json); choose an empty or a new directory"
        )
    if old is None:
        return
    if not isinstance(old, dict) or not {"task", "algorithm"} <= old.keys():
        raise errors.UserError(
            f"{where}: its config.json is not that of a run; choose an empty or a new directory"
        )
    mistakes = continuation_mistakes(old, config)
    if mistakes:
        raise errors.UserError(*mistakes)
    _read_run(workdir)


def set_aside(workdir: epath.Path) -> str:
    """Moves the records of a run that has lost its checkpoints into `before-N/`.

    Returns:
        A sentence that says so; "" if there are no records of RL.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists() or b'"kind": "train", "phase": "rl"' not in path.read_bytes():
        return ""
    number = next(n for n in range(1, 10_000) if not (workdir / f"before-{n}").exists())
    target = workdir / f"before-{number}"
    target.mkdir()
    for name in _RECORDED:
        if (workdir / name).exists():
            (workdir / name).rename(target / name)
    return f"no checkpoint is left, so the run begins anew; its records are in {target.name}/ now"


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    if "://" in str(path):  # an object appears when it is complete
        path.write_bytes(content)
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def write_arrays(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz file; makes its directory."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content.getvalue())


def began(workdir: epath.Path) -> datetime.datetime:
    """The time of the command's first start in a work directory; now if this is the first.

    Chat templates print it in place of today's date, so that a run has the same prompts whenever
    it goes on. It is in UTC, as the next machine may be in another time zone.

    Raises:
        UserError: run.json is broken.
    """
    run = _read_run(workdir)
    return datetime.datetime.fromisoformat(run["starts"][0]["time"]) if run else _now()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)  # run.json has seconds


def _read_run(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns run.json; None if there is none."""
    path = workdir / "run.json"
    if not path.exists():
        return None
    try:
        run = json.loads(path.read_text())
        run["id"], datetime.datetime.fromisoformat(run["starts"][0]["time"])
    except (ValueError, TypeError, LookupError) as error:
        raise errors.UserError(
            f"{path}: is broken ({type(error).__name__}: {error}); delete it, and the run gets a "
            "new id and today's date"
        ) from None
    return run


def add_start(
    workdir: epath.Path,
    overrides: Sequence[str],
    continued_after: tuple[str, int] | None,
    first: datetime.datetime,
) -> str:
    """Adds this start of the command to run.json.

    Args:
        workdir: of the run.
        overrides: what the command line changed.
        continued_after: phase and step that the run goes on from; None if it begins.
        first: the time of the first start, from `began`.

    Returns:
        The run's id, made at its first start.
    """
    path = workdir / "run.json"
    run = _read_run(workdir) if continued_after is not None else None
    run = run or {"id": secrets.token_hex(4), "starts": []}
    start = {
        "time": (_now() if run["starts"] else first).isoformat(),
        "argv": sys.argv,
        "overrides": list(overrides),
        "continued_after": continued_after,
        "environment": environment(),
    }
    write_json(path, run | {"starts": [*run["starts"], start]})
    return run["id"]


def environment() -> dict[str, Any]:
    """Versions, devices and commit: a result depends on them beside its configuration."""
    return {
        "python": platform.python_version(),
        "mapo_jax": mapo_jax.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the code; None where it is unknown, as installed in a user's repository."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        exported = (root / "mapo_jax" / "commit.txt").read_text().strip()
        if "$" not in exported:  # `git archive` has filled it in, as for the workers of a pod
            return exported
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        changed = " (with changes)" if git("status", "--porcelain") else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return None


class Mirror:
    """A local directory for files that grow; `upload` copies them into the work directory.

    If the work directory takes appends, `local` is that directory, and `upload` does nothing.
    """

    def __init__(self, workdir: epath.Path, records: Sequence[str]):
        """Opens the mirror.

        Args:
            workdir: an existing directory.
            records: names of the files that a continued run appends to; they are fetched first.
        """
        self._workdir = workdir
        self._sent: dict[Path, tuple[int, int]] = {}
        self.local = Path(workdir)
        if _takes_appends(workdir, records):
            return
        self.local = Path(tempfile.mkdtemp(prefix="mapo_jax-"))
        for name in records:
            if (workdir / name).exists():
                (self.local / name).write_bytes((workdir / name).read_bytes())

    def upload(self) -> None:
        """Uploads every file that has changed since the last call."""
        if self.local == Path(self._workdir):
            return
        for path in sorted(p for p in self.local.rglob("*") if p.is_file()):
            stat = path.stat()
            version = (stat.st_size, stat.st_mtime_ns)
            if path not in self._sent or self._sent[path] != version:
                target = self._workdir / path.relative_to(self.local).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                write(target, path.read_bytes())
                self._sent[path] = version

    def close(self) -> None:
        """Uploads what is left and removes the local directory, if it is not the work directory."""
        self.upload()
        if self.local != Path(self._workdir):
            shutil.rmtree(self.local, ignore_errors=True)


def _takes_appends(workdir: epath.Path, names: Sequence[str]) -> bool:
    if "://" in str(workdir):
        return False
    try:
        for name in names:
            Path(workdir / name).open("a").close()
    except OSError:
        return False
    return True
