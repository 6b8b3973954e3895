"""EmoSet, WEBEmo and Emotion6: every layout, balanced parts, prompts, gradings and mistakes."""

import codecs
import collections
import json

import numpy as np
import pytest
from PIL import Image

from mapo_jax import errors, rewards, tasks
from mapo_jax.tasks import base, emotions
from tests.images import drawn
from tests.tasks.pictures_test import save


def draw(folder, *paths):
    """Draws a picture of its own in each path."""
    for n, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), n % 256, np.uint8)).save(folder / path)
    return str(folder)


def rows(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in found)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(found))


def pairs(examples):
    return sorted((example["image"], example["answer"]) for example in examples)


def mistakes(name, path, **options):
    with pytest.raises(errors.UserError) as caught:
        tasks.make(name, options, str(path), 0)
    return [line.replace(str(path) or "NONE", "DIR") for line in caught.value.lines]


def listed(emotion, n, has_id=True):
    name = f"{emotion}_{n:05}"
    identity = [name] if has_id else []
    return [emotion, *identity, f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"]


@pytest.mark.parametrize("has_id", [True, False])
def test_emoset_as_published(tmp_path, has_id):
    found = [listed(emotion, n, has_id) for emotion in emotions.EMOSET for n in range(3)]
    draw(tmp_path, *(row[-2] for row in found))
    for name, some in (("train", found[::2]), ("val", found[1:3]), ("test", found[1::2])):
        rows(tmp_path / f"{name}.json", some)
    (tmp_path / "info.json").write_text("{}")
    train = (tmp_path / "train.json").read_bytes()
    (tmp_path / "train.json").write_bytes(codecs.BOM_UTF8 + train)
    task = tasks.make("emoset", {}, str(tmp_path), 0)
    assert pairs(task.train) == sorted((row[-2], row[0]) for row in found[::2])
    assert pairs(task.evals["test"]) == sorted((row[-2], row[0]) for row in found[1::2])
    example = task.evals["test"][0]
    assert tasks.pictures(task, example) == [f"{tmp_path}/{example['image']}"]
    question = (
        "Which emotion does this picture evoke? Answer with one of: amusement, anger, awe, "
        "contentment, disgust, excitement, fear, sadness."
    )
    assert tasks.parts(task, example) == [None, f"{question}\n{base.INSTRUCTION}\n"]
    assert task.notes == ()
    assert task.reward(task.demonstration(example), example)["success"]
    json.dumps(example)  # a reward in another process gets it so


def test_a_part_of_the_data_is_balanced_and_drawn_by_the_seed(tmp_path):
    sizes = dict.fromkeys(emotions.EMOSET, 10) | {"fear": 40, "awe": 2}
    paths = [f"{e}/{n}.png" for e, size in sizes.items() for n in range(size)]
    draw(tmp_path, *(f"{name}/{path}" for name in ("train", "test") for path in paths))
    options, path = {"train_size": 64}, str(tmp_path)
    make = {seed: emotions.make_emoset(options, path, seed) for seed in (0, 1)}
    assert emotions.make_emoset(options, path, 0).train == make[0].train
    for task in make.values():
        counts = collections.Counter(example["answer"] for example in task.train)
        assert sorted(counts.values()) == [2, 8, *[9] * 6]
        first = collections.Counter(example["answer"] for example in task.evals["test"][:16])
        assert first == dict.fromkeys(emotions.EMOSET, 2)
    assert pairs(make[0].train) != pairs(make[1].train)
    assert make[0].evals == make[1].evals
    task = tasks.make("emoset", {"train_size": 1000}, str(tmp_path), 0)
    assert len(task.train) == len(task.evals["test"]) == 102
    assert task.notes == (
        "train: 102 pictures, fewer than task.options.train_size=1000; all are taken",
    )


@pytest.mark.parametrize("folder", ["", "image/", "images/"])
def test_emoset_in_folders_without_parts(tmp_path, folder):
    draw(tmp_path, *(f"{folder}{e}/{n:02}.JPG" for e in ("Awe", "fear") for n in range(20)))
    (tmp_path / f"{folder}fear" / "notes.txt").write_text("no picture")
    task = tasks.make("emoset", {}, str(tmp_path), 0)
    held_out = [(f"{folder}{e}/{n}.JPG", e.lower()) for e in ("Awe", "fear") for n in ("09", "19")]
    assert pairs(task.evals["test"]) == held_out
    assert len(task.train) == 36
    (note,) = task.notes
    assert note.startswith("emoset: no picture of amusement, anger, contentment, disgust, excite")


def test_rows_of_every_form(tmp_path):
    draw(tmp_path, "p/a.png", "p/b.png")
    png = drawn.READ["RGB"]()
    rows(
        tmp_path / "train.jsonl",
        [
            {"image": "p/a.png", "answer": "Fear"},
            {"image": "p/b.png", "label": " awe "},
            {"images": ["p/a.png"], "emotion": "disgust", "label": None},
            {"images": ["p/a.png"], "problem": "<image>Glad or sad?", "answer": "glad "},
        ],
    )
    turns = [{"from": "human", "value": "Glad?"}, {"from": "gpt", "value": "Joy"}]
    talk = [{"id": 1, "image": "p/b.png", "conversations": turns}]
    rows(tmp_path / "emoset-test-2000.json", talk)
    task = tasks.make("emoset", {}, str(tmp_path), 0)
    found = {example["answer"]: example for example in task.train}
    assert found.keys() == {"fear", "awe", "disgust", "glad"}
    asked = [None, f"Glad or sad?\n{base.INSTRUCTION}\n"]
    assert tasks.parts(task, found["glad"]) == asked
    assert tasks.pictures(task, found["disgust"]) == [f"{tmp_path}/p/a.png"]
    (one,) = task.evals["test"]
    assert tasks.parts(task, one) == [None, f"Glad?\n{base.INSTRUCTION}\n"]
    assert (one["answer"], tasks.pictures(task, one)) == ("Joy", [f"{tmp_path}/p/b.png"])

    hub = tmp_path / "hub"
    hub.mkdir()
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        row = {"image": {"bytes": png, "path": "x.png"}, "emotion": "anger", "image_id": "x"}
        save(hub / f"{name}.parquet", [row])
    (hub / "data").mkdir()
    (hub / "test-00000-of-00001.parquet").rename(hub / "data" / "test.parquet")
    task = tasks.make("emoset", {}, str(hub), 0)
    assert [tasks.pictures(task, row) for row in (*task.train, *task.evals["test"])] == [[png]] * 2
    json.dumps(task.train)


ADDRESS = "https://as2.ftcdn.net/jpg/00/42/93/78/"


@pytest.mark.parametrize(
    ("name", "classes", "answers"),
    [
        ("webemo", 6, ["love", "joy", "anger", "sadness", "joy"]),
        ("webemo25", 25, ["affection", "cheerfulness", "irritability", "sadness", "zest"]),
        ("webemo2", 2, ["positive", "positive", "negative", "negative", "positive"]),
    ],
)
def test_webemo_as_published(tmp_path, name, classes, answers):
    numbers = (0, 1, 11, 19, 24)
    lines = [f"{ADDRESS}220_F_{n}.jpg {n}" for n in numbers]
    (tmp_path / "test25.txt").write_text("\n".join([*lines, f"{ADDRESS}gone.jpg 3", ""]))
    (tmp_path / "train25.txt").write_text("")
    places = ["images/220_F_0.jpg", "test/1/220_F_1.jpg", "images/test25/11/220_F_11.jpg"]
    places += ["220_F_19.jpg", "images/220_F_24.jpg"]
    draw(tmp_path, *places)
    task = tasks.make(name, {}, str(tmp_path), 0)
    assert pairs(task.evals[name]) == sorted(zip(places, answers, strict=True))
    assert list(task.train) == []
    gone, *others = task.notes
    assert gone == (
        f"{tmp_path}/test25.txt: 1 of 6 pictures are not in {tmp_path} and are left out"
    )
    assert [note.startswith(f"{name}: no picture of ") for note in others] == [True] * (classes > 2)
    example = task.evals[name][0]
    assert example["question"].count(",") == classes - 1
    assert "fullness" not in example["question"]


def test_webemo_in_folders_and_the_list_with_three_numbers(tmp_path):
    folders = ["1", "irritabilty", "confusion", "2", "joy"]
    draw(tmp_path, *(f"test/{name}/{n}.jpg" for name in folders for n in range(2)))
    task = tasks.make("webemo", {}, str(tmp_path), 0)
    counts = collections.Counter(row["answer"] for row in task.evals["webemo"])
    assert counts == {"joy": 4, "anger": 2}
    assert task.notes[0] == (
        "webemo: 4 of 10 pictures have none of the 6 emotions and are left out"
    )
    (line,) = mistakes("webemo25", tmp_path)
    assert line.startswith("DIR/test/joy: 'joy' is no emotion of webemo25; those are affection, c")
    (tmp_path / "test-images-25-6-2-category.txt").write_text("test/1/0.jpg 10 1 0\n")
    task = tasks.make("webemo", {}, str(tmp_path), 0)
    assert pairs(task.evals["webemo"]) == [("test/1/0.jpg", "fear")]


def voted(name, *shares):
    return "\t".join(map(str, [name, 2.5, 3.8, *shares]))


def test_emotion6_as_published(tmp_path):
    paths = [f"{emotion}/{n}.jpg" for emotion in emotions.EMOTION6 for n in (1, 2)]
    draw(tmp_path, *(f"images/{path}" for path in paths))
    lines = [
        "[image_filename]\t[valence]\t[arousal]\t[prob. anger]",
        voted("disgust/1.jpg", 0.133333, 0.7, 0, 0.0666667, 0.1, 0, 0),
        voted("joy/1.jpg", 0, 0, 0, 0.3, 0, 0.1, 0.6),
        voted("joy/2.jpg", 0, 0, 0.5, 0.5, 0, 0, 0),
    ]
    (tmp_path / "ground_truth.txt").write_text("\r\n".join([*lines, ""]))
    task = tasks.make("emotion6", {}, str(tmp_path), 0)
    assert pairs(task.evals["emotion6"]) == [(f"images/{path}", path[:-6]) for path in paths]
    assert task.notes == ()
    task = tasks.make("emotion6_votes", {}, str(tmp_path), 0)
    assert pairs(task.evals["emotion6_votes"]) == [
        ("images/disgust/1.jpg", "disgust"),
        ("images/joy/1.jpg", "neutral"),
    ]
    assert task.notes[0].startswith("emotion6_votes: 1 of 3 pictures have none of the 7 emotions")
    assert task.evals["emotion6_votes"][0]["question"].endswith(" joy, sadness, surprise, neutral.")
    nan = voted("joy/1.jpg", 0, 0, 0, 0, 0, 0, "nan")
    (tmp_path / "ground_truth.txt").write_text(f"names\n{lines[1]}\t1\nno\n\n{lines[2]}\n{nan}")
    what = "not a picture and nine numbers between tabs"
    assert mistakes("emotion6_votes", tmp_path) == [
        f"DIR/ground_truth.txt:2: {what}",
        f"DIR/ground_truth.txt:3: {what}",
        f"DIR/ground_truth.txt:6: {what}",
    ]


def test_the_sets_of_the_papers_evaluation(tmp_path):
    turns = [{"value": "<image>\nLove or joy?"}, {"value": "Love"}]
    for task, name in (("webemo", "webemo_test_2000"), ("emotion6", "emotion6-test")):
        rows(tmp_path / task / f"{name}.json", [{"image": "a.jpg", "conversations": turns}])
        for path in (tmp_path / task, tmp_path / task / f"{name}.json"):
            made = tasks.make(task, {}, str(path), 0)
            (one,) = made.evals[task]
            assert tasks.parts(made, one) == [None, f"\nLove or joy?\n{base.INSTRUCTION}\n"]
            assert tasks.pictures(made, one) == [f"{tmp_path}/{task}/a.jpg"]
            assert one["answer"] == "Love"
            assert made.notes == ()


@pytest.mark.parametrize("name", ["emoset", "webemo", "emotion6"])
def test_gradings(tmp_path, name):
    draw(tmp_path, *(f"{part}/sadness/{n}.jpg" for part in ("train", "test") for n in range(2)))
    box, example = r"<think></think> \boxed{sad}", {"answer": "sadness"}
    for options, reward in (
        ({}, rewards.emotion_and_format),
        ({"grading": "exact"}, rewards.emotion_and_format),
        ({"grading": "inflected"}, rewards.inflected_emotion_and_format),
    ):
        task = tasks.make(name, options, str(tmp_path), 0)
        assert task.reward is reward
        assert task.reward(box, example)["success"] is (options.get("grading") == "inflected")
    (line,) = mistakes(name, tmp_path, grading="strict")
    assert line == "task.options.grading=strict: must be exact or inflected"


def test_options_that_cannot_be(tmp_path):
    draw(tmp_path, *(f"{part}/fear/1.jpg" for part in ("train", "test")))
    assert mistakes("emoset", tmp_path, train_size=-1) == [
        "task.options.train_size=-1: must be 0 (all) or more"
    ]
    draw(tmp_path, "images/fear/1.jpg")  # folders say nothing of votes
    (line,) = mistakes("emotion6_votes", tmp_path)
    assert line.startswith("data.path=DIR: emotion6_votes is read from a file; give it, or the di")


@pytest.mark.parametrize("name", ["emoset", "webemo", "emotion6"])
def test_other_layouts_are_one_line(tmp_path, name):
    what = {
        "emoset": "give the directory that holds train.json and test.json, or folders train/EMOTION"
        " and test/EMOTION, as of amusement, anger, awe, ...",
        "webemo": "give the directory that holds test25.txt, or folders test/EMOTION, as of "
        "anger, fear, joy, ...",
        "emotion6": "give the directory that holds images/EMOTION, or folders test/EMOTION, as "
        "of anger, disgust, fear, ...",
    }[name]
    assert mistakes(name, "") == [f"data.path='': {what}"]
    assert mistakes(name, "nowhere") == [f"data.path=DIR: {what}"]
    draw(tmp_path, "pictures/happy/1.jpg")
    there = " (there: pictures)"
    part = "train" if name == "emoset" else name
    missing = f"data.path=DIR: no set {part} of {name} there; {what}"
    assert mistakes(name, tmp_path) == [f"{missing}{there}"]
    (tmp_path / "test" / "fear").mkdir(parents=True)
    (tmp_path / "train" / "fear").mkdir(parents=True)
    assert mistakes(name, tmp_path) == [f"data.path=DIR: the set {part} has no pictures"]


def test_emoset_needs_both_sets(tmp_path):
    draw(tmp_path, "train/fear/1.jpg")
    (line,) = mistakes("emoset", tmp_path)
    assert line.startswith("data.path=DIR: no set test of emoset there; give the directory that h")
    draw(tmp_path, "val/fear/1.jpg")
    task = tasks.make("emoset", {}, str(tmp_path), 0)
    assert pairs(task.evals["test"]) == [("val/fear/1.jpg", "fear")]


def test_all_mistakes_of_files_at_once(tmp_path):
    wrong = [
        listed("fear", 1),
        ["joy", *listed("fear", 1)[1:]],
        ["fear", "a.jpg", "b.jpg"],
        ["fear", 3],
        {"fear": 1},
    ]
    rows(tmp_path / "train.json", wrong)
    two = [{"value": "a"}, {"value": "b"}]
    rows(
        tmp_path / "test.jsonl",
        [
            {"image": "a.jpg", "answer": "joy"},
            {"image": "a.jpg"},
            {"answer": "fear"},
            {"image": 3, "answer": "fear"},
            {"image": "a.jpg", "label": 3},
            {"image": "a.jpg", "conversations": two[:1]},
            {"image": "a.jpg", "problem": "b", "answer": 3},
            {"images": [], "answer": "fear"},
        ],
    )
    known = "is no emotion of emoset; those are amusement, anger, awe, contentment, disgust, "
    known += "excitement, fear, sadness"
    assert mistakes("emoset", tmp_path) == [
        f"DIR/train.json: row 2: 'joy' {known}",
        "DIR/train.json: row 3: names 2 pictures; must be one",
        "DIR/train.json: row 4: not a list of texts [emotion, picture, annotation]",
        "DIR/train.json: row 5: not a list of texts [emotion, picture, annotation]",
        f"DIR/test.jsonl:1: 'joy' {known}",
        "DIR/test.jsonl:2: no field answer or label or emotion; the row has image",
        "DIR/test.jsonl:3: no field image or images; the row has answer",
        "DIR/test.jsonl:4: the field image holds no picture; must be a path, base64 text, an "
        "object with bytes or path, or a list of them",
        f"DIR/test.jsonl:5: 3 {known}",
        'DIR/test.jsonl:6: the field conversations is not two turns {"value": text}',
        "data.path=DIR: and 2 more malformed rows",
    ]
    last_two = [{"image": "a.jpg", "problem": "b", "answer": 3}, {"images": [], "answer": "fear"}]
    rows(tmp_path / "test.jsonl", last_two)
    (tmp_path / "train.json").write_text('[["fear", "a.jpg"], [')
    broken, *others = mistakes("emoset", tmp_path)
    assert broken.startswith("DIR/train.json: not a JSON list of lists (")
    assert others == [
        "DIR/test.jsonl:1: no text for the answer",
        "DIR/test.jsonl:2: no picture in the field image or images",
    ]
    (tmp_path / "test25.txt").write_text(f"{ADDRESS}a.jpg\na.jpg joy\na.jpg 25\n")
    no_number, word, high = mistakes("webemo", tmp_path)
    assert no_number == "DIR/test25.txt:1: not an address or a path with the number of an emotion"
    assert word == no_number.replace(":1:", ":2:")
    assert high.startswith("DIR/test25.txt:3: 25 is no emotion of webemo; those are anger, fear, ")
    (tmp_path / "test25.txt").write_text(f"{ADDRESS}a.jpg 0\n")
    assert mistakes("webemo", tmp_path) == [
        "data.path=DIR: the set webemo has no pictures; DIR/test25.txt: 1 of 1 pictures are not in "
        "DIR and are left out"
    ]


def test_rows_in_the_folder_data_have_their_pictures_there(tmp_path):
    for name in ("train", "test"):
        draw(tmp_path / "data", f"{name}.png")
        rows(tmp_path / "data" / f"{name}.jsonl", [{"image": f"{name}.png", "label": "awe"}])
    made = tasks.make("emoset", {}, str(tmp_path), 0)
    assert made.images(made.evals["test"][0]) == [str(tmp_path / "data" / "test.png")]


def test_a_new_picture_in_a_folder_is_noticed(tmp_path):
    draw(tmp_path, "images/joy/0.png", "images/joy/1.png")
    assert len(tasks.make("emotion6", {}, str(tmp_path), 0).evals["emotion6"]) == 2
    draw(tmp_path, "images/joy/2.png")
    assert len(tasks.make("emotion6", {}, str(tmp_path), 0).evals["emotion6"]) == 3
