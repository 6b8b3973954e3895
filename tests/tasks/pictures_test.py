"""Rows with pictures: places, sources, identity, Parquet files, and what becomes of prompts."""

import base64
import dataclasses
import datetime
import functools
import hashlib
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import errors, tasks
from mapo_jax.tasks import jsonl, parquet, places
from tests.tasks import examples_test
from tests.tasks.jsonl_test import mistakes, write

PNG = base64.b64decode(  # one white pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAG7buVgAAAABJRU5ErkJggg=="
)
OTHER = PNG + b"other"
ROW = {"question": "<image>area?", "answer": "4"}


def test_places_are_in_the_text():
    for text, number, parts, order in (
        ("a<image>b", 1, ["a", None, "b"], [0]),
        ("<image><image>\nb", 2, [None, None, "\nb"], [0, 1]),
        ("<image2> or <image1>?", 2, [None, " or ", None, "?"], [1, 0]),
        ("<image><image1>", 2, [None, None], [1, 0]),
        ("<images> <Image>", 0, "<images> <Image>", []),
    ):
        assert places.split(text, number, r"<image\d*>") == (parts, order)
    assert places.split("a{image_2}{image_1}", 2, r"\{image_\d\}") == (["a", None, None], [1, 0])
    assert places.split("<image>", 2, "") == ([None, None, "<image>"], [0, 1])
    assert places.split("<image>", 0, "") == ("<image>", [])


@pytest.mark.parametrize(
    ("text", "number", "shown"),
    [
        (
            "area?",
            1,
            "places for pictures in the prompt: 0, pictures: 1; give each picture one place",
        ),
        ("<image>", 0, "in the prompt: 1 (<image>), pictures: 0; give each"),
        ("<image><image>", 1, "in the prompt: 2 (<image>, <image>), pictures: 1; "),
        ("<image1><image1>", 2, "in the prompt: 2 (<image1>, <image1>), pictures: 2; "),
        ("<image0><image2>", 2, "(<image0>, <image2>)"),
        ("<image3>", 1, "(<image3>)"),
        ("<image>" * 9, 1, f"({'<image>, ' * 8}...)"),
    ],
)
def test_places_that_are_not_one_for_each_picture(text, number, shown):
    with pytest.raises(ValueError, match="give each picture one place, which task") as caught:
        places.split(text, number, r"<image\d*>")
    assert shown in str(caught.value)


@given(st.lists(st.sampled_from(["<image>", "<image", "x", " "])))
def test_no_text_is_lost(pieces):
    text, number = "".join(pieces), pieces.count("<image>")
    parts, order = places.split(text, number, r"<image\d*>")
    assert "".join("<image>" if part is None else part for part in parts) == text
    assert order == list(range(number))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name, content in (("a.png", PNG), ("b.png", OTHER), ("a", PNG)):
        (tmp_path / "pictures" / name).write_bytes(content)
    return tmp_path


def make(folder, rows, **options) -> tasks.Task:
    path = write(folder, train=rows, test=[{"question": "2+2=", "answer": 4}])
    return jsonl.make({"images": "image", **options}, path, 0)


def test_what_a_field_of_pictures_holds(folder):
    a, b = (str(folder / "pictures" / name) for name in ("a.png", "b.png"))
    text = base64.b64encode(PNG).decode()
    for value, found in (
        ("pictures/a.png", [a]),
        (a, [a]),
        ("pictures/a", [a.removesuffix(".png")]),
        (["pictures/a.png"], [a]),
        (text, [text]),
        (f"data:image/png;base64,{text}", [f"data:image/png;base64,{text}"]),
        ({"bytes": text, "path": "x.png"}, [text]),
        ([{"path": "pictures/a.png", "bytes": None}], [a]),
    ):
        task = make(folder, [ROW | {"image": value}])
        assert tasks.pictures(task, task.train[0]) == found
        assert places.picture_digests(task, task.train[0]) == [hashlib.sha256(PNG).hexdigest()]
    swapped = {"question": "<image2><image1>", "answer": 1, "image": [a, b]}
    task = make(folder, [swapped])
    assert tasks.pictures(task, task.train[0]) == [b, a]
    assert tasks.parts(task, task.train[0]) == [None, None, "\n"]
    rows = [ROW | {"more": {"image": a}}, {"question": "2+2=", "answer": 4, "more": {}}]
    nested = make(folder, rows, images="more.image", placeholder="<image>")
    assert [tasks.pictures(nested, row) for row in nested.train] == [[a], []]


