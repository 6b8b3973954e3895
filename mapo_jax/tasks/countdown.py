"""Generated Countdown: numbers and a target; the answer is an expression that equals it.

This is the task of TinyZero (Jiayi-Pan/TinyZero) and lmpo (kvfrans/lmpo), made here and not
downloaded. A question is "3 8 5=16": each number has to be used exactly once, with `+`, `-`, `*`,
`/` and parentheses, for 16. With `words` it is an English sentence, for a pretrained policy.

A problem is drawn by combining two of its numbers after the other, so it can be solved with steps
that are whole numbers from 1 to `max_target`. The evaluation set `test` is like the training set;
in `hard` at least one number is above the largest of training, by up to a half.

A demonstration searches. Half of them work out an expression that misses the target before the
one that meets it and is boxed: `<think>8+5=13 13-3=10,5-3=2 8*2=16</think> \\boxed{8*(5-3)}`.
Demonstrations hold mistakes at an exact rate, as those of `arithmetic` do. Of five mistakes two
give up, boxing an expression that misses, two do so and claim that its last step gave the target,
and one breaks the format.

An example depends on (seed, set, index) alone. No evaluation problem is a training problem of any
seed, in whatever order its numbers are, as a hash decides which problems are never trained on.
"""

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mapo_jax import errors, rewards
from mapo_jax.tasks import base, generated
from mapo_jax.tasks.base import Task, merge_options

DEFAULTS = {
    "numbers": (3,),  # how many numbers a problem has
    "max_number": 6,  # the largest of them
    "max_target": 36,  # also the largest result of a step
    "train_size": 10_000,  # training examples
    "eval_size": 512,  # examples of each evaluation set; as in training, a problem may recur
    "mistake_rate": 0.5,  # share of the training demonstrations that hold a mistake
    "words": False,  # ask in English
}

_HELD_OUT_SHARE = 8  # one problem in 8 is never trained on


