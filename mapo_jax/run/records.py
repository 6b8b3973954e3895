"""Writes the records of a run: metrics.jsonl, rollouts.jsonl, TensorBoard, Weights & Biases.

The end of a batch's life. A line of metrics.jsonl is one object: `kind` ("train" or "eval"),
`phase` ("warmup" or "rl"), `step` (the phase's own count), then the metrics. Floats have enough
digits to read back to the same bits. JSON has no NaN and no infinities: they become null.
(kind, phase, step) is unique: a continued run first drops the lines that it will write again.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from etils import epath
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from mapo_jax import errors
from mapo_jax.config import Config, to_dict
from mapo_jax.run import sources, workdirs
from mapo_jax.run.setup import Progress, Setup

RECORDS = ("metrics.jsonl", "rollouts.jsonl")
PHASES = ("warmup", "rl")  # in the order in which they run
_events: Any = event_pb2  # its names are made at import, so the type checker cannot see them


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
    wandb_run = _wandb_run(c, workdir.name, run_id, mirror.local) if c.log.wandb else None
    return Records(
        mirror, progress.restored, c.log.tensorboard, wandb_run, is_open=progress.is_open
    )


def _wandb_run(config: Config, name: str, run_id: str, directory: Path) -> Any:
    """Starts a run of Weights & Biases, or goes on with it where it exists."""
    import wandb  # pyrefly: ignore[missing-import]  # optional: `checks` has looked for it

    return wandb.init(
        project=config.log.wandb,
        name=name,
        id=run_id,
        resume="allow",
        dir=str(directory),
        config=to_dict(config),
    )


class Records:
    """The files of a work directory that grow during the run."""

    def __init__(
        self,
        mirror: workdirs.Mirror,
        keep_until: tuple[str, int] | None,
        tensorboard: bool,
        wandb_run: Any = None,
        *,
        is_open: bool = False,
    ):
        """Opens the files, dropping the lines that will be written again.

        Args:
            mirror: where they are, of the files `RECORDS`.
            keep_until: (phase, step) of the checkpoint that the run continues from. Later lines are
                dropped. None: a new run, all lines are dropped.
            tensorboard: whether to write TensorBoard files too.
            wandb_run: of `wandb.init`, to log to as well.
            is_open: the evaluation of step `keep_until` will be made again: drop its line.

        Raises:
            UserError: a line is no record.
        """
        self._mirror = mirror
        self._tensorboard = tensorboard
        self._wandb_run = wandb_run
        self._keep_until = keep_until
        self._writers: dict[str, _TensorBoard] = {}
        self._files: dict[str, TextIO] = {}
        kept = {name: _kept(mirror.local / name, keep_until, is_open) for name in RECORDS}
        for name, lines in kept.items():
            path = mirror.local / name
            _write(path, lines)
            self._files[name] = path.open("a", encoding="utf-8")
        for phase in PHASES if wandb_run else ():
            wandb_run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    @property
    def directory(self) -> Path:
        """The local directory of what grows with the run."""
        return self._mirror.local

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line of metrics.jsonl; values are numbers of Python, NumPy or JAX."""
        values = {name: plain(value) for name, value in values.items()}
        self._line("metrics.jsonl", {"kind": kind, "phase": phase, "step": step, **values})
        if self._tensorboard:
            self._writer(phase).write(step, values)
        if self._wandb_run:
            named = {f"{phase}/{name}": value for name, value in values.items()}
            self._wandb_run.log(named | {f"{phase}/step": step})

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
            self._line("rollouts.jsonl", {"phase": phase, "step": step, **values})

    def upload(self) -> None:
        """Copies everything written so far into a work directory that takes no appends."""
        for writer in self._writers.values():
            writer.flush()
        self._mirror.upload()

    def close(self) -> None:
        """Closes all files and uploads them."""
        for file in (*self._files.values(), *self._writers.values()):
            file.close()
        if self._wandb_run:
            self._wandb_run.finish()  # its files lie in the mirror
        self._mirror.close()

    def _line(self, name: str, values: Mapping[str, Any]) -> None:
        file = self._files[name]
        file.write(json.dumps(values, allow_nan=False) + "\n")
        file.flush()  # at most the line being written is lost with the process

    def _writer(self, phase: str) -> "_TensorBoard":
        """The TensorBoard run of a phase; each phase has its own, so that both count from 0."""
        if phase not in self._writers:
            kept, step = self._keep_until or (phase, -1)
            purge_step = step + 1 if phase == kept else 0
            directory = self._mirror.local / "tensorboard" / phase
            self._writers[phase] = _TensorBoard(directory, purge_step)
        return self._writers[phase]


class _TensorBoard:
    """Writes an event file of TensorBoard.

    tensorboardX.SummaryWriter writes in a thread. If that dies, as on a full disk, the run waits
    for it for ever. Here the caller writes, and gets the error.
    """

    def __init__(self, directory: Path, purge_step: int):
        """Opens a file; TensorBoard hides events of older files from step `purge_step` on."""
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = event_file_writer.EventsWriter(str(directory / "events"))
        self._event(purge_step, session_log=_events.SessionLog(status=_events.SessionLog.START))
        self.flush()

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes the numbers of a step, leaving out None."""
        scalars = [summary.scalar(name, x) for name, x in values.items() if x is not None]
        self._event(step, summary=summary.Summary(value=[x for s in scalars for x in s.value]))
        if time.monotonic() - self._flushed > 10:  # seconds, since a flush waits for the disk
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()

    def _event(self, step: int, **what: Any) -> None:
        self._writer.write_event(_events.Event(wall_time=time.time(), step=step, **what))


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
