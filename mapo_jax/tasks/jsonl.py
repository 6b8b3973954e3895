"""Your own data without code: a template makes prompts of rows of JSON lines or Parquet files.

`data.path` is a directory or a file. A directory holds the training set, `train`, and one or more
other sets, which are for evaluation. A set is a file NAME.jsonl or NAME.parquet, or several,
NAME-00000-of-00002.parquet and so on. They may stand in the directory's folder `data`, as in data
sets of the Hugging Face hub. In a single file, every 10th prompt (`held_out`), with all rows that
have it, goes to the evaluation set `test` and is not trained on.

In a template, `{field}` stands for a row's field and may appear more than once. All other text,
also `\\boxed{}`, stays as it is, and nothing is evaluated. A field with text is inserted as it is;
numbers, true and false are inserted as JSON writes them. Of a conversation, which is a list of
messages, the system's text, if there is one, and the user's are inserted with an empty line between
them. null, other lists and objects are mistakes.

The field that `images` names holds the pictures of a row: null or "" for none, one, or a list of
them. A picture is a path, relative to the data's file, the bytes of a file in base64, or an object
with one of them, {"bytes": ..., "path": ...}, as the hub writes it.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mapo_jax import errors, rewards
from mapo_jax.tasks import files, parquet, places
from mapo_jax.tasks.base import Task, merge_options

DEFAULTS = {
    "template": "{question}\n",  # the template of a prompt
    "answer": "answer",  # the field with the right answer
    "demonstration": "",  # template of a response for the warm-up; "" for none
    "held_out": 10,  # in a single file, every n-th prompt is for evaluation
    "images": "",  # the field with the pictures; "" for text alone
    "placeholder": Task.placeholder,  # of a picture in the prompt, see `places.split`
}

_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
_WAYS = (
    "give a directory with train.jsonl and another file of evaluation rows, such as test.jsonl, or "
    "one .jsonl file; .parquet files do as well"
)


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task from the options of DEFAULTS; nothing in it is random."""
    chosen = merge_options(options, DEFAULTS)
    if chosen["held_out"] < 2:
        raise errors.UserError(f"task.options.held_out={chosen['held_out']}: must be 2 or more")
    _check_placeholder(chosen["placeholder"])
    if not data_path:
        raise errors.UserError(f"data.path='': missing; {_WAYS}")
    paths, mistakes, unfit = _paths(Path(data_path)), [], []
    sets: dict[str, files.Rows] = {}
    store: dict[str, bytes] = {}
    task = Task(
        name="jsonl",
        train=[],
        evals={},
        prompt=prompt,
        reward=rewards.accuracy_and_format,
        demonstration=demonstration if chosen["demonstration"] else None,
        placeholder=chosen["placeholder"],
    )
    if chosen["images"]:
        find = functools.partial(_images, chosen["images"], paths[0].parent, store)
        task = dataclasses.replace(task, images=find)
    for path in paths:
        example = functools.partial(_example, chosen, not sets)  # the first file is trained on
        name = parquet.set_name(path)
        identity = functools.partial(_identity if sets else places.identity, task)
        sets[name] = files.read(path, example, mistakes, unfit, identity, store)
    if misnamed := _misnamed_fields(chosen, sets):
        files.check(f"data.path={data_path}", [*misnamed, *mistakes])
    files.check(f"data.path={data_path}", [*mistakes, *unfit])
    train, notes = sets.pop(next(iter(sets))), []
    if not sets:
        train, sets["test"] = _hold_out(train, chosen["held_out"], data_path)
    for name, examples in sets.items():
        if seen := int(np.isin(examples.questions, train.questions).sum()):
            notes.append(f"{name}: {seen} of {len(examples)} prompts are trained on as well")
    return dataclasses.replace(task, train=train, evals=sets, notes=tuple(notes))


def prompt(example: dict) -> str:
    """Returns the template, filled with the row's fields."""
    return example["question"]


def demonstration(example: dict) -> str:
    """Returns the demonstration's template, filled with the row's fields."""
    return example["demonstration"]


