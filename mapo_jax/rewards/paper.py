"""The reward of the paper's runs, judged in several ways, and DAPO's penalty for length."""

import atexit
import functools
import re
from collections.abc import Callable

import numpy as np

from mapo_jax import answers
from mapo_jax.rewards.judging import Judged

_TAGS = re.compile("</?think>")


def accuracy_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """Returns 0.9 * accuracy + 0.1 * format, the reward of the paper's runs (arXiv 2509.18849).

    Accuracy is 1 if the boxed answer equals `example["answer"]` and the response ended by itself.
    Format is 1 if there is one `<think>...</think>` at the start and a boxed answer after it. A
    response succeeds if both are 1 (eq. 3), that is, if the reward is exactly 1.

    Args:
        response: the policy's text; if the prompt opened the thought, from its `<think>` on.
        example: its "answer" is the right one.
        finished: whether the response ended by itself rather than at `rollout.max_new_tokens`.
    """
    return _graded(response, finished, lambda x: answers.is_equal(x, example["answer"]))


def symbolic_accuracy_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """Returns the same for mathematics; answers that text does not settle go to a verifier."""
    return _graded(response, finished, lambda x: answers.is_equal(x, example["answer"], verifier()))


def choice_accuracy_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """Returns the same where questions may have choices; see `answers.is_choice`.

    Args:
        response: as in `accuracy_and_format`.
        example: its "answer" is the letter of the right one of its "choices", a list of text. If it
            has none, "answer" is the right answer, rounded to "precision" decimals if it has that.
        finished: as in `accuracy_and_format`.
    """

    def is_right(given: str | None) -> bool:
        answer = example["answer"]
        if choices := example.get("choices"):
            return answers.is_choice(given, answer, choices, verifier())
        if (digits := example.get("precision")) is not None:
            return answers.is_rounded(given, answer, digits, verifier())
        return answers.is_equal(given, answer, verifier())

    return _graded(response, finished, is_right)


def countdown_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """Returns the same for an expression over the example's "numbers" that equals its "target"."""
    right = functools.partial(answers.reaches, numbers=example["numbers"], target=example["target"])
    return _graded(response, finished, right)


def emotion_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """Returns the same for an emotion, whose name has to be exact, as in the paper's runs."""
    return _graded(response, finished, lambda x: answers.is_emotion(x, example["answer"]))


def inflected_emotion_and_format(response: str, example: dict, finished: bool = True) -> dict:
    """Returns the same for an emotion; inflections of its name are right, "sad" for sadness."""
    return _graded(response, finished, lambda x: answers.is_emotion(x, example["answer"], True))


for _fn in (
    accuracy_and_format,
    symbolic_accuracy_and_format,
    choice_accuracy_and_format,
    countdown_and_format,
    emotion_and_format,
    inflected_emotion_and_format,
):
    _fn.range = (0.0, 1.0)  # pyrefly: ignore[missing-attribute]
    _fn.is_in_form = True  # pyrefly: ignore[missing-attribute]
# `judge` looks at this many responses at once, as several workers can answer.
for _fn in (symbolic_accuracy_and_format, choice_accuracy_and_format):
    _fn.threads = 4  # pyrefly: ignore[missing-attribute]


def in_form(response: str) -> str:
    """Returns a response in the form that these rewards ask for, with the same answer.

    So a lenient grade is the accuracy of `in_form(response)`, for a reward whose `is_in_form` is
    true. The answer is the one that `answers.extract` finds in any style, after the thought or, if
    there is none, in it.
    """
    answer = answers.extract(response) or answers.extract(_TAGS.sub(" ", response))
    return f"<think></think> \\boxed{{{answer}}}" if answer else ""


@functools.cache
def verifier() -> answers.Verifier:
    """The verifier of this process. Its workers start when they are first needed."""
    made = answers.Verifier()
    atexit.register(made.close)
    return made


def timeouts() -> int:
    """The number of answers on which this process's verifier has given up so far."""
    return verifier().timeouts if verifier.cache_info().currsize else 0


def _graded(response: str, finished: bool, is_right: Callable[[str | None], bool]) -> dict:
    prediction = answers.extract(response, styles=("boxed",))
    accuracy = float(finished and is_right(prediction))
    format_ = float(_is_well_formed(response))
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


def overlong(judged: Judged, share: np.ndarray, penalty: float, buffer: float) -> Judged:
    """Subtracts a penalty for length from the rewards, DAPO (arXiv 2503.14476) eq. 13.

    The penalty is 0 up to a share 1 - buffer of the allowed length, then rises linearly to
    `penalty` at the full length. The part `overlong` is minus the penalty. Success stays as it is.

    Differs from the paper: its penalty is 1 for rewards of -1 and 1; for rewards of 0 and 1 the
    same is 0.5.

    Args:
        judged: of B responses.
        share: f32[B], length / rollout.max_new_tokens, at most 1.
        penalty: of a response of full length, >= 0.
        buffer: the share of the allowed length in which the penalty rises, in (0, 1].
    """
    over = np.maximum((share - (1 - buffer)) / buffer, 0).astype(np.float32)
    taken = 0 - penalty * over  # not -penalty * over, which would show as -0
    return Judged(judged.rewards + taken, judged.success, {**judged.parts, "overlong": taken})
