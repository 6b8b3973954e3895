"""Judges responses: the paper's reward, and the gate that every reward function's answers pass.

In the life of a batch: responses (text) and their examples -> `judge` -> rewards, success flags and
named parts, one per rollout. A reward function is `fn(response, example)` that returns
`{"reward": float, "success": bool, "parts": {name: float}}` and may have `fn.range = (low, high)`.

A response that was cut at `rollout.max_new_tokens` has not answered: it is judged with accuracy 0
and no success. A function with a parameter named `finished` is told and sees to that itself.
"""

import atexit
import functools
import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mapo_jax import answers, errors, workers
from mapo_jax.config import TaskConfig

RewardFunction = Callable[..., Any]  # fn(response, example[, finished]) -> reward, success, parts

_KEYS = ("reward", "success", "parts")


class Judged(NamedTuple):
    """What a reward function found about B responses."""

    rewards: np.ndarray  # f32[B]; NaN where there is no reward, which the trainer leaves out
    success: np.ndarray  # bool[B]; right on every metric (MAPO's N counts these)
    parts: dict[str, np.ndarray]  # name -> f32[B], in alphabetical order


def accuracy_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """Returns 0.9 * accuracy + 0.1 * format, the reward of the paper's runs (arXiv 2509.18849).

    Accuracy: the boxed answer equals `example["answer"]`, and the response came to its own end.
    Format: one `<think>...</think>` at the start and a boxed answer after it. A response succeeds
    if it is right on both (eq. 3), which is where the reward is exactly 1.

    Args:
        response: what the policy wrote.
        example: its "answer" is the right one.
        finished: the response ended by itself rather than at `rollout.max_new_tokens`.
    """
    return _graded(response, example, finished, None)


def symbolic_accuracy_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """The same, where answers are mathematics: those that text does not settle go to a verifier."""
    return _graded(response, example, finished, verifier())


for _fn in (accuracy_and_format, symbolic_accuracy_and_format):
    _fn.range = (0.0, 1.0)  # pyrefly: ignore[missing-attribute]
# How many responses `judge` looks at at once: workers answer at the same time.
symbolic_accuracy_and_format.threads = 4  # pyrefly: ignore[missing-attribute]


@functools.cache
def verifier() -> answers.Verifier:
    """The verifier of this process. Its workers start when they are first needed."""
    made = answers.Verifier()
    atexit.register(made.close)
    return made


class Remote:
    """A user's own reward function, `path/to/file.py:function`, in worker processes.

    A worker that does not answer in time, dies or runs out of memory is killed and replaced, and
    the question asked once more. `failures` counts them. What is left without an answer has no
    reward. One that raises is a mistake, as that of any function.
    """

    def __init__(self, reference: str, timeout: float, memory: float, size: int):
        """Starts the workers.

        Args:
            reference: "path/to/file.py:function".
            timeout: seconds for one response.
            memory: GiB of address space of each worker.
            size: how many workers.

        Raises:
            UserError: there is no such function, or its file does not run.
        """
        self._pool = workers.Pool(
            "mapo_jax.reward_worker",
            size,
            timeout,
            memory=memory,
            argument=reference,
            where=f"task.reward={reference}",
        )
        self._pool.start()
        about = self._pool.loaded
        self.__name__, self.range = about["name"], tuple(about["range"])
        self.takes_finished, self.threads = about["takes_finished"], size
        self.parts: tuple[str, ...] = ()  # names, as far as they are known

    @property
    def failures(self) -> int:
        """Workers that were killed so far."""
        return self._pool.failures

    def __call__(self, response: str, example: dict, **told: bool) -> Mapping[str, Any] | None:
        """The checked result; None where there is none."""
        question = {"response": response, "example": example, **told}
        found = self._pool.ask(question) or self._pool.ask(question)
        if found is None:
            return None
        if "mistake" in found:
            raise errors.UserError(found["mistake"])
        self.parts = tuple(found["parts"])
        return found

    def close(self) -> None:
        """Ends the workers; a later question starts new ones."""
        self._pool.close()


_loaded: dict[Any, Remote] = {}  # the one in use


