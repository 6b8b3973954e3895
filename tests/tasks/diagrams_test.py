"""The diagrams task: a measured picture has the sides, answers are geometry's, mistakes, splits."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapo_jax import errors, images, rewards, tasks
from mapo_jax.tasks import diagrams
from mapo_jax.text import load_tokenizer

DIAGRAMS = Path(diagrams.__file__).parent / "diagrams.model"


def make(seed=0, **options):
    small = {"train_size": 600, "eval_size": 60}
    return tasks.make("diagrams", {**small, **options}, "", seed)


@pytest.fixture(scope="module")
def task():
    return make()


def all_examples(task):
    return [*task.train, *(example for examples in task.evals.values() for example in examples)]


def judged(task, examples):
    return rewards.judge(task.reward, [task.demonstration(e) for e in examples], examples)


def sides(example):
    return example["drawing"]["box"][2:]


def measured(picture):
    """Returns (is a rectangle, width, height), found in the pixels of the one shape."""
    is_paper = (picture == 255).all(-1) | (picture == diagrams._LINE).all(-1)
    rows, columns = np.nonzero(~is_paper)
    top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max()
    assert len(np.unique(picture[~is_paper], axis=0)) == 1  # one colour
    cells = (right - left) // diagrams.CELL, (bottom - top) // diagrams.CELL
    assert not is_paper[top : bottom + 1, left].any()
    assert not is_paper[bottom, left : right + 1].any()
    return (not is_paper[top, left : right + 1].any(), *cells)


def test_the_picture_says_the_answer(task):
    for example in [*task.train, *task.evals["test"], *task.evals["hard"]]:
        [source] = task.images(example)
        picture = images.read(source)
        assert picture.shape in ((48, 48, 3), (48, 64, 3))
        is_rectangle, width, height = measured(picture)
        area = width * height if is_rectangle else width * height / 2
        answer = {"area?": area, "perimeter?": 2 * (width + height)}[task.prompt(example)]
        assert float(example["answer"]) == answer
        assert is_rectangle or task.prompt(example) == "area?"
    assert len({task.images(example)[0] for example in task.train}) > 550


def test_the_question_tells_no_number(task):
    assert {task.prompt(example) for example in all_examples(task)} == {"area?", "perimeter?"}


def test_held_out_pairs_are_not_trained_on():
    made = [make(seed) for seed in range(3)]
    trained = {sides(example) for task in made for example in task.train}
    tested = {sides(example) for task in made for example in task.evals["test"]}
    hard = {sides(example) for task in made for example in task.evals["hard"]}
    everything = {(w, h) for w in range(1, 11) for h in range(1, 11)}
    assert trained | tested == everything
    assert not trained & tested
    assert len(tested) == 6
    assert {(h, w) for w, h in tested} <= trained  # all products are met in training
    assert all(2 <= side <= 9 for pair in tested for side in pair)
    assert all(max(pair) == 11 for pair in hard)


def test_blank_has_the_questions_of_test_on_white(task):
    pairs = zip(task.evals["blank"], task.evals["test"], strict=True)
    for blank, test in pairs:
        assert (blank["question"], blank["answer"]) == (test["question"], test["answer"])
        picture = images.read(task.images(blank)[0])
        assert picture.shape == images.read(task.images(test)[0]).shape
        assert (picture == 255).all()


def test_worked_steps_are_right():
    for example in make(mistake_rate=0.0).train:
        width, height = sides(example)
        shape = r"<think>w=(\d+) h=(\d+) (.*)</think> \\boxed\{(.*)\}"
        *read, worked, boxed = re.fullmatch(shape, example["demonstration"]).groups()
        assert [int(side) for side in read] == [width, height]
        for step in worked.split(" "):
            left, right = step.split("=")
            assert eval(left) == float(right)
        assert right == boxed == example["answer"]


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 1), st.integers(1, 200), st.integers(0, 3))
def test_the_mistake_rate_is_exact(rate, size, seed):
    task = make(seed, mistake_rate=rate, train_size=size, eval_size=5)
    n_mistakes = int(size * rate)
    assert sum(~judged(task, task.train).success) == n_mistakes
    assert sum(judged(task, task.train).parts["format"] == 0) == n_mistakes // 5
    for examples in task.evals.values():
        assert judged(task, examples).success.all()


def test_mistakes_are_of_reading_and_of_computing(task):
    kinds = Counter()
    for example in task.train:
        shape = r"<think>w=(\d+) h=(\d+) (.*)</think> \\boxed\{(.*)\}"
        if match := re.fullmatch(shape, example["demonstration"]):
            read = int(match[1]), int(match[2])
            wrong = [step for step in match[3].split(" ") if not eval(step.replace("=", "=="))]
            assert match[3].endswith(f"={match[4]}")
            off = [abs(a - b) for a, b in zip(read, sides(example), strict=True)]
            assert sorted(off) in ([0, 0], [0, 1])
            assert sum(off) + len(wrong) == (match[4] != example["answer"])
            kinds["read" if any(off) else "computed" if wrong else "right"] += 1
    assert kinds == {"right": 300, "read": 120, "computed": 120}


def test_examples_follow_from_seed_and_index(task):
    assert make().train == task.train
    assert make(train_size=50).train == task.train[:50]
    assert make(1).train[:50] != task.train[:50]


def test_controls_change_the_pictures_of_training_alone(task):
    blank, shuffled = make(pictures="blank"), make(pictures="shuffled")
    for made in (blank, shuffled):
        assert made.evals == task.evals
        for field in ("question", "answer", "demonstration"):
            assert [x[field] for x in made.train] == [x[field] for x in task.train]
    assert all((images.read(blank.images(x)[0]) == 255).all() for x in blank.train)
    drawings = [[repr(x["drawing"]) for x in made.train] for made in (shuffled, task)]
    assert sorted(drawings[0]) == sorted(drawings[1])
    assert sum(a == b for a, b in zip(*drawings, strict=True)) < 10


def test_text_round_trips_and_fits(task):
    tokenizer = load_tokenizer(str(DIAGRAMS))
    for example in all_examples(task):
        for text in (task.prompt(example), task.demonstration(example)):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert 1 not in ids  # no unknown token
            assert len(ids) < 40


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mistake_rate": 1.5}, "task.options.mistake_rate=1.5: must be 0 to 1"),
        ({"train_size": 0}, "task.options.train_size=0: must be 1 or more"),
        ({"eval_size": 0}, "task.options.eval_size=0: must be 1 or more"),
        ({"pictures": "white"}, "pictures=white: must be drawn, blank or shuffled"),
        ({"picture": "blank"}, "task.options.picture=blank: no such option; did you mean pictures"),
    ],
)
def test_wrong_options(options, line):
    with pytest.raises(errors.UserError, match=line) as raised:
        make(**options)
    assert len(raised.value.lines) == 1


def test_all_mistakes_at_once():
    options = {"train_size": 0, "eval_size": 0, "mistake_rate": -1, "pictures": ""}
    with pytest.raises(errors.UserError) as raised:
        tasks.make("diagrams", options, "some/data", 0)
    assert len(raised.value.lines) == 5
