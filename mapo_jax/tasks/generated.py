"""Shared by the generated tasks: the options they all have, and the mistakes of demonstrations."""

import math
import random
from collections.abc import Mapping
from typing import Any

SLIPS = (-10, -2, -1, 1, 2, 10)  # by which a step can be off
_FORMAT_MISTAKES = (("<think>", ""), ("</think>", ""), ("\\boxed{", ""), ("}", ""))


def mistakes(name: str, chosen: Mapping[str, Any], data_path: str) -> list[str]:
    """Returns what is wrong with train_size, eval_size, mistake_rate and data.path."""
    found = [
        f"task.options.{size}={chosen[size]}: must be 1 or more"
        for size in ("train_size", "eval_size")
        if chosen[size] < 1
    ]
    if not 0 <= chosen["mistake_rate"] <= 1:
        found.append(f"task.options.mistake_rate={chosen['mistake_rate']}: must be 0 to 1")
    if data_path:
        found.append(f"data.path={data_path}: {name} is generated; leave data.path empty")
    return found


def mistake_number(index: int, rate: float) -> int | None:
    """Returns the mistake's number if the demonstration at `index` has one.

    Of the first n demonstrations floor(n * rate) have one.
    """
    number = math.floor(index * rate)
    return number if math.floor((index + 1) * rate) > number else None


def break_format(rng: random.Random, text: str) -> str:
    """Returns a demonstration without one of its tags."""
    return text.replace(*rng.choice(_FORMAT_MISTAKES))


def demonstration(example: dict) -> str:
    """Returns the worked response of an example, with its mistake if it has one."""
    return example["demonstration"]