class Expression(NamedTuple):
    """An expression, worked out step by step."""

    text: str
    value: int
    steps: tuple[str, ...] = ()


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task; `options` are those of DEFAULTS."""
    chosen = merge_options(options, DEFAULTS)
    mistakes = [*_mistakes(chosen), *generated.mistakes("countdown", chosen, data_path)]
    if mistakes:
        raise errors.UserError(*mistakes)
    largest = chosen["max_number"]
    sets = {"test": (1, largest), "hard": (largest + 1, largest + largest // 2)}
    return Task(
        name="countdown",
        train=_train(seed, chosen),
        evals={
            name: [
                _example(rng, _draw(rng, chosen, bounds, held_out=True), chosen)
                for rng in (random.Random(f"{seed}/{name}/{i}") for i in range(chosen["eval_size"]))
            ]
            for name, bounds in sets.items()
        },
        prompt=base.prompt if chosen["words"] else question,
        reward=rewards.countdown_and_format,
        demonstration=generated.demonstration,
    )


def question(example: dict) -> str:
    """Returns the question as a policy from scratch sees it: "3 8 5=16"."""
    return example["question"]


def _mistakes(chosen: Mapping[str, Any]) -> list[str]:
    mistakes = []
    numbers, largest = chosen["numbers"], chosen["max_number"]
    if not numbers or not all(isinstance(n, int) and 2 <= n <= 6 for n in numbers):
        mistakes.append(f"task.options.numbers={numbers}: must be counts of numbers, each 2 to 6")
    elif not 4 <= largest <= 9999:
        mistakes.append(f"task.options.max_number={largest}: must be 4 to 9999")
    elif chosen["max_target"] < 2 * max(numbers) * largest:
        mistakes.append(  # else some problems would have no expression that misses
            f"task.options.max_target={chosen['max_target']}: must be at least twice the sum of "
            f"{max(numbers)} numbers up to {largest}, {2 * max(numbers) * largest}"
        )
    return mistakes


def _train(seed: int, chosen: Mapping[str, Any]) -> list[dict]:
    rate, examples = chosen["mistake_rate"], []
    for index in range(chosen["train_size"]):
        rng = random.Random(f"{seed}/train/{index}")
        problem = _draw(rng, chosen, (1, chosen["max_number"]), held_out=False)
        example = _example(rng, problem, chosen)
        mistake = generated.mistake_number(index, rate)
        if mistake is not None:
            example["demonstration"] = _mistaken(rng, example, mistake % 5, chosen["max_target"])
        examples.append(example)
    return examples


def _draw(
    rng: random.Random, chosen: Mapping[str, Any], bounds: tuple[int, int], held_out: bool
) -> tuple[list[int], Expression]:
    """Draws numbers, the largest of which is within bounds, and an expression over them."""
    count = rng.choice(chosen["numbers"])
    while True:
        numbers = [rng.randint(1, bounds[1]) for _ in range(count)]
        if max(numbers) < bounds[0]:
            continue
        solution = _combine(rng, numbers, chosen["max_target"])
        hash_ = zlib.crc32(f"{sorted(numbers)} {solution.value}".encode())
        if (hash_ % _HELD_OUT_SHARE == 0) == held_out:
            return numbers, solution


def _combine(rng: random.Random, numbers: Sequence[int], largest: int) -> Expression:
    """Draws an expression over all numbers whose steps are whole and from 1 to `largest`."""
    pool = [Expression(str(number), number) for number in numbers]
    steps: tuple[str, ...] = ()
    while len(pool) > 1:
        a, b = sorted(rng.sample(pool, 2), key=lambda x: -x.value)  # the larger one first
        results = {"+": a.value + b.value, "*": a.value * b.value, "-": a.value - b.value}
        if a.value % b.value == 0:
            results["/"] = a.value // b.value
        sign, value = rng.choice([(s, x) for s, x in results.items() if 1 <= x <= largest])
        pool.remove(a)
        pool.remove(b)
        steps += (f"{a.value}{sign}{b.value}={value}",)
        pool.append(Expression(f"{_inner(a)}{sign}{_inner(b)}", value))
    return pool[0]._replace(steps=steps)


def _inner(part: Expression) -> str:
    return part.text if part.text.isdecimal() else f"({part.text})"


def _miss(rng: random.Random, example: dict, largest: int) -> Expression:
    """Draws an expression over the example's numbers that does not meet its target."""
    while True:
        found = _combine(rng, example["numbers"], largest)
        if found.value != example["target"]:
            return found


def _example(
    rng: random.Random, problem: tuple[list[int], Expression], chosen: Mapping[str, Any]
) -> dict:
    numbers, solution = problem
    listed = " ".join(map(str, numbers))
    if chosen["words"]:
        listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
        asked = (
            f"Write an expression that equals {solution.value}. Use each of the numbers {listed} "
            "exactly once, with +, -, *, / and parentheses, and no other number."
        )
    else:
        asked = f"{listed}={solution.value}"
    example = {
        "question": asked,
        "answer": solution.text,
        "numbers": numbers,
        "target": solution.value,
    }
    misses = [_miss(rng, example, chosen["max_target"]) for _ in range(rng.randint(0, 1))]
    return {**example, "demonstration": _response([*misses, solution])}


def _response(tried: Sequence[Expression]) -> str:
    thought = ",".join(" ".join(expression.steps) for expression in tried)
    return f"<think>{thought}</think> \\boxed{{{tried[-1].text}}}"


def _mistaken(rng: random.Random, example: dict, kind: int, largest: int) -> str:
    """Returns a demonstration with a mistake: kinds 0, 1 give up, 2, 3 claim, 4 is form."""
    if kind == 4:
        return generated.break_format(rng, example["demonstration"])
    tried = [_miss(rng, example, largest) for _ in range(rng.randint(1, 2))]
    if kind >= 2:
        *steps, last = tried[-1].steps
        claim = f"{last.partition('=')[0]}={example['target']}"
        tried[-1] = tried[-1]._replace(steps=(*steps, claim))
    return _response(tried)
