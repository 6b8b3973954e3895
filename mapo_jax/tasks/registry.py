"""The tasks by name. A new one is a file beside this one and a line here."""

from collections.abc import Callable, Mapping
from typing import Any

from mapo_jax import errors
from mapo_jax.tasks import arithmetic, gsm8k, jsonl, math, word_problems
from mapo_jax.tasks.base import Task

TASKS: dict[str, Callable[[Mapping[str, Any], str, int], Task]] = {
    "arithmetic": arithmetic.make,
    "gsm8k": gsm8k.make,
    "jsonl": jsonl.make,
    "math": math.make,
    "multiarith": word_problems.make_multiarith,
    "svamp": word_problems.make_svamp,
}


def make(name: str, options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes a task from the values of `task.name`, `task.options`, `data.path` and `seed`."""
    if name not in TASKS:
        hint = errors.did_you_mean(name, TASKS, f"tasks: {', '.join(TASKS)}")
        raise errors.UserError(f"task.name={name}: no such task{hint}")
    return TASKS[name](options, data_path, seed)