def test_rows_with_and_without_pictures_mix(folder):
    text = {"question": "2+2=", "answer": "4"}
    rows = [text, *(text | {"image": none} for none in (None, "", []))]
    task = make(folder, [*rows, ROW | {"image": "pictures/a.png"}])
    assert [tasks.parts(task, row) for row in task.train] == [*["2+2=\n"] * 4, [None, "area?\n"]]
    before = make(folder, [*rows, text | {"image": "pictures/a.png"}], placeholder="")
    assert tasks.parts(before, before.train[4]) == [None, "2+2=\n"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (ROW, "places for pictures in the prompt: 1 (<image>), pictures: 0; give"),
        (ROW | {"image": 7}, "the field image holds no picture; must be a path, base64 text, an"),
        (ROW | {"image": ["a.png", None]}, "the field image holds no picture"),
        (ROW | {"image": ""}, "places for pictures in the prompt: 1 (<image>), pictures: 0; give"),
        (ROW | {"image": [""]}, "the field image holds no picture"),
        (ROW | {"image": "https://x.org/a.png"}, "has the address https://x.org/a.png; nothing is"),
        (ROW | {"image": {"bytes": None, "path": None}}, "the field image holds no picture"),
        (ROW | {"image": "pictures/none.png"}, "pictures/none.png: no such file"),
        (
            {"question": "area?", "answer": 4, "image": "pictures/a.png"},
            "give each picture one place, which task.options.placeholder=<image\\d*> matches",
        ),
    ],
)
def test_a_row_with_a_mistake_is_named(folder, row, what):
    good = ROW | {"image": "pictures/a.png"}
    path = write(folder, train=[good, row], test=[good])
    (line,) = mistakes(path, images="image")
    assert line.startswith(f"{folder}/train.jsonl:2: ")
    assert what in line


def test_a_row_of_evaluation_may_have_a_picture_that_cannot_be_read(folder):
    """Whoever looks at the pictures says so."""
    rows = [ROW | {"image": f"pictures/{name}.png"} for name in ("a", "none")]
    path = write(folder, train=rows[:1], test=rows)
    task = jsonl.make({"images": "image"}, path, 0)
    assert len(task.evals["test"]) == 2
    assert task.notes == ("test: 1 of 2 prompts are trained on as well",)
    write(folder, train=rows, test=rows)
    (line,) = mistakes(path, images="image")
    assert line.startswith(f"{folder}/train.jsonl:2: {folder}/pictures/none.png: no such file")


def test_options_that_make_no_sense(folder):
    path = write(folder, train=[ROW | {"image": "pictures/a.png"}], test=[])
    (line, _) = mistakes(path, images="imges")
    assert line == "task.options.images='imges': no row has a field imges; did you mean image?"
    (line,) = mistakes(path, images="image", placeholder="<image")  # any regular expression
    assert "test.jsonl: empty" in line
    (line,) = mistakes(path, placeholder="(")
    assert line.startswith("task.options.placeholder=(: no regular expression (")
    (line,) = mistakes(path, placeholder="x*")
    assert line.startswith("task.options.placeholder=x*: matches where there is no text; give")


def test_prompts_with_the_same_text_differ_by_their_pictures(folder):
    rows = [ROW | {"image": f"pictures/{name}.png", "n": n} for n, name in enumerate("abaabb")]
    path = write(folder, mine=rows)
    options = {"images": "image", "held_out": 2}
    task = jsonl.make(options, f"{path}/mine.jsonl", 0)
    assert [row["n"] for row in task.train] == [0, 2, 3]
    assert [row["n"] for row in task.evals["test"]] == [1, 4, 5]
    assert len({tasks.identity(task, row) for row in task.train}) == 1
    assert tasks.identity(task, task.train[0]) != tasks.identity(task, task.evals["test"][0])
    with pytest.raises(errors.UserError, match="has 1 different prompts"):
        jsonl.make({"held_out": 2}, f"{path}/mine.jsonl", 0)  # without the pictures they are one
    write(folder, train=rows[:1], test=rows[1:4])
    (folder / "mine.jsonl").unlink()
    task = jsonl.make({"images": "image"}, path, 0)
    assert task.notes == ("test: 2 of 3 prompts are trained on as well",)
    (folder / "pictures" / "a.png").write_bytes(b"drawn again")
    assert tasks.identity(task, task.train[0]) != f"{ROW['question']}\n"


class Seeing(examples_test.Letters):
    """Encodes letters, and a picture by 7."""

    image_id = 7

    def encode_prompt(self, prompt):
        return [1, *(i for part in prompt for i in ([7] if part is None else self.encode(part)))]

    def open_thought(self, prompt):
        return ""


def look(example):
    """Gives a picture of n bytes the height n and n tokens."""
    if example["question"] == "bad":
        raise errors.UserError("b.png: is empty")
    return [(len(picture), 28, len(picture)) for picture in example["pictures"]]


