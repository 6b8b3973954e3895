"""Shows a run while it lives: a bar for each phase, evaluations, and now and then one group.

The end of a batch's life, beside records.py. The tables below name the metrics that are shown. Text
from a model is shown and never interpreted: control characters, markup and characters that the
terminal cannot encode become visible escapes.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LABELS = {"warmup": "warm-up", "rl": "RL"}

# Shown of a training line, if it has the metric: metric, label, format.
_SHOWN = {
    "warmup": (
        ("loss/total", "loss", "{:.3f}"),
        ("policy/entropy", "entropy", "{:.3f}"),
        ("time/step", "", "{:.2f} s"),
    ),
    "rl": (
        ("reward/mean", "reward", "{:.3f}"),
        ("reward/accuracy", "accuracy", "{:.3f}"),
        ("rollout/length_mean", "length", "{:.1f}"),
        ("rollout/truncated", "cut", "{:.1%}"),
        ("policy/entropy", "entropy", "{:.3f}"),
        ("time/step", "", "{:.2f} s"),
    ),
}
_MOVING = {  # shown beside the bar as moving averages: metric, label
    "warmup": (("loss/total", "loss"),),
    "rl": (("reward/mean", "reward"), ("reward/accuracy", "accuracy")),
}
# Shown of an evaluation: metric of a set, label; each has a 95% interval, _low and _high.
_EVALUATED = (
    ("accuracy", "greedy"),
    ("accuracy_sampled", "sampled"),
    ("accuracy_blank", "white"),
    ("reward_mean", "reward"),
)

_NEW = 0.2  # weight of the newest value in a moving average
_PLAIN_WARMUP = 20  # warm-up steps between plain lines
_RICH_LINES = 20  # lines above the bar per phase, at most


class Console:
    """Prints a run to a stream; use it as a context manager."""

    def __init__(
        self,
        mode: str,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prints to `file`.

        Args:
            mode: "rich" (bars and colours), "plain" (lines), "quiet" (nothing), "json" (an object
                a line), or "auto": rich on a terminal, else plain.
            file: stdout if None.
            clock: seconds from any start.
        """
        self._file = file or sys.stdout
        self.out = RichConsole(file=self._file, highlight=False, markup=False, emoji=False)
        if mode == "auto":
            terminal = self._file.isatty() and not self.out.is_dumb_terminal
            mode = "rich" if terminal else "plain"
        if mode == "rich":
            self.out = RichConsole(
                file=self._file, highlight=False, markup=False, emoji=False, force_terminal=True
            )
        self._mode = mode
        unicode = self.out.encoding.startswith("utf")
        self._newline, self._dots = ("↵", "…") if unicode else ("\\n", "...")
        self._ramp = "▁▂▃▄▅▆▇█" if unicode else "_.-=*#"
        self._clock = clock
        self._phases: list[_Phase] = []
        self._first: tuple[int, Mapping[str, Any]] | None = None  # evaluation seen by this process
        self._live = Live(console=self.out, get_renderable=self.bars, refresh_per_second=2)

    def __enter__(self) -> "Console":
        if self._mode == "rich":
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_phase()
        self._live.stop()

    def print(self, text: str) -> None:
        """Prints a message of the run, above the bar."""
        if self._mode == "json":
            self._json("message", text=text)
        lines = [self._visible(line) for line in text.splitlines()]
        self._lines(*lines)
        if self._mode == "rich":
            self.out.print(Text("\n".join(lines)), soft_wrap=True)

    def table(self, title: str, rows: Iterable[tuple[str, Any, str]]) -> None:
        """Prints rows of (name, value, meaning)."""
        rows = list(rows)
        if self._mode == "json":
            named = [dict(zip(("name", "value", "meaning"), row, strict=True)) for row in rows]
            self._json("table", title=title, rows=named)
        shown = [[self._visible(str(cell)) for cell in row] for row in rows]
        title = self._visible(title)
        names, values = (max((len(row[i]) for row in shown), default=0) for i in (0, 1))
        lines = [f"  {n:{names}}  {v:{values}}  {meaning}".rstrip() for n, v, meaning in shown]
        self._lines(title, *lines)
        if self._mode == "rich":
            table = _table(title, box=None, show_header=False)
            table.add_column(no_wrap=True, overflow="crop")
            for style in ("bold", "dim"):
                table.add_column(style=style, overflow="fold")  # paths are to be read whole
            for row in shown:
                table.add_row(*map(Text, row))
            self.out.print(table, "")

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins the bar of a phase of `total` steps; `done` of them were taken before."""
        if self._mode == "json":
            self._json("phase", phase=name, total=total, done=done)
        self._end_phase()
        self._phases.append(_Phase(name, total, done, self._clock()))

    def record(self, kind: str, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Shows some metrics of a line of metrics.jsonl and moves the bar.

        Args:
            kind: "train" or "eval".
            phase: the one begun last.
            step: the phase's own count.
            values: plain numbers by metric, or None.
        """
        if self._mode == "json":
            self._json(kind, phase=phase, step=step, **values)
        now = self._phases[-1]
        if kind == "eval":
            self._evaluation(now, step, values)
            return
        now.advance(step, self._clock(), values)
        shown = [
            (label, form.format(values[name]))
            for name, label, form in _SHOWN[phase]
            if name in values and values[name] is not None
        ]
        last = step == now.total
        if phase == "rl" or last or step % _PLAIN_WARMUP == 0:
            text = "  ".join(f"{label} {value}".strip() for label, value in shown)
            self._lines(f"{now.label} {step}/{now.total}  {text}  {now.left(self._clock())}")
        if self._mode == "rich" and (last or (phase == "rl" and step % _every(now.total) == 0)):
            pairs = [Text.assemble((f"{label} " if label else "", "dim"), x) for label, x in shown]
            line = Table.grid(padding=(0, 2))  # what does not fit goes below the first metric
            line.add_column(no_wrap=True, overflow="crop")
            line.add_row(
                f"{now.label} {step:{len(str(now.total))}}/{now.total}", Text("  ").join(pairs)
            )
            self.out.print(line)

    def group(self, phase: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Shows one prompt with its best and its worst response: rows as in rollouts.jsonl."""
        if self._mode == "json":
            self._json("group", phase=phase, step=step, rows=rows)
        ranked = sorted(rows, key=_rank)
        worst, best = ranked[0], ranked[-1]
        equal = worst["reward"] == best["reward"]
        picked = [("one", best)] if equal else [("best", best), ("worst", worst)]
        title = f"{_LABELS[phase]} step {step}, one prompt: {sum(r['success'] for r in rows)} of "
        title += f"{len(rows)} succeed" + (", all with the same reward" if equal else "")
        room = max(self.out.width - 12, 20) if self._mode == "rich" else 100  # of a line
        prompt = self._cut(rows[0]["prompt"], 3 * room)
        shown = [(name, self._cut(row["response"], 5 * room), row) for name, row in picked]
        self._lines(f"  {title}", f"    prompt: {prompt}")
        for name, response, row in shown:
            judged = "  ".join(text for text, _ in self._judged(row))
            self._lines(f"    {name}: {response}", f"      {judged}")
        if self._mode == "rich":
            table = _table(title, box=None, show_header=False)
            table.add_column(style="dim", no_wrap=True, overflow="crop")
            table.add_column(overflow="fold")
            table.add_row("prompt", Text(prompt))
            for name, response, row in shown:
                judged = Text("  ").join(Text(text, style) for text, style in self._judged(row))
                table.add_row(name, Group(Text(response), judged))
            self.out.print(table, "")

    def bars(self) -> RenderableType:
        """The lower part of the terminal as of now."""
        narrow, now = self.out.width < 80, self._clock()
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True, overflow="crop", style="bold", min_width=len("average"))
        grid.add_column(ratio=1)
        for _ in range(3):
            grid.add_column(no_wrap=True, overflow="crop", justify="right")
        for phase in self._phases:
            bar = ProgressBar(
                total=max(phase.total, 1),
                completed=phase.step if phase.total else 1,
                style="bright_black",
                complete_style="cyan",
                finished_style="green",
            )
            left = phase.left(now) if phase.step < phase.total else ""
            elapsed = _clock_time((now if phase.end is None else phase.end) - phase.start)
            grid.add_row(
                phase.label, bar, f"{phase.step}/{phase.total}", Text(elapsed, "dim"), left
            )
        moving = []
        for phase in self._phases[-1:]:
            for name, label in _MOVING[phase.name]:
                if curve := phase.curves.get(name):
                    line = _sparkline(curve, self._ramp, 8 if narrow else 20)
                    parts = (f"{label} ", "dim"), (f"{curve[-1]:.3f} ", "bold"), (line, "cyan")
                    moving.append(Text.assemble(*parts))
        values = Text.assemble(("average ", "dim"), Text("  ").join(moving))
        parts = [grid, values] if moving else [grid]
        return Padding(Group(*parts), (0, max(self.out.width - 100, 0), 0, 0))

    # Evaluations

    def _evaluation(self, phase: "_Phase", step: int, values: Mapping[str, Any]) -> None:
        """One row per set: each metric with its interval and the change since the first one."""
        self._first = self._first or (step, values)
        since, first = self._first
        note = "95% intervals" + ("" if step == since else f"; change since step {since}")
        title = f"{phase.label} {step}/{phase.total}  evaluation"
        table = _table(f"{title} ({note})", box=SIMPLE_HEAD, show_edge=False, header_style="dim")
        table.add_column("set", overflow="fold")
        shown = [x for x in _EVALUATED if any(key.endswith(f"/{x[0]}") for key in values)]
        for _, label in shown:
            table.add_column(label, no_wrap=True, overflow="crop")
        gap = " " if self.out.width >= 100 else "\n"
        for name in [key.split("/")[1] for key in values if key.endswith("/accuracy")]:
            row, cells = [], []
            for metric, label in shown:
                if (key := f"eval/{name}/{metric}") not in values:
                    cells.append(Text())
                    continue
                number = _number(values[key], ".3f")
                changes = step != since and key in first
                change, style = _change(first, values, key) if changes else ("", "")
                interval = "[" + ", ".join(_number(values[key + x], ".3f") for x in _ENDS) + "]"
                row.append(f"{label} {number}{change} {interval}")
                parts = (number, "bold"), (change, style), (gap + interval, "dim")
                cells.append(Text.assemble(*parts))
            name = self._visible(name)
            left = phase.left(self._clock())
            self._lines("  ".join([f"{title} of {name}", *row, left]))
            table.add_row(Text(name), *cells)
        if self._mode == "rich":
            self.out.print(table, "")

    # Small parts

    def _judged(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(text, style) of each fact about a response."""
        parts = ", ".join(f"{self._visible(k)} {_number(v)}" for k, v in row["parts"].items())
        reward = f"reward {_number(row['reward'])}" + (f" ({parts})" if parts else "")
        return [
            ("success", "green") if row["success"] else ("no success", "red"),
            (reward, ""),
            (f"advantage {_number(row['advantage'], '+.2f')}", ""),
            (f"{row['tokens']} tokens", "dim"),
            *([] if row["finished"] else [("cut", "magenta")]),
        ]

    def _cut(self, text: str, limit: int) -> str:
        """`text` on one line; a long text is cut in its middle."""
        half = limit // 2
        if len(text) <= limit:
            return self._visible(text)
        mark = f" {self._dots} {len(text) - 2 * half:,} characters {self._dots} "
        return self._visible(text[:half]) + mark + self._visible(text[-half:])

    def _visible(self, text: str) -> str:
        """`text` with escapes for characters that a terminal obeys or cannot encode."""
        text = text.replace("\n", self._newline)
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        return text.encode(self.out.encoding, "backslashreplace").decode(self.out.encoding)

    def _lines(self, *lines: str) -> None:
        if self._mode == "plain":
            print(*lines, sep="\n", file=self._file, flush=True)

    def _json(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}, allow_nan=False, default=str)
        print(line, file=self._file, flush=True)

    def _end_phase(self) -> None:
        if self._phases and self._phases[-1].end is None:
            self._phases[-1].end = self._clock()


