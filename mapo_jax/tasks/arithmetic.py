"""Generated arithmetic, a task that needs no data and is learnt within minutes on a CPU.

A question is a chain of `+`, `-` and `*` over natural numbers ("17+5*3="); a response works it
out, products first, and boxes the result (`<think>5*3=15 17+15=32</think> \\boxed{32}`). A level is
the number of operations. With `words` the question is an English sentence, for a pretrained policy.
The evaluation set `test` is like the training set. Two more are out of its distribution: numbers in
`easy` have one digit, and a question in `hard` has at least one number above the largest of
training, by up to a half.

Demonstrations hold mistakes, as real ones do, at an exact rate: floor(n * mistake_rate) of the
first n examples have one. A mistake is a slip in one step (off by 1, 2 or 10) that makes the result
wrong; every fifth mistake leaves the result right and breaks the format instead. So the warm-up
teaches a policy that is sometimes wrong, in many ways, and RL has something to find.

An example depends on (seed, set, index) alone. No evaluation question is a training question of any
seed, as a hash of the text decides which questions are never trained on.
"""

import itertools
import operator
import random
import zlib
from collections.abc import Mapping
from typing import Any

from mapo_jax import errors, rewards
from mapo_jax.tasks import base, generated
from mapo_jax.tasks.base import Task, merge_options

DEFAULTS = {
    "levels": (2,),  # numbers of operations in a question
    "max_operand": 12,  # largest number in a question; factors are at most 9
    "train_size": 20_000,  # training examples
    "eval_size": 512,  # examples of each evaluation set; as in training, a question may recur
    "mistake_rate": 0.5,  # share of the training demonstrations that hold a mistake
    "words": False,  # ask in English
}

_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_MAX_FACTOR = 9
_FORMAT_MISTAKE_EVERY = 5  # one mistake in 5 breaks the format
_HELD_OUT_SHARE = 8  # one question in 8 is never trained on


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task; `options` are those of DEFAULTS."""
    chosen = merge_options(options, DEFAULTS)
    mistakes = [*_mistakes(chosen), *generated.mistakes("arithmetic", chosen, data_path)]
    if mistakes:
        raise errors.UserError(*mistakes)
    levels, largest = tuple(chosen["levels"]), chosen["max_operand"]
    sets = {  # name: the bounds of a question's largest number
        "test": (1, largest),
        "easy": (1, 9),
        "hard": (largest + 1, largest + largest // 2),
    }
    return Task(
        name="arithmetic",
        train=_train(seed, levels, largest, chosen["train_size"], chosen["mistake_rate"]),
        evals={
            name: _eval(name, seed, levels, bounds, chosen["eval_size"])
            for name, bounds in sets.items()
        },
        prompt=in_words if chosen["words"] else prompt,
        reward=rewards.accuracy_and_format,
        demonstration=generated.demonstration,
    )


def prompt(example: dict) -> str:
    """Returns the question as the policy sees it: "17+5*3="."""
    return example["question"]


def in_words(example: dict) -> str:
    """Returns the question in English, "What is 17+5*3?", for a pretrained policy."""
    asked = f"What is {example['question'].removesuffix('=')}?"
    return base.prompt({**example, "question": asked})


def _mistakes(chosen: Mapping[str, Any]) -> list[str]:
    mistakes = []
    levels = chosen["levels"]
    if not levels or not all(isinstance(level, int) and 1 <= level <= 8 for level in levels):
        mistakes.append(
            f"task.options.levels={levels}: must be numbers of operations, each from 1 to 8"
        )
    if not 10 <= chosen["max_operand"] <= 9999:
        mistakes.append(f"task.options.max_operand={chosen['max_operand']}: must be 10 to 9999")
    return mistakes


def _train(
    seed: int, levels: tuple[int, ...], largest: int, size: int, mistake_rate: float
) -> list[dict]:
    examples = []
    for index in range(size):
        rng = random.Random(f"{seed}/train/{index}")
        question = _draw(rng, levels, (1, largest), held_out=False)
        mistake = generated.mistake_number(index, mistake_rate)
        if mistake is None:
            examples.append(_example(*question))
        elif mistake % _FORMAT_MISTAKE_EVERY == _FORMAT_MISTAKE_EVERY - 1:
            example = _example(*question)
            text = generated.break_format(rng, example["demonstration"])
            examples.append({**example, "demonstration": text})
        else:
            examples.append(_example(*question, slip=_choose_slip(rng, *question)))
    return examples


def _eval(
    name: str, seed: int, levels: tuple[int, ...], bounds: tuple[int, int], size: int
) -> list[dict]:
    rngs = [random.Random(f"{seed}/{name}/{index}") for index in range(size)]
    return [_example(*_draw(rng, levels, bounds, held_out=True)) for rng in rngs]


def _draw(
    rng: random.Random, levels: tuple[int, ...], bounds: tuple[int, int], held_out: bool
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Draws the operands and operators of a question whose steps never go below 0."""
    level = rng.choice(levels)
    while True:
        operators = tuple(rng.choices(tuple(_OPERATIONS), k=level))
        factors = [i for i, op in enumerate(operators) if op == "*"]
        operands = tuple(
            rng.randint(2, _MAX_FACTOR)
            if i in factors or i - 1 in factors
            else rng.randint(1, bounds[1])
            for i in range(len(operators) + 1)
        )
        if any(j - i == 1 for i, j in itertools.pairwise(factors)):
            continue  # a*b*c leaves the times table
        if max(operands) < bounds[0] or min(_results(operands, operators)) < 0:
            continue
        hash_ = zlib.crc32(_question(operands, operators).encode())
        if (hash_ % _HELD_OUT_SHARE == 0) == held_out:
            return operands, operators


