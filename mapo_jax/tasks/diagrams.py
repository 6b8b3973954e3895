"""Generated diagrams: the numbers stand in the picture and nowhere else.

A picture is squared paper, 12 x 12 or 16 x 12 cells of 4 pixels, with the outline of a rectangle or
of a right triangle on it, in one of four colours and anywhere. The question is "area?" or, of a
rectangle only, "perimeter?". A response reads both sides, works it out with the larger side first,
and boxes the result: `<think>w=4 h=6 6*4=24 24/2=12</think> \\boxed{12}`.

Sides are 1 to 10. Six pairs (width, height) from the middle of these are never trained on, but the
same pairs turned by a right angle are: a policy has met their products, but not these shapes. The
evaluation set `test` has these pairs alone. In `hard` a side is 11. `blank` has the questions of
`test` under white pictures, which nothing but guesses can answer.

Demonstrations hold mistakes at an exact rate, as those of `arithmetic` do: of five mistakes two
read a side wrong by one, two slip in a step (off by 1, 2 or 10), and one breaks the format.

An example depends on (seed, set, index) alone. Its picture is drawn whenever it is asked for.
"""

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mapo_jax import errors, rewards
from mapo_jax.tasks import generated
from mapo_jax.tasks.base import Task, merge_options

DEFAULTS = {
    "train_size": 20_000,  # training examples
    "eval_size": 512,  # examples of each evaluation set
    "mistake_rate": 0.5,  # share of the training demonstrations that hold a mistake
    "pictures": "drawn",  # of training; or the controls "blank", "shuffled" (another example's)
}

CELL = 4  # pixels
ROWS, COLUMNS = 12, (12, 16)  # cells of the papers
LARGEST = 10  # side in training and in `test`
_LINE = (215, 225, 240)
_COLOURS = ((0, 0, 0), (200, 30, 30), (30, 90, 200), (20, 140, 60))


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task; `options` are those of DEFAULTS."""
    chosen = merge_options(options, DEFAULTS)
    mistakes = generated.mistakes("diagrams", chosen, data_path)
    if chosen["pictures"] not in ("drawn", "blank", "shuffled"):
        mistakes.append(
            f"task.options.pictures={chosen['pictures']}: must be drawn, blank or shuffled"
        )
    if mistakes:
        raise errors.UserError(*mistakes)
    test = _eval("test", seed, chosen["eval_size"])
    return Task(
        name="diagrams",
        train=_train(seed, chosen),
        evals={
            "test": test,
            "hard": _eval("hard", seed, chosen["eval_size"]),
            "blank": [_blank(example) for example in test],
        },
        prompt=prompt,
        reward=rewards.accuracy_and_format,
        demonstration=generated.demonstration,
        images=pictures,
        placeholder="",
    )


def prompt(example: dict) -> str:
    """Returns the question, "area?" or "perimeter?"; the picture comes before it."""
    return example["question"]


def pictures(example: dict) -> list[bytes]:
    """Returns the example's one picture, as the bytes of a PPM file."""
    pixels = draw(**example["drawing"])
    height, width, _ = pixels.shape
    return [b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()]


def draw(shape: str, columns: int, box: tuple[int, int, int, int], colour: int) -> np.ndarray:
    """Draws a diagram, u8[4 * 12, 4 * columns, 3].

    Args:
        shape: "rectangle"; "triangle", whose right angle is at the lower left; or "none", which
            leaves the paper white, without squares.
        columns: cells of the paper's width.
        box: left, top, width, height of the shape in cells.
        colour: index of its colour.
    """
    paper = _paper(columns, shape != "none").copy()
    if shape == "none":
        return paper
    left, top, width, height = (CELL * cells for cells in box)
    right, bottom, ink = left + width, top + height, _COLOURS[colour]
    paper[top : bottom + 1, left] = ink
    paper[bottom, left : right + 1] = ink
    if shape == "rectangle":
        paper[top, left : right + 1] = ink
        paper[top : bottom + 1, right] = ink
    else:
        along = np.linspace(0, 1, 2 * max(width, height) + 1)
        y, x = np.rint(top + along * height), np.rint(left + along * width)
        paper[y.astype(int), x.astype(int)] = ink
    return paper


@functools.cache
def _paper(columns: int, has_squares: bool) -> np.ndarray:
    paper = np.full((ROWS * CELL, columns * CELL, 3), 255, np.uint8)
    if has_squares:
        paper[::CELL], paper[:, ::CELL] = _LINE, _LINE
    return paper


