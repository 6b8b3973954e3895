"""Rows of JSON lines as a task: templates, sets, held-out prompts, and every mistake's line."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiments import jsonl as experiment
from mapo_jax import errors, tasks
from mapo_jax.tasks import files, jsonl

ROW = {"question": "2+2=", "answer": "4"}


def line(row) -> bytes:
    return (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n"


def write(directory, **sets) -> str:
    for name, rows in sets.items():
        (directory / f"{name}.jsonl").write_bytes(b"".join(map(line, rows)))
    return str(directory)


def mistakes(path, **options) -> tuple[str, ...]:
    with pytest.raises(errors.UserError) as raised:
        jsonl.make(options, str(path), 0)
    return raised.value.lines


def test_a_directory(tmp_path):
    path = write(tmp_path, train=[ROW, ROW], zoo=[ROW], hard=[ROW] * 3, test=[ROW] * 4)
    task = tasks.make("jsonl", {}, path, 0)
    assert len(task.train) == 2
    assert {name: len(rows) for name, rows in task.evals.items()} == {
        "test": 4,
        "hard": 3,
        "zoo": 1,
    }
    assert list(task.evals) == ["test", "hard", "zoo"]
    assert task.prompt(task.train[0]) == "2+2=\n"
    assert task.demonstration is None
    assert task.reward(r"<think></think> \boxed{4}", task.train[0])["success"]


def test_templates(tmp_path):
    row = {"q": r"{a} \1 {q}", "n": 3, "x": 2.5, "yes": True, "right": 7, "question": "old"}
    path = write(tmp_path, train=[row], test=[{**row, "x": "no demonstration needs it"}])
    options = {
        "template": r"\boxed{} {{n}} {q} {0} { n } {n}{yes}",
        "answer": "right",
        "demonstration": r"<think>{x}</think> \boxed{{right}} {question}",
    }
    task = jsonl.make(options, path, 0)
    (example,) = task.train
    assert task.prompt(example) == r"\boxed{} {3} {a} \1 {q} {0} { n } 3true"
    assert task.demonstration(example) == r"<think>2.5</think> \boxed{7} old"
    assert example["answer"] == "7"
    assert example["question"] == task.prompt(example)
    assert {name: example[name] for name in ("q", "n", "x", "right")} == {
        name: row[name] for name in ("q", "n", "x", "right")
    }


def test_evaluation_rows_need_no_demonstration(tmp_path):
    path = write(tmp_path, train=[{**ROW, "work": "w"}], test=[ROW])
    task = jsonl.make({"demonstration": "{work}"}, path, 0)
    assert task.demonstration(task.train[0]) == "w"


def test_one_file_keeps_a_prompt_on_one_side(tmp_path):
    rows = [{"question": f"{i % 20}", "answer": i} for i in range(50)]
    write(tmp_path, mine=rows)
    task = jsonl.make({}, f"{tmp_path}/mine.jsonl", 0)
    assert [example["answer"] for example in task.evals["test"]] == ["9", "19", "29", "39", "49"]
    assert len(task.train) == 45
    assert not {e["question"] for e in task.train} & {e["question"] for e in task.evals["test"]}
    assert len(jsonl.make({"held_out": 2}, f"{tmp_path}/mine.jsonl", 0).train) == 25


@given(st.lists(st.integers(0, 12), min_size=30, max_size=60), st.integers(2, 5))
def test_held_out_prompts_are_every_nth_in_the_order_of_their_first_rows(numbers, every):
    rows = [{"question": f"{n}", "answer": i} for i, n in enumerate(numbers)]
    order = list(dict.fromkeys(numbers))
    assume(len(order) >= every)
    held_out = {f"{n}\n" for n in order[every - 1 :: every]}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), mine=rows)
        task = jsonl.make({"held_out": every}, f"{folder}/mine.jsonl", 0)
    sides = {True: list(task.evals["test"]), False: list(task.train)}
    for is_held_out, found in sides.items():
        expected = [
            row["answer"] for row in rows if (row["question"] + "\n" in held_out) is is_held_out
        ]
        assert [example["answer"] for example in found] == [str(answer) for answer in expected]


def test_rows_are_made_when_they_are_asked_for_from_what_was_read(tmp_path, monkeypatch):
    rows = [{"question": f"{n} é\ud800", "answer": n, "more": [n, {"x": 0.1}]} for n in range(40)]
    write(tmp_path, train=rows[:-1], test=rows[-2:])
    (tmp_path / "list.json").write_text(json.dumps(rows[:-1]))
    task = jsonl.make({}, str(tmp_path), 0)
    assert task.notes == ("test: 1 of 2 prompts are trained on as well",)
    write(tmp_path, train=rows[:1])  # whoever edits a file meanwhile changes no run
    calls, make = [], files.json.JSONDecoder.decode
    monkeypatch.setattr(
        files.json.JSONDecoder, "decode", lambda *args: calls.append(1) or make(*args)
    )
    expected = [
        {**row, "question": row["question"] + "\n", "answer": f"{row['answer']}"} for row in rows
    ]
    assert task.train[7] == expected[7]
    assert len(calls) == 1
    assert list(task.train) == expected[:-1]
    listed = jsonl.make({"held_out": 39}, str(tmp_path / "list.json"), 0)
    assert list(listed.train) == expected[:-2]
    with pytest.raises(IndexError):
        task.train[39]


def test_a_task_is_made_once_until_a_file_changes(tmp_path):
    path = write(tmp_path, train=[ROW], test=[ROW])
    task = tasks.make("jsonl", {}, path, 0)
    assert tasks.make("jsonl", {}, path, 0) is task
    assert tasks.make("jsonl", {"held_out": 9}, path, 0) is not task
    tasks.make("jsonl", {}, path, 0)
    write(tmp_path, test=[ROW, ROW])
    assert len(tasks.make("jsonl", {}, path, 0).evals["test"]) == 2
    tasks.make("jsonl", {"held_out": 10}, path, 0)
    with pytest.raises(errors.UserError, match="must be of type int"):
        tasks.make("jsonl", {"held_out": 10.0}, path, 0)


def test_what_is_no_mistake(tmp_path):
    rows = b"\xef\xbb\xbf" + line(ROW) * 2 + b"\r\n\n  \n"
    (tmp_path / "train.jsonl").write_bytes(rows.replace(b"}\n", b"}\r\n"))
    (tmp_path / "test.jsonl").write_bytes(json.dumps(ROW).encode())  # no newline at the end
    (tmp_path / "._test.jsonl").write_bytes(b"\0what macOS leaves")
    task = jsonl.make({}, str(tmp_path), 0)
    assert [len(task.train), len(task.evals["test"])] == [2, 1]


MALFORMED = [
    ({"question": "q"}, "no field answer, which task.options names; the row has question"),
    ({"answer": 1}, "no field question, which task.options names; the row has answer"),
    ({**ROW, "answer": None}, "the field answer is null; must be text or a number"),
    ({**ROW, "question": ["q"]}, "the field question is a list; must be text or a number"),
    ({**ROW, "question": {}}, "the field question is an object; must be text or a number"),
    ({**ROW, "question": " "}, "the prompt is empty; fill it in or leave the row out"),
    ({**ROW, "answer": ""}, "the field answer is empty; fill it in or leave the row out"),
    ([1], 'not a JSON object, as in {"question": "2+2=", "answer": "4"}'),
    (b"", "an empty line; one JSON object a line is needed"),
    (
        b'{"question": 1,}',
        "not JSON (Illegal trailing comma before end of object at column 15); one JSON object a"
        " line is needed",
    ),
    (b'{"question": "\xff"}', "not UTF-8 at byte 15; save the file as UTF-8"),
]


@pytest.mark.parametrize(("row", "what"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_row_is_named(tmp_path, row, what):
    path = write(tmp_path, train=[ROW, row, ROW], test=[ROW])
    (only,) = mistakes(path)
    if "trailing comma" in what:  # Python 3.13 says so, earlier ones say something else
        only, what = only.partition(" (")[0], "not JSON"
    assert only == f"{tmp_path}/train.jsonl:2: {what}"


def test_mistakes_of_all_files_up_to_ten(tmp_path):
    path = write(tmp_path, train=[ROW, *[b"{"] * 8], test=[ROW, {}, b"["], hard=[])
    lines = mistakes(path)
    assert len(lines) == 11
    assert lines[8] == f"{tmp_path}/test.jsonl:3: " + lines[8].partition(": ")[2]
    assert lines[9] == f"{tmp_path}/hard.jsonl: empty; one JSON object a line is needed"
    assert lines[10] == f"data.path={path}: and 1 more malformed rows"


def test_a_field_that_no_row_has_is_one_line(tmp_path):
    path = write(tmp_path, train=[ROW] * 30, test=[ROW])
    assert mistakes(path, template="{qestion} {x}", demonstration="{anwser}", answer="right") == (
        "task.options.template='{qestion} {x}': no row has a field qestion; did you mean question?",
        "task.options.template='{qestion} {x}': no row has a field x; fields: answer, question",
        "task.options.demonstration='{anwser}': no row has a field anwser; did you mean answer?",
        "task.options.answer='right': no row has a field right; fields: answer, question",
    )
    write(tmp_path, test=[b"{"])
    assert len(mistakes(path, answer="right")) == 2  # this mistake and the malformed row
    (only, _) = mistakes(path, template="hello")
    assert only.startswith("task.options.template='hello': names no field")


def test_missing_files(tmp_path):
    (nothing,) = mistakes("")
    assert nothing.startswith("data.path='': missing; give a directory with train.jsonl and")
    (nowhere,) = mistakes(tmp_path / "no")
    assert nowhere.startswith(f"data.path={tmp_path}/no: no such file or directory; give a dir")
    train, evals = mistakes(tmp_path)
    assert train.startswith(f"data.path={tmp_path}: no train.jsonl there; give a directory")
    assert evals.startswith(f"data.path={tmp_path}: no evaluation set there; give a directory")


def test_too_few_prompts_to_hold_some_out(tmp_path):
    write(tmp_path, mine=[ROW] * 30)
    (only,) = mistakes(tmp_path / "mine.jsonl")
    assert only.startswith("task.options.held_out=10: ")
    assert "has 1 different prompts" in only
    assert mistakes(tmp_path, held_out=1) == ("task.options.held_out=1: must be 2 or more",)


def test_the_experiment_shows_every_option_with_its_default():
    assert experiment.get_config().task.options.to_dict() == jsonl.DEFAULTS


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", '[1, {"x": NaN}]'])
@pytest.mark.parametrize("field", ["answer", "other"])
def test_what_is_no_json_but_goes_through_it_is_named(tmp_path, value, field):
    row = '{"question": "a", "answer": "1", "FIELD": VALUE}'.replace("FIELD", field)
    row = row.replace('"answer": "1", "answer"', '"answer"').replace("VALUE", value)
    (tmp_path / "a.jsonl").write_text(f'{{"question": "b", "answer": "2"}}\n{row}\n')
    holds = f"the field {field} holds NaN or an infinity; give a number or leave the row out"
    assert mistakes(tmp_path / "a.jsonl") == (f"{tmp_path}/a.jsonl:2: {holds}",)
    (tmp_path / "a.json").write_text(f'[{{"question": "b", "answer": "2"}}, {row}]')
    assert mistakes(tmp_path / "a.json") == (f"{tmp_path}/a.json: row 2: {holds}",)


def test_a_field_that_stands_twice_is_a_mistake(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "1", "answer": "2"}\n')
    (said,) = mistakes(tmp_path / "a.jsonl")
    assert said.startswith(f"{tmp_path}/a.jsonl:1: ")
    assert "the field answer stands there twice" in said


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", b'{"question": "a"}\n{"question": "b"}\n', "rename it to a.jsonl"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "is compressed (gzip); unpack it"),
        ("a.json", gzip.compress(b"[]", mtime=0), "is compressed (gzip); unpack it"),
        ("a.jsonl", '{"question": "q"}'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a.jsonl", b"PAR1\x15\x04", "is a Parquet file; give it a name that ends in .parquet"),
        ("a.jsonl", b"PK\x03\x04x", "is a zip archive; unpack it"),
        ("a.csv", b"question,answer\n1+1,2\n", "is a table; convert it to JSON lines"),
        ("a.jsonl", b'{"question": "a"}\r{"question": "b"}\r', "end in CR alone; convert them"),
    ],
)
def test_a_file_of_another_form_names_what_helps(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    (said,) = mistakes(tmp_path / name)
    assert said.startswith(f"{tmp_path}/{name}: ")
    assert what in said


def test_a_directory_without_the_files_says_what_is_there(tmp_path):
    for name in ("train.json", "test.json"):
        (tmp_path / name).write_text("[]")
    for said in mistakes(tmp_path):
        assert said.endswith(" (there: test.json, train.json)")


def test_prompts_on_both_sides_are_counted(tmp_path):
    other = ROW | {"question": "3+3="}
    path = write(tmp_path, train=[ROW, ROW], test=[ROW, other, ROW], hard=[other])
    assert tasks.make("jsonl", {}, path, 0).notes == (
        "test: 2 of 3 prompts are trained on as well",
    )
