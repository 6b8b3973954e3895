"""Evaluates a policy on all sets of an experiment, for launch/evaluate.py.

The policy comes from a run, or it is a pretrained one. Every response is kept in
`evaluation/DIGEST/SET.jsonl`. The file grows with each call of the sampler, so an evaluation that
was stopped goes on from there. DIGEST is of the contents of all that responses depend on: policy,
tokenizer, prompts, settings. So other responses have another folder. Each call judges all of them
anew, and ends with their verdicts in the file and the metrics in `evaluation.json`, there and in
the work directory.

A problem whose picture is missing or broken counts as wrong, so that all evaluations of a set have
the same denominator. When the file is there, the set has another DIGEST and is answered anew.
"""

import dataclasses
import functools
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
from mapo_jax.run import digests, evaluation, pictures, programs, records, sources, workdirs


def run(config: Config, workdir: epath.Path, params: str = "", checkpoint: str = "newest") -> None:
    """Evaluates, prints a table and writes `evaluation.json`.

    Args:
        config: its task, eval, data and rollout sections count.
        workdir: directory of the run that is evaluated; results go there.
        params: a Hugging Face folder, a hub id or another work directory; its policy is evaluated
            in place of the run's.
        checkpoint: of the run: newest, best or a number of checkpoints/.

    Raises:
        UserError: there is no such policy, or the data cannot be found.
    """
    c, screen = config, rich.console.Console()
    if "://" in str(workdir):
        raise errors.UserError(f"--workdir={workdir}: must be a local directory here; copy it")
    task, reward = sources.make_task(c)
    found = sources.open(c, workdir, params, checkpoint=checkpoint)
    rewards.log_to(Path(workdir) / "rewards.log")
    reader = pictures.reader(c.images, found.architecture.vision)
    say = functools.partial(screen.print, markup=False, highlight=False, soft_wrap=True)
    sets = evaluation.prepare(c, task, found.tokenizer, reader, say, keeps_unreadable=True)
    lengths = c.data.max_prompt_tokens, c.rollout.max_new_tokens
    attention, _ = programs.choose_decoding(c.compute, found.architecture, found.mesh, lengths)
    headers = _headers(c, found, sets)
    digest = digests.of_json(headers)
    folder = Path(workdir) / "evaluation" / digest[:12]
    answered = (len(one.prompts) - len(one.unreadable) for one in sets.values())
    total = sum(answered) * len(evaluation.MODES)
    screen.print(f"{found.name}: {total} problems to answer, greedily and {c.eval.samples} x")
    doing = "is making the same evaluation; wait until it ends"
    with workdirs.lock(epath.Path(folder), f"--workdir={workdir}", doing):
        files = _Files(folder, headers, screen, total)
        values = evaluation.evaluate(
            found.params,
            found.architecture,
            found.tokenizer,
            reward,
            sets,
            evaluation.key_of(c.seed),
            found.mesh,
            **evaluation.settings(c),
            attention=attention,
            store=files,
        )
        values = records.plain(values)
        result = {
            "policy": found.name,
            "task": c.task.name,
            "reward": c.task.reward,
            "template": c.tokenizer.template,
            "truncated_prompts": c.data.too_long,
            **_settings(c),
            "sets": {name: len(one.prompts) for name, one in sets.items()},
            "unreadable": {name: len(one.unreadable) for name, one in sets.items()},
            "folder": f"evaluation/{folder.name}",
            "digest": digest,
            "digests": {name: header["digests"] for name, header in headers.items()},
            "environment": workdirs.environment(),
            "metrics": values,
        }
        files.write()
        path = workdir / "evaluation.json"
        for place in (epath.Path(folder) / path.name, path):
            workdirs.write_json(place, result)
    _print_table(screen, sets, values, c.eval.samples)
    screen.print(f"{path}; responses and verdicts in {folder}/", soft_wrap=True)


def _settings(config: Config) -> dict[str, Any]:
    """Returns the settings that responses depend on."""
    c = config
    return {
        "seed": c.seed,
        "dtype": c.compute.dtype,
        "matmul_precision": c.compute.matmul_precision,
        **{k: v for k, v in evaluation.settings(c).items() if k != "batch"},
    }


_OF_PICTURES = ("vision", "image_token", "image_frame", "rope_sections", "rope_interleaved")


def _headers(
    config: Config, policy: sources.Policy, sets: Mapping[str, evaluation.EvalSet]
) -> dict[str, dict[str, Any]]:
    """Returns the header of each set's file: what its responses depend on, by content."""
    architecture = dataclasses.asdict(policy.architecture)
    if policy.architecture.vision is None:  # an older version answered without these fields
        for name in _OF_PICTURES:
            del architecture[name]
    params = digests.of_arrays(policy.params)
    common = {
        "policy": digests.of_json({"architecture": architecture, "params": params}),
        "tokenizer": digests.of_files(sources.tokenizer_files(policy.tokenizer)),
    }
    headers = {
        name: {
            "set": name,
            "number": evaluation.number(sets, name),  # draws depend on it
            **_settings(config),
            "digests": {**common, "prompts": _of_prompts(config, one)},
        }
        for name, one in sets.items()
    }
    return json.loads(json.dumps(headers))  # as it is read again