def load(task: TaskConfig) -> Remote:
    """The function that `task.reward` names, in workers; the same one while the file is the same.

    Raises:
        UserError: it cannot be used.
    """
    path = Path(task.reward.rpartition(":")[0])
    content = path.read_bytes() if path.is_file() else b""  # `Remote` says what is wrong
    key = (task.reward, content, task.reward_timeout, task.reward_memory, task.reward_workers)
    if key not in _loaded:
        close()
        _loaded[key] = Remote(task.reward, *key[2:])
    return _loaded[key]


@atexit.register
def close() -> None:
    """Ends the workers of `load`."""
    for remote in _loaded.values():
        remote.close()
    _loaded.clear()


def timeouts() -> int:
    """Answers that this process's verifier gave up on, so far."""
    return verifier().timeouts if verifier.cache_info().currsize else 0


def failures() -> int:
    """Workers with a user's function that were killed in this process, so far."""
    return sum(remote.failures for remote in _loaded.values())


def _graded(
    response: str, example: dict, finished: bool, verifier: answers.Verifier | None
) -> dict:
    prediction = answers.extract(response, styles=("boxed",))
    is_right = finished and answers.is_equal(prediction, example["answer"], verifier)
    accuracy, format_ = float(is_right), float(_is_well_formed(response))
    return {
        "reward": 0.9 * accuracy + 0.1 * format_,
        "success": accuracy == format_ == 1.0,
        "parts": {"accuracy": accuracy, "format": format_},
    }


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
        fn: `fn(response, example)`, or with a third parameter that is named `finished`. Without it,
            where it finds a cut response right (a success, or a part `accuracy` above 0), success
            becomes False, that part 0 and the reward the low end of its range.
        responses: B texts.
        examples: B examples that they answer.
        finished: which responses ended by themselves rather than at `rollout.max_new_tokens`;
            None: all.

    Raises:
        UserError: it raised, returned something else than reward, success and parts, or left its
            range.
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
        results = (ask(*case) for case in cases)
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
    """What a reward function returned, in plain numbers, parts in alphabetical order.

    Raises:
        UserError: it is not what it must be.
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
        reward = math.nan  # there is none
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


def overlong(judged: Judged, share: np.ndarray, penalty: float, buffer: float) -> Judged:
    """Takes a penalty for length off the rewards. DAPO (arXiv 2503.14476) eq. 13.

    Nothing up to a share 1 - buffer of the allowed length, then rising evenly to `penalty` at the
    full length. It becomes the part `overlong`, at most 0; success stays as it is.

    Differs from the paper: its penalty is 1 beside rewards of -1 and 1; beside 0 and 1 the same is
    0.5.

    Args:
        judged: of B responses.
        share: f32[B], length / rollout.max_new_tokens, at most 1.
        penalty: of a response of full length, >= 0.
        buffer: in (0, 1].
    """
    over = np.maximum((share - (1 - buffer)) / buffer, 0).astype(np.float32)
    taken = 0 - penalty * over  # not -penalty * over, which would show as -0
    return Judged(judged.rewards + taken, judged.success, {**judged.parts, "overlong": taken})


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


def call(fn: RewardFunction, response: str, example: dict, told: dict) -> Any:
    """What the function returns; what it raises becomes a line.

    Raises:
        UserError: it raised.
    """
    try:
        return fn(response, example, **told)
    except (MemoryError, errors.UserError):
        raise
    except Exception as error:  # whatever the user's code raises is the user's to mend
        frames = traceback.extract_tb(error.__traceback__)
        code = getattr(fn, "__code__", None)
        own = [frame for frame in frames if code and frame.filename == code.co_filename]
        frame = (own or frames)[-1]  # the user's own line, where it raised inside a library
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
    """Of a reward function, for a line."""
    return getattr(fn, "__name__", type(fn).__name__)


def _wrong(fn: RewardFunction, result: Any, what: str) -> errors.UserError:
    shown = _one_line(repr(result))[:200]
    return errors.UserError(f"task.reward: {name_of(fn)} returned {shown}: {what}")
