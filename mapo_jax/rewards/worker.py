"""Runs a user's reward function in a worker process of workers.py, for `rewards.Remote`."""

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
        result = judging.call(_fn, question["response"], question["example"], told)
        return judging.checked(_fn, result, *_range)
    except MemoryError:
        traceback.print_exc()
        os._exit(1)  # frees what the function holds
    except errors.UserError as error:
        if error.__cause__:  # the function raised
            traceback.print_exception(error.__cause__)
        return {"mistake": str(error)}
