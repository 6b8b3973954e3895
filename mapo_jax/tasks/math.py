"""MATH: competition problems (arXiv 2103.03874), evaluated on the 500 of arXiv 2305.20050.

`data.path` is a directory with the training rows, `math_train.json` or `train.jsonl`, and the
evaluation rows, `math500_test.jsonl` or `test.jsonl`. A row has `problem`, and `answer` or a
`solution` whose last box holds the answer. Rows without an answer are counted and left out. Algebra
judges answers that text does not settle.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mapo_jax import answers, errors, rewards
from mapo_jax.tasks import files
from mapo_jax.tasks.base import Task, merge_options, prompt

_TRAIN = ("math_train.json", "train.jsonl")
_TEST = ("math500_test.jsonl", "test.jsonl")


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task; it has no options, and nothing in it is random."""
    merge_options(options, {})
    mistakes: list[str] = []
    sets, notes = {}, []
    for part, names in (("training", _TRAIN), ("evaluation", _TEST)):
        path = files.find(data_path, f"math's {part} set", names)
        rows = files.read(path, _example, mistakes)
        sets[part] = rows.take(np.flatnonzero([bool(example["answer"]) for example in rows]))
        if left_out := len(rows) - len(sets[part]):
            notes.append(f"{path}: {left_out} of {len(rows)} rows have no answer and are left out")
    files.check(f"data.path={data_path}", mistakes)
    if mistakes := [f"{data_path}: no {part} row has an answer" for part in sets if not sets[part]]:
        raise errors.UserError(*mistakes)
    return Task(
        name="math",
        train=sets["training"],
        evals={"math500": sets["evaluation"]},
        prompt=prompt,
        reward=rewards.symbolic_accuracy_and_format,
        demonstration=None,
        notes=tuple(notes),
    )


def _example(row: dict) -> dict:
    question = files.text(row, "problem")
    answer = row.get("answer")
    if answer is None and isinstance(row.get("solution"), str):
        answer = answers.extract(row["solution"], ("boxed",))
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = json.dumps(answer)
    if answer is not None and not isinstance(answer, str):
        raise ValueError("the field answer is neither text nor a number")
    return {"question": question, "answer": (answer or "").strip()}
