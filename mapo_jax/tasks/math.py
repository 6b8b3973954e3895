"""MATH: competition problems (arXiv 2103.03874), evaluated on the 500 of arXiv 2305.20050.

`data.path` is a directory with the training rows, `math_train.json` or `train.jsonl`, and the
evaluation rows, `math500_test.jsonl` or `test.jsonl`. A row has `problem`, and `answer` or a
`solution` whose last box holds it. Answers are judged by algebra where text does not settle them.
"""

from collections.abc import Mapping
from typing import Any

from mapo_jax import answers, rewards
from mapo_jax.tasks import files
from mapo_jax.tasks.base import Task, merge_options, prompt

_TRAIN = ("math_train.json", "train.jsonl")
_TEST = ("math500_test.jsonl", "test.jsonl")


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task; it has no options, and nothing in it is random."""
    merge_options(options, {})
    mistakes: list[str] = []
    train, test = (
        [
            example
            for _, example in files.parse(
                files.read(files.find(data_path, f"math's {part} set", names), mistakes),
                _example,
                mistakes,
            )
        ]
        for part, names in (("training", _TRAIN), ("evaluation", _TEST))
    )
    files.check(data_path, mistakes)
    return Task(
        name="math",
        train=train,
        evals={"math500": test},
        prompt=prompt,
        reward=rewards.symbolic_accuracy_and_format,
        demonstration=None,
    )


def _example(row: dict) -> dict:
    if not isinstance(row.get("problem"), str) or not row["problem"].strip():
        raise ValueError("no text in the field problem")
    answer = row.get("answer")
    if answer is None and isinstance(row.get("solution"), str):
        answer = answers.extract(row["solution"], ("boxed",))
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError("no answer, neither in the field answer nor boxed in the solution")
    return {"question": row["problem"].strip(), "answer": answer.strip()}
