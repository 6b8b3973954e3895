"""MathVision, MathVista and MathVerse: mathematics with pictures, out of Geometry3K's domain.

They evaluate and have no training rows here. `data.path` is a file of rows or the directory that
holds it, or whose folder `data` does. The pictures are in its Parquet files, or in the folder
`images`, which stands in that directory or in the one above.

- `mathvision` (arXiv 2402.14804): mathllm/MATH-V or MathLLMs/MathVision. `test.jsonl`, 3,040 rows,
  or `testmini.jsonl`, 304 of them, if the other is not there or this is the file. A row has one
  picture, also where its text names several parts of it as <image1>, <image2>.
- `mathvista` (arXiv 2310.02255): AI4Math/MathVista or lupantech/MathVista. `testmini`, 1,000 rows,
  as Parquet files or as the annotations `testmini.json`, an object of rows by their `pid`. Its test
  set is published without answers.
- `mathverse` (arXiv 2403.14624): AI4Math/MathVerse. `testmini`, 788 problems in five versions, from
  Text Dominant to Vision Only, as a Parquet file or as JSON. `testmini_text_only.json` may be the
  file; its rows have no picture.

The prompt is the set's own query, `query` and `query_cot`, as in the paper's evaluation, or the
question and its choices; the picture comes first. An answer is right by the letter of the right
choice or by its value, see `answers.is_choice`. A number that MathVista wants with one or two
decimals is right if it is when rounded, and a whole number has to be that number (MathVista's own
script cuts off decimals: 4.7 is 4). There is no other model that judges.
"""

import re
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mapo_jax import errors, rewards
from mapo_jax.tasks import files, places
from mapo_jax.tasks.base import Task, merge_options, prompt, with_choices

_HINTS: dict[Any, str] = {  # MathVista's, by the type of the answer; of a float by its decimals
    "text": "and provide the correct option letter, e.g., A, B, C, D",
    "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3",
    "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], "
    "[1.2, 1.3, 1.4]",
    1: "requiring a floating-point number with one decimal place and provide the final value, "
    "e.g., 1.2, 1.3, 1.4",
    2: "requiring a floating-point number with two decimal places and provide the final value, "
    "e.g., 1.23, 1.34, 1.45",
}
_CHOICE = re.compile(r"^[ \t]*\(?([A-Z])[ \t]*[.:)][ \t]*(.*?)[ \t]*$", re.MULTILINE)
_WORD = re.compile(r"\{[a-z]{5,}\}$")  # MathVision has 69{degrees} and 8\sqrt{3}{squareinches}


def make_mathvision(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task of MathVision; it has no options, and nothing in it is random."""
    return _make("mathvision", options, data_path, ("test", "testmini"), _mathvision)


def make_mathvista(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task of MathVista; it has no options, and nothing in it is random."""
    return _make("mathvista", options, data_path, ("testmini",), _mathvista)


def make_mathverse(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task of MathVerse; it has no options, and nothing in it is random."""
    return _make("mathverse", options, data_path, ("testmini",), _mathverse)


def _make(
    name: str,
    options: Mapping[str, Any],
    data_path: str,
    sets: tuple[str, ...],
    example: Callable[[dict], dict],
) -> Task:
    merge_options(options, {})
    given = Path(data_path)
    path = given if given.is_file() else files.find_set(given, sets) if data_path else None
    if path is None:
        raise errors.UserError(
            f"data.path={data_path or repr('')}: {name} is read from a file; give it, or the "
            f"directory that holds {' or '.join(sets)} as .parquet, .jsonl or .json"
            f"{files.there(given) if data_path else ''}"
        )
    mistakes: list[str] = []
    store: dict[str, bytes] = {}
    rows = files.read(path, example, mistakes, store=store)
    files.check(f"data.path={data_path}", mistakes)
    root = next((x for x in path.parents[:2] if (x / "images").is_dir()), None)
    if root is None and not store and any(row["images"] for row in rows):
        raise errors.UserError(
            f"data.path={data_path}: no folder images in {path.parent} or above it, where the "
            f"pictures of {path.name} should be; unpack the set's pictures there"
        )
    folder = root or path.parent
    return Task(
        name=name,
        train=[],
        evals={name: rows},
        prompt=prompt,
        reward=rewards.choice_accuracy_and_format,
        demonstration=None,
        images=lambda example: places.listed(example["images"], "images", folder, store),
        placeholder="",
    )


def _example(
    question: str, answer: str, images: Any, choices: list[str] | None = None, **more: Any
) -> dict:
    """Makes an example; with choices, `answer` is the letter of the right one."""
    places.listed(images, "image", Path(), {})
    if choices:
        if answer not in [*string.ascii_uppercase[: len(choices)]]:
            raise ValueError(f"the answer {answer!r} is no letter of the {len(choices)} choices")
        more["choices"] = choices
    return {"question": question, "answer": answer, "images": images, **more}


def _letter(answer: str, choices: list[str]) -> str:
    """Returns the letter of a choice; "" if there is no such choice."""
    return string.ascii_uppercase[choices.index(answer)] if answer in choices else ""


def _mathvision(row: dict) -> dict:
    question, choices = files.text(row, "question"), _texts(row, "options")
    files.text(row, "answer")
    # One answer is \frac with a form feed for its \f, and three have a unit in bare braces.
    answer = _WORD.sub("", row["answer"].replace("\f", r"\f").strip())
    asked = with_choices(question, choices) if choices else question
    return _example(asked, answer, row.get("decoded_image") or row.get("image"), choices)


def _mathvista(row: dict) -> dict:
    files.text(row, "question")  # which is not stripped, so that the prompt is MathVista's own
    question, answer, choices = row["question"], files.text(row, "answer"), _texts(row, "choices")
    if choices and not (answer := _letter(answer, choices)):
        raise ValueError(f"the answer {row['answer']!r} is none of the choices")
    kind, precision = row.get("answer_type"), row.get("precision")
    asked = precision if kind == "float" and precision in (1, 2) else kind
    hint = next((hint for key, hint in _HINTS.items() if key == asked), None)
    if hint is None:
        raise ValueError(f"answer_type {kind!r} with precision {precision!r} is not MathVista's")
    unit = f" (Unit: {row['unit']})" if row.get("unit") else ""
    query = f"Hint: Please answer the question {hint}, at the end.\nQuestion: {question}{unit}"
    query = (with_choices(query, row["choices"]) if choices else query).strip()
    query = files.text(row, "query") if row.get("query") else query
    more = {"precision": int(row["precision"])} if kind == "float" else {}
    return _example(query, answer, row.get("decoded_image") or row.get("image"), choices, **more)


def _mathverse(row: dict) -> dict:
    query, answer, image = files.text(row, "query_cot"), files.text(row, "answer"), row.get("image")
    if image and isinstance(image, str):
        image = f"images/{image}"
    # The choices stand in the text of the question; of Vision Only, that of another version.
    text = str(row.get("question_for_eval") or row.get("question") or "")
    found = _CHOICE.findall(text.partition("Choice")[2])
    letters, choices = "".join(letter for letter, _ in found), [choice for _, choice in found]
    named = answer.strip("()") if answer.strip("()") in [*letters] else _letter(answer, choices)
    if named and string.ascii_uppercase.startswith(letters):
        return _example(query, named, image, choices)
    return _example(query, ", ".join(answer.split("\n")), image)  # two letters may be right


def _texts(row: dict, field: str) -> list[str]:
    found = row.get(field) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"the field {field} is no list of texts")
    return [one.strip() for one in found]
