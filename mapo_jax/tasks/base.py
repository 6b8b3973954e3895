"""Defines a task: its examples, prompts, reward and, if it has them, demonstrations."""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mapo_jax import errors
from mapo_jax.rewards import RewardFunction

INSTRUCTION = (
    "First think inside <think> </think>, then put the final answer in \\boxed{}."  # the paper's
)


def prompt(example: dict) -> str:
    """Returns the question and, as in the paper, the instruction to think first and to box."""
    return f"{example['question']}\n{INSTRUCTION}\n"


def with_choices(question: str, choices: Sequence[str]) -> str:
    """Returns a question with its choices as (A), (B) and so on, each on its line."""
    named = zip(string.ascii_uppercase, choices, strict=False)
    return "\n".join([question, "Choices:", *(f"({letter}) {choice}" for letter, choice in named)])


@dataclasses.dataclass(frozen=True)
class Task:
    """A task; an example is a dict that holds at least `question` and `answer`, both text."""

    name: str
    train: Sequence[dict]  # empty if the task is for evaluation only
    evals: Mapping[str, Sequence[dict]]  # evaluation sets by name
    prompt: Callable[[dict], str]
    reward: RewardFunction
    demonstration: Callable[[dict], str] | None  # a response to learn from in the warm-up
    notes: tuple[str, ...] = ()  # facts about the data for the user, such as rows left out
    # The pictures of an example, each as `images.read` takes it; None: the task has none.
    images: Callable[[dict], Sequence[str | bytes]] | None = None
    placeholder: str = r"<image\d*>"  # see `places.split`


def merge_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the defaults with the user's options over them.

    Raises:
        UserError: the task has no such option, or the option's type is not its default's.
    """
    mistakes = []
    for name, value in options.items():
        if name not in defaults:
            hint = errors.did_you_mean(name, defaults, f"options: {', '.join(defaults) or 'none'}")
            mistakes.append(f"task.options.{name}={value}: no such option{hint}")
        elif not _fits(value, defaults[name]):
            kind = type(defaults[name]).__name__
            mistakes.append(f"task.options.{name}={value!r}: must be of type {kind}")
    if mistakes:
        raise errors.UserError(*mistakes)
    return {**defaults, **options}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(value, bool):
        return isinstance(default, bool)
    wider = {float: (float, int), tuple: (tuple, list)}
    kind = type(default)
    return isinstance(value, wider[kind] if kind in wider else kind)
