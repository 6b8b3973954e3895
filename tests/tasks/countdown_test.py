"""The Countdown task: solutions reach their targets, mistakes, splits."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapo_jax import answers, errors, rewards, tasks
from mapo_jax.tasks import countdown
from mapo_jax.text import load_tokenizer

COUNTDOWN = Path(countdown.__file__).parent / "countdown.model"
SHAPE = r"<think>(.*)</think> \\boxed\{(.*)\}"


def make(seed=0, **options):
    small = {"train_size": 1000, "eval_size": 100, "max_number": 10, "max_target": 60}
    return tasks.make("countdown", {**small, **options}, "", seed)


@pytest.fixture(scope="module")
def task():
    return make()


def all_examples(task):
    return [*task.train, *(example for examples in task.evals.values() for example in examples)]


def judged(task, examples):
    return rewards.judge(task.reward, [task.demonstration(e) for e in examples], examples)


def problem(example):
    return tuple(sorted(example["numbers"])), example["target"]


def test_answers_reach_their_targets(task):
    for example in all_examples(make(numbers=(2, 4), max_target=80)) + all_examples(task):
        listed, target = task.prompt(example).split("=")
        assert example["numbers"] == [int(number) for number in listed.split(" ")]
        assert example["target"] == int(target) == eval(example["answer"])
        assert answers.reaches(example["answer"], example["numbers"], example["target"])


def test_a_demonstration_tries_until_it_meets_the_target():
    tries = Counter()
    for example in make(mistake_rate=0.0).train:
        thought, boxed = re.fullmatch(SHAPE, example["demonstration"]).groups()
        assert boxed == example["answer"]
        *missed, met = [tried.split(" ") for tried in thought.split(",")]
        for steps in (*missed, met):
            left = Counter(example["numbers"])
            for step in steps:
                a, b, result = re.fullmatch(r"(\d+)[-+*/](\d+)=(\d+)", step).groups()
                assert eval(step.partition("=")[0]) == int(result)
                left -= Counter([int(a)])
                left -= Counter([int(b)])
                left[int(result)] += 1
            assert left.total() == 1  # all numbers are used
            assert (int(result) == example["target"]) is (steps is met)
        tries[len(missed)] += 1
    assert set(tries) == {0, 1}


def test_sets_share_no_problem():
    made = [make(seed) for seed in range(3)]
    train = {problem(example) for task in made for example in task.train}
    for task in made:
        for examples in task.evals.values():
            problems = {problem(example) for example in examples}
            assert len(problems) > 60
            assert not train & problems
    assert len(train) > 1000


def test_hard_is_out_of_distribution(task):
    sets = {"train": task.train, **task.evals}
    largest = {name: {max(x["numbers"]) for x in examples} for name, examples in sets.items()}
    assert max(largest["train"]) == max(largest["test"]) == 10
    assert (min(largest["hard"]), max(largest["hard"])) == (11, 15)


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 1), st.integers(1, 200), st.integers(0, 3))
def test_the_mistake_rate_is_exact(rate, size, seed):
    task = make(seed, mistake_rate=rate, train_size=size, eval_size=5)
    n_mistakes = int(size * rate)
    assert sum(~judged(task, task.train).success) == n_mistakes
    assert sum(judged(task, task.train).parts["format"] == 0) == n_mistakes // 5
    for examples in task.evals.values():
        assert judged(task, examples).success.all()


def test_mistakes_give_up_or_claim(task):
    kinds = Counter()
    for example in task.train:
        if match := re.fullmatch(SHAPE, example["demonstration"]):
            wrong = [x for x in re.split("[ ,]", match[1]) if not eval(x.replace("=", "=="))]
            reached = int(match[1].rpartition("=")[2]) == example["target"]
            kinds["claim" if wrong else "right" if reached else "give up"] += 1
            assert len(wrong) <= 1
            assert (eval(match[2]) == example["target"]) is (reached and not wrong)
    assert kinds == {"right": 500, "give up": 200, "claim": 200}


def test_examples_follow_from_seed_and_index(task):
    assert make().train == task.train
    assert make(train_size=50).train == task.train[:50]
    assert make(1).train[:50] != task.train[:50]


def test_words_ask_for_the_same_and_for_the_format(task):
    worded = make(words=True)
    for plain, example in zip(task.train[:50], worded.train, strict=False):
        assert {**plain, "question": ""} == {**example, "question": ""}
        prompt = worded.prompt(example)
        found = [int(number) for number in re.findall(r"\d+", prompt)]
        assert found == [example["target"], *example["numbers"]]
        assert prompt.endswith("\\boxed{}.\n")


def test_text_round_trips_and_fits(task):
    tokenizer = load_tokenizer(str(COUNTDOWN))
    for example in all_examples(task):
        for text in (task.prompt(example), task.demonstration(example)):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert 1 not in ids  # no unknown token
            assert len(ids) < 56
        assert len(tokenizer.encode_prompt(task.prompt(example))) <= 11


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mistake_rate": 1.5}, "task.options.mistake_rate=1.5: must be 0 to 1"),
        ({"train_size": 0}, "task.options.train_size=0: must be 1 or more"),
        ({"numbers": ()}, r"task.options.numbers=\(\): must be counts of numbers, each 2 to 6"),
        ({"numbers": (1, 3)}, r"task.options.numbers=\(1, 3\): must be"),
        ({"max_number": 3}, "task.options.max_number=3: must be 4 to 9999"),
        ({"max_target": 59}, "max_target=59: must be at least twice the sum of 3 numbers up to 10"),
        ({"word": True}, "task.options.word=True: no such option; did you mean words"),
    ],
)
def test_wrong_options(options, line):
    with pytest.raises(errors.UserError, match=line) as raised:
        make(**options)
    assert len(raised.value.lines) == 1


def test_all_mistakes_at_once():
    options = {"train_size": 0, "eval_size": 0, "mistake_rate": -1, "max_target": 1}
    with pytest.raises(errors.UserError) as raised:
        tasks.make("countdown", options, "some/data", 0)
    assert len(raised.value.lines) == 5
