"""Your own data without code: a template makes prompts of rows of JSON lines.

`data.path` is a directory or a file. A directory holds `train.jsonl` and one or more other
`*.jsonl` files; each of these is an evaluation set with the name of its file. In a single file,
every 10th prompt (`held_out`), with all rows that have it, goes to the evaluation set `test` and is
not trained on.

In a template, `{field}` stands for a row's field and may appear more than once. All other text,
also `\\boxed{}`, stays as it is, and nothing is evaluated. A field with text is inserted as it is;
numbers, true and false are inserted as JSON writes them; null, lists and objects are mistakes.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mapo_jax import errors, rewards
from mapo_jax.tasks import files
from mapo_jax.tasks.base import Task, merge_options

DEFAULTS = {
    "template": "{question}\n",  # the template of a prompt
    "answer": "answer",  # the field with the right answer
    "demonstration": "",  # template of a response for the warm-up; "" for none
    "held_out": 10,  # in a single file, every n-th prompt is for evaluation
}

_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
_WAYS = (
    "give a directory with train.jsonl and another file of evaluation rows, such as test.jsonl, or "
    "one .jsonl file"
)


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task from the options of DEFAULTS; nothing in it is random."""
    chosen = merge_options(options, DEFAULTS)
    if chosen["held_out"] < 2:
        raise errors.UserError(f"task.options.held_out={chosen['held_out']}: must be 2 or more")
    if not data_path:
        raise errors.UserError(f"data.path='': missing; {_WAYS}")
    mistakes: list[str] = []
    unfit: list[str] = []
    sets: dict[str, files.Rows] = {}
    for path in _paths(Path(data_path)):
        example = functools.partial(_example, chosen, not sets)  # the first file is trained on
        sets[path.stem] = files.read(path, example, mistakes, unfit)
    if misnamed := _misnamed_fields(chosen, sets):
        files.check(data_path, [*misnamed, *mistakes])
    files.check(data_path, [*mistakes, *unfit])
    train, notes = sets.pop(next(iter(sets))), []
    if not sets:
        train, sets["test"] = _hold_out(train, chosen["held_out"], data_path)
    for name, examples in sets.items():
        if seen := int(np.isin(examples.questions, train.questions).sum()):
            notes.append(f"{name}: {seen} of {len(examples)} prompts are trained on as well")
    return Task(
        name="jsonl",
        train=train,
        evals=sets,
        prompt=prompt,
        reward=rewards.accuracy_and_format,
        demonstration=demonstration if chosen["demonstration"] else None,
        notes=tuple(notes),
    )


def prompt(example: dict) -> str:
    """Returns the template, filled with the row's fields."""
    return example["question"]


def demonstration(example: dict) -> str:
    """Returns the demonstration's template, filled with the row's fields."""
    return example["demonstration"]


def _paths(path: Path) -> list[Path]:
    """Returns the training file, then the evaluation files, `test` first; or the single file."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise errors.UserError(f"data.path={path}: no such file or directory; {_WAYS}")
    evals = [p for p in path.glob("*.jsonl") if p.stem != "train" and not p.stem.startswith(".")]
    evals.sort(key=lambda p: (p.stem != "test", p.stem))
    missing = []
    if not (path / "train.jsonl").is_file():
        missing.append(f"data.path={path}: no train.jsonl there; {_WAYS}{files.there(path)}")
    if not evals:
        missing.append(f"data.path={path}: no evaluation set there; {_WAYS}{files.there(path)}")
    if missing:
        raise errors.UserError(*missing)
    return [path / "train.jsonl", *evals]


def _misnamed_fields(chosen: Mapping[str, Any], sets: Mapping[str, files.Rows]) -> list[str]:
    """Returns the options' mistakes; a field that no row has is one mistake, not one per row."""
    known = sorted(frozenset().union(*(rows.fields for rows in sets.values())))
    named = [
        (option, field)
        for option in ("template", "demonstration")
        for field in _fields(chosen[option])
    ]
    mistakes = []
    for option, field in [*named, ("answer", chosen["answer"])]:
        if known and field not in known:
            hint = errors.did_you_mean(field, known, f"fields: {', '.join(known)}")
            mistakes.append(
                f"task.options.{option}={chosen[option]!r}: no row has a field {field}{hint}"
            )
    if not _fields(chosen["template"]):
        mistakes.append(
            f"task.options.template={chosen['template']!r}: names no field, so all prompts would be"
            " the same; put one in braces, as in {question}"
        )
    return mistakes


def _fields(template: str) -> list[str]:
    return list(dict.fromkeys(_FIELD.findall(template)))


def _example(chosen: Mapping[str, Any], is_trained_on: bool, row: dict) -> dict:
    """Adds the prompt as `question`, the answer as text and, for training, a demonstration."""
    added = {
        "question": _fill(chosen["template"], row),
        "answer": _text(row, chosen["answer"]),
    }
    if chosen["demonstration"] and is_trained_on:
        added["demonstration"] = _fill(chosen["demonstration"], row)
    for name, what in (("question", "the prompt"), ("answer", f"the field {chosen['answer']}")):
        if not added[name].strip():
            raise ValueError(f"{what} is empty; fill it in or leave the row out")
    return {**row, **added}


def _fill(template: str, row: dict) -> str:
    return _FIELD.sub(lambda match: _text(row, match[1]), template)


def _text(row: dict, field: str) -> str:
    if field not in row:
        raise ValueError(
            f"no field {field}, which task.options names; the row has {', '.join(row) or 'none'}"
        )
    value = row[field]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    kind = {type(None): "null", list: "a list", dict: "an object"}[type(value)]
    raise ValueError(f"the field {field} is {kind}; must be text or a number")


def _hold_out(rows: files.Rows, every: int, data_path: str) -> tuple[files.Rows, files.Rows]:
    """Splits off every n-th prompt with all its rows, so that no prompt is on both sides."""
    _, first, inverse = np.unique(rows.questions, return_index=True, return_inverse=True)
    if len(first) < every:
        raise errors.UserError(
            f"task.options.held_out={every}: {data_path} has {len(first)} different prompts, so "
            "none would be left for evaluation; lower it (2 at least) or add rows"
        )
    numbers = np.empty(len(first), np.int64)  # of the prompts, in the order of their first rows
    numbers[np.argsort(first)] = np.arange(1, len(first) + 1)
    is_held_out = numbers[inverse] % every == 0
    return rows.take(np.flatnonzero(~is_held_out)), rows.take(np.flatnonzero(is_held_out))