def _check_placeholder(placeholder: str) -> None:
    try:
        matches_nothing = placeholder and re.search(placeholder, "")
    except re.error as error:
        raise errors.UserError(
            f"task.options.placeholder={placeholder}: no regular expression ({error}); mend it"
        ) from None
    if matches_nothing:
        raise errors.UserError(
            f"task.options.placeholder={placeholder}: matches where there is no text; give a "
            f"regular expression such as {Task.placeholder}"
        )


def _paths(path: Path) -> list[Path]:
    """Returns the training file, then the evaluation files, `test` first; or the single file.

    Of a set in shards it is the first one.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise errors.UserError(f"data.path={path}: no such file or directory; {_WAYS}")
    found: dict[str, list[Path]] = {}
    for file in _files(path) or _files(path / "data"):
        found.setdefault(parquet.set_name(file), []).append(file)
    missing = [
        f"data.path={path}: {' and '.join(file.name for file in several)} are one set; keep one"
        for several in found.values()
        if len(several) > 1
    ]
    if "train" not in found:
        missing.append(f"data.path={path}: no train.jsonl there; {_WAYS}{files.there(path)}")
    if not found.keys() - {"train"}:
        missing.append(f"data.path={path}: no evaluation set there; {_WAYS}{files.there(path)}")
    if missing:
        raise errors.UserError(*missing)
    names = sorted(found, key=lambda name: (name != "train", name != "test", name))
    return [found[name][0] for name in names]


def _files(folder: Path) -> list[Path]:
    """Returns the files of a folder that hold sets, of shards the first."""
    found = [*folder.glob("*.jsonl"), *folder.glob("*.parquet")]
    return sorted(p for p in found if not p.name.startswith(".") and parquet.is_first(p))


def _misnamed_fields(chosen: Mapping[str, Any], sets: Mapping[str, files.Rows]) -> list[str]:
    """Returns the options' mistakes; a field that no row has is one mistake, not one per row."""
    known = sorted(frozenset().union(*(rows.fields for rows in sets.values())))
    named = [
        (option, field)
        for option in ("template", "demonstration")
        for field in _fields(chosen[option])
    ]
    mistakes = []
    named.append(("answer", chosen["answer"]))
    named += [("images", chosen["images"])] if chosen["images"] else []
    for option, field in named:
        if known and not {field, field.partition(".")[0]} & {*known}:
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
    try:
        value = _value(row, field)
    except KeyError:
        raise ValueError(
            f"no field {field}, which task.options names; the row has {', '.join(row) or 'none'}"
        ) from None
    if isinstance(value, list) and value and all(map(_is_message, value)):
        return _conversation(field, value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    kind = {type(None): "null", list: "a list", dict: "an object"}[type(value)]
    raise ValueError(f"the field {field} is {kind}; must be text or a number")


def _value(row: dict, field: str) -> Any:
    """Returns the value of a field; that of `a.b` may stand in the object `a`.

    Raises:
        KeyError: the row has no such field.
    """
    if field in row:
        return row[field]
    value: Any = row
    for name in field.split("."):
        if not isinstance(value, dict):
            raise KeyError(name)
        value = value[name]
    return value


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


def _conversation(field: str, messages: list[dict]) -> str:
    """Returns the text of a system's message, if there is one, and of the user's."""
    roles = [message["role"] for message in messages]
    texts = [message["content"] for message in messages]
    if roles not in (["user"], ["system", "user"]) or not all(isinstance(x, str) for x in texts):
        raise ValueError(
            f"the field {field} is a conversation of {', '.join(map(str, roles))}; must be text of "
            "a user alone, or of system and user"
        )
    return "\n\n".join(texts)


def _images(field: str, root: Path, store: Mapping[str, bytes], row: dict) -> list[str | bytes]:
    """Returns the pictures of a row; the field may be missing, as in a row without pictures."""
    try:
        value = _value(row, field)
    except KeyError:
        value = None
    return places.listed(value, field, root, store)


def _identity(task: Task, example: dict) -> str:
    """Returns what tells a row of evaluation from others, see `places.identity`.

    With a picture that cannot be read it is "", like no row of training: whoever looks at pictures
    says so.
    """
    return errors.attempt([], places.identity, task, example) or ""


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
