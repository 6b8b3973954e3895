"""Evaluates a policy on all sets of an experiment, for launch/evaluate.py.

The policy comes from a run, or it is a pretrained one. Every response is kept with its verdict in
`evaluation/SET.jsonl`. The file grows with each call of the sampler, so an evaluation that was
stopped goes on from there. `evaluation.json` holds the metrics.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table
from etils import epath

from mapo_jax import errors, rewards
from mapo_jax.config import Config
from mapo_jax.run import evaluation, records, sources, workdirs


def run(config: Config, workdir: epath.Path, params: str = "") -> None:
    """Evaluates, prints a table and writes `evaluation.json`.

    Args:
        config: its task, eval, data and rollout sections count.
        workdir: directory of the run whose newest checkpoint is evaluated; results go there.
        params: a Hugging Face folder, a hub id or another work directory; its policy is evaluated
            in place of the run's.

    Raises:
        UserError: there is no such policy, or the data cannot be found.
    """
    c, screen = config, rich.console.Console()
    if "://" in str(workdir):
        raise errors.UserError(f"--workdir={workdir}: must be a local directory here; copy it")
    task, reward = sources.make_task(c)
    found = sources.open(c, workdir, params)
    rewards.log_to(Path(workdir) / "rewards.log")
    sets = evaluation.prepare(c, task, found.tokenizer, screen.print)
    about = {
        "policy": found.name,
        "seed": c.seed,
        "task": c.task.name,
        "reward": c.task.reward,
        "template": c.tokenizer.template,
        "dtype": c.compute.dtype,
        "truncated_prompts": c.data.too_long,
        **{k: v for k, v in evaluation.settings(c).items() if k != "batch"},
    }
    directory = Path(workdir) / "evaluation"
    total = sum(len(one.prompts) for one in sets.values()) * len(evaluation.MODES)
    screen.print(f"{found.name}: {total} problems to answer, greedily and {c.eval.samples} x")
    store = _Files(directory, about, screen, total)
    values = evaluation.evaluate(
        found.params,
        found.architecture,
        found.tokenizer,
        reward,
        sets,
        evaluation.key_of(c.seed),
        found.mesh,
        **evaluation.settings(c),
        store=store,
    )
    values = records.plain(values)
    result = {
        **about,
        "sets": {name: len(one.prompts) for name, one in sets.items()},
        "environment": workdirs.environment(),
        "metrics": values,
    }
    path = workdir / "evaluation.json"
    workdirs.write_json(path, result)
    _print_table(screen, sets, values, c.eval.samples)
    screen.print(f"{path}; responses and verdicts in {directory}/", soft_wrap=True)


class _Files:
    """A file of rows for each set; its first line names the policy and the settings."""

    def __init__(
        self, directory: Path, about: Mapping[str, Any], screen: rich.console.Console, total: int
    ):
        self._directory, self._about = directory, json.loads(json.dumps(about))
        self._screen, self._total, self._done = screen, total, 0
        self._kept: dict[str, list[evaluation.Row]] = {}

    def rows(self, name: str, mode: str) -> Mapping[int, Sequence[evaluation.Row]]:
        if name not in self._kept:
            self._kept[name] = self._read(name)
        there = {problem: rows for (m, problem), rows in self._whole(self._kept[name]) if m == mode}
        self._say(name, mode, len(there))
        return there

    def _whole(self, rows: Sequence[evaluation.Row]) -> list[tuple[tuple, list[evaluation.Row]]]:
        """Returns ((mode, problem), its rows) for each problem whose rows are all there."""
        grouped: dict[tuple, list[evaluation.Row]] = {}
        for row in rows:
            grouped.setdefault((row["mode"], row["problem"]), []).append(row)
        sizes = {"greedy": 1, "sampled": self._about["samples"]}
        return [(key, group) for key, group in grouped.items() if len(group) == sizes[key[0]]]

    def add(self, name: str, mode: str, rows: Iterable[evaluation.Row]) -> None:
        kept = [records.plain(row) for row in rows]
        self._kept[name] += kept
        with self._path(name).open("a", encoding="ascii") as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept))
        self._say(name, mode, len({row["problem"] for row in kept}))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.jsonl"

    def _read(self, name: str) -> list[evaluation.Row]:
        """Returns the rows of whole problems; starts anew if the file is another evaluation's."""
        path, rows = self._path(name), []
        self._directory.mkdir(parents=True, exist_ok=True)
        if path.exists():
            lines = path.read_text(encoding="ascii", errors="replace").splitlines(keepends=True)
            if lines and _line(lines[0]) == self._about:
                rows = [row for line in lines[1:] if (row := _line(line)) is not None]
                rows = [row for _, group in self._whole(rows) for row in group]
                self._screen.print(f"{name}: {len(rows)} answers are there already")
            else:
                self._screen.print(f"{path}: is of another evaluation, and begun anew")
        content = [self._about, *rows]
        whole = "".join(json.dumps(row) + "\n" for row in content).encode()
        workdirs.write(epath.Path(path), whole)
        return rows

    def _say(self, name: str, mode: str, number: int) -> None:
        self._done += number
        if number:
            self._screen.print(
                f"{self._done}/{self._total}  {name}, {mode}: {number} problems answered",
                highlight=False,
            )


def _line(line: str) -> Any:
    """Returns a line's object; None if the line was not written to its end."""
    try:
        return json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None


_COLUMNS = ("accuracy", "accuracy_sampled")
_PLAIN = (
    ("length_mean", "tokens", ".0f"),
    ("truncated", "cut", ".1%"),
    ("format", "format", ".1%"),
)


def _print_table(
    screen: rich.console.Console,
    sets: Mapping[str, evaluation.EvalSet],
    values: Mapping[str, Any],
    samples: int,
) -> None:
    """Prints a row for each set, with accuracies in per cent and their 95% intervals."""
    kinds = [f"{kind}@{samples}" for kind in ("pass", "maj")] if samples > 1 else []
    labels = ["greedy", f"mean@{samples}" if samples > 1 else "sampled", *kinds]
    table = rich.table.Table("set", "problems", title="accuracy in per cent, with 95% intervals")
    for label in [*labels, *(label for _, label, _ in _PLAIN)]:
        table.add_column(label, justify="right")

    def cell(key: str) -> str:
        if values.get(key) is None:
            return ""
        low, high = values[f"{key}_low"], values[f"{key}_high"]
        return f"{100 * values[key]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    for name, one in sets.items():
        shares = [cell(f"eval/{name}/{kind}") for kind in (*_COLUMNS, *kinds)]
        rest = []
        for kind, _, form in _PLAIN:
            value = values.get(f"eval/{name}/{kind}")
            rest.append("" if value is None or math.isnan(value) else format(value, form))
        kind = "" if one.is_in_domain else " (out of domain)"
        table.add_row(name + kind, str(len(one.prompts)), *shares, *rest)
    if "overall/A" in values:
        table.add_section()
        for side, label in (("A_S", "A_S, in domain"), ("A_T", "A_T, out of domain"), ("A", "A")):
            row = [cell(f"overall/{side}"), cell(f"overall/{side}_sampled")]
            table.add_row(label, "", *row)
    # Outside a terminal the table is as wide as it needs to be.
    wide = screen if screen.is_terminal else rich.console.Console(width=200)
    wide.print(table)
