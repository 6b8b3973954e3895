"""The tasks by name. A new one is a file beside this one and a line here."""

from collections.abc import Callable, Mapping
from typing import Any

from mapo_jax import errors
from mapo_jax.tasks import (
    arithmetic,
    countdown,
    diagrams,
    emotions,
    files,
    geometry3k,
    gsm8k,
    jsonl,
    math,
    visual_math,
    word_problems,
)
from mapo_jax.tasks.base import Task

TASKS: dict[str, Callable[[Mapping[str, Any], str, int], Task]] = {
    "arithmetic": arithmetic.make,
    "countdown": countdown.make,
    "diagrams": diagrams.make,
    "emoset": emotions.make_emoset,
    "emotion6": emotions.make_emotion6,
    "emotion6_votes": emotions.make_emotion6_votes,
    "geometry3k": geometry3k.make,
    "gsm8k": gsm8k.make,
    "jsonl": jsonl.make,
    "math": math.make,
    "mathverse": visual_math.make_mathverse,
    "mathvision": visual_math.make_mathvision,
    "mathvista": visual_math.make_mathvista,
    "multiarith": word_problems.make_multiarith,
    "svamp": word_problems.make_svamp,
    "webemo": emotions.make_webemo,
    "webemo2": emotions.make_webemo2,
    "webemo25": emotions.make_webemo25,
}


_made: dict[str, tuple[Any, Task]] = {}  # by name: the last one, and what it was made from


def make(name: str, options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes a task from the values of `task.name`, `task.options`, `data.path` and `seed`.

    It is the one of the last call, if that had the same values and the files are the same: a run
    checks its task before it takes it, and should not read a million rows twice.
    """
    if name not in TASKS:
        hint = errors.did_you_mean(name, TASKS, f"tasks: {', '.join(TASKS)}")
        raise errors.UserError(f"task.name={name}: no such task{hint}")
    made_from = (repr(sorted(options.items())), data_path, seed, files.stamps(data_path))
    if _made.get(name, ("", None))[0] != made_from:
        _made.pop(name, None)  # frees its rows first
        _made[name] = made_from, TASKS[name](options, data_path, seed)
    return _made[name][1]
