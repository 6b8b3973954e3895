"""The arithmetic task: questions agree with Python's arithmetic, mistakes, splits."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapo_jax import errors, rewards, tasks
from mapo_jax.tasks import arithmetic
from mapo_jax.text import load_tokenizer

ARITHMETIC = Path(arithmetic.__file__).parent / "arithmetic.model"


def make(seed=0, **options):
    small = {"train_size": 2000, "eval_size": 100}
    return tasks.make("arithmetic", {**small, **options}, "", seed)


@pytest.fixture(scope="module")
def task():
    return make()


def all_examples(task):
    return [*task.train, *(example for examples in task.evals.values() for example in examples)]


def judged(task, examples):
    return rewards.judge(task.reward, [task.demonstration(e) for e in examples], examples)


def test_answers_are_pythons(task):
    for example in all_examples(task):
        assert int(example["answer"]) == eval(task.prompt(example).removesuffix("=")) >= 0


def test_in_words_the_same_examples_are_asked_in_english(task):
    asked = make(words=True)
    assert all_examples(asked) == all_examples(task)
    for example in asked.train[:50]:
        found = re.match(r"What is ([\d+*-]+)\?\nFirst think inside ", asked.prompt(example))
        assert eval(found[1]) == int(example["answer"])


def test_worked_steps_are_right_and_in_order():
    for example in make(mistake_rate=0.0, levels=(2, 3)).train:
        thought = re.fullmatch(r"<think>(.*)</think> \\boxed\{(\d+)\}", example["demonstration"])
        expression = example["question"].removesuffix("=")
        for step in thought[1].split(" "):
            left, right = step.split("=")
            assert eval(left) == int(right)
            rest = re.sub(rf"(?<!\d){re.escape(left)}(?!\d)", right, expression, count=1)
            assert rest != expression  # the step was a part of the rest
            assert eval(rest) == eval(expression)  # and the order of operations allows it
            expression = rest
        assert expression == thought[2] == example["answer"]


def test_sets_share_no_question():
    tasks = [make(seed) for seed in range(3)]
    train = {example["question"] for task in tasks for example in task.train}
    for task in tasks:
        for examples in task.evals.values():
            questions = {example["question"] for example in examples}
            assert len(questions) > 70
            assert not train & questions
    assert len(train) > 3000


def test_easy_and_hard_are_out_of_distribution(task):
    largest = {
        name: {max(map(int, re.findall(r"\d+", example["question"]))) for example in examples}
        for name, examples in {"train": task.train, **task.evals}.items()
    }
    assert max(largest["train"]) == max(largest["test"]) == 12
    assert max(largest["easy"]) == 9
    assert min(largest["hard"]) == 13
    assert max(largest["hard"]) == 18


@pytest.mark.parametrize("levels", [(1,), (2, 3)])
def test_a_level_is_a_number_of_operations(levels):
    task = make(levels=levels)
    for examples in (task.train, *task.evals.values()):
        assert {len(re.findall(r"[+*-]", e["question"])) for e in examples} == set(levels)


def test_the_test_set_is_distributed_as_the_training_set():
    task = make(levels=(1, 2), eval_size=2000)
    for pattern in (r"^\d+.\d+=$", r"\+", "-", r"\*"):
        train, test = (
            sum(bool(re.search(pattern, e["question"])) for e in examples) / 2000
            for examples in (task.train, task.evals["test"])
        )
        # 4 standard errors of the difference of two shares of 2,000 draws, and 0.05 for holding out
        assert abs(train - test) < 4 * (2 * 0.25 / 2000) ** 0.5 + 0.05


def test_questions_vary(task):
    operators = Counter("".join(re.findall(r"[+*-]", "".join(e["question"] for e in task.train))))
    assert all(operators[op] > 0.15 * operators.total() for op in "+-*")
    numbers = {int(n) for e in task.train for n in re.findall(r"\d+", e["question"])}
    assert numbers == set(range(1, 13))


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(1, 300), st.integers(0, 3))
def test_the_mistake_rate_is_exact(rate, size, seed):
    task = make(seed, mistake_rate=rate, train_size=size, eval_size=5)
    n_mistakes = int(size * rate)
    assert sum(~judged(task, task.train).success) == n_mistakes
    assert sum(judged(task, task.train).parts["format"] == 0) == n_mistakes // 5
    for examples in task.evals.values():
        assert judged(task, examples).success.all()


def test_slips_are_many_and_flow_into_the_answer(task):
    off = Counter()
    for example in task.train:
        if match := re.fullmatch(r"<think>(.*)</think> \\boxed\{(\d+)\}", example["demonstration"]):
            steps = match[1].split(" ")
            wrong = [step for step in steps if eval(step.replace("=", "==")) is False]
            assert len(wrong) == (match[2] != example["answer"])
            assert steps[-1].split("=")[1] == match[2]
            off[int(match[2]) - int(example["answer"])] += 1
    wrong = off.total() - off[0]
    assert max(n for amount, n in off.items() if amount) < 0.3 * wrong  # no wrong answer prevails
    assert set(off) == {0, 1, 2, 10, -1, -2, -10}


def test_examples_follow_from_seed_and_index():
    assert make().train == make().train
    assert make(train_size=50).train == make().train[:50]
    assert make(1).train[:50] != make().train[:50]
    assert make(train_size=2, eval_size=2).train[1] == {
        "question": "5+8-4=",
        "answer": "9",
        "demonstration": r"<think>5+8=11 11-4=7</think> \boxed{7}",
    }


def test_text_round_trips_and_is_short(task):
    tokenizer = load_tokenizer(str(ARITHMETIC))
    for example in all_examples(task):
        for text in (task.prompt(example), task.demonstration(example)):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert 1 not in ids  # no unknown token
    assert max(len(tokenizer.encode_prompt(task.prompt(e))) for e in all_examples(task)) <= 9
    assert max(len(tokenizer.encode(task.demonstration(e))) for e in all_examples(task)) <= 25


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mistake_rat": 0.5}, "mistake_rat=0.5: no such option; did you mean mistake_rate"),
        ({"mistake_rate": 1.5}, "task.options.mistake_rate=1.5: must be 0 to 1"),
        ({"mistake_rate": float("nan")}, "task.options.mistake_rate=nan: must be 0 to 1"),
        ({"levels": ()}, r"levels=\(\): must be numbers of operations, each from 1 to 8"),
        ({"levels": (0,)}, r"task.options.levels=\(0,\): must be"),
        ({"levels": ("2",)}, r"task.options.levels=\('2',\): must be"),
        ({"train_size": 0}, "task.options.train_size=0: must be 1 or more"),
        ({"max_operand": 1}, "task.options.max_operand=1: must be 10 to 9999"),
    ],
)  # fmt: skip
def test_wrong_options(options, line):
    with pytest.raises(errors.UserError, match=line) as raised:
        make(**options)
    assert len(raised.value.lines) == 1


def test_all_mistakes_at_once():
    options = {"train_size": 0, "eval_size": 0, "mistake_rate": -1}
    with pytest.raises(errors.UserError) as raised:
        tasks.make("arithmetic", options, "some/data", 0)
    assert len(raised.value.lines) == 4


def test_no_such_task():
    with pytest.raises(
        errors.UserError, match=r"task.name=arithmetics: .* did you mean arithmetic\?"
    ):
        tasks.make("arithmetics", {}, "", 0)
