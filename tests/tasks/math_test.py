"""MATH: rows, boxed solutions, rows without an answer, and the reward by algebra."""

import json
import os
from pathlib import Path

import pytest

from mapo_jax import errors, rewards, tasks
from mapo_jax.tasks import base


def write(folder, train, test):
    (folder / "math_train.json").write_text(json.dumps(train))
    (folder / "math500_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    return str(folder)


ROW = {"problem": " What is $1+1$? ", "answer": " 2 "}


def test_rows(tmp_path):
    boxed = {"problem": "Half?", "solution": r"so \boxed{3}, no: \boxed{\frac{1}{2}}."}
    path = write(tmp_path, [ROW, boxed, {"problem": "?", "answer": ""}], [ROW | {"answer": 2}])
    task = tasks.make("math", {}, path, 0)
    assert list(task.train) == [
        {"question": "What is $1+1$?", "answer": "2"},
        {"question": "Half?", "answer": r"\frac{1}{2}"},
    ]
    assert list(task.evals["math500"]) == [task.train[0]]
    assert task.prompt(task.train[0]) == f"What is $1+1$?\n{base.INSTRUCTION}\n"
    assert task.reward is rewards.symbolic_accuracy_and_format
    assert task.notes == (
        f"{tmp_path}/math_train.json: 1 of 3 rows have no answer and are left out",
    )


def test_mistakes(tmp_path):
    path = write(tmp_path, [ROW, {"answer": "1"}, 3, {"problem": "?", "answer": [5]}], [{}])
    with pytest.raises(errors.UserError) as caught:
        tasks.make("math", {}, path, 0)
    assert [line.removeprefix(f"{tmp_path}/") for line in caught.value.lines] == [
        'math_train.json: row 3: not a JSON object, as in {"question": "2+2=", "answer": "4"}',
        "math_train.json: row 2: no text in the field problem",
        "math_train.json: row 4: the field answer is neither text nor a number",
        "math500_test.jsonl:1: no text in the field problem",
    ]
    write(tmp_path, [ROW], [{"problem": "?"}])
    with pytest.raises(errors.UserError, match="no evaluation row has an answer"):
        tasks.make("math", {}, path, 0)
    (tmp_path / "math_train.json").write_text("{}")
    with pytest.raises(errors.UserError, match=r"math_train\.json: not a JSON list of objects"):
        tasks.make("math", {}, path, 0)


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_no_data(path):
    with pytest.raises(errors.UserError, match=r"data\.path=.*math's training set is read from"):
        tasks.make("math", {}, path, 0)


def test_real_rows():
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with math/math_train.json and so on)")
    task = tasks.make("math", {}, str(Path(os.environ["MAPO_JAX_DATA"]) / "math"), 0)
    assert (len(task.train), len(task.evals["math500"]), len(task.notes)) == (7470, 500, 1)