class _Phase:
    """The progress of a phase, its times and its moving averages."""

    def __init__(self, name: str, total: int, done: int, now: float):
        self.label, self.name, self.total, self.step = _LABELS[name], name, total, done
        self.start = now
        self.end: float | None = None
        self.first: tuple[int, float] | None = None  # step and time; it holds the compilation
        self.last = now
        self.curves: dict[str, list[float]] = {}

    def advance(self, step: int, now: float, values: Mapping[str, Any]) -> None:
        self.step, self.last = step, now
        self.first = self.first or (step, now)
        for name, _ in _MOVING[self.name]:
            if name in values and values[name] is not None:
                curve = self.curves.setdefault(name, [])
                old = curve[-1] if curve else values[name]
                curve.append(old + _NEW * (values[name] - old))

    def left(self, now: float) -> str:
        """The remaining time by the pace of this process; its first step is no measure."""
        if self.step >= self.total:
            return "0:00:00 left"
        if self.first is None or self.step == self.first[0]:
            return "-:--:-- left"
        step, start = self.first
        seconds = (self.last - start) / (self.step - step) * (self.total - self.step)
        return f"{_clock_time(max(seconds - (now - self.last), 0))} left"


_ENDS = ("_low", "_high")  # of an interval


def _change(first: Mapping[str, Any], values: Mapping[str, Any], key: str) -> tuple[str, str]:
    """The change of a metric, and its style: coloured where the two intervals are disjoint."""
    needed = [lines[key + end] for lines in (first, values) for end in ("", *_ENDS)]
    if None in needed:
        return "", ""
    old, old_low, old_high, new, low, high = needed
    style = "green" if low > old_high else "red" if high < old_low else "dim"
    return f" {new - old:+.3f}", style


def _rank(row: Mapping[str, Any]) -> float:
    return -math.inf if row["reward"] is None else row["reward"]


def _every(total: int) -> int:
    """1, 2, 5, 10, 20, ...: the smallest that gives no more than _RICH_LINES lines."""
    steps = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    return next(step for step in steps if step * _RICH_LINES >= total)


def _sparkline(curve: Sequence[float], ramp: str, width: int) -> str:
    """The whole curve in at most `width` characters, from its least to its largest value."""
    if len(curve) > width:
        curve = [curve[round(i * (len(curve) - 1) / (width - 1))] for i in range(width)]
    low, high = min(curve), max(curve)
    scale = (len(ramp) - 1) / ((high - low) or 1)
    return "".join(ramp[round((value - low) * scale)] for value in curve)


def _table(title: str, **options: Any) -> Table:
    style = "bright_black"
    return Table(title=Text(title, "bold"), title_justify="left", border_style=style, **options)


def _number(value: Any, form: str = ".3g") -> str:
    return "-" if value is None else format(value, form)


def _clock_time(seconds: float) -> str:
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
