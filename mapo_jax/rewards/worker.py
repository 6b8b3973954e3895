"""A user's reward function in a process of its own: what `rewards.Remote` asks, by workers.py."""

import os
from typing import Any

from mapo_jax import errors, loading
from mapo_jax.rewards import judging

_fn: judging.RewardFunction
_range: tuple[float, float]


def load(reference: str) -> dict[str, Any]:
    """Runs the file; returns what the run needs to know of the function."""
    global _fn, _range
    _fn = loading.load_function(reference, "task.reward")
    _range = judging.reward_range(_fn)
    return {
        "name": judging.name_of(_fn),
        "range": _range,
        "takes_finished": judging.takes_finished(_fn),
    }


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The function's checked result, or {"mistake": line}."""
    try:
        told = {"finished": question["finished"]} if "finished" in question else {}
        result = judging.call(_fn, question["response"], question["example"], told)
        return judging.checked(_fn, result, *_range)
    except MemoryError:
        os._exit(1)  # with what it holds
    except errors.UserError as error:
        return {"mistake": str(error)}
