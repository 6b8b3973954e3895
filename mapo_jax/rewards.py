"""Judges responses: the paper's reward, and the gate that every reward function's answers pass.

In the life of a batch: responses (text) and their examples -> `judge` -> rewards, success flags and
named parts, one per rollout. A reward function is `fn(response, example)` that returns
`{"reward": float, "success": bool, "parts": {name: float}}` and may have `fn.range = (low, high)`.
"""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapo_jax import answers, errors

RewardFunction = Callable[[str, dict], Mapping[str, Any]]

_KEYS = ("reward", "success", "parts")


class Judged(NamedTuple):
    """What a reward function found about B responses."""

    rewards: np.ndarray  # f32[B]; NaN where there is no reward, which the trainer leaves out
    success: np.ndarray  # bool[B]; right on every metric (MAPO's N counts these)
    parts: dict[str, np.ndarray]  # name -> f32[B]


def accuracy_and_format(response: str, example: dict) -> dict:
    """Returns 0.9 * accuracy + 0.1 * format, the reward of the paper's runs (arXiv 2509.18849).

    Accuracy: the boxed answer equals `example["answer"]`. Format: one `<think>...</think>` at the
    start and a boxed answer after it. A response succeeds if it is right on both (eq. 3), which is
    where the reward is exactly 1.
    """
    prediction = answers.extract(response, styles=("boxed",))
    accuracy = float(answers.is_equal(prediction, example["answer"]))
    format_ = float(_is_well_formed(response))
    return {
        "reward": 0.9 * accuracy + 0.1 * format_,
        "success": accuracy == format_ == 1.0,
        "parts": {"accuracy": accuracy, "format": format_},
    }


accuracy_and_format.range = (0.0, 1.0)  # pyrefly: ignore[missing-attribute]


def _is_well_formed(response: str) -> bool:
    one_thought = response.count("<think>") == response.count("</think>") == 1
    return (
        one_thought
        and response.lstrip().startswith("<think>")
        and answers.extract(response, styles=("boxed",)) is not None
    )


def reward_range(fn: RewardFunction) -> tuple[float, float]:
    """Returns the range that a reward function declares as `fn.range`; (0, 1) where it has none."""
    declared = getattr(fn, "range", (0.0, 1.0))
    try:
        low, high = map(float, declared)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise errors.UserError(
            f"{_name(fn)}.range={declared!r}: must be two finite numbers (low, high), low < high"
        )
    return low, high


def judge(fn: RewardFunction, responses: Sequence[str], examples: Sequence[dict]) -> Judged:
    """Calls a reward function on every response and checks what it returns.

    Raises:
        UserError: it raised, returned something else than reward, success and parts, or left its
            range.
    """
    low, high = reward_range(fn)
    results = [_call(fn, *pair) for pair in zip(responses, examples, strict=True)]
    rewards, success, parts = [], [], []
    for result in results:
        if not isinstance(result, Mapping) or set(result) != set(_KEYS):
            raise _wrong(fn, result, "must be a dict with the keys reward, success and parts")
        reward = _number(result["reward"])
        if reward is None:
            raise _wrong(fn, result, "the reward must be a number")
        if not (math.isnan(reward) or low <= reward <= high):
            raise _wrong(
                fn, result, f"the reward is outside [{low:g}, {high:g}]; set {_name(fn)}.range"
            )
        if not isinstance(result["success"], bool | np.bool_):
            raise _wrong(fn, result, "success must be True or False")
        named = result["parts"]
        if not isinstance(named, Mapping) or any(_number(part) is None for part in named.values()):
            raise _wrong(fn, result, "parts must be a dict of numbers")
        if set(named) != set(results[0]["parts"]):
            raise _wrong(fn, result, f"parts differ from the first: {sorted(results[0]['parts'])}")
        rewards.append(reward)
        success.append(bool(result["success"]))
        parts.append(named)
    names = parts[0] if parts else ()
    return Judged(
        np.asarray(rewards, np.float32),
        np.asarray(success, bool),
        {name: np.asarray([float(named[name]) for named in parts], np.float32) for name in names},
    )


def _call(fn: RewardFunction, response: str, example: dict) -> Mapping[str, Any]:
    try:
        return fn(response, example)
    except Exception as error:  # whatever the user's code raises is the user's to mend
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise errors.UserError(
            f"task.reward: {_name(fn)} raised {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno}) for the response {response[:200]!r}; "
            "mend it, and the same command continues from the last checkpoint"
        ) from error


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _name(fn: RewardFunction) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def _wrong(fn: RewardFunction, result: Any, what: str) -> errors.UserError:
    return errors.UserError(f"task.reward: {_name(fn)} returned {repr(result)[:200]}: {what}")
