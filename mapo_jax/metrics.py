"""What a run leaves behind and shows: metrics.jsonl, rollouts.jsonl, TensorBoard, and the console.

The end of a batch's life. A line of metrics.jsonl is one object: `kind` ("train" or "eval"),
`phase` ("warmup" or "rl"), `step` (the phase's own count), then the metrics. Floats are written
with the digits that read back to the same bits; NaN and infinities, which JSON does not have, as
null. (kind, phase, step) is unique: a continued run first drops what it is about to write again.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import rich.console
import rich.progress
import rich.table
import tensorboardX

PHASES = ("warmup", "rl")  # in the order in which they run


def _position(phase: str, step: int) -> tuple[int, int]:
    return PHASES.index(phase), step


class Records:
    """The files of a work directory that grow with the run."""

    def __init__(self, workdir: Path, keep_until: tuple[str, int] | None, tensorboard: bool):
        """Opens the files of `workdir`, dropping the lines that will be written again.

        Args:
            workdir: an existing directory.
            keep_until: (phase, step) of the checkpoint that the run continues from: later lines go,
                those of that very step stay. None: a new run, all lines go.
            tensorboard: whether to write TensorBoard files as well.
        """
        self._workdir = workdir
        self._tensorboard = tensorboard
        self._keep_until = keep_until
        self._writers: dict[str, tensorboardX.SummaryWriter] = {}
        self._files: dict[str, TextIO] = {}
        for name in ("metrics", "rollouts"):
            path = workdir / f"{name}.jsonl"
            _drop_after(path, keep_until)
            self._files[name] = path.open("a", encoding="utf-8")

    def write(self, kind: str, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line of metrics.jsonl; values are numbers of Python, NumPy or JAX."""
        values = {name: _plain(value) for name, value in values.items()}
        self._line("metrics", {"kind": kind, "phase": phase, "step": step, **values})
        if self._tensorboard:
            for name, value in values.items():
                if value is not None:
                    self._writer(phase).add_scalar(name, value, step)

    def write_rollouts(self, phase: str, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes lines of rollouts.jsonl, one a row: prompt, response, reward parts, advantage."""
        for row in rows:
            values = {name: _plain(value) for name, value in row.items()}
            self._line("rollouts", {"phase": phase, "step": step, **values})

    def close(self) -> None:
        """Closes all files."""
        for file in self._files.values():
            file.close()
        for writer in self._writers.values():
            writer.close()

    def _line(self, name: str, values: Mapping[str, Any]) -> None:
        file = self._files[name]
        file.write(json.dumps(values, allow_nan=False) + "\n")
        file.flush()  # at most the line being written is lost with the process

    def _writer(self, phase: str) -> tensorboardX.SummaryWriter:
        """One TensorBoard run per phase, so that both may count from 0."""
        if phase not in self._writers:
            kept, step = self._keep_until or (phase, -1)
            purge_step = step + 1 if phase == kept else 0  # TensorBoard hides older runs from there
            directory = self._workdir / "tensorboard" / phase
            self._writers[phase] = tensorboardX.SummaryWriter(str(directory), purge_step=purge_step)
        return self._writers[phase]


def _plain(value: Any) -> Any:
    """A JSON-able value: arrays of one element become numbers, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_after(path: Path, keep_until: tuple[str, int] | None) -> None:
    """Drops, atomically, the lines after `keep_until` and a half-written one."""
    if not path.exists():
        return
    kept = []
    if keep_until is not None:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue  # the process died while writing it
            if _position(values["phase"], values["step"]) <= _position(*keep_until):
                kept.append(line + "\n")
    new = path.with_suffix(".tmp")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class Console:
    """What a run prints: a bar with remaining time on a terminal, plain lines elsewhere."""

    def __init__(self, mode: str):
        """Prints to stdout.

        Args:
            mode: "rich", "plain", or "auto": rich on a terminal.
        """
        self._rich = mode == "rich" or (mode == "auto" and sys.stdout.isatty())
        self._console = rich.console.Console(
            force_terminal=self._rich, highlight=False, markup=False
        )
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._rich,
            speed_estimate_period=3600,  # seconds: a step may well take minutes
        )
        self._task: rich.progress.TaskID | None = None
        self._phase, self._total, self._first, self._start = "", 0, 0, 0.0

    def __enter__(self) -> "Console":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        """Prints text above the bar."""
        self._print(text)

    def table(self, title: str, rows: Iterable[tuple[str, Any, str]]) -> None:
        """Prints rows of (name, value, meaning)."""
        table = rich.table.Table(title=title, show_header=False, title_justify="left")
        for _ in range(3):
            table.add_column(overflow="fold")  # paths are to be read whole
        for row in rows:
            table.add_row(*map(str, row))
        self._console.print(table)

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins the bar of a phase of `total` steps, `done` of which an earlier process took."""
        self._phase, self._total, self._first, self._start = name, total, done, time.monotonic()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, completed=done)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Prints one line for a step of the phase and moves the bar."""
        shown = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        line = f"{self._phase} {step}/{self._total}  {shown}"
        if self._rich and self._task is not None:
            self._progress.update(self._task, completed=step)
        else:
            line += f"  {self._remaining(step)} left"
        self._print(line)

    def _print(self, text: str) -> None:
        if self._rich:
            self._console.print(text, soft_wrap=True)
        else:
            print(text, flush=True)

    def _remaining(self, step: int) -> str:
        per_step = (time.monotonic() - self._start) / max(step - self._first, 1)
        seconds = round(per_step * (self._total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