PICTURES = dataclasses.replace(
    examples_test.TASK,
    images=lambda example: example["pictures"],
    prompt=lambda example: example["question"],
)


def encode(rows, limit=99, too_long="drop", task=PICTURES):
    said = []
    return tasks.encode_prompts(
        task, Seeing(), rows, "train", limit, too_long, said.append, look=look
    ), said


def test_a_picture_has_as_many_image_tokens_as_it_needs():
    rows = [
        {"question": "a<image>b<image>c", "pictures": ["xxx", "x"]},
        {"question": "a", "pictures": []},
    ]
    (first, second), said = encode(rows)
    assert first.tokens == [1, ord("a"), 7, 7, 7, ord("b"), 7, ord("c")]
    assert first.pictures == (tasks.Picture(2, 3, 28), tasks.Picture(6, 1, 28))
    assert second == tasks.Prompt(1, [1, ord("a")])
    assert said == []


def test_a_prompt_with_pictures_is_dropped_not_cut():
    rows = [{"question": "<image>a", "pictures": ["x" * n]} for n in (1, 5, 2)]
    kept, said = encode(rows, 4)
    assert [prompt.example for prompt in kept] == [0, 2]
    assert said == [
        "train: 1 of 3 prompts are longer than data.max_prompt_tokens=4 and are left out"
    ]
    with pytest.raises(errors.UserError, match=r"^data\.too_long=truncate: would cut the pictures"):
        encode(rows, 4, "truncate")
    assert not tasks.is_large(dataclasses.replace(PICTURES, train=[{"question": "x" * 20_000_000}]))


def test_pictures_that_cannot_be_used_are_all_named(folder):
    rows = [
        {"question": question, "pictures": ["x"]} for question in ["bad", "<image>a", *["bad"] * 11]
    ]
    with pytest.raises(errors.UserError) as caught:
        encode(rows)
    assert caught.value.lines[:2] == (
        "train: row 1: b.png: is empty",
        "train: row 3: b.png: is empty",
    )
    assert len(caught.value.lines) == 11
    assert caught.value.lines[10] == "train: and 2 more malformed rows"
    made = make(
        folder, [ROW | {"image": "pictures/a.png"}] * 2 + [{"question": "bad", "answer": 1}]
    )
    bad = dataclasses.replace(made, prompt=lambda row: "bad" if "image" not in row else "<image>a")
    with pytest.raises(errors.UserError, match=rf"^{folder}/train\.jsonl:3: too small$"):
        tasks.encode_prompts(bad, Seeing(), made.train, "train", 99, look=_refuse)


def test_rows_with_pictures_that_cannot_be_read_may_be_kept():
    rows = [{"question": q, "pictures": ["x"]} for q in ("bad", "<image>a", "bad", "<image>b")]
    lost = []
    encode = functools.partial(
        tasks.encode_prompts, PICTURES, Seeing(), name="test", max_prompt_tokens=9, look=look
    )
    kept = encode(examples=rows, unreadable=lost, at_most=3)
    assert [prompt.example for prompt in kept] == [0, 1, 2]
    assert [bool(prompt.tokens) for prompt in kept] == [False, True, False]
    assert lost == [f"test: row {n}: b.png: is empty" for n in (1, 3)]
    # Not so what is no matter of files.
    with pytest.raises(errors.UserError, match=r"^test: row 1: no places$"):
        encode(examples=rows[:2], unreadable=[], look=_no_places)
    with pytest.raises(errors.UserError, match=r"all 2 prompts of .* are longer"):
        encode(examples=rows, unreadable=[], max_prompt_tokens=1)
    text = {"question": "a", "pictures": []}
    line = "test: no picture of its 2 problems with pictures can be read; the first: test: row 2: b"
    with pytest.raises(errors.UserError, match=f"^{line}"):
        encode(examples=[text, rows[0], rows[2]], unreadable=[])


def _no_places(row):
    if row["question"] == "bad":
        raise ValueError("no places")
    return look(row)


def _refuse(row):
    if "image" not in row:
        raise ValueError("too small")
    return [(28, 28, 1)]


EASYR1 = {"images": [{"bytes": PNG, "path": None}], "problem": "<image>area?", "answer": "4"}
VERL = {
    "data_source": "geometry3k",
    "prompt": [{"content": "<image>area?", "role": "user"}],
    "images": [{"bytes": PNG, "path": None}],
    "reward_model": {"ground_truth": "4", "style": "rule"},
    "extra_info": {"index": 0, "made": datetime.date(2025, 1, 2)},
}
TRL = {
    "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "area?"}],
    "image": {"bytes": PNG, "path": "a.png"},
    "solution": "4",
}
FORMS = {
    "easyr1": (EASYR1, {"template": "{problem}\n", "images": "images"}, [None, "area?\n"]),
    "verl": (
        VERL,
        {"template": "{prompt}\n", "answer": "reward_model.ground_truth", "images": "images"},
        [None, "area?\n"],
    ),
    "trl": (
        TRL,
        {"template": "{prompt}\n", "answer": "solution", "images": "image", "placeholder": ""},
        [None, "Think.\n\narea?\n"],
    ),
}