def _work(
    operands: tuple[int, ...], operators: tuple[str, ...], slip: tuple[int, int] = (0, 0)
) -> list[tuple[int, str, int, int]]:
    """Works out a question; returns the steps (left, operator, right, result), products first.

    Args:
        operands: the numbers of the question.
        operators: the signs between them.
        slip: (step, amount that is added to its result).
    """
    left = list(operands)
    todo = list(operators)
    steps = []
    while todo:
        i = todo.index("*") if "*" in todo else 0
        result = _OPERATIONS[todo[i]](left[i], left[i + 1])
        if len(steps) == slip[0]:
            result += slip[1]
        steps.append((left[i], todo[i], left[i + 1], result))
        left[i : i + 2] = [result]
        del todo[i]
    return steps


def _results(
    operands: tuple[int, ...], operators: tuple[str, ...], slip: tuple[int, int] = (0, 0)
) -> list[int]:
    return [result for *_, result in _work(operands, operators, slip)]


def _choose_slip(
    rng: random.Random, operands: tuple[int, ...], operators: tuple[str, ...]
) -> tuple[int, int]:
    """Draws a slip that makes no number negative. The answer is wrong, as no product follows."""
    slips = [(step, amount) for step in range(len(operators)) for amount in generated.SLIPS]
    return rng.choice([s for s in slips if min(_results(operands, operators, s)) >= 0])


def _question(operands: tuple[int, ...], operators: tuple[str, ...]) -> str:
    tail = "".join(op + str(operand) for op, operand in zip(operators, operands[1:], strict=True))
    return f"{operands[0]}{tail}="


def _example(
    operands: tuple[int, ...], operators: tuple[str, ...], slip: tuple[int, int] = (0, 0)
) -> dict:
    steps = _work(operands, operators, slip)
    thought = " ".join(f"{left}{op}{right}={result}" for left, op, right, result in steps)
    return {
        "question": _question(operands, operators),
        "answer": str(_results(operands, operators)[-1]),
        "demonstration": f"<think>{thought}</think> \\boxed{{{steps[-1][-1]}}}",
    }
