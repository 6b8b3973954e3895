"""Reads numbers exactly: decimals, fractions, mixed numbers, powers of ten, repeating decimals."""

import re
from fractions import Fraction
from typing import NamedTuple

from mapo_jax.answers import spelling, units
from mapo_jax.answers.extraction import DIGITS, MAX_NUMBER_CHARS

_MAX_EXPONENT = 1000  # of a power of ten

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_NUMBER = re.compile(
    rf"([+-]?)\s*({DIGITS})(?:\s*/\s*(\(-(?:{DIGITS})\)|-?(?:{DIGITS})))?"
    r"(?:(?:\s*\*\s*|\s+)10\s*\^\s*\(?\s*([+-]?[0-9]+)\s*\)?|[eE]([+-]?[0-9]+))?"
)
_MIXED = re.compile(r"([+-]?)\s*([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)")
_POWER_OF_TEN = re.compile(r"([+-]?)\s*10\s*\^\s*\(?([+-]?[0-9]+)\)?")
_REPEATING = re.compile(r"([+-]?)\s*([0-9]*)\.([0-9]*)\\(?:overline|bar)\s*\{?([0-9]+)\}?")
_GROUPS = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?![0-9 ])")


class Quantity(NamedTuple):
    """An answer without its unit."""

    text: str  # tidy LaTeX
    value: Fraction | None  # if it is a number
    unit: frozenset[str]


def read(text: str) -> Quantity:
    """Reads a tidy answer."""
    core, factor, unit = units.split(text)
    value = _value(spelling.plain(core)) if len(core) <= MAX_NUMBER_CHARS else None
    if value is None and (factor > 1 or len(text) > MAX_NUMBER_CHARS):
        return Quantity(text, None, frozenset())
    return Quantity(core, None if value is None else value * factor, frozenset(unit))


def are_same(a: Quantity, b: Quantity) -> bool:
    """A unit counts if both numbers name one; 50% equals 50 and 0.5, as in other graders."""
    if a.value is None or b.value is None or not units.are_alike({*a.unit}, {*b.unit}):
        return False
    if "percent" in a.unit and "percent" not in b.unit:
        return b.value in (a.value, a.value / 100)
    if "percent" in b.unit and "percent" not in a.unit:
        return a.value in (b.value, b.value / 100)
    return a.value == b.value


def _value(text: str) -> Fraction | None:
    """Reads a plain text as one number; None if it is not one number."""
    if text in _WORDS:
        return Fraction(_WORDS.index(text))
    if text.isdecimal() and text.isascii():
        return Fraction(int(text))
    if text[:2] != "(-" and text[:1] == "(" and text[-1:] == ")" and "," not in text:
        text = text[1:-1]
    if " " in text and (grouped := _GROUPS.match(text)):
        text = grouped[0].replace(" ", "") + text[grouped.end() :]
    if (mixed := _MIXED.fullmatch(text)) and int(mixed[4]):
        return _signed(mixed[1], int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4])))
    if power := _POWER_OF_TEN.fullmatch(text):
        return _scaled(_signed(power[1], Fraction(1)), power[2])
    if repeating := _REPEATING.fullmatch(text):
        sign, whole, head, period = repeating.groups()
        tail = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(head))
        return _signed(sign, Fraction(f"{whole or 0}.{head or 0}") + tail)
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, numerator, denominator, power_of_ten, exponent = match.groups(default="")
    value = Fraction(numerator.replace(",", ""))
    if denominator:
        divisor = Fraction(denominator.replace(",", "").strip("()"))
        if divisor == 0:
            return None
        value /= divisor
    return _scaled(_signed(sign, value), power_of_ten or exponent or "0")


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _scaled(value: Fraction, exponent: str) -> Fraction | None:
    if len(exponent) > 5 or abs(int(exponent)) > _MAX_EXPONENT:
        return None
    return value * Fraction(10) ** int(exponent)
