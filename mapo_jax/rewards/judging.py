"""Calls a reward function, the paper's or a user's own, and checks its results.

In the life of a batch, `judge` takes responses (text) and their examples and returns rewards,
success flags and named parts, one per rollout. A reward function is `fn(response, example)`. It
returns `{"reward": float, "success": bool, "parts": {name: float}}` and may have
`fn.range = (low, high)`.

A response that was cut at `rollout.max_new_tokens` has not answered, so it has accuracy 0 and no
success. A function with a parameter named `finished` is told of the cut and judges it itself.
"""

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from mapo_jax import errors
from mapo_jax.rewards.remote import Remote

RewardFunction = Callable[..., Any]  # fn(response, example[, finished]) -> reward, success, parts

_KEYS = ("reward", "success", "parts")


class Judged(NamedTuple):
    """The rewards, success flags and parts of B responses."""

    rewards: np.ndarray  # f32[B]; NaN if there is none, which the trainer leaves out
    success: np.ndarray  # bool[B]; right on every metric (MAPO's N counts these)
    parts: dict[str, np.ndarray]  # name -> f32[B], in alphabetical order


def reward_range(fn: RewardFunction) -> tuple[float, float]:
    """Returns the range that a reward function declares as `fn.range`; (0, 1) if it has none."""
    declared = getattr(fn, "range", (0.0, 1.0))
    try:
        low, high = map(float, declared)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise errors.UserError(
            f"task.reward: {name_of(fn)}.range={declared!r}: must be two finite numbers (low, "
            "high), low < high, as in (0, 1)"
        )
    return low, high


def judge(
    fn: RewardFunction,
    responses: Sequence[str],
    examples: Sequence[dict],
    finished: Sequence[bool] | None = None,
) -> Judged:
    """Calls a reward function on every response and checks what it returns.

    Args:
        fn: `fn(response, example)`, or with a third parameter that is named `finished`. A function
            without it may find a cut response right (a success, or a part `accuracy` above 0).
            Then success becomes False, that part 0 and the reward the low end of its range.
        responses: B texts, each with the thought before it that its prompt opened.
        examples: the B examples that the responses answer.
        finished: which responses ended by themselves rather than at `rollout.max_new_tokens`;
            None for all.

    Raises:
        UserError: the function raised, returned something else than reward, success and parts, or
            left its range.
    """
    low, high = reward_range(fn)
    is_told = takes_finished(fn)
    finished = [True] * len(responses) if finished is None else [bool(flag) for flag in finished]
    rewards, success, parts = [], [], []

    def ask(response: str, example: dict, ended: bool) -> Any:
        return call(fn, response, example, {"finished": ended} if is_told else {})

    cases = list(zip(responses, examples, finished, strict=True))
    threads = getattr(fn, "threads", 1)
    if threads > 1:
        with futures.ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(lambda case: ask(*case), cases))
    else:
        results = [ask(*case) for case in cases]  # all, so that a Remote knows its parts
    for (_, _, ended), result in zip(cases, results, strict=True):
        if result is None and isinstance(fn, Remote):
            nothing = dict.fromkeys(fn.parts, 0.0)
            result = {"reward": math.nan, "success": False, "parts": nothing}
        result = checked(fn, result, low, high)
        reward, right, named = (result[key] for key in _KEYS)
        if parts and set(named) != set(parts[0]):
            names = ", ".join(map(str, parts[0])) or "none"
            raise _wrong(fn, result, f"every response must have the parts of the first: {names}")
        if not (ended or is_told) and (right or _has_accuracy(named)):
            reward, right = low, False
            named |= {"accuracy": 0.0} if "accuracy" in named else {}
        rewards.append(reward)
        success.append(right)
        parts.append(named)
    names = parts[0] if parts else ()
    return Judged(
        np.asarray(rewards, np.float32),
        np.asarray(success, bool),
        {name: np.asarray([named[name] for named in parts], np.float32) for name in names},
    )


def checked(fn: RewardFunction, result: Any, low: float, high: float) -> dict[str, Any]:
    """Returns a reward function's result in plain numbers, its parts in alphabetical order.

    Raises:
        UserError: the result is malformed or out of range.
    """
    if not isinstance(result, Mapping) or set(result) != set(_KEYS):
        raise _wrong(
            fn,
            result,
            'must be a dict with the keys reward, success and parts, as in {"reward": 1.0, '
            '"success": True, "parts": {}}',
        )
    reward = _number(result["reward"])
    if reward is None:
        raise _wrong(fn, result, "the reward must be a number")
    if not math.isfinite(reward):
        reward = math.nan  # there is no reward
    elif not low <= reward <= high:
        where = f"the reward is outside [{low:g}, {high:g}]"
        raise _wrong(fn, result, f"{where}; set {name_of(fn)}.range = (low, high)")
    if not isinstance(result["success"], bool | np.bool_):
        raise _wrong(fn, result, "success must be True or False")
    named = result["parts"]
    if not isinstance(named, Mapping) or any(
        not isinstance(name, str) or _number(part) is None for name, part in named.items()
    ):
        raise _wrong(fn, result, "parts must be a dict of numbers by their names, {} for none")
    named = {name: float(named[name]) for name in sorted(named)}
    return {"reward": reward, "success": bool(result["success"]), "parts": named}


def _has_accuracy(parts: Mapping[str, float]) -> bool:
    return "accuracy" in parts and parts["accuracy"] > 0


def takes_finished(fn: RewardFunction) -> bool:
    """Whether a function is told which responses ended by themselves."""
    if isinstance(fn, Remote):
        return fn.takes_finished
    try:
        return "finished" in inspect.signature(fn).parameters
    except ValueError:  # some callables written in C have no signature
        return False


def call(
    fn: RewardFunction,
    response: str,
    example: dict,
    told: dict,
    catches: type[BaseException] = Exception,
) -> Any:
    """Calls the function and returns its result.

    Args:
        fn, response, example: see `judge`.
        told: further arguments.
        catches: what is a mistake of the function. A KeyboardInterrupt is one only where no Ctrl-C
            comes to.

    Raises:
        UserError: the function raised; the line names where.
    """
    try:
        return fn(response, example, **told)
    except (MemoryError, errors.UserError):
        raise
    except catches as error:  # a user's code may raise anything, and the user mends it
        frames = traceback.extract_tb(error.__traceback__)
        code = getattr(fn, "__code__", None)
        own = [frame for frame in frames if code and frame.filename == code.co_filename]
        frame = (own or frames)[-1]  # the user's own line, if a library below it raised
        raise errors.UserError(
            f"task.reward: {name_of(fn)} raised {type(error).__name__}: {_one_line(str(error))} "
            f"({frame.filename}:{frame.lineno}) for the response {response[:200]!r}; "
            "mend it and start the same command again: it continues from the last checkpoint"
        ) from error


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def name_of(fn: RewardFunction) -> str:
    """The name of a reward function, for a message."""
    return getattr(fn, "__name__", type(fn).__name__)


def _wrong(fn: RewardFunction, result: Any, what: str) -> errors.UserError:
    shown = _one_line(repr(result))[:200]
    return errors.UserError(f"task.reward: {name_of(fn)} returned {shown}: {what}")