def save(path, rows):
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize("name", FORMS)
def test_data_sets_of_the_hub(name, tmp_path):
    row, options, parts = FORMS[name]
    for file, number in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test", 1)):
        save(tmp_path / "data" / f"{file}.parquet", [row] * number)
    task = jsonl.make(options, str(tmp_path), 0)
    assert {name: len(rows) for name, rows in task.evals.items()} == {"test": 1}
    assert len(task.train) == 5
    assert task.notes == ("test: 1 of 1 prompts are trained on as well",)
    for example in (task.train[4], task.evals["test"][0]):
        assert tasks.parts(task, example) == parts
        assert tasks.pictures(task, example) == [PNG]
        assert example["answer"] == "4"
        json.dumps(example)  # a reward in another process gets it so
    assert task.train.place(4) == f"{tmp_path}/data/train-00000-of-00002.parquet: row 5"


def test_a_file_of_the_folder_data_that_changes_is_read_again(tmp_path):
    for file in ("train", "test"):
        save(tmp_path / "data" / f"{file}.parquet", [EASYR1])
    options = FORMS["easyr1"][1]
    task = tasks.make("jsonl", options, str(tmp_path), 0)
    assert tasks.make("jsonl", options, str(tmp_path), 0) is task
    save(tmp_path / "data" / "test.parquet", [EASYR1] * 2)
    assert len(tasks.make("jsonl", options, str(tmp_path), 0).evals["test"]) == 2


def test_one_file_of_rows_without_pictures(tmp_path):
    save(tmp_path / "rows.parquet", [{"question": f"{n}+1=", "answer": n + 1} for n in range(20)])
    task = jsonl.make({}, str(tmp_path / "rows.parquet"), 0)
    assert [row["answer"] for row in task.evals["test"]] == ["10", "20"]
    assert tasks.parts(task, task.train[0]) == "0+1=\n"


def test_mistakes_in_parquet_files(tmp_path, monkeypatch):
    save(tmp_path / "train-00001-of-00003.parquet", [EASYR1])
    (tmp_path / "train-00000-of-00003.parquet").write_bytes(b"PAR1\x15\x04")
    save(tmp_path / "test.parquet", [EASYR1, EASYR1 | {"problem": "area?"}])
    write(tmp_path, more=[ROW])
    options = {"template": "{problem}", "images": "images"}
    missing, broken, place, other = mistakes(tmp_path, **options)
    assert broken.startswith(
        f"{tmp_path}/train-00000-of-00003.parquet: cannot be read as Parquet ("
    )
    end = "train-00002-of-00003.parquet: missing; download all of the set"
    assert missing == f"{tmp_path}/{end}"
    assert other.startswith(f"{tmp_path}/more.jsonl:1: no field problem")
    assert place.startswith(f"{tmp_path}/test.parquet: row 2: places for pictures in the prompt: 0")
    write(tmp_path, test=[ROW])
    (one,) = mistakes(tmp_path, **options)
    assert one == f"data.path={tmp_path}: test.jsonl and test.parquet are one set; keep one"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert mistakes(tmp_path / "test.parquet") == (
        f"{tmp_path}/test.parquet: needs the package pyarrow; pip install pyarrow",
    )


def test_a_conversation_of_several_turns_is_a_mistake(tmp_path):
    for roles in (["user", "assistant"], ["system"], ["assistant"], ["user", "user"]):
        talk = [{"role": role, "content": "x"} for role in roles]
        path = write(tmp_path, train=[{"question": talk, "answer": 1}], test=[ROW])
        (line,) = mistakes(path)
        assert f"the field question is a conversation of {', '.join(roles)}; must be text" in line


def test_the_name_of_a_set():
    shards = ("train-00000-of-00002", "train-00000-of-00001-a1b2", "train-00001-of-00002")
    paths = [Path(f"{name}.parquet") for name in ("train", *shards)]
    assert [parquet.set_name(path) for path in paths] == ["train"] * 4
    assert [parquet.is_first(path) for path in paths] == [True, True, True, False]
    lines = Path("train-00001-of-00002.jsonl")
    assert (parquet.set_name(lines), parquet.is_first(lines)) == (lines.stem, True)
