"""Judges answers to multiple-choice questions, by letter or by value, and rounded numbers."""

import re
import string
from collections.abc import Sequence
from fractions import Fraction

from mapo_jax.answers import numbers
from mapo_jax.answers.equality import is_equal
from mapo_jax.answers.spelling import plain, tidy, tight
from mapo_jax.answers.verifier import Verifier

_LETTER = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:?\s+)?\(?([a-z])\)?[.:)]?", re.I
)
_LETTER_FIRST = re.compile(  # "(B) 12 cm", "B. 12 cm", but not the ratio a:b or the product (a)(b)
    r"(?:(?:option|choice|answer)\s+)?(?:\(([a-z])\)(?:\s+|(?=[^\s(]))|([a-z])[.:)]\s+)"
    r"(?![,;/&]|(?:or|and)\b)(?=\S)",
    re.I,
)
_BRACKETED = re.compile(r"(?<!\w)\(([a-z])\)", re.I)


def is_choice(
    prediction: str | None, right: str, choices: Sequence[str], verifier: Verifier | None = None
) -> bool:
    """Says whether an answer names the right choice, by its letter or by its value.

    A letter is meant as a letter if there is a choice of that letter, whatever the choices are: of
    the choices C, B, A the answer A is the first one. It may stand in brackets, in markup or before
    the value, and then it alone counts, unless another letter follows, as in "(A) or (B)". A small
    letter that is itself a choice, as in a + b, b, a, is that choice. Everything else is a value.
    If a choice is written like it, it is that one; 2, 1 is not 1, 2 here. Else it has to equal the
    value of the right choice, and of no choice that differs from that one, as 10 would of 10 cm and
    10 m.

    Args:
        prediction: the answer found in a response; None is never right.
        right: the letter of the right choice, "A" for the first one.
        choices: their values, in order, at most 26.
        verifier: as in `is_equal`.
    """
    if prediction is None or not (written := _written(prediction)):
        return False
    value = choices[string.ascii_uppercase.index(right)]
    if letter := _named(_alone(prediction), choices):
        return letter == right
    if written in map(_written, choices):
        return written == _written(value)
    if letter := _named(_first(prediction), choices):
        return letter == right
    if not is_equal(prediction, value, verifier):
        return False
    fitting = (choice for choice in choices if is_equal(prediction, choice, verifier))
    return all(is_equal(choice, value, verifier) for choice in fitting)


def _named(letter: str, choices: Sequence[str]) -> str:
    """Returns a letter as a capital if it names a choice; "" if it names none, or is a value."""
    is_value = letter.islower() and letter in map(_alone, choices)
    is_there = letter and letter.upper() in string.ascii_uppercase[: len(choices)]
    return letter.upper() if is_there and not is_value else ""


def _alone(text: str) -> str:
    """Returns the letter that a text is; "" if it is none."""
    found = _LETTER.fullmatch(tidy(text))
    return found[1] if found else ""


def _first(text: str) -> str:
    """Returns the letter before a value; "" if there is none, or another one after it."""
    found = _LETTER_FIRST.match(tidy(text))
    if not found or _BRACKETED.search(found.string, found.end()):
        return ""
    return found[1] or found[2]


def _written(text: str) -> str:
    return tight(plain(tidy(text)))


def is_rounded(
    prediction: str | None, gold: str, digits: int, verifier: Verifier | None = None
) -> bool:
    """Says whether an answer, rounded to a number of decimals, is the right number.

    Of 1.25 both neighbours are right, 1.2 and 1.3. What is no number is judged by `is_equal`.
    """
    if prediction is None:
        return False
    given, sought = (numbers.read(tidy(answer)).value for answer in (prediction, gold))
    if given is None or sought is None:
        return is_equal(prediction, gold, verifier)
    return abs(given - sought) <= Fraction(1, 2 * 10**digits)
