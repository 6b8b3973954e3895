"""Geometry3K: questions about diagrams, with four choices (arXiv 2105.04165).

`data.path` is a directory of one of these layouts:

- as lupantech/InterGPS publishes it: `train`, `val` and `test`, with a folder of each problem, of
  which `N/data.json` and `N/img_diagram.png` are read;
- such problem folders alone, whose field `data_type` says which set a problem belongs to;
- as hiyouga/geometry3k on the Hugging Face hub: sets `train`, `validation` and `test`, each in
  Parquet files or JSON lines, in the directory or in its folder `data`. A row has `images`, a list
  of {"bytes": ..., "path": ...} or of paths, `problem` with `<image>` in it, and `answer`.

The evaluation set is `test`, as in the paper, or the other one if there is no `test`. If all
problem folders are for training, every 5th one, in the order of their numbers, is held out as
`test`.

The question is the field `annotat_text`, if it has text, and the answer is the text of the right
choice, as in the paper's evaluation. With `task.options.answers=choices` the prompt lists the
choices, and the letter is right as well as the value; the rows of the hub have no choices. The
picture comes first, unless `<image>` marks its place.
"""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mapo_jax import errors, rewards
from mapo_jax.tasks import files, places
from mapo_jax.tasks.base import Task, merge_options, prompt, with_choices

DEFAULTS = {"answers": "free"}

_EVERY = 5  # of problems that are all for training, every n-th is for evaluation
_EVALUATION = ("test", "val", "validation")  # the first that is there
_PLACE = "<image>"
_WAYS = (
    "give the directory that holds InterGPS's train and test, or numbered problem folders, or the "
    "hub's train and test as .parquet or .jsonl files"
)


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task from the options of DEFAULTS; nothing in it is random."""
    answers = merge_options(options, DEFAULTS)["answers"]
    if answers not in ("free", "choices"):
        raise errors.UserError(f"task.options.answers={answers}: must be free or choices")
    folder = Path(data_path)
    if not data_path or not folder.is_dir():
        raise errors.UserError(f"data.path={data_path or repr('')}: no such directory; {_WAYS}")
    mistakes: list[str] = []
    store: dict[str, bytes] = {}
    root, sets = folder, _problem_sets(folder, answers == "choices", mistakes)
    if not sets and (train := files.find_set(folder, ["train"])):
        if answers == "choices":
            raise errors.UserError(
                f"task.options.answers=choices: the rows of {train} have no choices; set it to "
                "free, or give the directory that holds InterGPS's train and test"
            )
        root, sets["train"] = train.parent, files.read(train, _row, mistakes, store=store)
        for name in _EVALUATION:
            if path := files.find_set(folder, [name]):
                sets[name] = files.read(path, _row, mistakes, store=store)
                break
    files.check(f"data.path={data_path}", mistakes)
    train, name = sets.get("train"), next((x for x in _EVALUATION if sets.get(x)), "")
    if not train or not name:
        missing = " and no ".join(["training"] * (not train) + ["evaluation"] * (not name))
        raise errors.UserError(
            f"data.path={data_path}: no {missing} problems there; {_WAYS}{files.there(folder)}"
        )
    by_text = rewards.symbolic_accuracy_and_format
    return Task(
        name="geometry3k",
        train=train,
        evals={name: sets[name]},
        prompt=prompt,
        reward=rewards.choice_accuracy_and_format if answers == "choices" else by_text,
        demonstration=demonstration,
        images=lambda example: places.listed(example["images"], "images", root, store),
        placeholder=_PLACE,
    )


def demonstration(example: dict) -> str:
    """Returns the right answer after an empty thought, as no data has one: it teaches the form."""
    return f"<think></think> \\boxed{{{example['answer']}}}"


def _row(row: dict) -> dict:
    """Makes an example of a row of hiyouga/geometry3k."""
    question, answer = files.text(row, "problem"), files.text(row, "answer")
    if not places.listed(row.get("images"), "images", Path(), {}):
        raise ValueError("no picture in the field images")
    return _example(question, answer, row["images"])


def _example(question: str, answer: str, images: Any) -> dict:
    place = "" if _PLACE in question else _PLACE
    return {"question": place + question, "answer": answer, "images": images}


def _problem_sets(folder: Path, has_choices: bool, mistakes: list[str]) -> dict[str, Any]:
    """Reads the problem folders in a directory, and those in its `train`, `val` and `test`."""
    sets: dict[str, Any] = {}
    for part in ("", "train", *_EVALUATION):
        for path in _numbered(folder / part):
            row = files.read_object(path / "data.json", mistakes)
            if row is None:
                continue
            try:
                kind = part or str(row.get("data_type"))
                if kind not in ("train", *_EVALUATION):
                    raise ValueError(f"the field data_type is {kind}, not train, val or test")
                example = _problem(row, f"{path.relative_to(folder)}/img_diagram.png", has_choices)
            except ValueError as error:
                mistakes.append(f"{path}/data.json: {error}")
            else:
                sets.setdefault(kind, []).append(example)
    if [*sets] == ["train"]:
        rows = sets["train"]
        sets = {
            "train": [x for n, x in enumerate(rows, 1) if n % _EVERY],
            "test": rows[_EVERY - 1 :: _EVERY],
        }
    return sets


def _numbered(folder: Path) -> list[Path]:
    """Returns the numbered directories in one, by their numbers."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((x for x in found if x.name.isdigit() and x.is_dir()), key=lambda x: int(x.name))


def _problem(row: dict, image: str, has_choices: bool) -> dict:
    """Makes an example of the content of a data.json."""
    question = row.get("annotat_text") or row.get("problem_text")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("no text in the fields annotat_text and problem_text")
    choices = row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(x, str) and x.strip() for x in choices):
        raise ValueError("the field choices is no list of texts")
    letters, answer = [*string.ascii_uppercase[: len(choices)]], row.get("answer")
    if answer not in letters:
        raise ValueError(f"the field answer is {answer!r}, no letter of the {len(choices)} choices")
    choices = [choice.strip() for choice in choices]
    if has_choices:
        example = _example(with_choices(question.strip(), choices), answer, [image])
        return {**example, "choices": choices}
    return _example(question.strip(), choices[letters.index(answer)], [image])
