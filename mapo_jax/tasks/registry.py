"""The tasks by name. A new one is a file beside this one and a line here."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from mapo_jax import errors
from mapo_jax.tasks import arithmetic, gsm8k, jsonl, math, words
from mapo_jax.tasks.base import Task

TASKS: dict[str, Callable[[Mapping[str, Any], str, int], Task]] = {
    "arithmetic": arithmetic.make,
    "gsm8k": gsm8k.make,
    "jsonl": jsonl.make,
    "math": math.make,
    "multiarith": words.make_multiarith,
    "svamp": words.make_svamp,
}


def make(name: str, options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes a task from the values of `task.name`, `task.options`, `data.path` and `seed`."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"tasks: {', '.join(TASKS)}"
        raise errors.UserError(f"task.name={name}: no such task; {hint}")
    return TASKS[name](options, data_path, seed)
