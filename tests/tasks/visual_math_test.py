"""MathVision, MathVista and MathVerse in their published formats: prompts, answers, mistakes."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mapo_jax import errors, rewards, tasks

PNG = b"not decoded here"
VISION = {
    "id": "33",
    "question": "From <image1> to <image2>?",
    "options": ["A", "B", "D", "F", "none"],
    "answer": "C",
    "solution": None,
    "level": 2,
    "subject": "counting",
    "image": "images/33.jpg",
}
FREE = {**VISION, "options": [], "answer": "6"}
VISTA = {
    "question": " How much? ",
    "image": "images/1.jpg",
    "choices": None,
    "unit": "g",
    "precision": 1.0,
    "answer": "1.2",
    "question_type": "free_form",
    "answer_type": "float",
    "pid": "1",
    "metadata": {"split": "testmini"},
}
CHOICE = {
    **VISTA,
    "choices": ["12", "9 ", "12"],
    "answer": "9 ",
    "precision": None,
    "unit": None,
    "answer_type": "text",
}
VERSE = {
    "sample_index": "1",
    "problem_index": "1",
    "problem_version": "Text Dominant",
    "question": "How large is angle CED?\nChoices:\nA:40°\nB:60°\nC:",
    "image": "images_version_1-4/image_1.png",
    "answer": "B",
    "question_type": "multi-choice",
    "metadata": {"split": "testmini"},
    "query_wo": "directly",
    "query_cot": "Please first conduct reasoning.\nQuestion: How large is angle CED?",
}


def make(name, path) -> tasks.Task:
    return tasks.make(name, {}, str(path), 0)


def examples(name, path) -> list[dict]:
    task = make(name, path)
    assert task.reward is rewards.choice_accuracy_and_format
    assert len(task.train) == 0
    return [*task.evals[name]]


def lines(path: Path, *rows: dict) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def is_right(name, path, i, answer) -> bool:
    task = make(name, path)
    return task.reward(f"<think></think> \\boxed{{{answer}}}", task.evals[name][i])["success"]


def test_mathvision(tmp_path):
    (tmp_path / "images").mkdir()
    broken = {**FREE, "answer": "\frac{36}{13} "}
    lines(tmp_path / "data" / "test.jsonl", VISION, FREE, broken, {**FREE, "answer": "69{degrees}"})
    lines(tmp_path / "data" / "testmini.jsonl", VISION)
    found = examples("mathvision", tmp_path)
    asked = "From <image1> to <image2>?"
    assert found == [
        {
            "question": f"{asked}\nChoices:\n(A) A\n(B) B\n(C) D\n(D) F\n(E) none",
            "answer": "C",
            "images": "images/33.jpg",
            "choices": VISION["options"],
        },
        *(
            {"question": asked, "answer": answer, "images": "images/33.jpg"}
            for answer in ("6", r"\frac{36}{13}", "69")
        ),
    ]
    task = make("mathvision", tmp_path)
    # One picture, first; what the text names is a part of it. The file itself need not be there.
    assert tasks.pictures(task, found[0]) == [f"{tmp_path}/images/33.jpg"]
    assert tasks.parts(task, found[1]) == [None, task.prompt(found[1])]
    for answer, expected in (("C", True), ("D", False), ("F", False), ("none", False)):
        assert is_right("mathvision", tmp_path, 0, answer) is expected
    assert is_right("mathvision", tmp_path, 2, "36/13")
    assert len(examples("mathvision", tmp_path / "data" / "testmini.jsonl")) == 1
    (tmp_path / "data" / "test.jsonl").unlink()
    assert len(examples("mathvision", tmp_path)) == 1


def test_mathvista(tmp_path):
    (tmp_path / "images").mkdir()
    whole = {**VISTA, "precision": None, "answer": "4", "unit": None, "answer_type": "integer"}
    rows = {"1": VISTA, "2": CHOICE, "3": whole}
    (tmp_path / "testmini.json").write_text(json.dumps(rows))
    found = examples("mathvista", tmp_path)
    assert [row["answer"] for row in found] == ["1.2", "B", "4"]
    assert found[0]["question"] == (
        "Hint: Please answer the question requiring a floating-point number with one decimal place "
        "and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\n"
        "Question:  How much?  (Unit: g)"
    )
    assert found[1]["question"] == (
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, "
        "at the end.\nQuestion:  How much? \nChoices:\n(A) 12\n(B) 9 \n(C) 12"
    )
    for i, answer, expected in (
        (0, "1.24", True),
        (0, "1.26", False),
        (1, "B", True),
        (1, "9", True),
        (1, "12", False),
        (2, "4.0", True),
        (2, "4.7", False),
    ):
        assert is_right("mathvista", tmp_path, i, answer) is expected
    task = make("mathvista", tmp_path)
    assert tasks.pictures(task, found[0]) == [f"{tmp_path}/images/1.jpg"]


def test_mathvista_of_the_hub(tmp_path):
    decoded = {"bytes": PNG, "path": None}
    row = {**VISTA, "query": "Hint: its own.", "decoded_image": decoded, "choices": ["", ""]}
    row["choices"] = []
    (tmp_path / "data").mkdir()
    table = pyarrow.Table.from_pylist([row])
    pyarrow.parquet.write_table(table, tmp_path / "data" / "testmini-00000-of-00001-725687.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "data" / "test-00000-of-00001.parquet")
    (found,) = examples("mathvista", tmp_path)
    assert (found["question"], found["precision"]) == ("Hint: its own.", 1)
    assert tasks.pictures(make("mathvista", tmp_path), found) == [PNG]


def test_mathverse(tmp_path):
    (tmp_path / "images").mkdir()
    seen = {**VERSE, "question": "", "question_for_eval": VERSE["question"], "answer": "(A)"}
    free = {**VERSE, "question": "Find L.", "answer": "14", "question_type": "free-form"}
    rows = [
        VERSE,
        seen,
        free,
        {**VERSE, "answer": "60°"},
        {**VERSE, "answer": "A\nB"},
        {**VERSE, "image": ""},
    ]
    (tmp_path / "testmini.json").write_text(json.dumps(rows))
    found = examples("mathverse", tmp_path)
    choices = ["40°", "60°", ""]
    assert [(row["answer"], row.get("choices")) for row in found] == [
        ("B", choices),
        ("A", choices),
        ("14", None),
        ("B", choices),
        ("A, B", None),
        ("B", choices),
    ]
    assert found[0]["question"] == VERSE["query_cot"]
    task = make("mathverse", tmp_path)
    folder = f"{tmp_path}/images/images_version_1-4"
    assert [tasks.pictures(task, row) for row in found] == [[f"{folder}/image_1.png"]] * 5 + [[]]
    for i, answer in ((0, "B"), (0, "60"), (1, "40"), (4, "B and A")):
        assert is_right("mathverse", tmp_path, i, answer)
    assert not is_right("mathverse", tmp_path, 4, "A")
    table = pyarrow.Table.from_pylist([{**VERSE, "image": {"bytes": PNG, "path": "image_1.png"}}])
    pyarrow.parquet.write_table(table, tmp_path / "testmini.parquet")  # is taken, if it is there
    (found,) = examples("mathverse", tmp_path)
    assert tasks.pictures(make("mathverse", tmp_path), found) == [PNG]


@pytest.mark.parametrize(
    ("name", "row", "change", "what"),
    [
        ("mathvision", VISION, {"question": ""}, "no text in the field question"),
        ("mathvision", VISION, {"answer": "F"}, "the answer 'F' is no letter of the 5 choices"),
        ("mathvision", VISION, {"options": ["1", 2]}, "the field options is no list of texts"),
        ("mathvision", VISION, {"image": 5}, "the field image holds no picture"),
        ("mathvista", VISTA, {"answer": ""}, "no text in the field answer"),
        ("mathvista", CHOICE, {"answer": "A"}, "the answer 'A' is none of the choices"),
        ("mathvista", VISTA, {"precision": 3}, "answer_type 'float' with precision 3 is not"),
        (
            "mathvista",
            VISTA,
            {"precision": "text"},
            "answer_type 'float' with precision 'text' is",
        ),
        ("mathvista", VISTA, {"precision": []}, "answer_type 'float' with precision [] is not"),
        ("mathvista", VISTA, {"query": 5}, "no text in the field query"),
        ("mathverse", VERSE, {"query_cot": None}, "no text in the field query_cot"),
    ],
)
def test_mistakes(tmp_path, name, row, change, what):
    set_name = "test" if name == "mathvision" else "testmini"
    lines(tmp_path / f"{set_name}.jsonl", row, {**row, **change})
    with pytest.raises(errors.UserError) as caught:
        make(name, tmp_path)
    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path}/{set_name}.jsonl:2: {what}")


@pytest.mark.parametrize("name", ["mathvision", "mathvista", "mathverse"])
def test_wrong_layouts(tmp_path, name):
    (tmp_path / "train.json").touch()
    for path, where in (("", "data.path=''"), (tmp_path, f"data.path={tmp_path}"), ("x", "=x")):
        with pytest.raises(errors.UserError, match=f"{where}: {name} is read from a file; give"):
            make(name, path)
    with pytest.raises(errors.UserError, match=r"\.json \(there: train\.json\)$"):
        make(name, tmp_path)


def test_pictures_that_were_not_unpacked(tmp_path):
    lines(tmp_path / "data" / "test.jsonl", VISION)
    with pytest.raises(errors.UserError, match=r"no folder images in .*data or above it, where"):
        make("mathvision", tmp_path)


def test_real_rows():
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with vision/mathvision_testmini/)")
    task = make("mathvision", Path(os.environ["MAPO_JAX_DATA"]) / "vision" / "mathvision_testmini")
    rows = [*task.evals["mathvision"]]
    assert (len(rows), sum("choices" in row for row in rows)) == (304, 190)
    pictures = [tasks.pictures(task, row) for row in rows]
    assert all(len(found) == 1 and Path(str(found[0])).is_file() for found in pictures)
