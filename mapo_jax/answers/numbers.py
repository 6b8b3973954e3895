"""Reads numbers exactly: decimals, fractions, mixed numbers, powers of ten, repeating decimals."""

import re
from fractions import Fraction
from typing import NamedTuple

from mapo_jax.answers import spelling, units
from mapo_jax.answers.extraction import DIGITS, MAX_NUMBER_CHARS

_MAX_EXPONENT = 1000  # of a power of ten

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred".split()
_WORDS = {word: value for value, word in enumerate(_SMALL)}
_WORDS |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
_BELOW = "halve half third fourth fifth sixth seventh eighth ninth tenth".split()
_PARTS = {word: max(value, 2) for value, word in enumerate(_BELOW, 1)}
_A_WORD = rf"(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})\b"
_SPOKEN = re.compile(
    rf"(negative |minus )?({_A_WORD}(?:(?:(?<=hundred) and)?[ -]{_A_WORD})*)(?:[ -]([a-z]+))?",
    re.IGNORECASE,
)
_A_MAGNITUDE = re.compile(r"^an? (?=(?:half|third|dozen|hundred|thousand|million)\b)", re.I)
_PIECE = re.compile(
    r"[0-9.,]+\s*(?:hours?|hrs?|minutes?|mins?|seconds?|secs?|days?|weeks?|months?|years?"
    r"|feet|foot|ft|inch(?:es)?|in|meters?|centimeters?|k?m|cm|k?g|h|s|pounds?|lbs?|ounces?|oz|dollars?|cents?)\b"
)
# It gives nothing back: a point can end one piece or begin the next, which is 2^n ways to fail.
_COMPOUND = re.compile(rf"(?:{_PIECE.pattern}\.?(?:\s*,)?\s*(?:and\s+)?)++", re.IGNORECASE)
_NUMBER = re.compile(
    rf"([+-]?)\s*({DIGITS})(?:\s*/\s*(\(-(?:{DIGITS})\)|-?(?:{DIGITS})))?"
    r"(?:(?:\s*\*\s*|\s+)10\s*\^\s*\(?\s*([+-]?[0-9]+)\s*\)?|[eE]([+-]?[0-9]+))?"
)
_MIXED = re.compile(r"([+-]?)\s*([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)")
_POWER_OF_TEN = re.compile(r"([+-]?)\s*10\s*\^\s*\(?([+-]?[0-9]+)\)?")
_REPEATING = re.compile(r"([+-]?)\s*([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?")
_GOING_ON = re.compile(r"([+-]?)\s*([0-9]*)\.([0-9]{0,9}?)([0-9]{1,9}?)\4+\\ldots")
_GROUPS = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?![0-9 ])")


class Quantity(NamedTuple):
    """An answer without its unit."""

    text: str  # tidy LaTeX
    value: Fraction | None  # if it is a number
    unit: frozenset[str]


def read(text: str, loose: bool = False) -> Quantity:
    """Reads a tidy answer. Letters that may be variables are a unit only if `loose`."""
    if len(text) > MAX_NUMBER_CHARS:
        return _single(text, loose)
    return _compound(text) or _single(_in_digits(text), loose)


def _single(text: str, loose: bool = False) -> Quantity:
    core, factor, unit = units.split(text, loose)
    value = _value(spelling.plain(core)) if len(core) <= MAX_NUMBER_CHARS else None
    if value is None and (factor > 1 or len(text) > MAX_NUMBER_CHARS):
        return Quantity(text, None, frozenset())
    return Quantity(core, None if value is None else value * factor, frozenset(unit))


def are_same(a: Quantity, b: Quantity) -> bool:
    """A unit counts if both numbers name one; 50% equals 50 and 0.5, as in other graders.

    0.5% is 0.005 only, as 0.5 stands for 50%.
    """
    ratio = units.ratio(a.unit, b.unit)
    if a.value is None or b.value is None or ratio is None:
        return False
    for one, other in ((a.value, b), (b.value, a)):
        if "percent" not in other.unit and "percent" in (a.unit | b.unit):
            return other.value == one / 100 or (abs(one) >= 1 and other.value == one)
    return a.value * ratio == b.value


def _compound(text: str) -> Quantity | None:
    """Reads 5 hours and 30 minutes, one quantity in several units."""
    pieces = [piece[0] for piece in _PIECE.finditer(text)] if _COMPOUND.fullmatch(text) else []
    parts = [_single(piece) for piece in pieces]
    if len({part.unit for part in parts if part.unit}) < max(len(parts), 2):
        return None
    total = Fraction(0)
    for part in parts:
        ratio = units.ratio(part.unit, parts[0].unit)
        if part.value is None or ratio is None:
            return None
        total += part.value * ratio
    return Quantity(text, total, parts[0].unit)


def _in_digits(text: str) -> str:
    """Writes words for a number at the start in digits: twenty-one dogs, two thirds."""
    text = _A_MAGNITUDE.sub("1 ", text)
    match = _SPOKEN.match(text)
    if match is None:
        return text
    total = None
    for word in re.split("[ -]", match[2].casefold().replace(" and ", " ")):
        value = _WORDS[word]
        if total is None and value < 100:
            total = value
        elif total and total < 10 and value == 100:
            total *= value
        elif total and 0 < value < 100 and total % (100 if value > 9 else 10) == 0 and total != 10:
            total += value
        else:
            return text
    part = _PARTS.get((match[3] or "").casefold().removesuffix("s"))
    rest = text[match.end() if part else match.end(2) :]
    if rest[:1] not in ("", " "):
        return text
    return "-" * bool(match[1]) + f"{total}" + (f"/{part}" if part else "") + rest


def _value(text: str) -> Fraction | None:
    """Reads a plain text as one number; None if it is not one number."""
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
    if repeating := _REPEATING.fullmatch(text) or _GOING_ON.fullmatch(text):
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
