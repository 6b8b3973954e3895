"""Writes the records of a run: metrics.jsonl, rollouts.jsonl, and what `writers` has beside them.

The end of a batch's life. A line of metrics.jsonl is one object: `kind` ("train" or "eval"),
`phase` ("warmup" or "rl"), `step` (the phase's own count), then the metrics. Floats have enough
digits to read back to the same bits. JSON has no NaN and no infinities: they become null.
(kind, phase, step) is unique: a continued run first drops the lines that it will write again.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from mapo_jax import errors
from mapo_jax.config import to_dict
from mapo_jax.run import sources, workdirs
from mapo_jax.run.setup import Progress, Setup
from mapo_jax.run.writers import PHASES, JsonLines, Writer, open_writers

RECORDS = ("metrics.jsonl", "rollouts.jsonl")


def _position(phase: str, step: int) -> tuple[int, int]:
    return PHASES.index(phase), step


class NoRecords:
    """Takes the place of `Records` in processes beside the first: writes no lines.

    Other files in its `directory` come into the work directory, as those of `Records` do.
    """

    def __init__(self, mirror: workdirs.Mirror):
        self.directory, self.upload, self.close = mirror.local, mirror.upload, mirror.close

    def write(self, *_: Any) -> None: ...
    def write_rollouts(self, *_: Any) -> None: ...


def open_records(
    setup: Setup, progress: Progress, workdir: epath.Path, overrides: Sequence[str]
) -> "Records":
    """Writes what describes a run, and opens the files that grow with it.

    Args:
        setup: of the run.
        progress: where it begins.
        workdir: exists and may be written.
        overrides: what the command line changed.

    Raises:
        UserError: a line is no record; nothing has been written.
    """
    c = setup.config
    for name in RECORDS:
        _kept(workdir / name, progress.restored, progress.is_open)
    sources.save_description(workdir, setup.architecture, setup.tokenizer)
    workdirs.write_json(workdir / "config.json", to_dict(c))
    run_id = workdirs.add_start(workdir, overrides, progress.restored, setup.began)
    mirror = workdirs.Mirror(workdir, RECORDS)
    writers = open_writers(c, workdir, run_id, mirror.local, progress.restored)
    return Records(mirror, progress.restored, writers, is_open=progress.is_open)


class Records:
    """The files of a work directory that grow during the run."""

    def __init__(
        self,
        mirror: workdirs.Mirror,
        keep_until: tuple[str, int] | None,
        writers: Sequence[Writer] = (),
        *,
        is_open: bool = False,
    ):
        """Opens the files, dropping the lines that will be written again.

        Args:
            mirror: where they are, of the files `RECORDS`.
            keep_until: (phase, step) of the checkpoint that the run continues from. Later lines are
                dropped. None: a new run, all lines are dropped.
            writers: where metrics go as well.
            is_open: the evaluation of step `keep_until` will be made again: drop its line.

        Raises:
            UserError: a line is no record.
        """
        self._mirror = mirror
        kept = {name: _kept(mirror.local / name, keep_until, is_open) for name in RECORDS}
        for name, lines in kept.items():
            _write(mirror.local / name, lines)
        metrics, self._rollouts = (JsonLines(mirror.local / name) for name in RECORDS)
        self._writers: list[Writer] = [metrics, *writers]

    @property
    def directory(self) -> Path:
        """The local directory of what grows with the run."""
        return self._mirror.local

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes the metrics of a step; values are numbers of Python, NumPy or JAX."""
        values = {name: plain(value) for name, value in values.items()}
        for writer in self._writers:
            writer.write(kind, phase, step, values)

    def write_rollouts(
        self,
        phase: str,
        step: int,
        rows: Iterable[Mapping[str, Any]],
        thumbnail: Callable[[int, int], bytes | None],
    ) -> None:
        """Writes lines of rollouts.jsonl, one a row: prompt, response, reward parts, advantage.

        Args:
            phase, step: of all rows.
            rows: of `collect.groups`.
            thumbnail: is called with an example and the number of one of its pictures, for each
                file of a row that is not there yet; returns its content, None to leave it out.
        """
        for row in rows:
            for k, image in enumerate(row.get("images", ())):
                path = self.directory / image["file"]
                if not path.exists() and (content := thumbnail(row["example"], k)):
                    path.parent.mkdir(exist_ok=True)
                    workdirs.write(path, content)
            values = {name: plain(value) for name, value in row.items()}
            self._rollouts.line({"phase": phase, "step": step, **values})

    def upload(self) -> None:
        """Copies everything written so far into a work directory that takes no appends."""
        for writer in self._writers:
            writer.flush()
        self._mirror.upload()

    def close(self) -> None:
        """Closes all files and uploads them."""
        for writer in (self._rollouts, *self._writers):
            writer.close()
        self._mirror.close()  # last: it takes away the directory that they write to


def plain(value: Any) -> Any:
    """A JSON-able value: arrays of one element become numbers, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _kept(
    path: Path | epath.Path, keep_until: tuple[str, int] | None, is_open: bool
) -> list[bytes]:
    """Returns the lines up to `keep_until`, without one that was not written to its end."""
    if keep_until is None or not path.exists():
        return []
    kept, last = [], _position(*keep_until)
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line.decode())
            place = _position(values["phase"], values["step"])
            if place < last or (place == last and (not is_open or values["kind"] == "train")):
                kept.append(line)
        except (ValueError, TypeError, LookupError) as error:
            if number == len(lines):
                break  # the process died while writing it
            raise errors.UserError(
                f"{path}: line {number} is no record ({type(error).__name__}: {error}); mend or "
                "delete that line"
            ) from None
    return kept


def _write(path: Path, lines: Sequence[bytes]) -> None:
    """Writes lines, all or none."""
    new = path.with_suffix(".tmp")
    with new.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
