"""Geometry3K: its published layouts, free answers and choices, mistakes."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mapo_jax import errors, rewards, tasks
from mapo_jax.tasks import base, geometry3k

PNG = b"not decoded here"
PROBLEM = {
    "problem_text": "Find x .",
    "annotat_text": "Find $x$. ",
    "choices": ["3", "4", " \\frac { 1 } { 2 }", "6"],
    "answer": "C",
    "data_type": "train",
}
ROW = {"problem": "<image>Find x.", "answer": "5", "images": ["x.png"]}
WAYS = (
    "give the directory that holds InterGPS's train and test, or numbered problem folders, or the "
    "hub's train and test as .parquet or .jsonl files"
)


def problem(folder: Path, number: int, **changes) -> None:
    (folder / str(number)).mkdir(parents=True)
    row = {**PROBLEM, "annotat_text": f"Problem {number}", **changes}
    (folder / str(number) / "data.json").write_text(json.dumps(row, indent=2))
    (folder / str(number) / "img_diagram.png").write_bytes(PNG)


def five(folder: Path, **changes) -> None:
    """Writes as many problems as make a training and an evaluation set."""
    for number in range(5):
        problem(folder, number, **changes)


def make(path, **options) -> tasks.Task:
    return geometry3k.make(options, str(path), 0)


def mistakes(path, **options) -> list[str]:
    with pytest.raises(errors.UserError) as caught:
        make(path, **options)
    return [line.replace(f"{path}/", "") for line in caught.value.lines]


def numbers(examples) -> list[int]:
    return [int(row["question"].split()[-1]) for row in examples]


def test_folders_of_intergps(tmp_path):
    for name, found in (("train", (10, 9)), ("val", (30,)), ("test", (20, 3))):
        for number in found:
            problem(tmp_path / name, number, data_type="of no account")
    (tmp_path / "train" / "__MACOSX").mkdir()
    task = tasks.make("geometry3k", {}, str(tmp_path), 0)
    assert numbers(task.train) == [9, 10]
    assert [*task.evals] == ["test"]
    assert numbers(task.evals["test"]) == [3, 20]
    row = task.train[0]
    assert (row["question"], row["answer"]) == ("<image>Problem 9", "\\frac { 1 } { 2 }")
    assert task.images is not None
    assert task.images(row) == [f"{tmp_path}/train/9/img_diagram.png"]
    assert tasks.parts(task, row) == [None, f"Problem 9\n{base.INSTRUCTION}\n"]
    assert task.reward is rewards.symbolic_accuracy_and_format
    assert task.demonstration is not None
    assert task.reward(task.demonstration(row), row)["success"]


def test_val_stands_in_for_test(tmp_path):
    problem(tmp_path / "train", 1)
    problem(tmp_path / "val", 2)
    assert [*make(tmp_path).evals] == ["val"]


def test_problem_folders_alone(tmp_path):
    for number in range(11, 22):
        problem(tmp_path, number)
    task = make(tmp_path)
    assert numbers(task.evals["test"]) == [15, 20]
    assert numbers(task.train) == [11, 12, 13, 14, 16, 17, 18, 19, 21]
    problem(tmp_path, 5, data_type="test")
    task = make(tmp_path)
    assert numbers(task.evals["test"]) == [5]
    assert len(task.train) == 11


def test_choices(tmp_path):
    five(tmp_path, answer="B", annotat_text="")
    task = make(tmp_path, answers="choices")
    row = task.train[0]
    assert task.prompt(row) == (
        "<image>Find x .\nChoices:\n(A) 3\n(B) 4\n(C) \\frac { 1 } { 2 }\n(D) 6\n"
        f"{base.INSTRUCTION}\n"
    )
    for answer, accuracy in (("B", 1), ("4", 1), ("A", 0), ("3", 0)):
        found = task.reward(f"<think></think> \\boxed{{{answer}}}", row)
        assert found["parts"]["accuracy"] == accuracy


def test_rows_of_the_hub(tmp_path):
    (tmp_path / "data").mkdir()
    for n, name in enumerate(("train", "validation", "test")):
        rows = [
            {**ROW, "answer": f"{n}{k}", "images": [{"bytes": PNG, "path": None}]} for k in "ab"
        ]
        for shard, row in enumerate(rows):
            file = tmp_path / "data" / f"{name}-0000{shard}-of-00002.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    task = make(tmp_path)
    assert task.images is not None
    assert [row["answer"] for row in task.train] == ["0a", "0b"]
    assert [row["answer"] for row in task.evals["test"]] == ["2a", "2b"]
    assert task.images(task.train[1]) == [PNG]
    assert tasks.parts(task, task.train[0]) == [None, f"Find x.\n{base.INSTRUCTION}\n"]
    (line,) = mistakes(tmp_path, answers="choices")
    assert line.startswith(
        "task.options.answers=choices: the rows of data/train-00000-of-00002.par"
    )


def test_rows_of_the_hub_as_json_lines(tmp_path):
    unmarked = {**ROW, "problem": "Find y.", "images": "y.png"}
    (tmp_path / "data").mkdir()
    for name in ("train", "validation"):
        lines = (json.dumps(row) + "\n" for row in (ROW, unmarked))
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(lines))
    task = make(tmp_path)
    assert [*task.evals] == ["validation"]
    assert [tasks.pictures(task, row) for row in task.train] == [
        [f"{tmp_path}/data/x.png"],
        [f"{tmp_path}/data/y.png"],
    ]
    assert task.train[1]["question"] == "<image>Find y."


def test_mistakes_in_problems(tmp_path):
    problem(tmp_path, 1, annotat_text=" ", problem_text=7)
    problem(tmp_path, 2, choices=None)
    problem(tmp_path, 3, choices=["1", ""])
    problem(tmp_path, 4, answer="E")
    problem(tmp_path, 5, answer="")
    problem(tmp_path, 6, data_type="trian")
    for number, content in ((7, "{"), (8, "[]")):
        problem(tmp_path, number)
        (tmp_path / str(number) / "data.json").write_text(content)
    (tmp_path / "9").mkdir()
    assert mistakes(tmp_path) == [
        "1/data.json: no text in the fields annotat_text and problem_text",
        "2/data.json: the field choices is no list of texts",
        "3/data.json: the field choices is no list of texts",
        "4/data.json: the field answer is 'E', no letter of the 4 choices",
        "5/data.json: the field answer is '', no letter of the 4 choices",
        "6/data.json: the field data_type is trian, not train, val or test",
        "7/data.json: cannot be read as a JSON object (Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)); give another file",
        '8/data.json: cannot be read as a JSON object (not a JSON object, as in {"question": '
        '"2+2=", "answer": "4"}); give another file',
        "9/data.json: cannot be read (No such file or directory); give another file",
    ]


def test_mistakes_in_rows(tmp_path):
    changes: list[dict] = [{}, {"problem": " "}, {"answer": 5}, {"images": []}, {"images": 5}]
    lines = (json.dumps({**ROW, **change}) + "\n" for change in changes)
    (tmp_path / "train.jsonl").write_text("".join(lines))
    assert mistakes(tmp_path) == [
        "train.jsonl:2: no text in the field problem",
        "train.jsonl:3: no text in the field answer",
        "train.jsonl:4: no picture in the field images",
        "train.jsonl:5: the field images holds no picture; must be a path, base64 text, an object "
        "with bytes or path, or a list of them",
    ]


def test_wrong_layouts(tmp_path):
    assert mistakes(tmp_path) == [
        f"data.path={tmp_path}: no training and no evaluation problems there; {WAYS}"
    ]
    (tmp_path / "train.zip").touch()
    (line,) = mistakes(tmp_path)
    assert line.endswith(f"{WAYS} (there: train.zip)")
    (tmp_path / "train.jsonl").write_text(json.dumps(ROW))
    (line,) = mistakes(tmp_path)
    assert line.startswith(f"data.path={tmp_path}: no evaluation problems there; give the")
    for number in range(4):
        problem(tmp_path / "few", number)
    (line,) = mistakes(tmp_path / "few")
    assert ": no evaluation problems there; " in line
    for path in ("", "nowhere"):
        (line,) = mistakes(path)
        assert line == f"data.path={path or repr('')}: no such directory; {WAYS}"
    assert mistakes(tmp_path, answers="all") == [
        "task.options.answers=all: must be free or choices"
    ]


def test_real_problems():
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with geometry3k/problems/)")
    task = make(Path(os.environ["MAPO_JAX_DATA"]) / "geometry3k" / "problems")
    assert (len(task.train), len(task.evals["test"])) == (8, 2)
    rows = [*task.train, *task.evals["test"]]
    assert task.images is not None
    assert all(Path(str(path)).is_file() for row in rows for path in task.images(row))
    assert task.train[0]["answer"] == "80"
