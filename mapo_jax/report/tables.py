"""Writes the tables of the report: numbers to copy, configuration, commands, environment."""

import shlex

import numpy as np

from mapo_jax.report import figures, markup
from mapo_jax.report.runs import Arm, Run, differences


def evaluations(runs: list[Run]) -> str:
    """Writes every evaluation (50 of them if there are more), without the intervals."""
    blocks = []
    for run in runs:
        steps = run.curve("eval", "rl", next(iter(run.keys("eval")), "")).steps
        keys = [key for key in run.keys("eval") if not key.endswith(("_low", "_high"))]
        if len(steps) > 50:
            steps = steps[np.linspace(0, len(steps) - 1, 50).astype(int)]
        rows = [
            [str(step), *(_at(run, "eval", key, step) for key in keys)] for step in steps.tolist()
        ]
        blocks.append(_numbers(run, runs, ["step", *(k.removeprefix("eval/") for k in keys)], rows))
    return "".join(blocks)


def metrics(runs: list[Run]) -> str:
    """Writes all training metrics at six steps from first to last."""
    blocks = []
    for run in runs:
        keys = run.keys("train")
        steps = np.unique(np.concatenate([[], *(run.curve("train", "rl", k).steps for k in keys)]))
        if len(steps):
            steps = steps[np.unique(np.linspace(0, len(steps) - 1, 6).astype(int))].astype(int)
        rows = [[key, *(_at(run, "train", key, step) for step in steps)] for key in keys]
        blocks.append(_numbers(run, runs, ["metric", *(f"step {step}" for step in steps)], rows))
    return "".join(blocks)


def _numbers(run: Run, runs: list[Run], header: list[str], rows: list[list[str]]) -> str:
    label = f" of {markup.text(run.label)}" if len(runs) > 1 else ""
    if not rows:
        return ""
    return f"<details><summary>The numbers{label}</summary>{markup.table(header, rows)}</details>"


def _at(run: Run, kind: str, key: str, step: int) -> str:
    curve = run.curve(kind, "rl", key)
    values = curve.values[curve.steps == step]
    return markup.number(values[0]) if len(values) else ""


def seconds(runs: list[Run]) -> str:
    """Writes the seconds of each phase and their share of the whole time."""
    columns = ("warm-up", "sample", "reward", "score", "update", "rest", "evaluation")
    rows = []
    for run in runs:
        seconds = {
            name: curve.values.sum() for name, curve in figures.phases(Arm("", [run])).items()
        }
        seconds["warm-up"] = np.nansum(run.curve("train", "warmup", "time/step").values)
        seconds["evaluation"] = np.nansum(run.curve("eval", "rl", "time/eval").values)
        total = sum(seconds.values())
        if total:
            shares = [seconds[name] if name in seconds else 0.0 for name in columns]
            cells = [f"{x:,.1f} s ({x / total:.0%})" if x else "\u2013" for x in shares]
            rows.append([run.label, *cells, f"{total:,.1f} s"])
    return markup.table(["run", *columns, "together"], rows) if rows else ""


def configuration(runs: list[Run]) -> str:
    """Writes differences between runs, then each run's commands, environment and config."""
    blocks = ""
    if len(runs) > 1:
        rows = [[key, *map(markup.shown, values)] for key, values in differences(runs)]
        blocks += (
            markup.table(["key", *(run.label for run in runs)], rows)
            if rows
            else ("<p>Nothing: the configurations are the same.</p>")
        )
    for run in runs:
        starts = [start for start in run.starts if isinstance(start, dict)]
        changed = [
            str(x).partition("=")[0] for start in starts for x in start.get("overrides") or []
        ]
        keys = sorted(run.config, key=lambda key: key not in changed)
        commands = "".join(_start(start) for start in starts)
        environment = starts[-1].get("environment") if starts else None
        if isinstance(environment, dict):
            commands += markup.table(
                ["environment", ""], [[k, markup.shown(v)] for k, v in environment.items()]
            )
        rows = [[key, markup.shown(run.config[key])] for key in keys]
        table = markup.table(["key", "value"], rows, frozenset(changed)) if rows else ""
        label = markup.text(run.label) if len(runs) > 1 else "The whole configuration"
        count = f", {len(set(changed))} changed" if changed else ""
        blocks += f"{commands if len(runs) == 1 else ''}<details><summary>{label}{count}</summary>"
        blocks += f"{commands if len(runs) > 1 else ''}{table}</details>"
    return blocks


def _start(start: dict) -> str:
    argv = start["argv"] if isinstance(start.get("argv"), list) else []
    after = start.get("continued_after")
    after = f", continued after step {after[1]} of {after[0]}" if isinstance(after, list) else ""
    command = shlex.join(["python", *map(str, argv)])
    return (
        f'<p class="muted">started {markup.text(start.get("time", ""))}{markup.text(after)}</p>'
        f'<pre class="prompt">{markup.long(command)}</pre>'
    )
