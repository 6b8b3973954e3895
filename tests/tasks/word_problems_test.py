"""SVAMP and MultiArith: questions, numbers as people write them, mistakes."""

import json
import os
from pathlib import Path

import pytest

from mapo_jax import errors, rewards, tasks

SVAMP = {"Body": "Tom has 3 pens ", "Question": " How many?", "Answer": 3.0, "ID": "x"}
HOLDS = "holds NaN or an infinity; give a number or leave the row out"


def test_svamp(tmp_path):
    rows = [SVAMP, SVAMP | {"Body": "He gives one away.", "Answer": 2.5}]
    (tmp_path / "svamp.json").write_text(json.dumps(rows))
    for path in (tmp_path, tmp_path / "svamp.json"):
        task = tasks.make("svamp", {}, str(path), 0)
        assert task.evals == {
            "svamp": [
                {"question": "Tom has 3 pens. How many?", "answer": "3"},
                {"question": "He gives one away. How many?", "answer": "2.5"},
            ]
        }
        assert (list(task.train), task.demonstration) == ([], None)
        assert task.reward is rewards.accuracy_and_format


def test_multiarith(tmp_path):
    (tmp_path / "multiarith.jsonl").write_text('{"input": "2 and 2?", "target": 4}\n')
    task = tasks.make("multiarith", {}, str(tmp_path), 0)
    assert task.evals["multiarith"] == [{"question": "2 and 2?", "answer": "4"}]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"Body": " "}, "no text in the field Body"),
        ({"Question": 3}, "no text in the field Question"),
        ({"Answer": "3"}, "no number in the field Answer"),
        ({"Answer": None}, "no number in the field Answer"),
        ({"Answer": True}, "no number in the field Answer"),
        ({"Answer": float("nan")}, f"the field Answer {HOLDS}"),
        ({"Answer": -float("inf")}, f"the field Answer {HOLDS}"),
    ],
)
def test_mistakes(change, what, tmp_path):
    (tmp_path / "svamp.json").write_text(json.dumps([SVAMP, SVAMP | change]))
    with pytest.raises(errors.UserError) as caught:
        tasks.make("svamp", {}, str(tmp_path), 0)
    assert caught.value.lines == (f"{tmp_path}/svamp.json: row 2: {what}",)


@pytest.mark.parametrize("name", ["svamp", "multiarith"])
def test_no_data(name):
    with pytest.raises(errors.UserError, match=rf"data\.path='': {name} is read from a file"):
        tasks.make(name, {}, "", 0)
    with pytest.raises(errors.UserError, match=rf"data\.path=nowhere: {name} is read from a file"):
        tasks.make(name, {}, "nowhere", 0)


def test_real_rows():
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with ood/)")
    data = str(Path(os.environ["MAPO_JAX_DATA"]) / "ood")
    for name, n in (("svamp", 1000), ("multiarith", 600)):
        rows = tasks.make(name, {}, data, 0).evals[name]
        assert len(rows) == n
        assert all(float(row["answer"]) >= 0 for row in rows)