def is_held_out(width: int, height: int) -> bool:
    """Whether shapes of these sides are never trained on; of (3, 6) and (6, 3) at most one is."""
    return (width + 5 * height) % 11 == 0 and 1 < min(width, height) <= max(width, height) < LARGEST


def _train(seed: int, chosen: Mapping[str, Any]) -> list[dict]:
    size, rate, examples = chosen["train_size"], chosen["mistake_rate"], []
    for index in range(size):
        rng = random.Random(f"{seed}/train/{index}")
        example = _draw_example(rng, lambda w, h: max(w, h) <= LARGEST and not is_held_out(w, h))
        mistake = generated.mistake_number(index, rate)
        if mistake is not None:
            example["demonstration"] = _mistaken(rng, example, mistake % 5)
        examples.append(example)
    if chosen["pictures"] == "blank":
        return [_blank(example) for example in examples]
    if chosen["pictures"] == "shuffled":
        order = random.Random(f"{seed}/shuffled").sample(range(size), size)
        drawings = [examples[i]["drawing"] for i in order]
        return [{**x, "drawing": y} for x, y in zip(examples, drawings, strict=True)]
    return examples


def _eval(name: str, seed: int, size: int) -> list[dict]:
    def belongs(width: int, height: int) -> bool:
        is_hard = max(width, height) > LARGEST
        return is_hard if name == "hard" else is_held_out(width, height)

    return [_draw_example(random.Random(f"{seed}/{name}/{i}"), belongs) for i in range(size)]


def _draw_example(rng: random.Random, belongs: Callable[[int, int], bool]) -> dict:
    """Draws an example whose sides `belongs` takes."""
    question, shape = rng.choice(
        [("area?", "rectangle"), ("perimeter?", "rectangle"), ("area?", "triangle")]
    )
    while True:
        columns = rng.choice(COLUMNS)
        width, height = rng.randint(1, LARGEST + 1), rng.randint(1, LARGEST + 1)
        if belongs(width, height):
            break
    left, top = rng.randint(0, columns - 1 - width), rng.randint(0, ROWS - 1 - height)
    drawing = {
        "shape": shape,
        "columns": columns,
        "box": (left, top, width, height),
        "colour": rng.randrange(len(_COLOURS)),
    }
    example = {"question": question, "drawing": drawing}
    steps = _work(example, width, height)
    return {
        **example,
        "answer": _result(steps[-1]),
        "demonstration": _response(width, height, steps),
    }


def _work(example: dict, width: int, height: int, slip: tuple[int, int] = (-1, 0)) -> list[str]:
    """Returns the steps, "6*4=24" and so on, for sides as they were read.

    Args:
        example: its question and shape count.
        width, height: the sides.
        slip: (step, amount that is added to its result).
    """
    large, small = max(width, height), min(width, height)
    is_sum = example["question"] == "perimeter?"
    result = (large + small if is_sum else large * small) + slip[1] * (slip[0] == 0)
    steps = [f"{large}{'+' if is_sum else '*'}{small}={result}"]
    if is_sum or example["drawing"]["shape"] == "triangle":
        left, then = (f"2*{result}", 2 * result) if is_sum else (f"{result}/2", result / 2)
        steps.append(f"{left}={then + slip[1] * (slip[0] == 1):g}")
    return steps


def _result(step: str) -> str:
    return step.partition("=")[2]


def _response(width: int, height: int, steps: list[str]) -> str:
    return f"<think>w={width} h={height} {' '.join(steps)}</think> \\boxed{{{_result(steps[-1])}}}"


def _mistaken(rng: random.Random, example: dict, kind: int) -> str:
    """Returns a demonstration with a mistake: kinds 0 and 1 read wrong, 2 and 3 slip, 4 is form."""
    *_, width, height = example["drawing"]["box"]
    if kind == 4:
        return generated.break_format(rng, example["demonstration"])
    while True:
        w, h, slip = width, height, (-1, 0)
        if kind >= 2:
            slip = (rng.randrange(len(_work(example, w, h))), rng.choice(generated.SLIPS))
        elif rng.random() < 0.5:
            w += rng.choice((-1, 1))
        else:
            h += rng.choice((-1, 1))
        steps = _work(example, w, h, slip)
        is_wrong = _result(steps[-1]) != example["answer"]
        if is_wrong and min(w, h, *(float(_result(step)) for step in steps)) > 0:
            return _response(w, h, steps)


def _blank(example: dict) -> dict:
    return {**example, "drawing": {**example["drawing"], "shape": "none"}}