def _of_prompts(config: Config, problems: evaluation.EvalSet) -> str:
    """Returns the digest of what the policy sees: the tokens and, if there are some, pictures."""
    content: dict[str, Any] = {"prompts": problems.prompts}
    if found := problems.album.digests():
        content |= {"pictures": found, "images": dataclasses.asdict(config.images)}
    return digests.of_json(content)


_Key = tuple[str, int, int]  # mode, problem, sample
_RESPONSE = {"mode": str, "problem": int, "sample": int}
_RESPONSE |= {"response": str, "tokens": int, "finished": bool}


class _Files:
    """A file of rows for each set; its first line is the set's header."""

    def __init__(
        self,
        folder: Path,
        headers: Mapping[str, dict[str, Any]],
        screen: rich.console.Console,
        total: int,
    ):
        self._folder, self._headers = folder, headers
        self._screen, self._total, self._done = screen, total, 0
        self._kept: dict[str, dict[_Key, evaluation.Row]] = {}

    def rows(self, name: str, mode: str) -> Mapping[int, Sequence[evaluation.Row]]:
        if name not in self._kept:
            self._kept[name] = self._find(name)
            self._write(name)
        kept = self._kept[name]
        size = 1 if mode == "greedy" else self._headers[name]["samples"]
        there = {}
        for problem in {problem for m, problem, _ in kept if m == mode}:
            group = [kept[key] for i in range(size) if (key := (mode, problem, i)) in kept]
            if len(group) == size:
                there[problem] = [{key: row[key] for key in _RESPONSE} for row in group]
        self._say(name, mode, len(there), "were answered before")
        return there

    def add(self, name: str, mode: str, rows: Iterable[evaluation.Row]) -> None:
        self._kept[name] |= (new := {_key(row): row for row in rows})
        with self._path(name).open("a", encoding="ascii") as file:
            file.write("".join(json.dumps(row) + "\n" for row in new.values()))
        self._say(name, mode, len({problem for _, problem, _ in new}), "answered")

    def judged(self, name: str, mode: str, rows: Iterable[evaluation.Row]) -> None:
        self._kept[name] |= (new := {_key(row): records.plain(row) for row in rows})
        unpaid = sum(row["reward"] is None for row in new.values())
        if unpaid:
            self._screen.print(
                f"{name}, {mode}: {unpaid} of {len(new)} responses have no reward and count as "
                "wrong; the same command judges them again",
                highlight=False,
            )

    def write(self) -> None:
        """Writes all rows with their verdicts."""
        for name in self._kept:
            self._write(name)

    def _write(self, name: str) -> None:
        rows = [row for _, row in sorted(self._kept[name].items())]
        lines = [json.dumps(row) + "\n" for row in (self._headers[name], *rows)]
        workdirs.write(epath.Path(self._path(name)), "".join(lines).encode())

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"

    def _find(self, name: str) -> dict[_Key, evaluation.Row]:
        """Returns the rows of a set, which may be of an evaluation that differs in other sets."""
        path = self._path(name)
        for folder in sorted(self._folder.parent.iterdir(), key=lambda x: (x != self._folder, x)):
            found = _read(folder / path.name, self._headers[name])
            if found is not None:
                return found
            if folder == self._folder and path.exists():
                raise errors.UserError(
                    f"{path}: its first line is not that of this evaluation; move the file away"
                )
        return {}

    def _say(self, name: str, mode: str, number: int, what: str) -> None:
        self._done += number
        if number:
            self._screen.print(
                f"{self._done}/{self._total}  {name}, {mode}: {number} problems {what}",
                highlight=False,
            )


def _key(row: evaluation.Row) -> _Key:
    return row["mode"], row["problem"], row["sample"]


def _read(path: Path, header: Mapping[str, Any]) -> dict[_Key, evaluation.Row] | None:
    """Returns the rows of a file that has the header; else None."""
    if not path.is_file():
        return None
    with path.open(encoding="ascii", errors="replace") as file:
        if _line(file.readline()) != header:
            return None
        rows = [row for line in file if _is_row(row := _line(line))]
    return {_key(row): row for row in reversed(rows)}  # the first of equal ones


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(value.get(key)) is kind for key, kind in _RESPONSE.items()
    )


def _line(line: str) -> Any:
    """Returns a line's object; None if the line was not written to its end."""
    try:
        return json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None


_COLUMNS = ("accuracy", "accuracy_sampled")
_LENIENT = ("accuracy_lenient", "accuracy_lenient_sampled")
_WHITE = ("accuracy_blank", "accuracy_blank_sampled")
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
    if any(f"eval/{name}/{_LENIENT[0]}" in values for name in sets):
        labels += [f"{label}, lenient" for label in labels[:2]]
        kinds += _LENIENT
    if any(one.blank_of for one in sets.values()):
        labels += [f"{label}, white" for label in labels[:2]]
        kinds += _WHITE
    table = rich.table.Table("set", "problems", title="accuracy in per cent, with 95% intervals")
    for label in [*labels, *(label for _, label, _ in _PLAIN)]:
        table.add_column(label, justify="right")

    def cell(key: str) -> str:
        if values.get(key) is None:
            return ""
        low, high = values[f"{key}_low"], values[f"{key}_high"]
        return f"{100 * values[key]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    own = {name: one for name, one in sets.items() if not one.blank_of}
    for name, one in own.items():
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
