"""Runs a user's reward function in a worker process of workers.py, for `rewards.Remote`."""

import contextlib
import json
import os
import traceback
from pathlib import Path
from typing import Any

from mapo_jax import errors, loading
from mapo_jax.rewards import judging

_fn: judging.RewardFunction
_range: tuple[float, float]


def load(argument: str) -> dict[str, Any]:
    """Runs the file; returns the function's name, its range and whether it takes `finished`.

    `argument` is JSON: the reference, and `kept` of `loading.load_function`.
    """
    global _fn, _range
    reference, kept = json.loads(argument)
    _fn = loading.load_function(reference, "task.reward", kept=Path(kept))
    _range = judging.reward_range(_fn)
    return {
        "name": judging.name_of(_fn),
        "range": _range,
        "takes_finished": judging.takes_finished(_fn),
    }


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Returns the function's checked result, or {"mistake": line}."""
    try:
        told = {"finished": question["finished"]} if "finished" in question else {}
        asked = question["response"], question["example"]
        result = judging.call(_fn, *asked, told, catches=BaseException)
        return judging.checked(_fn, result, *_range)
    except MemoryError as error:
        _print(error)
        os._exit(1)  # frees what the function holds
    except errors.UserError as error:
        if error.__cause__:  # the function raised
            _print(error.__cause__)
        return {"mistake": str(error)}


def _print(error: BaseException) -> None:
    with contextlib.suppress(OSError, ValueError):  # the function has closed stderr
        traceback.print_exception(error)
