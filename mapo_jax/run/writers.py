"""Writes the metrics of a run: to metrics.jsonl, TensorBoard, Weights & Biases and trackio.

Each is a `Writer`, which records.py calls with every line of metrics. Both phases count their steps
from 0, so each has its own curves everywhere.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from etils import epath
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from mapo_jax import errors
from mapo_jax.config import Config, to_dict

PHASES = ("warmup", "rl")  # in the order in which they run
_events: Any = event_pb2  # its names are made at import, so the type checker cannot see them


class Writer(Protocol):
    """A place that metrics go to."""

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        """Writes the numbers of a step: `kind` is train or eval, None is a non-finite number."""
        ...

    def flush(self) -> None:
        """Leaves nothing unwritten of a file in the directory of the records."""
        ...

    def close(self) -> None: ...


def open_writers(
    config: Config,
    workdir: epath.Path,
    run_id: str,
    directory: Path,
    keep_until: tuple[str, int] | None,
) -> list[Writer]:
    """Opens the writers that `config.log` asks for; metrics.jsonl is not among them.

    Args:
        config: of the run.
        workdir: whose name is the run's name.
        run_id: the run's id, the same when it is continued.
        directory: local, for their files.
        keep_until: (phase, step) of the checkpoint that the run continues from, or None.

    Raises:
        UserError: trackio does not take the name of the project.
    """
    log, writers = config.log, []
    if log.tensorboard:
        writers.append(TensorBoard(directory / "tensorboard", keep_until))
    if log.wandb:
        writers.append(WeightsAndBiases(config, workdir.name, run_id, directory))
    if log.trackio:
        writers.append(Trackio(config, f"{workdir.name}-{run_id}"))
    return writers


class JsonLines:
    """A file with one JSON object a line, which grows."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, Any]) -> None:
        self.line({"kind": kind, "phase": phase, "step": step, **values})

    def line(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values, allow_nan=False) + "\n")
        self.flush()  # at most the line being written is lost with the process

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Writes a run of TensorBoard for each phase.

    tensorboardX.SummaryWriter writes in a thread. If that dies, as on a full disk, the run waits
    for it for ever. Here the caller writes, and gets the error.
    """

    def __init__(self, directory: Path, keep_until: tuple[str, int] | None):
        """Opens no file yet.

        Args:
            directory: for a folder for each phase.
            keep_until: (phase, step): TensorBoard hides later events of older files.
        """
        self._directory, self._keep_until = directory, keep_until
        self._files: dict[str, event_file_writer.EventsWriter] = {}

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        if phase not in self._files:
            self._open(phase)
        scalars = [summary.scalar(name, x) for name, x in values.items() if x is not None]
        all_of_them = summary.Summary(value=[x for s in scalars for x in s.value])
        self._event(phase, step, summary=all_of_them)
        if time.monotonic() - self._flushed > 10:  # seconds, since a flush waits for the disk
            self.flush()

    def flush(self) -> None:
        for file in self._files.values():
            file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _open(self, phase: str) -> None:
        directory = self._directory / phase
        directory.mkdir(parents=True, exist_ok=True)
        self._files[phase] = event_file_writer.EventsWriter(str(directory / "events"))
        kept, step = self._keep_until or (phase, -1)
        first = step + 1 if phase == kept else 0
        self._event(phase, first, session_log=_events.SessionLog(status=_events.SessionLog.START))
        self.flush()

    def _event(self, phase: str, step: int, **what: Any) -> None:
        event = _events.Event(wall_time=time.time(), step=step, **what)
        self._files[phase].write_event(event)


class WeightsAndBiases:
    """Writes a run of Weights & Biases, or goes on with it where it exists."""

    def __init__(self, config: Config, name: str, run_id: str, directory: Path):
        import wandb  # pyrefly: ignore[missing-import]  # optional: `checks` has looked for it

        self._run = wandb.init(
            project=config.log.wandb,
            name=name,
            id=run_id,
            resume="allow",
            dir=str(directory),
            config=to_dict(config),
        )
        for phase in PHASES:
            self._run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        self._run.log(_of_phase(phase, values) | {f"{phase}/step": step})

    def flush(self) -> None: ...  # it has a process of its own

    def close(self) -> None:
        self._run.finish()  # its files lie in `directory`


class Trackio:
    """Writes a run of trackio, or goes on with it where it exists.

    trackio keeps its files in a directory of its own (`TRACKIO_DIR`). It has no ids, so the name
    has to be one of this run alone.
    """

    def __init__(self, config: Config, name: str):
        import trackio  # pyrefly: ignore[missing-import]  # optional: `checks` has looked for it

        self._trackio, project = trackio, config.log.trackio
        with _quiet():
            try:
                trackio.init(project=project, name=name, resume="allow", config=to_dict(config))
            except ValueError as error:  # some endings are names of its own files
                raise errors.UserError(f"log.trackio={project}: {error}") from None

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, float | None]) -> None:
        self._trackio.log(_of_phase(phase, values), step=step)

    def flush(self) -> None: ...  # it has a thread of its own

    def close(self) -> None:
        with _quiet():
            self._trackio.finish()


def _of_phase(phase: str, values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"{phase}/{name}": value for name, value in values.items()}


def _quiet() -> contextlib.redirect_stdout:
    """Lets what is printed go to standard error: standard output may be lines of JSON."""
    return contextlib.redirect_stdout(sys.stderr)
